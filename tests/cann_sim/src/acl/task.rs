//! What a stream works off, one after the other.

#![expect(unsafe_code, reason = "copies through raw pointers")]

use std::sync::Arc;

use super::error::{Fail, code};
use super::event::{Event, Waited};
use super::execute::{Execution, Running};
use super::memory::{Span, bus};
use super::state::state;

/// A task of a stream.
#[derive(Debug)]
pub(super) enum Task {
    /// Copies between device memory and pinned or device memory, of the same length.
    Copy {
        from: Span,
        to: Span,
    },
    /// Sets every byte.
    Fill {
        to: Span,
        value: u8,
    },
    Execute(Execution),
    Record(Arc<Event>, u64),
    Wait(Arc<Event>, u64),
    Reset(Arc<Event>),
    /// Fails, on order.
    Fail(i32),
    /// Never ends, on order.
    Hang,
}

impl Task {
    /// In words, for texts.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Copy { .. } => "copy",
            Self::Fill { .. } => "memset",
            Self::Execute(_) => "model execution",
            Self::Record(..) => "event record",
            Self::Wait(..) => "event wait",
            Self::Reset(_) => "event reset",
            Self::Fail(_) => "failing task",
            Self::Hang => "hanging task",
        }
    }

    /// Takes what must not be used by two streams at once, from before the task's delay on.
    pub(super) fn begin(&self, stream: u32) -> Option<Running> {
        match self {
            Self::Execute(execution) => Some(execution.begin(stream)),
            _ => None,
        }
    }

    /// Does the work.
    ///
    /// # Errors
    /// What the device would report.
    pub(super) fn run(
        &self,
        running: Option<&Running>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(), Fail> {
        match self {
            Self::Copy { from, to } => copy(from, to),
            Self::Fill { to, value } => fill(to, *value),
            Self::Execute(execution) => execution.run(running),
            Self::Record(event, record) => {
                event.finish(*record);
                Ok(())
            }
            Self::Wait(event, record) => match event.wait(*record, None, is_wanted) {
                Waited::Done | Waited::GivenUp | Waited::TimedOut => Ok(()),
                Waited::Failed(fail) => Err(fail),
            },
            Self::Reset(event) => {
                event.reset();
                Ok(())
            }
            Self::Fail(code) => Err(Fail::new(*code, "ordered by CANN_SIM_FAIL")),
            // The stream waits for the end of the wish itself.
            Self::Hang => Ok(()),
        }
    }

    /// Ends a task that is not run, because of an earlier failure or an abort.
    pub(super) fn discard(self, why: &Fail) {
        if let Self::Record(event, record) = self {
            event.fail(record, why.clone());
        }
    }
}

/// # Errors
/// When either side was freed since the call.
fn copy(from: &Span, to: &Span) -> Result<(), Fail> {
    check_alive(from, "copied from")?;
    check_alive(to, "copied to")?;
    let len = from.len().min(to.len());
    let _bus = bus();
    // SAFETY: both spans lie within mappings that they keep alive; the bus lock keeps other tasks
    // out of device memory, and pinned memory is the program's to leave alone until it has waited
    // for the stream. `copy` allows overlap.
    unsafe { std::ptr::copy(from.pointer(), to.pointer(), len) };
    Ok(())
}

/// # Errors
/// When it was freed since the call.
pub(super) fn fill(to: &Span, value: u8) -> Result<(), Fail> {
    check_alive(to, "set")?;
    let _bus = bus();
    // SAFETY: as in `copy`.
    unsafe { to.pointer().write_bytes(value, to.len()) };
    Ok(())
}

fn check_alive(span: &Span, what: &str) -> Result<(), Fail> {
    if !span.is_freed() {
        return Ok(());
    }
    let text = format!("memory at {:#x} was freed before it was {what}", span.addresses().start);
    state().violate(&text);
    Err(Fail::new(code::RT_SYS_DMA, text))
}
