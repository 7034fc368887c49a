//! Weights and KV cache on the device: one copy for all graphs.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_ffi::{Current, DeviceSlice};

use super::kv_layout;
use super::session::{Session, allocate, run_error};
use crate::backend::{BackendError, Memory, StateSpec, Weight};

/// Sides of the causal mask that the attention operator asks for, whatever the lengths.
const MASK_SIDE: usize = 2048;

/// Weights and states on a device.
pub(super) struct AscendMemory {
    /// Different for every memory of the process: tells graphs what their addresses belong to.
    id: u64,
    weights: Vec<DeviceSlice>,
    states: Vec<DeviceSlice>,
    mask: DeviceSlice,
    /// Last, so that it outlives the memory that lies on its device.
    session: Arc<Session>,
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
            .collect::<Result<_, _>>()?;
        let mask = upload(&current, "the causal mask", &[&causal_mask()])?;
        drop(current);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, weights, states, mask, session })
    }

    /// Tells this memory from every other one.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// A weight, counted as in the graph.
    pub(super) fn weight(&self, index: u32) -> Option<&DeviceSlice> {
        self.weights.get(index as usize)
    }

    /// A state, counted as in the graph.
    pub(super) fn state(&self, index: u32) -> Option<&DeviceSlice> {
        self.states.get(index as usize)
    }

    /// The causal mask.
    pub(super) fn mask(&self) -> &DeviceSlice {
        &self.mask
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
        all.map(|slice| slice.len() as u64).sum()
    }
}

fn place_weight(current: &Current<'_>, weight: Weight) -> Result<DeviceSlice, BackendError> {
    let name = weight.parts.first().map_or("a weight", |tensor| tensor.name.as_str()).to_owned();
    let parts: Vec<&[u8]> = weight.parts.iter().map(|tensor| &tensor.bytes[..]).collect();
    upload(current, &name, &parts)
}

fn place_state(
    current: &Current<'_>,
    idx: usize,
    state: &StateSpec,
) -> Result<DeviceSlice, BackendError> {
    let shape: Vec<u64> = state.shape.iter().map(|&size| size as u64).collect();
    let bytes = kv_layout::device_shape(&shape).and_then(|shape| {
        let shape: Option<Vec<usize>> =
            shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        state.dtype.tensor_bytes(&shape?)
    });
    let bytes = bytes.ok_or_else(|| {
        BackendError::BadInput(format!("state {idx} of shape {shape:?} is no KV cache"))
    })?;
    let buffer = allocate(current, &format!("state {idx} of the KV cache"), bytes)?;
    buffer.fill_zero(current).map_err(|error| run_error(&error))?;
    Ok(DeviceSlice::whole(Arc::new(buffer)))
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
