//! A loaded graph: one launch per step.
//!
//! ```text
//! fill staging -> copy to device -> execute -> copy results back -> wait, with a time-out
//!                 `---------------- only enqueued --------------'  ^ what the caller does meanwhile
//! ```
//!
//! Addresses never change between steps of one memory: the datasets are made with the first step,
//! so the runtime has nothing to patch in the ones that follow.
//!
//! | Wanted | Copied back |
//! | --- | --- |
//! | `Argmax` | the index and the value of each row's largest |
//! | `TopK` | the k largest of each row, and all logits when equals at the border leave the set open |
//! | `Logits` | all logits |

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_ffi::{
    Current, Dataset, DeviceBuffer, DeviceSlice, LoadOptions, Model, Stream, TensorInfo,
};

use super::artifact::{CompiledGraph, InputSpec, IoTable, OutputRole, tensor_bytes};
use super::dtype::GeDType;
use super::memory::AscendMemory;
use super::om;
use super::session::{Session, Staging, load_error, run_error};
use super::step::{StepPlan, spec_bytes};
use crate::backend::{BackendError, Executable, Files, Memory, Output, Rows, Step, Wanted};

const ALIGNMENT: usize = 64;
/// Kernels may write up to the next multiple of 32 bytes.
const SPARE_BYTES: usize = 32;
/// A load may take that much of device memory beyond its workspace: code, streams, tables.
const LOAD_OVERHEAD_BYTES: u64 = 256 << 20;

/// A graph on a device.
pub(super) struct AscendExecutable {
    /// Before the session, so that it is unloaded while its context still lives.
    bound: Option<Bound>,
    model: Model,
    session: Arc<Session>,
    io: IoTable,
    plan: StepPlan,
    results: Results,
    /// What the host needed to start the last step.
    start_time: Duration,
}

/// Datasets over the addresses of one memory.
struct Bound {
    memory_id: u64,
    step: DeviceSlice,
    results: DeviceSlice,
    inputs: Dataset,
    outputs: Dataset,
}

/// Where the outputs lie in the result buffer. Small ones come first and in this order, so that each
/// answer is one piece.
#[derive(Debug, Default)]
struct Results {
    /// By index of the output.
    places: Vec<Range<usize>>,
    argmax: Option<Range<usize>>,
    values: Option<Range<usize>>,
    indices: Option<Range<usize>>,
    logits: Range<usize>,
    /// Columns of `values` and `indices`.
    k: usize,
    /// Columns of the logits.
    columns: usize,
    len: usize,
}

impl AscendExecutable {
    /// Loads an artifact.
    pub(super) fn load(session: Arc<Session>, files: &Files<'_>) -> Result<Self, BackendError> {
        let CompiledGraph { io, om } = CompiledGraph::read(files)?;
        let plan = StepPlan::new(&io)?;
        let results = Results::new(&io)?;
        let info = om::check(om).map_err(|error| bad(error.to_string()))?;
        let current = session.enter()?;
        let mut shared = session.shared();
        // Where the size is not known, the runtime is told to allocate only what it needs.
        let workspace = info
            .workspace_size()
            .map(|bytes| shared.workspace(&current, usize::try_from(bytes).unwrap_or(usize::MAX)));
        let workspace = workspace.transpose()?;
        let free_before = free_memory(&current)?;
        let model = Model::load(&current, LoadOptions { om, workspace, weight: None })
            .map_err(|error| load_error(&error))?;
        check_memory(free_before.saturating_sub(free_memory(&current)?), &io)?;
        check_tensors(&io, &model)?;
        shared.announce(plan.len(), results.len);
        drop((shared, current));
        let start_time = Duration::ZERO;
        Ok(Self { bound: None, model, session, io, plan, results, start_time })
    }

    /// Datasets for that memory, made when they are not there yet.
    fn bind(
        &mut self,
        current: &Current<'_>,
        staging: &Staging,
        memory: &AscendMemory,
    ) -> Result<(), BackendError> {
        if self.bound.as_ref().is_some_and(|bound| bound.memory_id == memory.id()) {
            return Ok(());
        }
        let slice = |buffer: &Arc<DeviceBuffer>, offset, len| {
            DeviceSlice::new(Arc::clone(buffer), offset, len).map_err(|error| run_error(&error))
        };
        let mut inputs = Vec::new();
        for spec in self.in_model_order()? {
            let region = self.plan.regions().iter().find(|region| {
                self.io.inputs.get(region.index).is_some_and(|of_region| of_region == spec)
            });
            inputs.push(match region {
                Some(region) => slice(&staging.device_step, region.offset, region.len)?,
                None => memory.resident(spec)?.clone(),
            });
        }
        let outputs = self
            .results
            .places
            .iter()
            .map(|place| slice(&staging.device_results, place.start, place.len()));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let dataset = |tensors| Dataset::new(current, tensors).map_err(|error| run_error(&error));
        self.bound = Some(Bound {
            memory_id: memory.id(),
            step: slice(&staging.device_step, 0, self.plan.len())?,
            results: slice(&staging.device_results, 0, self.results.len)?,
            inputs: dataset(inputs)?,
            outputs: dataset(outputs)?,
        });
        Ok(())
    }

