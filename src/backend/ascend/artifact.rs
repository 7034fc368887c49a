//! What the graph cache keeps of a compiled graph: an offline model (OM) and the table that says
//! which of its inputs is what.
//!
//! ```text
//! magic "CAIRNOM1" | table length u64 LE | table (JSON) | offline model, to the end
//! ```
//!
//! Nothing here is an address, a path or a weight. The names in the table depend on the graph's
//! canonical form only, so equal keys give equal tables.
//!
//! What this module deliberately does not do: it does not look into the offline model; `om` does.

use serde::{Deserialize, Serialize};

use super::dtype::GeDType;
use crate::backend::BackendError;

const MAGIC: &[u8; 8] = b"CAIRNOM1";
const HEADER_BYTES: usize = 16;
/// A table is a few hundred bytes per input.
const MAX_TABLE_BYTES: usize = 64 << 20;

/// Which input is what, and what the outputs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoTable {
    /// How sequences lie in a step.
    pub layout: StepLayout,
    /// Tokens of a step, padding included: rows of the queries. 0 without attention.
    pub num_tokens: u64,
    /// Which input of the IR graph has `query_ends`, also where the compiled graph has no need of
    /// it; `None` without attention.
    pub query_ends: Option<u32>,
    /// Inputs in the order of their `index` attributes.
    pub inputs: Vec<InputSpec>,
    /// Outputs in order.
    pub outputs: Vec<OutputSpec>,
}

/// How sequences lie in a step. Sizes are those of the graph, padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepLayout {
    /// The graph has no attention.
    Free,
    /// One query for each sequence.
    Decode,
    /// One sequence.
    Prefill,
    /// Any number of queries for each sequence, packed; a dummy sequence is added that takes the
    /// padding.
    Packed,
}

/// An input of the compiled graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Name of its node.
    pub name: String,
    /// Element type.
    pub dtype: GeDType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// What it is filled with.
    pub role: Role,
}

/// What an input is filled with. `input` counts the inputs of the IR graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Role {
    /// An input of the IR graph as it is.
    Plain {
        /// Which.
        input: u32,
    },
    /// Rows of a table to gather, as they are. The device would end the process for one outside.
    Ids {
        /// Which.
        input: u32,
        /// How many rows the table has; of several tables, the shortest.
        num_rows: u64,
    },
    /// Slots of the KV cache as pairs `(block, position)`, `[t, 2]`; a negative slot goes to the
    /// dump block.
    Slots {
        /// Which.
        input: u32,
        /// Positions of a block.
        block_size: u64,
        /// The block that padding is written to: the one after those that the engine knows.
        dump_block: u64,
    },
    /// Block tables, `[s, m]`; what a sequence does not use is the dump block.
    BlockTables {
        /// Which.
        input: u32,
        /// As in [`Role::Slots`].
        block_size: u64,
        /// As in [`Role::Slots`].
        dump_block: u64,
    },
    /// Queries of the sequences, `[s]`: their count (`Prefill`) or their cumulative count
    /// (`Packed`).
    QueryLengths {
        /// The input with `query_ends`.
        input: u32,
    },
    /// Tokens of the sequences in the KV cache, `[s]`.
    KvLengths {
        /// The input with `seq_lens`.
        input: u32,
    },
    /// The causal mask, `[2048, 2048]`, 1 above the diagonal.
    CausalMask,
    /// A weight, counted in the IR graph's order.
    Weight {
        /// Which.
        index: u32,
    },
    /// A state, counted in the IR graph's order, changed in place; one block longer than the IR's.
    State {
        /// Which.
        index: u32,
    },
}

/// An output of the compiled graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Element type.
    pub dtype: GeDType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// What it holds.
    pub role: OutputRole,
}

/// What an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputRole {
    /// The IR graph's one output, f32.
    Result,
    /// Of each row of the result the index of the largest element, i32 `[rows]`.
    Argmax,
    /// Of each row the k largest elements, largest first, f32 `[rows, k]`.
    TopValues,
    /// Their indices, i32 `[rows, k]`.
    TopIndices,
}

/// A compiled graph as it is cached.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact<'a> {
    /// Which input is what.
    pub io: IoTable,
    /// The offline model.
    pub om: &'a [u8],
}

impl<'a> Artifact<'a> {
    /// The bytes that the cache keeps.
    ///
    /// # Errors
    /// When the table cannot be written as JSON, which no table of ours is.
    pub fn encode(&self) -> Result<Vec<u8>, BackendError> {
        let table = serde_json::to_vec(&self.io).map_err(|error| bad(error.to_string()))?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + table.len() + self.om.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(table.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&table);
        bytes.extend_from_slice(self.om);
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`BackendError::BadArtifact`] for anything else.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BackendError> {
        let (header, rest) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| bad(format!("{} bytes are too few for its header", bytes.len())))?;
        let (words, _) = header.as_chunks::<8>();
        let [magic, length] = words else { return Err(bad("its header is cut".to_owned())) };
        if magic != MAGIC {
            return Err(bad("it does not begin with CAIRNOM1".to_owned()));
        }
        let length = u64::from_le_bytes(*length);
        let length = usize::try_from(length).ok().filter(|&length| length <= MAX_TABLE_BYTES);
        let (table, om) = length
            .and_then(|length| rest.split_at_checked(length))
            .ok_or_else(|| bad("its table is longer than the file".to_owned()))?;
        let io = serde_json::from_slice(table).map_err(|error| bad(error.to_string()))?;
        Ok(Self { io, om })
    }
}

/// Bytes of a tensor; `None` when they are more than can be counted.
pub(super) fn tensor_bytes(dtype: GeDType, shape: &[u64]) -> Option<usize> {
    shape
        .iter()
        .try_fold(dtype.size(), |bytes, &size| bytes.checked_mul(usize::try_from(size).ok()?))
}

fn bad(what: String) -> BackendError {
    BackendError::BadArtifact { backend: super::NAME, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_round_trips_and_damage_is_noticed() {
        let io = IoTable {
            layout: StepLayout::Decode,
            num_tokens: 8,
            query_ends: Some(4),
            inputs: vec![InputSpec {
                name: "input_2".to_owned(),
                dtype: GeDType::I32,
                shape: vec![8, 2],
                role: Role::Slots { input: 2, block_size: 128, dump_block: 64 },
            }],
            outputs: vec![OutputSpec {
                dtype: GeDType::F32,
                shape: vec![8, 100],
                role: OutputRole::Result,
            }],
        };
        let artifact = Artifact { io, om: b"IMOD..." };
        let bytes = artifact.encode().unwrap();
        assert_eq!(Artifact::decode(&bytes).unwrap(), artifact);
        let table_end = bytes.len() - artifact.om.len();
        for len in 0..table_end {
            assert!(Artifact::decode(&bytes[..len]).is_err(), "accepted {len} bytes");
        }
        let mut long = bytes.clone();
        long[8..16].fill(0xff);
        assert!(Artifact::decode(&long).is_err());
    }
}
