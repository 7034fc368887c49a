//! Weights and states on the host.

use std::any::Any;

use cairn_kernels::{Arithmetic, Kernels, Packed, RowBytes, WeightRows};

use crate::backend::blocks::{Blocks, Piece};
use crate::backend::{BackendError, Memory, StateSpec, Weight};
use crate::ir::DType;
use crate::weights::Bytes;

const F32_BYTES: usize = size_of::<f32>();

/// One placed weight.
#[derive(Debug)]
pub(super) struct PlacedWeight {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// For each tensor, the row after its last one, and its bytes where the checkpoint has them.
    pub(super) parts: Vec<(usize, Bytes)>,
    /// What products use instead of the parts, once one was to be made with it.
    pub(super) packed: Option<Packed>,
    /// What it was packed for.
    packed_for: Option<Arithmetic>,
    /// The values of a vector or scalar, f32; empty for a matrix.
    pub(super) vector: Vec<f32>,
}

impl PlacedWeight {
    /// The rows of a matrix.
    pub(super) fn rows(&self) -> WeightRows<'_> {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        WeightRows { dtype: self.dtype, rows, columns, bytes: self }
    }
}

impl RowBytes for PlacedWeight {
    fn row(&self, idx: usize) -> &[u8] {
        let mut start = 0;
        for (end, bytes) in &self.parts {
            if idx < *end {
                let row_bytes = bytes.len() / (end - start);
                let at = (idx - start) * row_bytes;
                return &bytes[at..at + row_bytes];
            }
            start = *end;
        }
        &[]
    }
}

/// One state, f32.
#[derive(Debug)]
pub(super) struct PlacedState {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// What lives on the host between steps.
#[derive(Debug)]
pub(super) struct CpuMemory {
    pub(super) weights: Vec<PlacedWeight>,
    pub(super) states: Vec<PlacedState>,
    blocks: Blocks,
}

impl CpuMemory {
    pub(super) fn new(weights: Vec<Weight>, states: &[StateSpec]) -> Result<Self, BackendError> {
        let weights = weights.into_iter().map(place_weight).collect::<Result<_, _>>()?;
        check_room(states)?;
        let states: Vec<_> = states.iter().map(place_state).collect();
        let blocks = Blocks::new(states.iter().map(blocks_of));
        Ok(Self { weights, states, blocks })
    }
}

impl CpuMemory {
    /// Packs matrices that are not packed so yet, all together, unless the kernels want them as they
    /// are.
    pub(super) fn pack(
        &mut self,
        places: &[usize],
        kernels: &dyn Kernels,
        arithmetic: Arithmetic,
    ) -> Result<(), BackendError> {
        let is_packed = |weight: &PlacedWeight| weight.packed_for == Some(arithmetic);
        let mut places: Vec<usize> = places
            .iter()
            .copied()
            .filter(|&place| {
                let weight = &self.weights[place];
                weight.shape.len() == 2 && !is_packed(weight)
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = places.iter().map(|&place| self.weights[place].rows()).collect();
        let packed =
            kernels.pack(&rows, arithmetic).map_err(|error| BackendError::OutOfMemory {
                what: format!("{} packed weights", places.len()),
                needed: None,
                detail: error.to_string(),
            })?;
        let mut packed = packed.map(Vec::into_iter);
        for place in places {
            self.weights[place].packed = packed.as_mut().and_then(Iterator::next);
            self.weights[place].packed_for = Some(arithmetic);
            if self.weights[place].packed.is_some() {
                // No product reads them again, and a table's rows are few.
                self.weights[place].parts.iter().for_each(|(_, bytes)| bytes.release());
            }
        }
        Ok(())
    }
}

/// How many blocks a state has, and the bytes of each.
fn blocks_of(state: &PlacedState) -> (usize, usize) {
    match state.shape.split_first() {
        Some((&num_blocks, block)) => (num_blocks, block.iter().product::<usize>() * F32_BYTES),
        None => (0, 0),
    }
}

impl Memory for CpuMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        let vectors = self.weights.iter().map(|weight| weight.vector.len());
        let states = self.states.iter().map(|state| state.values.len());
        let packed = self.weights.iter().filter_map(|weight| weight.packed.as_ref());
        let packed: usize = packed.map(Packed::num_bytes).sum();
        (vectors.chain(states).sum::<usize>() * F32_BYTES + packed) as u64
    }