    /// The table's inputs in the order in which the model takes them.
    fn in_model_order(&self) -> Result<Vec<&InputSpec>, BackendError> {
        let of = |tensor: &TensorInfo| {
            let found = self.io.inputs.iter().find(|spec| spec.name == tensor.name);
            found.ok_or_else(|| bad(format!("its table has no input `{}`", tensor.name)))
        };
        self.model.inputs().iter().map(of).collect()
    }
}

impl Executable for AscendExecutable {
    fn run(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let mut all = Output { logits: std::mem::take(output), ..Output::default() };
        let result = self.run_wanted(memory, step, Wanted::Logits, &mut all);
        *output = all.logits;
        result
    }

    fn run_wanted(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        self.run_meanwhile(memory, step, wanted, output, &mut || ())
    }

    fn run_meanwhile(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), BackendError> {
        let session = Arc::clone(&self.session);
        let mut meanwhile = Some(meanwhile);
        let mut once = || meanwhile.take().into_iter().for_each(|meanwhile| meanwhile());
        let result = self.run_step(memory, step, wanted, output, &mut once);
        // Nothing was enqueued by a launch that failed.
        once();
        result.map_err(|error| session.with_log(error))
    }
}

impl AscendExecutable {
    /// [`run_meanwhile`](Executable::run_meanwhile), without what CANN has logged when it fails; a
    /// launch that fails does not call `meanwhile`.
    fn run_step(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), BackendError> {
        let memory = memory
            .as_any_mut()
            .downcast_mut::<AscendMemory>()
            .filter(|memory| memory.is_of(&self.session))
            .ok_or_else(|| BackendError::BadInput("the memory is of another device".to_owned()))?;
        let session = Arc::clone(&self.session);
        let current = session.enter()?;
        let mut shared = session.shared();
        let (stream, staging) = shared.stream_and_staging(&current)?;
        self.bind(&current, staging, memory)?;
        let host = staging.step.as_mut_slice().map_err(|error| run_error(&error))?;
        self.plan.fill(step, &mut host[..self.plan.len()])?;
        let (rows, range) = self.results.answer(wanted);
        self.start_time = self.launch(&current, stream, staging, range.clone(), meanwhile)?;
        output.rows = rows;
        self.results.read(rows, range, host_results(staging)?, output);
        let is_open = match (rows, wanted) {
            (Rows::TopK { k }, Wanted::TopK(wanted)) => {
                has_equals_at_border(&output.values, k, wanted, self.results.columns)
            }
            _ => false,
        };
        if is_open {
            let range = self.results.logits.clone();
            self.fetch(&current, stream, staging, range.clone())?;
            output.rows = Rows::Logits;
            self.results.read(Rows::Logits, range, host_results(staging)?, output);
        }
        Ok(())
    }

    /// What the host needed to start the last step: not what the device needed to do it.
    pub(super) fn start_time(&self) -> Duration {
        self.start_time
    }

