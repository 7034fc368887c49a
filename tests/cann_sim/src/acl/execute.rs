//! Running a model: which memory its inputs and outputs are, and the run itself.

#![expect(unsafe_code, reason = "makes slices of device memory for the interpreter")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dataset::Dataset;
use super::error::{Fail, code};
use super::memory::{Span, bus};
use super::model::{Program, Tensor};
use super::state::{State, state};
use crate::interpret::{self, Binding};

/// Memory bound to a model's inputs and outputs, checked against its description.
#[derive(Debug)]
pub(super) struct Bound {
    inputs: Vec<Span>,
    outputs: Vec<Span>,
    /// Outputs are zero, for runs that compute nothing.
    is_zeroed: AtomicBool,
}

impl Bound {
    /// Looks up the buffers of both datasets.
    ///
    /// # Errors
    /// When they do not fit the model, or are not live device memory, or what is written overlaps.
    pub(super) fn new(
        state: &State,
        device: u32,
        program: &Program,
        inputs: &Dataset,
        outputs: &Dataset,
    ) -> Result<Arc<Self>, Fail> {
        let inputs = spans(state, device, "input", &program.inputs, inputs)?;
        let outputs = spans(state, device, "output", &program.outputs, outputs)?;
        let read = inputs.iter().zip(&program.inputs);
        let read = read.map(|(span, tensor)| (span, tensor, tensor.is_updated));
        let written =
            outputs.iter().zip(&program.outputs).map(|(span, tensor)| (span, tensor, true));
        check_overlaps(read.chain(written).collect())?;
        Ok(Arc::new(Self { inputs, outputs, is_zeroed: AtomicBool::new(false) }))
    }

    fn freed(&self) -> Option<&Span> {
        self.inputs.iter().chain(&self.outputs).find(|span| span.is_freed())
    }
}

fn spans(
    state: &State,
    device: u32,
    what: &str,
    tensors: &[Tensor],
    dataset: &Dataset,
) -> Result<Vec<Span>, Fail> {
    if tensors.len() != dataset.buffers.len() {
        let (wanted, got) = (tensors.len(), dataset.buffers.len());
        let text = format!("the model has {wanted} {what}s, the dataset {got} buffers");
        return Err(Fail::new(code::GE_PARAM_INVALID, text));
    }
    let pairs = tensors.iter().zip(&dataset.buffers);
    let spans = pairs.map(|(tensor, buffer)| {
        let refuse = |code: i32, reason: String| {
            Err(Fail::new(code, format!("{what} `{}`: {reason}", tensor.name.to_string_lossy())))
        };
        let buffer = state.buffers.get(*buffer)?;
        let (size, given) = (tensor.num_bytes, buffer.size);
        // Memory is padded: up to the next 32 bytes, and 32 more for kernels that read ahead.
        let largest = (size.saturating_add(31) / 32 * 32).saturating_add(32);
        if !(size..=largest).contains(&given) {
            let text = format!("{given} bytes given, {size} needed");
            return refuse(code::GE_PARAM_INVALID, text);
        }
        if buffer.address == 0 {
            return refuse(code::GE_PARAM_INVALID, "the address is null".to_owned());
        }
        match state.memory.device_span(device, buffer.address, size) {
            Ok(_) if !buffer.address.is_multiple_of(32) => {
                let text = format!("{:#x} is not 32-byte aligned", buffer.address);
                refuse(code::GE_DATA_NOT_ALIGNED, text)
            }
            Ok(span) => Ok(span),
            Err(fail) => refuse(code::GE_PARAM_INVALID, fail.message),
        }
    });
    spans.collect()
}

/// # Errors
/// When something written shares a byte with anything else.
fn check_overlaps(mut places: Vec<(&Span, &Tensor, bool)>) -> Result<(), Fail> {
    places.retain(|(span, _, _)| span.len() > 0);
    places.sort_by_key(|(span, _, _)| span.addresses().start);
    let mut furthest: Option<(&Span, &Tensor)> = None;
    let mut furthest_written = furthest;
    for (span, tensor, is_written) in places {
        let earlier = if is_written { furthest } else { furthest_written };
        if let Some((_, other)) = earlier.filter(|(other, _)| span.overlaps(other)) {
            let names = (tensor.name.to_string_lossy(), other.name.to_string_lossy());
            let text = format!("`{}` and `{}` overlap and one is written", names.0, names.1);
            return Err(Fail::new(code::GE_PARAM_INVALID, text));
        }
        let ends_later = |place: Option<(&Span, &Tensor)>| {
            place.is_none_or(|(other, _)| other.addresses().end < span.addresses().end)
        };
        if ends_later(furthest) {
            furthest = Some((span, tensor));
        }
        if is_written && ends_later(furthest_written) {
            furthest_written = Some((span, tensor));
        }
    }
    Ok(())
}

