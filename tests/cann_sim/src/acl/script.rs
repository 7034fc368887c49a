//! Failures on order: `CANN_SIM_FAIL="FUNCTION:NTH=ACTION,..."`.
//!
//! | Action | What the nth call of the function does, counted from 1 in the whole process |
//! | --- | --- |
//! | `207001` | answers that code and does nothing |
//! | `async:507015` | (functions with a stream) its task fails with the code when it runs |
//! | `hang` | (functions with a stream) its task never ends; (synchronising ones) the wait ends in a time-out |

use std::collections::HashMap;

use super::names::{ASYNC, FUNCTIONS, SYNCHRONISING};

/// What happens instead of a call's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The call fails.
    Fail(i32),
    /// The task fails when it runs.
    FailTask(i32),
    /// The task, or the wait, does not end.
    Hang,
}

/// The ordered failures, and how often each function was called.
#[derive(Debug, Default)]
pub(super) struct Script {
    entries: HashMap<&'static str, Vec<(u64, Action)>>,
    calls: HashMap<&'static str, u64>,
}

impl Script {
    /// # Errors
    /// What is wrong with the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (call, action) = entry
                .split_once('=')
                .ok_or_else(|| format!("`{entry}` is not FUNCTION:NTH=ACTION"))?;
            let (name, nth) =
                call.split_once(':').ok_or_else(|| format!("`{entry}` has no `:NTH`"))?;
            let function = FUNCTIONS
                .iter()
                .find(|function| **function == name)
                .ok_or_else(|| format!("`{name}` is none of the simulated functions"))?;
            let nth = nth.parse().ok().filter(|nth| *nth > 0);
            let nth = nth.ok_or_else(|| format!("`{entry}` counts calls from 1"))?;
            let action = parse_action(function, action)?;
            script.entries.entry(function).or_default().push((nth, action));
        }
        Ok(script)
    }

    /// Counts a call and returns what was ordered for it.
    pub(super) fn next(&mut self, function: &'static str) -> Option<Action> {
        let entries = self.entries.get(function)?;
        let calls = self.calls.entry(function).or_default();
        *calls += 1;
        entries.iter().find(|(nth, _)| *nth == *calls).map(|(_, action)| *action)
    }
}

fn parse_action(function: &str, text: &str) -> Result<Action, String> {
    let is_async = ASYNC.contains(&function);
    let parse_code = |code: &str| {
        let code = code.parse::<i32>().ok().filter(|code| *code != 0);
        code.ok_or_else(|| format!("`{text}` is no error code"))
    };
    match text.split_once(':') {
        Some(("async", code)) if is_async => Ok(Action::FailTask(parse_code(code)?)),
        Some(("async", _)) => Err(format!("`{function}` adds no task to a stream")),
        Some(_) => Err(format!("`{text}` is no action")),
        None if text == "hang" && (is_async || SYNCHRONISING.contains(&function)) => {
            Ok(Action::Hang)
        }
        None if text == "hang" => Err(format!("`{function}` waits for nothing")),
        None => Ok(Action::Fail(parse_code(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_and_no_other_is_hit() {
        let mut script = Script::parse("aclrtMalloc:2=207001, aclrtMalloc:3=207018").unwrap();
        let actions: Vec<_> = (0..4).map(|_| script.next("aclrtMalloc")).collect();
        let expected = [None, Some(Action::Fail(207_001)), Some(Action::Fail(207_018)), None];
        assert_eq!(actions, expected);
        assert_eq!(script.next("aclrtFree"), None);
    }

    #[test]
    fn tasks_and_waits_can_fail_where_there_are_some() {
        let text = "aclmdlExecuteAsync:1=async:507015,aclrtSynchronizeStreamWithTimeout:1=hang";
        let mut script = Script::parse(text).unwrap();
        assert_eq!(script.next("aclmdlExecuteAsync"), Some(Action::FailTask(507_015)));
        assert_eq!(script.next("aclrtSynchronizeStreamWithTimeout"), Some(Action::Hang));
    }

    #[test]
    fn a_wrong_script_is_refused() {
        for text in [
            "aclrtMalloc",
            "aclrtMalloc=1",
            "aclrtMalloc:0=1",
            "aclrtMalloc:1=0",
            "aclrtMalloc:1=x",
            "aclrtMaloc:1=207001",
            "aclrtMalloc:1=hang",
            "aclrtMalloc:1=async:507015",
            "aclmdlExecuteAsync:1=sync:1",
        ] {
            assert!(Script::parse(text).is_err(), "{text}");
        }
    }
}
