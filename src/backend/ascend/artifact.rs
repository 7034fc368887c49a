//! What a compiled graph consists of: an offline model (OM) and the table that says which of its
//! inputs is what.
//!
//! | File | Holds |
//! | --- | --- |
//! | `model.om` | the offline model as the compiler wrote it |
//! | `io_table.json` | an [`IoTable`] |
//!
//! Nothing here is an address, a path or a weight. The names in the table depend on the graph's
//! canonical form only, so equal keys give equal tables.
//!
//! What this module deliberately does not do: it does not look into the offline model; `om` does.

use serde::{Deserialize, Serialize};

use super::NAME;
use super::dtype::GeDType;
use crate::backend::{ArtifactFile, BackendError, Files};

/// The file with the offline model.
pub const MODEL: &str = "model.om";
/// The file with the table.
pub const IO_TABLE: &str = "io_table.json";
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

/// A compiled graph as it is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledGraph<'a> {
    /// Which input is what.
    pub io: IoTable,
    /// The offline model.
    pub om: &'a [u8],
}

impl<'a> CompiledGraph<'a> {
    /// Reads the files of an artifact.
    ///
    /// # Errors
    /// [`BackendError::BadArtifact`] when one is missing, or the table is not one.
    pub fn read(files: &Files<'a>) -> Result<Self, BackendError> {
        let (om, table) = (files.file(MODEL, NAME)?, files.file(IO_TABLE, NAME)?);
        if table.len() > MAX_TABLE_BYTES {
            return Err(bad(format!("`{IO_TABLE}` has {} bytes", table.len())));
        }
        let io = serde_json::from_slice(table);
        let io = io.map_err(|error| bad(format!("`{IO_TABLE}`: {error}")))?;
        Ok(Self { io, om })
    }
}

/// The files of an artifact.
///
/// # Errors
/// When the table cannot be written as JSON, which no table of ours is.
pub(super) fn files(io: &IoTable, om: Vec<u8>) -> Result<Vec<ArtifactFile>, BackendError> {
    let table = serde_json::to_vec(io).map_err(|error| bad(error.to_string()))?;
    let file = |name: &str, bytes| ArtifactFile { name: name.to_owned(), bytes };
    Ok(vec![file(MODEL, om), file(IO_TABLE, table)])
}

/// Bytes of a tensor; `None` when they are more than can be counted.
pub(super) fn tensor_bytes(dtype: GeDType, shape: &[u64]) -> Option<usize> {
    shape
        .iter()
        .try_fold(dtype.size(), |bytes, &size| bytes.checked_mul(usize::try_from(size).ok()?))
}

fn bad(what: String) -> BackendError {
    BackendError::BadArtifact { backend: NAME, what }
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
        let files = files(&io, b"IMOD...".to_vec()).unwrap();
        let borrowed = || files.iter().map(|file| (file.name.as_str(), file.bytes.as_slice()));
        let read = CompiledGraph::read(&Files::new(borrowed())).unwrap();
        assert_eq!(read, CompiledGraph { io, om: b"IMOD..." });
        for missing in 0..2 {
            let rest = borrowed().enumerate().filter(|(idx, _)| *idx != missing);
            assert!(CompiledGraph::read(&Files::new(rest.map(|(_, file)| file))).is_err());
        }
        let table = &files[1].bytes;
        for len in 0..table.len() {
            let cut = Files::new([(MODEL, &b"IMOD..."[..]), (IO_TABLE, &table[..len])]);
            assert!(CompiledGraph::read(&cut).is_err(), "accepted {len} bytes");
        }
    }
}