/// Counts an execution of a model as long as it lives.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One execution of a model, waiting in a stream.
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) model: u32,
    pub(super) program: Arc<Program>,
    pub(super) bound: Arc<Bound>,
    /// Addresses of a workspace that the program gave, which models may share.
    pub(super) workspace: Option<Span>,
    pub(super) skips_computing: bool,
    pub(super) _in_flight: InFlight,
}

impl Execution {
    /// Marks the model and its workspace as in use by that stream.
    pub(super) fn begin(&self, stream: u32) -> Running {
        let workspace = self.workspace.as_ref().map(Span::addresses);
        Running::enter(self.model, workspace, stream)
    }

    /// # Errors
    /// What a kernel reported, or a rule that was broken since the call.
    pub(super) fn run(&self, running: Option<&Running>) -> Result<(), Fail> {
        if let Some(conflict) = running.and_then(|running| running.conflict.as_deref()) {
            state().violate(conflict);
            return Err(Fail::new(code::GE_PARAM_INVALID, conflict));
        }
        if let Some(span) = self.bound.freed().or(self.workspace.as_ref().filter(|w| w.is_freed()))
        {
            let address = span.addresses().start;
            let text = format!("memory at {address:#x} was freed before model {} ran", self.model);
            state().violate(&text);
            return Err(Fail::new(code::RT_AICORE_EXCEPTION, text));
        }
        if self.skips_computing {
            self.zero_outputs();
            return Ok(());
        }
        self.interpret()
    }

    fn interpret(&self) -> Result<(), Fail> {
        let _bus = bus();
        let mut inputs = Vec::with_capacity(self.bound.inputs.len());
        for (span, tensor) in self.bound.inputs.iter().zip(&self.program.inputs) {
            inputs.push(if tensor.is_updated {
                // SAFETY: the span lies within a mapping that it keeps alive. All access to device
                // bytes is under the bus lock, held here, and `Bound::new` has refused overlap with
                // anything else of this run.
                Binding::Update(unsafe {
                    std::slice::from_raw_parts_mut(span.pointer(), span.len())
                })
            } else {
                // SAFETY: as above; other inputs that are only read may overlap it.
                Binding::Read(unsafe { std::slice::from_raw_parts(span.pointer(), span.len()) })
            });
        }
        let outputs = self.bound.outputs.iter();
        let mut outputs: Vec<&mut [u8]> = outputs
            // SAFETY: as for an updated input.
            .map(|span| unsafe { std::slice::from_raw_parts_mut(span.pointer(), span.len()) })
            .collect();
        interpret::run(&self.program.graph, &mut inputs, &mut outputs)
            .map_err(|error| Fail::new(code::RT_AICORE_EXCEPTION, error.to_string()))
    }

    /// Only the first time: the cost of a step without computing is not to grow with the outputs.
    fn zero_outputs(&self) {
        if self.bound.is_zeroed.swap(true, Ordering::AcqRel) {
            return;
        }
        let _bus = bus();
        for span in &self.bound.outputs {
            // SAFETY: the span lies within a mapping that it keeps alive, and the bus lock is held.
            unsafe { span.pointer().write_bytes(0, span.len()) };
        }
    }
}

/// A model that runs on a stream, until dropped.
#[derive(Debug)]
pub(super) struct Running {
    token: u64,
    conflict: Option<String>,
}

/// Token, model, its shared workspace, stream.
type Entry = (u64, u32, Option<Range<usize>>, u32);

static RUNNING: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static TOKENS: AtomicU64 = AtomicU64::new(0);

fn running() -> MutexGuard<'static, Vec<Entry>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn enter(model: u32, workspace: Option<Range<usize>>, stream: u32) -> Self {
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        let mut entries = running();
        let conflict = entries.iter().find_map(|(_, other, used, on)| {
            if *other == model {
                return Some(format!("model {model} runs on streams {on} and {stream} at once"));
            }
            let (a, b) = (workspace.as_ref()?, used.as_ref()?);
            (a.start < b.end && b.start < a.end)
                .then(|| format!("models {other} and {model} share a workspace and run at once"))
        });
        entries.push((token, model, workspace, stream));
        Self { token, conflict }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running().retain(|(token, ..)| *token != self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_conflict_by_themselves_and_by_their_workspaces() {
        let first = Running::enter(900_001, Some(0..10), 1);
        assert_eq!(first.conflict, None);
        assert!(Running::enter(900_001, None, 2).conflict.is_some());
        assert!(Running::enter(900_002, Some(9..12), 2).conflict.is_some());
        assert_eq!(Running::enter(900_002, Some(10..12), 2).conflict, None);
        drop(first);
        assert_eq!(Running::enter(900_001, Some(0..10), 2).conflict, None);
    }
}