    /// Runs the step in the staging buffer and brings back a piece of the results. `meanwhile` is
    /// called before the wait, whose time-out begins after it. Returns what the host needed to start
    /// the step.
    fn launch(
        &self,
        current: &Current<'_>,
        stream: &mut Stream,
        staging: &mut Staging,
        range: Range<usize>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Duration, BackendError> {
        let bound = self.bound()?;
        let (step, results) = (&staging.step, &mut staging.results);
        let result = bound.result(range.clone())?;
        stream
            .run(current, self.session.timeout(), |queue| {
                queue.upload(step, 0..self.plan.len(), &bound.step)?;
                let started = Instant::now();
                queue.execute(&self.model, &bound.inputs, &bound.outputs)?;
                let start_time = started.elapsed();
                queue.download(&result, results, 0..range.len())?;
                meanwhile();
                Ok(start_time)
            })
            .map_err(|error| run_error(&error))
    }

    /// Brings back another piece of the results of the last launch.
    fn fetch(
        &self,
        current: &Current<'_>,
        stream: &mut Stream,
        staging: &mut Staging,
        range: Range<usize>,
    ) -> Result<(), BackendError> {
        let result = self.bound()?.result(range.clone())?;
        let results = &mut staging.results;
        stream
            .run(current, self.session.timeout(), |queue| {
                queue.download(&result, results, 0..range.len())
            })
            .map_err(|error| run_error(&error))
    }

    fn bound(&self) -> Result<&Bound, BackendError> {
        self.bound.as_ref().ok_or_else(|| bad("no memory is bound".to_owned()))
    }
}

impl Bound {
    /// A piece of the results on the device.
    fn result(&self, range: Range<usize>) -> Result<DeviceSlice, BackendError> {
        let buffer = Arc::clone(self.results.buffer());
        let slice = DeviceSlice::new(buffer, self.results.offset() + range.start, range.len());
        slice.map_err(|error| run_error(&error))
    }
}

impl Results {
    fn new(io: &IoTable) -> Result<Self, BackendError> {
        let mut results = Self { places: vec![0..0; io.outputs.len()], ..Self::default() };
        let order =
            [OutputRole::Argmax, OutputRole::TopValues, OutputRole::TopIndices, OutputRole::Result];
        for role in order {
            let mut found = io.outputs.iter().enumerate().filter(|(_, spec)| spec.role == role);
            let Some((idx, spec)) = found.next() else { continue };
            let columns = spec.shape.last().map_or(1, |&columns| columns as usize);
            let place = tensor_bytes(spec.dtype, &spec.shape)
                .and_then(|bytes| Some(results.len..results.len.checked_add(bytes)?))
                .ok_or_else(|| bad("an output is too large".to_owned()))?;
            results.len = place.end.saturating_add(SPARE_BYTES).next_multiple_of(ALIGNMENT);
            match role {
                OutputRole::Argmax => results.argmax = Some(place.clone()),
                OutputRole::TopValues => {
                    results.k = columns;
                    results.values = Some(place.clone());
                }
                OutputRole::TopIndices => results.indices = Some(place.clone()),
                OutputRole::Result => {
                    results.columns = columns;
                    results.logits = place.clone();
                }
            }
            results.places[idx] = place;
        }
        let is_known = |place: &Range<usize>| !place.is_empty();
        if !results.places.iter().all(is_known) || results.logits.is_empty() {
            return Err(bad("its outputs are not those of a graph".to_owned()));
        }
        Ok(results)
    }

    /// What answers a wish, and the piece of the buffer that holds it.
    fn answer(&self, wanted: Wanted) -> (Rows, Range<usize>) {
        match (wanted, &self.argmax, &self.values, &self.indices) {
            (Wanted::Argmax, Some(argmax), Some(values), _) => {
                (Rows::Argmax, argmax.start..values.end)
            }
            (Wanted::TopK(k), Some(_), Some(values), Some(indices))
                if k <= self.k || self.k == self.columns =>
            {
                (Rows::TopK { k: self.k }, values.start..indices.end)
            }
            _ => (Rows::Logits, self.logits.clone()),
        }
    }

    /// Copies out of the host's buffer, which begins with `range`.
    fn read(&self, rows: Rows, range: Range<usize>, host: &[u8], output: &mut Output) {
        let part = |place: &Range<usize>| &host[place.start - range.start..place.end - range.start];
        match (rows, &self.argmax, &self.values, &self.indices) {
            (Rows::Argmax, Some(argmax), Some(values), _) => {
                output.indices.clear();
                output.indices.extend(i32s(part(argmax)));
                output.values.clear();
                output.values.extend(f32s(part(values)).step_by(self.k.max(1)));
            }
            (Rows::TopK { .. }, _, Some(values), Some(indices)) => {
                output.values.clear();
                output.values.extend(f32s(part(values)));
                output.indices.clear();
                output.indices.extend(i32s(part(indices)));
            }
            _ => {
                output.logits.clear();
                output.logits.extend(f32s(part(&self.logits)));
            }
        }
    }
}

fn host_results(staging: &Staging) -> Result<&[u8], BackendError> {
    staging.results.as_slice().map_err(|error| run_error(&error))
}

/// Whether in some row the last candidate equals the last that is wanted: then others that were left
/// out may equal it, too, and have lower indices.
fn has_equals_at_border(values: &[f32], k: usize, wanted: usize, columns: usize) -> bool {
    if k == columns || wanted == 0 || k == 0 {
        return false;
    }
    values.chunks_exact(k).any(|row| {
        let (border, last) = (row[wanted.min(k) - 1], row[k - 1]);
        // A value that is no number leaves everything open.
        border.partial_cmp(&last) != Some(std::cmp::Ordering::Greater)
    })
}

fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| f32::from_le_bytes(*word))
}

fn i32s(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| i32::from_le_bytes(*word))
}

