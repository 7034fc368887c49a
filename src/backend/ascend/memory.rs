//! Weights and KV cache on the device: one copy for all graphs.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_ffi::{AclError, Current, DeviceBuffer, DeviceSlice};

use super::artifact::{InputSpec, Role};
use super::dtype::GeDType;
use super::kv_layout;
use super::session::{Session, allocate, run_error};
use crate::backend::blocks::{Blocks, Piece};
use crate::backend::{BackendError, Memory, StateSpec, Weight};
use crate::ir::DType;
use crate::weights::Tensor;

/// Sides of the causal mask that the attention operator asks for, whatever the lengths.
const MASK_SIDE: usize = 2048;

/// Weights and states on a device.
pub(super) struct AscendMemory {
    /// Different for every memory of the process: tells graphs what their addresses belong to.
    id: u64,
    weights: Vec<Placed>,
    states: Vec<Placed>,
    mask: Placed,
    /// Without those that padding is written to.
    blocks: Blocks,
    /// Last, so that it outlives the memory that lies on its device.
    session: Arc<Session>,
}

/// A tensor on the device.
#[derive(Debug)]
struct Placed {
    slice: DeviceSlice,
    dtype: Option<GeDType>,
    shape: Vec<u64>,
}

impl AscendMemory {
    /// Copies weights and zeroes states, each of which gets one more block than the graph says: the
    /// place that padding is written to.
    pub(super) fn new(
        session: Arc<Session>,
        weights: Vec<Weight>,
        states: &[StateSpec],
    ) -> Result<Self, BackendError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let current = session.enter()?;
        let weights = weights
            .into_iter()
            .map(|weight| place_weight(&current, weight))
            .collect::<Result<_, _>>()?;
        let states = states
            .iter()
            .enumerate()
            .map(|(idx, state)| place_state(&current, idx, state))
            .collect::<Result<Vec<_>, _>>()?;
        let blocks = Blocks::new(states.iter().map(blocks_of));
        let mask = Placed {
            slice: upload(&current, "the causal mask", &[&causal_mask()])?,
            dtype: Some(GeDType::Bool),
            shape: vec![MASK_SIDE as u64; 2],
        };
        drop(current);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, weights, states, mask, blocks, session })
    }

    /// Tells this memory from every other one.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// A state, counted as in the graph.
    pub(super) fn state(&self, index: u32) -> Option<&DeviceSlice> {
        self.states.get(index as usize).map(|state| &state.slice)
    }

    /// What an input of a graph is filled with that stays on the device.
    ///
    /// # Errors
    /// [`BackendError::BadInput`] when it was not placed, or is another tensor than the graph's.
    pub(super) fn resident(&self, spec: &InputSpec) -> Result<&DeviceSlice, BackendError> {
        let found = match spec.role {
            Role::Weight { index } => self.weights.get(index as usize),
            Role::State { index } => self.states.get(index as usize),
            _ => Some(&self.mask),
        };
        let placed = found.ok_or_else(|| {
            BackendError::BadInput(format!("the graph's input `{}` was not placed", spec.name))
        })?;
        if placed.dtype == Some(spec.dtype) && placed.shape == spec.shape {
            return Ok(&placed.slice);
        }
        Err(BackendError::BadInput(format!(
            "the graph's input `{}` is {} {:?}, but {} {:?} was placed",
            spec.name,
            spec.dtype,
            spec.shape,
            placed.dtype.map_or("a type of blocks", GeDType::name),
            placed.shape
        )))
    }

    /// Whether it lies on the device of that session.
    pub(super) fn is_of(&self, session: &Arc<Session>) -> bool {
        Arc::ptr_eq(&self.session, session)
    }
}

impl Memory for AscendMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        let all = self.weights.iter().chain(&self.states).chain([&self.mask]);
        all.map(|placed| placed.slice.len() as u64).sum()
    }

    fn block_bytes(&self) -> usize {
        self.blocks.block_bytes()
    }

    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        self.blocks.check_copies(copies)?;
        if copies.is_empty() {
            return Ok(());
        }
        self.copy(copies).map_err(|error| self.session.with_log(error))
    }

    fn read_block(&mut self, block: u32, bytes: &mut [u8]) -> Result<(), BackendError> {
        let block = self.blocks.index_with_bytes(block, bytes.len())?;
        self.for_each_piece(block, |current, buffer, at, range| {
            buffer.download(current, at, &mut bytes[range])
        })
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), BackendError> {
        let block = self.blocks.index_with_bytes(block, bytes.len())?;
        self.for_each_piece(block, |current, buffer, at, range| {
            buffer.upload(current, at, &bytes[range])
        })
    }
}

impl AscendMemory {
    /// Copies blocks that are there, on the stream of the steps, and waits for the end.
    fn copy(&self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        let current = self.session.enter()?;
        let mut shared = self.session.shared();
        let stream = shared.stream(&current)?;
        let copied = stream.run(&current, self.session.timeout(), |queue| {
            for (state, &len) in self.states.iter().zip(self.blocks.state_bytes()) {
                for &(from, to) in copies.iter().filter(|(from, to)| from != to) {
                    let (from, to) = (from as usize * len, to as usize * len);
                    queue.copy(&state.slice, from..from + len, &state.slice, to)?;
                }
            }
            Ok(())
        });
        copied.map_err(|error| run_error(&error))
    }

