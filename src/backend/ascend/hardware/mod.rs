//! What is assumed about CANN and its devices that no simulation can prove: questions that are asked
//! of a compiler and a device, each with what to do when the answer is no.
//!
//! ```text
//! question --small graphs of the IR--> Lab --compile, load, place, run--> Answer
//! ```
//!
//! | File | Asks | With |
//! | --- | --- | --- |
//! | `compiler` | 1 graphs, 8 compile time | two GE graphs; all that was compiled before |
//! | `bf16` | 2 | numbers that only bf16 holds, and one that it does not |
//! | `cache` | 3 cache in place | two writes, and the bytes that are then in the cache |
//! | `attention` | 4 lengths, 9 padding, 10 packed | a small attention, computed on the host, too |
//! | `load` | 5 memory, 6 launch, 7 weights | a graph of 1 GiB, one of 400 inputs, one large matrix |
//! | `recovery` | 12 | a block that does not exist, if that is allowed |
//! | [`lab`](self), `numbers`, `scene` | | what all of them need |
//!
//! The order is from easy to hard: each question relies on those before it. 11 takes two devices.
//!
//! What this module deliberately does not do: it does not act on an answer. A fallback is for whoever
//! changes the backend.

mod attention;
mod bf16;
mod cache;
mod compiler;
mod lab;
mod load;
mod numbers;
mod recovery;
mod scene;

pub use lab::Lab;

use crate::backend::BackendError;

/// What was measured, when the assumption holds; else why there is no such answer.
pub type Answer = Result<String, No>;

/// Why it cannot be said that an assumption holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// It does not hold: what happened instead.
    Fails(String),
    /// It was not looked at: why not.
    Skipped(String),
}

impl From<BackendError> for No {
    fn from(error: BackendError) -> Self {
        Self::Fails(error.to_string())
    }
}

/// Something that is assumed.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Its number and a word for it.
    pub name: &'static str,
    /// The question itself, which is answered with yes when the assumption holds; no question mark.
    pub text: &'static str,
    /// What can be done when it does not.
    pub fallback: &'static str,
    ask: fn(&Lab<'_>) -> Answer,
}

impl Question {
    /// Asks it. A failure of the device or the compiler is an answer, too.
    ///
    /// # Errors
    /// [`No`], when the assumption does not hold or was not looked at.
    pub fn ask(&self, lab: &Lab<'_>) -> Answer {
        (self.ask)(lab)
    }
}

/// Everything that is assumed.
pub const QUESTIONS: [Question; 12] = [
    Question {
        name: "1 graphs",
        text: "does atc accept the graphs that are written here",
        fallback: "compare the file with one that another program has exported, field by field",
        ask: compiler::accepts_graphs,
    },
    Question {
        name: "2 bf16",
        text: "is bf16 kept, without casts to another type",
        fallback: "compile with `--precision_mode=must_keep_origin_dtype`",
        ask: bf16::is_kept,
    },
    Question {
        name: "3 cache in place",
        text: "does ScatterNdUpdate change a RefData in place",
        fallback: "use Data instead of RefData, or copy the blocks that a step has touched",
        ask: cache::is_changed_in_place,
    },
    Question {
        name: "4 lengths",
        text: "does attention over lengths in device memory stay static and follow them",
        fallback: "use a CANN toolkit and a chip that plan attention on the device",
        ask: attention::follows_lengths,
    },
    Question {
        name: "5 memory",
        text: "does a loaded graph take no memory for inputs and outputs of its own",
        fallback: "load with a workspace of the size that the offline model's header tells",
        ask: load::takes_no_memory_for_inputs,
    },
    Question {
        name: "6 launch",
        text: "does a graph with about 400 inputs run, and what does starting it cost the host",
        fallback: "compile segments of layers, and use each for many layers",
        ask: load::starts_with_many_inputs,
    },
    Question {
        name: "7 weights",
        text: "are weights used as they lie, without a second copy",
        fallback: "place weights in the FRACTAL_NZ format",
        ask: load::uses_weights_as_they_lie,
    },
    Question {
        name: "8 compile time",
        text: "is each small graph compiled in less than three minutes",
        fallback: "share compiled kernels, use fewer buckets, or compile segments of layers",
        ask: compiler::is_fast_enough,
    },
    Question {
        name: "9 padding",
        text: "do rows that are padding leave the others as they are",
        fallback: "give padding no tokens at all",
        ask: attention::ignores_padding,
    },
    Question {
        name: "10 packed",
        text: "does attention over packed batches give what it gives for each sequence alone",
        fallback: "use separate graphs for prefill and decode, as for CANN 8",
        ask: attention::packs,
    },
    Question {
        name: "11 collectives",
        text: "can an offline model communicate with other devices",
        fallback: "compile segments, and communicate between them",
        ask: |_| {
            Err(No::Skipped(
                "it takes two devices: a graph with HcomAllReduce, compiled for two ranks and run \
                 on both"
                    .to_owned(),
            ))
        },
    },
    Question {
        name: "12 recovery",
        text: "does a failed step end in an error in time, and is it the documented one",
        fallback: "end the process after any failure of a device",
        ask: recovery::is_possible,
    },
];