/// The loaded model must be the one that the table describes.
fn check_tensors(io: &IoTable, model: &Model) -> Result<(), BackendError> {
    let (inputs, outputs) = (model.inputs(), model.outputs());
    if inputs.len() != io.inputs.len() || outputs.len() != io.outputs.len() {
        return Err(bad(format!(
            "its table has {} inputs and {} outputs, the model {} and {}",
            io.inputs.len(),
            io.outputs.len(),
            inputs.len(),
            outputs.len()
        )));
    }
    for spec in &io.inputs {
        let tensor = inputs.iter().find(|tensor| tensor.name == spec.name);
        let tensor = tensor.ok_or_else(|| bad(format!("the model has no `{}`", spec.name)))?;
        check_tensor(&spec.name, spec.dtype, &spec.shape, tensor)?;
    }
    for (idx, (spec, tensor)) in io.outputs.iter().zip(outputs).enumerate() {
        check_tensor(&format!("output {idx}"), spec.dtype, &spec.shape, tensor)?;
    }
    Ok(())
}

fn check_tensor(
    name: &str,
    dtype: GeDType,
    shape: &[u64],
    tensor: &TensorInfo,
) -> Result<(), BackendError> {
    let is_same_shape = tensor.dims.len() == shape.len()
        && tensor.dims.iter().zip(shape).all(|(&got, &size)| u64::try_from(got) == Ok(size));
    if tensor.dtype == dtype.acl() && is_same_shape {
        return Ok(());
    }
    Err(bad(format!(
        "`{name}` is {dtype} {shape:?} in its table, but type {} {:?} in the model",
        tensor.dtype, tensor.dims
    )))
}

fn free_memory(current: &Current<'_>) -> Result<u64, BackendError> {
    Ok(current.memory_info().map_err(|error| run_error(&error))?.free)
}

/// A runtime that sets aside memory for inputs which are given from outside would hold all weights
/// and the KV cache once more for every graph.
fn check_memory(taken: u64, io: &IoTable) -> Result<(), BackendError> {
    let inputs: u64 = io.inputs.iter().filter_map(spec_bytes).map(|bytes| bytes as u64).sum();
    let limit = LOAD_OVERHEAD_BYTES.max(inputs / 4);
    if taken <= limit {
        return Ok(());
    }
    Err(BackendError::Execution(format!(
        "loading it took {taken} bytes of the device's memory, expected {limit} at most: this CANN \
         holds the graph's inputs a second time (it does not honour \
         ACL_MDL_WORKSPACE_MEM_OPTIMIZE; try another release), or another process took memory \
         meanwhile"
    )))
}

fn bad(what: String) -> BackendError {
    BackendError::BadArtifact { backend: super::NAME, what }
}

#[cfg(test)]
mod tests {
    use super::super::artifact::{OutputSpec, StepLayout};
    use super::*;

    fn results() -> Results {
        let output = |dtype, shape: &[u64], role| OutputSpec { dtype, shape: shape.to_vec(), role };
        let outputs = vec![
            output(GeDType::F32, &[2, 100], OutputRole::Result),
            output(GeDType::I32, &[2], OutputRole::Argmax),
            output(GeDType::F32, &[2, 64], OutputRole::TopValues),
            output(GeDType::I32, &[2, 64], OutputRole::TopIndices),
        ];
        let layout = StepLayout::Free;
        Results::new(&IoTable { layout, num_tokens: 0, query_ends: None, inputs: vec![], outputs })
            .unwrap()
    }

    #[test]
    fn what_is_wanted_together_lies_together() {
        let results = results();
        assert_eq!(results.places[1], 0..8);
        assert_eq!(results.places[2], 64..64 + 512);
        assert_eq!(results.answer(Wanted::Argmax), (Rows::Argmax, 0..576));
        let (rows, range) = results.answer(Wanted::TopK(5));
        assert_eq!((rows, range.start), (Rows::TopK { k: 64 }, 64));
        assert_eq!(results.answer(Wanted::TopK(65)).0, Rows::Logits);
        assert_eq!(results.answer(Wanted::Logits), (Rows::Logits, results.places[0].clone()));
    }

    #[test]
    fn equals_at_the_border_leave_the_set_open() {
        let row = [5.0, 4.0, 4.0, 3.0];
        assert!(!has_equals_at_border(&row, 4, 2, 9));
        assert!(has_equals_at_border(&[5.0, 4.0, 4.0, 4.0], 4, 2, 9));
        assert!(!has_equals_at_border(&[5.0, 4.0, 4.0, 4.0], 4, 2, 4), "that is all there is");
        assert!(has_equals_at_border(&[f32::NAN, 4.0, 3.0, 2.0], 4, 1, 9));
        assert!(has_equals_at_border(&row, 4, 4, 9), "the border is the last candidate itself");
    }
}