    fn block_bytes(&self) -> usize {
        self.blocks.block_bytes()
    }

    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        self.blocks.check_copies(copies)?;
        for (state, &bytes) in self.states.iter_mut().zip(self.blocks.state_bytes()) {
            let len = bytes / F32_BYTES;
            for &(from, to) in copies {
                let (from, to) = (from as usize * len, to as usize * len);
                state.values.copy_within(from..from + len, to);
            }
        }
        Ok(())
    }

    fn read_block(&mut self, block: u32, bytes: &mut [u8]) -> Result<(), BackendError> {
        let block = self.blocks.index_with_bytes(block, bytes.len())?;
        for Piece { state, offset, range } in self.blocks.pieces(block) {
            let values = &self.states[state].values[offset / F32_BYTES..];
            for (bytes, value) in bytes[range].as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        Ok(())
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), BackendError> {
        let block = self.blocks.index_with_bytes(block, bytes.len())?;
        for Piece { state, offset, range } in self.blocks.pieces(block) {
            let values = &mut self.states[state].values[offset / F32_BYTES..];
            for (value, bytes) in values.iter_mut().zip(bytes[range].as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }
}

fn place_weight(weight: Weight) -> Result<PlacedWeight, BackendError> {
    let Some(first) = weight.parts.first() else {
        return Err(BackendError::BadInput("a weight without a tensor".to_owned()));
    };
    let (dtype, inner) = (first.dtype, first.shape.get(1..).unwrap_or_default().to_vec());
    let mut rows = 0;
    let mut parts = Vec::with_capacity(weight.parts.len());
    for tensor in &weight.parts {
        if tensor.dtype != dtype || tensor.shape.get(1..).unwrap_or_default() != inner {
            return Err(BackendError::BadInput(format!(
                "the parts of a weight must be alike: `{}` is {dtype} {:?}, `{}` is {} {:?}",
                first.name, first.shape, tensor.name, tensor.dtype, tensor.shape
            )));
        }
        if dtype.tensor_bytes(&tensor.shape) != Some(tensor.bytes.len()) {
            return Err(BackendError::BadInput(format!(
                "`{}` has {} bytes, which is not what {dtype} {:?} takes",
                tensor.name,
                tensor.bytes.len(),
                tensor.shape
            )));
        }
        rows += tensor.shape.first().copied().unwrap_or(1);
        parts.push((rows, tensor.bytes.clone()));
    }
    let vector = if first.shape.len() <= 1 {
        weight.parts.iter().flat_map(crate::weights::Tensor::to_f32_vec).collect()
    } else {
        Vec::new()
    };
    // A scalar has no axis to concatenate along.
    let first_axis = (!first.shape.is_empty()).then_some(rows);
    let shape = first_axis.into_iter().chain(inner).collect();
    Ok(PlacedWeight { dtype, shape, parts, packed: None, packed_for: None, vector })
}

/// One state, after [`check_room`].
fn place_state(spec: &StateSpec) -> PlacedState {
    // The system zeroes these pages when they are first touched: an unused cache costs nothing.
    let values = vec![0.0; spec.shape.iter().product()];
    PlacedState { shape: spec.shape.clone(), values }
}

/// Whether all states fit, asked before any is made: `vec!` would end the process. Asked at once,
/// because an allocator that was given back a state's memory hands it out again, and then has to
/// write its zeros.
fn check_room(states: &[StateSpec]) -> Result<(), BackendError> {
    let mut elements = Some(0_usize);
    for spec in states {
        if spec.dtype != DType::F32 {
            return Err(BackendError::Unsupported {
                backend: super::NAME,
                what: format!("{} states", spec.dtype),
            });
        }
        let size = spec.shape.iter().try_fold(1_usize, |size, &dim| size.checked_mul(dim));
        elements = elements.zip(size).and_then(|(sum, size)| sum.checked_add(size));
    }
    let fits = elements.is_some_and(|sum| Vec::<f32>::new().try_reserve_exact(sum).is_ok());
    if fits {
        return Ok(());
    }
    let needed = elements.map_or(u64::MAX, |sum| (sum as u64).saturating_mul(4));
    let what = format!("{} states", states.len());
    Err(BackendError::OutOfMemory { what, needed: Some(needed), detail: String::new() })
}