    /// Calls with the place of each part of a block on the device, and with that among its bytes.
    fn for_each_piece(
        &self,
        block: usize,
        mut call: impl FnMut(&Current<'_>, &DeviceBuffer, usize, Range<usize>) -> Result<(), AclError>,
    ) -> Result<(), BackendError> {
        let current = self.session.enter().map_err(|error| self.session.with_log(error))?;
        for Piece { state, offset, range } in self.blocks.pieces(block) {
            let slice = &self.states[state].slice;
            call(&current, slice.buffer(), slice.offset() + offset, range)
                .map_err(|error| self.session.with_log(run_error(&error)))?;
        }
        Ok(())
    }
}

/// How many blocks a state has, and the bytes of each on the device.
fn blocks_of(state: &Placed) -> (usize, usize) {
    // The last one is where padding is written to.
    let with_dump = state.shape.first().map_or(1, |&with_dump| with_dump as usize);
    (with_dump - 1, state.slice.len() / with_dump)
}

fn place_weight(current: &Current<'_>, weight: Weight) -> Result<Placed, BackendError> {
    let (dtype, shape) = type_of(&weight.parts)?;
    let name = weight.parts.first().map_or("a weight", |tensor| tensor.name.as_str());
    let parts: Vec<&[u8]> = weight.parts.iter().map(|tensor| &tensor.bytes[..]).collect();
    let slice = upload(current, name, &parts)?;
    Ok(Placed { slice, dtype: GeDType::of(dtype), shape })
}

/// Type and sizes of a weight, whose parts lie one after the other along the first axis.
fn type_of(parts: &[Tensor]) -> Result<(DType, Vec<u64>), BackendError> {
    let Some(first) = parts.first() else {
        return Err(BackendError::BadInput("a weight has no parts".to_owned()));
    };
    let inner = |tensor: &Tensor| tensor.shape.get(1..).unwrap_or_default().to_vec();
    for tensor in parts {
        if tensor.dtype != first.dtype || inner(tensor) != inner(first) {
            return Err(BackendError::BadInput(format!(
                "the parts of a weight must be alike: `{}` is {} {:?}, `{}` is {} {:?}",
                first.name, first.dtype, first.shape, tensor.name, tensor.dtype, tensor.shape
            )));
        }
        if tensor.dtype.tensor_bytes(&tensor.shape) != Some(tensor.bytes.len()) {
            return Err(BackendError::BadInput(format!(
                "`{}` has {} bytes, which is not what {} {:?} takes",
                tensor.name,
                tensor.bytes.len(),
                tensor.dtype,
                tensor.shape
            )));
        }
    }
    let mut shape: Vec<u64> = first.shape.iter().map(|&size| size as u64).collect();
    if let Some(rows) = shape.first_mut() {
        *rows = parts.iter().map(|tensor| tensor.shape[0] as u64).sum();
    }
    Ok((first.dtype, shape))
}

fn place_state(
    current: &Current<'_>,
    idx: usize,
    state: &StateSpec,
) -> Result<Placed, BackendError> {
    let shape: Vec<u64> = state.shape.iter().map(|&size| size as u64).collect();
    let device_shape = kv_layout::device_shape(&shape);
    let bytes = device_shape.and_then(|shape| {
        let shape: Option<Vec<usize>> =
            shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        state.dtype.tensor_bytes(&shape?)
    });
    let (shape, bytes) = device_shape.zip(bytes).ok_or_else(|| match shape.len() {
        4 => BackendError::OutOfMemory {
            what: format!("state {idx} of the KV cache, {shape:?},"),
            needed: None,
            detail: String::new(),
        },
        _ => BackendError::BadInput(format!("state {idx} of shape {shape:?} is no KV cache")),
    })?;
    let buffer = allocate(current, &format!("state {idx} of the KV cache"), bytes)?;
    buffer.fill_zero(current).map_err(|error| run_error(&error))?;
    let slice = DeviceSlice::whole(Arc::new(buffer));
    Ok(Placed { slice, dtype: GeDType::of(state.dtype), shape: shape.to_vec() })
}

fn upload(current: &Current<'_>, what: &str, parts: &[&[u8]]) -> Result<DeviceSlice, BackendError> {
    let buffer = allocate(current, what, parts.iter().map(|part| part.len()).sum())?;
    let mut offset = 0;
    for part in parts {
        buffer.upload(current, offset, part).map_err(|error| run_error(&error))?;
        offset += part.len();
    }
    Ok(DeviceSlice::whole(Arc::new(buffer)))
}

/// One byte each: 1 where a key lies after its query.
fn causal_mask() -> Vec<u8> {
    let mut mask = vec![0; MASK_SIDE * MASK_SIDE];
    for (query, row) in mask.chunks_exact_mut(MASK_SIDE).enumerate() {
        row[query + 1..].fill(1);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_hides_what_comes_later() {
        let mask = causal_mask();
        let at = |query: usize, key: usize| mask[query * MASK_SIDE + key];
        assert_eq!([at(0, 0), at(0, 1), at(5, 5), at(5, 6), at(2047, 2047)], [0, 1, 0, 1, 0]);
        let hidden = mask.iter().map(|&byte| usize::from(byte)).sum::<usize>();
        assert_eq!(hidden, MASK_SIDE * (MASK_SIDE - 1) / 2);
    }
}
