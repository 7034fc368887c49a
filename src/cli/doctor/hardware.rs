//! What is assumed about CANN and its devices that no simulation can prove: questions, each with
//! what to do when the answer is no.
//!
//! ```text
//! question --ask(Tools)--> Answer --> Check: holds: ok | does not: failed, with the fallback
//!         `-- nobody to ask ------> skipped
//! ```
//!
//! Their numbers and order are from easy to hard: each relies on those before it.
//!
//! What this module deliberately does not do: it does not act on an answer. A fallback is for whoever
//! changes the backend.

use std::time::{Duration, Instant};

use super::check::Check;
use crate::backend::ascend::atc::{AtcError, samples};

/// Longest time that a small graph may take to compile. A model's graphs take many times as long.
const MAX_COMPILE_TIME: Duration = Duration::from_mins(3);

/// Compiles an `.air` file's bytes to an offline model; it is static, or this fails.
pub(super) type Compile<'a> = dyn Fn(&[u8]) -> Result<Vec<u8>, AtcError> + 'a;

/// What questions are asked with.
pub(super) struct Tools<'a> {
    pub(super) compile: &'a Compile<'a>,
}

/// What came of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is as assumed.
    Holds(String),
    /// It is not.
    Fails(String),
}

/// Something that is assumed.
pub(super) struct Question {
    name: &'static str,
    /// With the answer yes.
    text: &'static str,
    fallback: &'static str,
    /// `None`: it takes a device, and this version does not know how to ask it.
    ask: Option<fn(&Tools<'_>) -> Answer>,
}

/// Everything that is assumed.
pub(super) const QUESTIONS: [Question; 12] = [
    Question {
        name: "1 graphs",
        text: "does atc accept the graphs that are written here",
        fallback: "compare the file with one that another program has exported, field by field",
        ask: Some(accepts_graphs),
    },
    Question {
        name: "2 bf16",
        text: "is bf16 kept, without casts",
        fallback: "compile with `--precision_mode=must_keep_origin_dtype`",
        ask: None,
    },
    Question {
        name: "3 cache in place",
        text: "does ScatterNdUpdate change a RefData in place",
        fallback: "use Data instead of RefData, or copy the blocks that a step has touched",
        ask: None,
    },
    Question {
        name: "4 lengths",
        text: "does attention over lengths in device memory stay static and follow them",
        fallback: "use a CANN toolkit and a chip that plan attention on the device",
        ask: None,
    },
    Question {
        name: "5 memory",
        text: "does a loaded graph take no memory for inputs and outputs of its own",
        fallback: "load with a workspace of the size that the offline model's header tells",
        ask: None,
    },
    Question {
        name: "6 launch",
        text: "does starting a graph with about 400 inputs cost the host well below 1 ms",
        fallback: "compile segments of layers, and use each for many layers",
        ask: None,
    },
    Question {
        name: "7 weights",
        text: "are weights used as they lie, without TransData or Transpose in each step",
        fallback: "place weights in the FRACTAL_NZ format",
        ask: None,
    },
    Question {
        name: "8 compile time",
        text: "is a small graph compiled in less than three minutes",
        fallback: "share compiled kernels, use fewer buckets, or compile segments of layers",
        ask: Some(compiles_in_time),
    },
    Question {
        name: "9 padding",
        text: "do rows that are padding leave the others as they are",
        fallback: "give padding no tokens at all",
        ask: None,
    },
    Question {
        name: "10 packed",
        text: "does attention take packed batches over a paged cache in this release",
        fallback: "use separate graphs for prefill and decode, as for CANN 8",
        ask: None,
    },
    Question {
        name: "11 collectives",
        text: "can an offline model communicate with other devices",
        fallback: "compile segments, and communicate between them",
        ask: None,
    },
    Question {
        name: "12 recovery",
        text: "does a failed step end in an error in time, and is it the documented one",
        fallback: "end the process after any failure of a device",
        ask: None,
    },
];

/// Asks every question in order; `tools` is why there are none where there are none.
pub(super) fn ask_all(questions: &[Question], tools: Result<&Tools<'_>, &str>) -> Vec<Check> {
    questions.iter().map(|question| question.ask(tools)).collect()
}

impl Question {
    fn ask(&self, tools: Result<&Tools<'_>, &str>) -> Check {
        let asked = format!("{}?", self.text);
        let Some(ask) = self.ask else {
            return Check::skipped(self.name, asked).detail("takes a device, and is not asked yet");
        };
        match tools.map(ask) {
            Err(why) => Check::skipped(self.name, asked).detail(why),
            Ok(Answer::Holds(how)) => {
                Check::ok(self.name, asked).detail(format_args!("yes: {how}"))
            }
            Ok(Answer::Fails(how)) => Check::failed(self.name, asked)
                .detail(format_args!("no: {how}"))
                .remedy(format_args!("fallback: {}", self.fallback)),
        }
    }
}

fn accepts_graphs(tools: &Tools<'_>) -> Answer {
    for (name, air) in [("Add", samples::add()), ("RmsNorm and MatMulV2", samples::norm_matmul())] {
        if let Err(error) = (tools.compile)(&air) {
            return Answer::Fails(format!("{name}: {}", with_cause(&error)));
        }
    }
    Answer::Holds("Add, and RmsNorm with MatMulV2 in bf16, became static offline models".to_owned())
}

fn compiles_in_time(tools: &Tools<'_>) -> Answer {
    let started = Instant::now();
    if let Err(error) = (tools.compile)(&samples::norm_matmul()) {
        return Answer::Fails(with_cause(&error));
    }
    let took = started.elapsed();
    let text = format!("{:.1} s", took.as_secs_f64());
    if took < MAX_COMPILE_TIME { Answer::Holds(text) } else { Answer::Fails(text) }
}

fn with_cause(error: &AtcError) -> String {
    match std::error::Error::source(error) {
        Some(cause) if !error.to_string().contains(&cause.to_string()) => {
            format!("{error}: {cause}")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cli::doctor::check::State;

    fn failure() -> AtcError {
        AtcError::NotFound { program: "/atc".into() }
    }

    #[test]
    fn every_question_is_answered_skipped_or_has_a_fallback() {
        let asked = RefCell::new(0);
        let compile = |_: &[u8]| {
            *asked.borrow_mut() += 1;
            Ok(Vec::new())
        };
        let checks = ask_all(&QUESTIONS, Ok(&Tools { compile: &compile }));
        let states: Vec<State> = checks.iter().map(|check| check.state).collect();
        assert_eq!(states.iter().filter(|state| **state == State::Ok).count(), 2);
        assert!(!states.contains(&State::Failed));
        assert_eq!(*asked.borrow(), 3);
        for (idx, (check, question)) in checks.iter().zip(&QUESTIONS).enumerate() {
            assert!(check.name.starts_with(&format!("{} ", idx + 1)));
            assert!(!question.fallback.is_empty());
        }
    }

    #[test]
    fn a_no_names_the_graph_the_reason_and_the_fallback() {
        let checks = ask_all(&QUESTIONS[..1], Ok(&Tools { compile: &|_| Err(failure()) }));
        assert_eq!(checks[0].state, State::Failed);
        assert_eq!(checks[0].details, ["no: Add: there is no compiler `/atc`"]);
        assert!(checks[0].remedy.as_deref().unwrap().starts_with("fallback: compare"));
    }

    #[test]
    fn without_tools_nothing_is_asked() {
        let checks = ask_all(&QUESTIONS, Err("no CANN toolkit"));
        assert!(checks.iter().all(|check| check.state == State::Skipped));
        assert_eq!(checks[0].details, ["no CANN toolkit"]);
    }
}
