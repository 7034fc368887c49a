//! The questions that only a device can answer, as checks.
//!
//! ```text
//! Question --ask(Lab)--> yes: ok | no: failed, with the fallback | not asked: skipped, with why
//! ```
//!
//! What this module deliberately does not do: it asks nothing itself; the backend knows how.

use super::check::Check;
use crate::backend::ascend::hardware::{Answer, Lab, No, QUESTIONS, Question};

/// Asks every question in order; `lab` is why there is none where there is none. Tells `begun` which
/// one is asked.
pub(super) fn ask_all(lab: Result<&Lab<'_>, &str>, begun: impl Fn(usize)) -> Vec<Check> {
    let ask = |(idx, question): (usize, &Question)| {
        begun(idx);
        let answer = match lab {
            Ok(lab) => question.ask(lab),
            Err(why) => Err(No::Skipped(why.to_owned())),
        };
        told(question, answer)
    };
    QUESTIONS.iter().enumerate().map(ask).collect()
}

/// How many there are.
pub(super) const NUM_QUESTIONS: usize = QUESTIONS.len();

fn told(question: &Question, answer: Answer) -> Check {
    let asked = format!("{}?", question.text);
    match answer {
        Ok(how) => Check::ok(question.name, asked).detail(format_args!("yes: {how}")),
        Err(No::Skipped(why)) => Check::skipped(question.name, asked).detail(why),
        Err(No::Fails(how)) => Check::failed(question.name, asked)
            .detail(format_args!("no: {how}"))
            .remedy(format_args!("fallback: {}", question.fallback)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::State;

    #[test]
    fn a_no_tells_the_reason_and_the_fallback() {
        let question = &QUESTIONS[0];
        let check = told(question, Err(No::Fails("Add: there is no compiler `/atc`".to_owned())));
        assert_eq!(check.state, State::Failed);
        assert_eq!(check.details, ["no: Add: there is no compiler `/atc`"]);
        assert!(check.remedy.as_deref().unwrap().starts_with("fallback: compare"));
        let check = told(question, Ok("it does".to_owned()));
        assert_eq!(
            (check.state, check.details.as_slice()),
            (State::Ok, &["yes: it does".to_owned()][..])
        );
    }

    #[test]
    fn without_a_lab_nothing_is_asked() {
        let checks = ask_all(Err("no CANN toolkit"), |_| ());
        assert_eq!(checks.len(), NUM_QUESTIONS);
        assert!(checks.iter().all(|check| check.state == State::Skipped));
        assert_eq!(checks[0].details, ["no CANN toolkit"]);
        for (idx, (check, question)) in checks.iter().zip(&QUESTIONS).enumerate() {
            assert!(check.name.starts_with(&format!("{} ", idx + 1)));
            assert!(!question.fallback.is_empty());
        }
    }
}
