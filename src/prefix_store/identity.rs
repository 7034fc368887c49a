//! Everything that has to be equal for KV bytes to be what this engine would compute.
//!
//! | Field | Why |
//! | --- | --- |
//! | program and its revision | its kernels and passes decide the last bits |
//! | backend, its fingerprint, its numerics | the device and its instructions do, too |
//! | weights, graph, the model's settings | what is computed; rope tables are in the settings only |
//! | dtype, layout, block size, layers, bytes | what the bytes mean |
//!
//! A block that was computed by AVX-512 would be right within rounding where there is only AVX2. It is
//! another one all the same: a request gives the same tokens whether its prompt was computed or
//! loaded, and that is worth computing a prompt once more per kind of machine. Where a backend's
//! bits depend on the shape of a step, as on an NPU, a loaded block is one of the right ones.
//!
//! What this module deliberately does not do: it finds none of this out; whoever opens the model does.

use cairn_graph_cache::{Digest, KeyFields};

/// Raised when the fields of an unchanged identity change, or their meaning does.
const SCHEMA: &str = "1";

/// Everything that has to be equal for KV bytes to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixIdentity {
    /// The program, with its version and revision.
    pub producer: String,
    /// The backend's name.
    pub backend: String,
    /// What changes its results: its fingerprint and its numerics, by name.
    pub backend_fields: Vec<(String, String)>,
    /// Digest of all weights.
    pub weights: Digest,
    /// Canonical bytes of the graph as it is computed, for steps of any size.
    pub graph: Vec<u8>,
    /// The model's settings, by name; at least those that the graph does not say, such as of rope.
    pub model_fields: Vec<(String, String)>,
    /// Element type of the KV cache.
    pub kv_dtype: String,
    /// Which tensors the bytes of a block are, and in which order.
    pub kv_layout: String,
    /// Tokens of a block.
    pub block_size: usize,
    /// Layers of the model.
    pub num_layers: usize,
    /// Bytes of a block, all layers together.
    pub block_bytes: usize,
}

impl PrefixIdentity {
    /// The fields that the keys of all entries begin with. Taken apart in full, so that nothing is
    /// forgotten.
    pub(super) fn fields(&self) -> KeyFields {
        let Self {
            producer,
            backend,
            backend_fields,
            weights,
            graph,
            model_fields,
            kv_dtype,
            kv_layout,
            block_size,
            num_layers,
            block_bytes,
        } = self;
        let named = |fields: KeyFields, of: &str, more: &[(String, String)]| {
            more.iter()
                .fold(fields, |fields, (name, value)| fields.text(&format!("{of}.{name}"), value))
        };
        let fields = KeyFields::new()
            .text("prefix", SCHEMA)
            .text("cairn", producer)
            .text("backend", backend);
        let fields = named(fields, "backend", backend_fields)
            .text("weights", weights.to_string())
            .bytes("graph", graph);
        named(fields, "model", model_fields)
            .text("kv.dtype", kv_dtype)
            .text("kv.layout", kv_layout)
            .text("kv.block_size", block_size.to_string())
            .text("kv.num_layers", num_layers.to_string())
            .text("kv.block_bytes", block_bytes.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> PrefixIdentity {
        let field = |name: &str| vec![(name.to_owned(), "1".to_owned())];
        PrefixIdentity {
            producer: "cairn 1".to_owned(),
            backend: "cpu".to_owned(),
            backend_fields: field("target"),
            weights: Digest::of(b"weights"),
            graph: b"graph".to_vec(),
            model_fields: field("rope"),
            kv_dtype: "f32".to_owned(),
            kv_layout: "2 x [16, 3, 64]".to_owned(),
            block_size: 16,
            num_layers: 1,
            block_bytes: 24_576,
        }
    }

    #[test]
    fn every_field_makes_another_key() {
        let changes: [fn(&mut PrefixIdentity); 11] = [
            |identity| identity.producer.push('x'),
            |identity| identity.backend.push('x'),
            |identity| identity.backend_fields[0].1.push('x'),
            |identity| identity.weights = Digest::of(b"others"),
            |identity| identity.graph.push(0),
            |identity| identity.model_fields[0].0.push('x'),
            |identity| identity.kv_dtype.push('x'),
            |identity| identity.kv_layout.push('x'),
            |identity| identity.block_size += 1,
            |identity| identity.num_layers += 1,
            |identity| identity.block_bytes += 1,
        ];
        let mut keys = vec![identity().fields().key()];
        for change in changes {
            let mut other = identity();
            change(&mut other);
            keys.push(other.fields().key());
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), changes.len() + 1);
    }
}
