//! Offline models (OM): what `atc` writes and the runtime loads.
//!
//! ```text
//! 0    header, 256 bytes            magic "IMOD", model_length, model_num, is_unknow_model
//! 256  table: count u32, pad u32    then (type u32, pad u32, offset u64, size u64) each
//! ...  SO_BINS?, MODEL_DEF, TASK_INFO back to back in the order of the table
//! ```
//!
//! `MODEL_DEF` holds a `ge.proto.ModelDef` whose attributes carry `memory_size` and
//! `zero_copy_memory_size`. A dynamic model has one table with its partitions for each of its
//! parts. As in real ones the header's 32-bit `length` stays 0 and `model_length` counts. Unlike
//! real ones the field `checksum` is filled, with the SHA-256 of all that follows the header in
//! hexadecimal, so that every damage is noticed when the model is loaded.
//!
//! What this module deliberately does not do: it checks no rule of a graph again.

mod header;
mod model;
mod partition;

use sha2::{Digest, Sha256};

use crate::ge::graph::{Desc, GeGraph};

pub use header::{HEADER_BYTES, Header};
pub use partition::PartitionType;

/// `ACL_ERROR_GE_EXEC_MODEL_DATA_SIZE_INVALID`.
pub const DATA_SIZE_INVALID: i32 = 145_006;
/// `ACL_ERROR_GE_LOAD_MODEL`.
pub const LOAD_MODEL: i32 = 545_001;
/// `ACL_ERROR_GE_EXEC_LOAD_MODEL_PARTITION_FAILED`.
pub const LOAD_MODEL_PARTITION: i32 = 545_002;
/// `ACL_ERROR_GE_EXEC_LOAD_TASK_PARTITION_FAILED`.
pub const LOAD_TASK_PARTITION: i32 = 545_004;

/// An offline model that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Om {
    /// Name of the model.
    pub name: String,
    /// What it computes.
    pub graph: GeGraph,
    /// Chip it was compiled for, such as `Ascend910B3`.
    pub soc: String,
    /// Toolkit it was compiled with, such as `9.0.0`.
    pub cann: String,
    /// Device memory it needs, inputs and outputs of the graph included.
    pub memory_size: u64,
    /// The part of `memory_size` that holds inputs and outputs of the graph.
    pub zero_copy_memory_size: u64,
    /// `memory_size - zero_copy_memory_size`: what a workspace must hold at least.
    pub workspace_bytes: u64,
    /// Bytes of constants.
    pub weight_size: u64,
    /// Whether it runs operator by operator with shapes known only at run time.
    pub is_dynamic: bool,
    /// Parts of the model: 1 unless it is dynamic.
    pub model_num: u32,
    /// Whether tiling of some operators runs on the device (`_tiling_sink_op`).
    pub has_tiling_sink: bool,
}

impl Om {
    /// Names and types of the inputs by their `index` attribute.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &Desc)> {
        self.graph.inputs.iter().map(|&node| {
            let node = &self.graph.nodes[node];
            (node.name.as_str(), &node.outputs[0])
        })
    }

    /// Names (`node:output:tensor`) and types of the outputs in order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (String, &Desc)> {
        self.graph.outputs.iter().map(|&edge| {
            let node = &self.graph.nodes[edge.node];
            let name = format!("{}:{}:{}", node.name, edge.output, node.output_names[edge.output]);
            (name, self.graph.desc(edge))
        })
    }
}

/// What [`write()`] needs.
#[derive(Clone, Debug)]
pub struct OmParts<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// What it computes.
    pub graph: &'a GeGraph,
    /// Chip.
    pub soc: &'a str,
    /// Version of the toolkit.
    pub cann: &'a str,
    /// As [`Om::memory_size`].
    pub memory_size: u64,
    /// As [`Om::zero_copy_memory_size`]; at most `memory_size`.
    pub zero_copy_memory_size: u64,
    /// As [`Om::weight_size`].
    pub weight_size: u64,
    /// As [`Om::is_dynamic`].
    pub is_dynamic: bool,
    /// As [`Om::has_tiling_sink`].
    pub has_tiling_sink: bool,
    /// Command line it was compiled with.
    pub cmdline: &'a str,
}

/// Why bytes are no offline model that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct OmError {
    /// The `aclError`.
    pub code: i32,
    /// What was wrong.
    pub message: String,
}

impl OmError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Parts of a dynamic model that [`write()`] makes: the graph, and the subgraph that its operators
/// run in.
const DYNAMIC_PARTS: u32 = 2;

/// The bytes of an offline model.
pub fn write(parts: &OmParts<'_>) -> Vec<u8> {
    let mut partitions = Vec::new();
    if parts.has_tiling_sink {
        // The real one packs the device's tiling library here.
        partitions.push((PartitionType::SO_BINS, b"libopmaster_device.so".to_vec()));
    }
    partitions.push((PartitionType::MODEL_DEF, model::encode(parts)));
    partitions.push((PartitionType::TASK_INFO, model::encode_tasks(parts.graph)));
    let mut body = partition::write(&partitions);
    let model_num = if parts.is_dynamic { DYNAMIC_PARTS } else { 1 };
    for _ in 1..model_num {
        let tasks = model::encode_tasks(&GeGraph::default());
        body.extend(partition::write(&[(PartitionType::TASK_INFO, tasks)]));
    }
    let header = Header {
        checksum: checksum(&body),
        name: parts.name.to_owned(),
        model_num,
        model_length: body.len() as u64,
        is_dynamic: parts.is_dynamic,
        needs_os_cpu: parts.is_dynamic,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend(body);
    bytes
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// The `aclError` that the real loader would answer with, see [`OmError::code`].
pub fn read(bytes: &[u8]) -> Result<Om, OmError> {
    let (header, body) = Header::decode(bytes)?;
    let mut rest = body;
    let mut first = None;
    for part in 0..header.model_num {
        let (partitions, next) = partition::read(rest).map_err(|error| OmError {
            message: format!("part {part}: {}", error.message),
            ..error
        })?;
        first.get_or_insert(partitions);
        rest = next;
    }
    if !rest.is_empty() {
        let message = format!("{} bytes follow the last partition", rest.len());
        return Err(OmError::new(DATA_SIZE_INVALID, message));
    }
    if header.checksum != checksum(body) {
        return Err(OmError::new(LOAD_MODEL_PARTITION, "the contents are not what was written"));
    }
    let partitions = first.unwrap_or_default();
    let of_type = |kind| partitions.iter().find(|(of, _)| *of == kind).map(|(_, data)| *data);
    let model_def = of_type(PartitionType::MODEL_DEF)
        .ok_or_else(|| OmError::new(LOAD_MODEL_PARTITION, "there is no MODEL_DEF partition"))?;
    let mut om = model::decode(model_def)?;
    let tasks = of_type(PartitionType::TASK_INFO)
        .ok_or_else(|| OmError::new(LOAD_TASK_PARTITION, "there is no TASK_INFO partition"))?;
    if tasks != model::encode_tasks(&om.graph) {
        return Err(OmError::new(LOAD_TASK_PARTITION, "the tasks are not those of the graph"));
    }
    om.is_dynamic = header.is_dynamic || header.model_num > 1;
    om.model_num = header.model_num;
    om.has_tiling_sink = of_type(PartitionType::SO_BINS).is_some();
    Ok(om)
}

/// The header's checksum: SHA-256 in hexadecimal, 64 bytes, as many as the field has.
fn checksum(body: &[u8]) -> [u8; 64] {
    let mut field = [0; 64];
    field.copy_from_slice(sha256_hex(body).as_bytes());
    field
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes);
    let nibbles = digits.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
}
