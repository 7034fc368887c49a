//! `cairn doctor --hardware-check` against the simulated toolkit: what it says of one that behaves,
//! and of some that do not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "common/toolkit.rs"]
mod toolkit;

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

use toolkit::Toolkit;

/// What a run of the questions told.
struct Report {
    code: i32,
    questions: Vec<Value>,
}

impl Report {
    /// Asks with these flags and variables of the simulator.
    fn of(toolkit: &Toolkit, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(cargo_bin("cairn"));
        command.args(["doctor", "--hardware-check", "--json"]).args(flags).env_clear();
        command.envs(toolkit.variables()).envs(variables.iter().copied());
        command.env("TMPDIR", folder.path()).env("CAIRN_CACHE_DIR", folder.path().join("cache"));
        let output = command.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| {
            panic!("{error}: {stdout}\n{}", String::from_utf8_lossy(&output.stderr))
        });
        let code = output.status.code().unwrap();
        assert_eq!(report["ok"], code == 0, "{stdout}");
        assert!(folder.path().read_dir().unwrap().next().is_none(), "something is left behind");
        let questions = report["hardware_checks"].as_array().unwrap().clone();
        assert_eq!(questions.len(), 12);
        Self { code, questions }
    }

    /// Those in a state, by their numbers.
    fn numbers(&self, state: &str) -> Vec<u32> {
        let of_state = self.questions.iter().filter(|question| question["state"] == state);
        let number = |question: &Value| {
            let (number, _) = question["name"].as_str()?.split_once(' ')?;
            number.parse().ok()
        };
        of_state.map(|question| number(question).unwrap()).collect()
    }

    /// What was found out.
    fn answer(&self, number: usize) -> &str {
        self.questions[number - 1]["details"][0].as_str().unwrap()
    }

    fn fallback(&self, number: usize) -> &str {
        self.questions[number - 1]["remedy"].as_str().unwrap()
    }

    fn assert_numbers(&self, state: &str, expected: &[u32]) {
        assert_eq!(self.numbers(state), expected, "{:#?}", self.questions);
    }
}

#[test]
fn a_device_that_behaves_is_what_it_is_assumed_to_be() {
    let toolkit = Toolkit::new();
    let report = Report::of(&toolkit, &[], &[]);
    report.assert_numbers("ok", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    report.assert_numbers("skipped", &[11, 12]);
    assert_eq!(report.code, 0);
    assert!(report.answer(4).contains("heads of 64; packed heads of 128"), "{}", report.answer(4));
    assert!(report.answer(5).contains("inputs of 1073741824 bytes"), "{}", report.answer(5));
    assert!(report.answer(6).contains("with 400 inputs"), "{}", report.answer(6));
    assert!(report.answer(12).contains("--inject-faults"), "{}", report.answer(12));
    toolkit.assert_clean();
}

#[test]
fn an_old_release_does_not_pack() {
    let toolkit = Toolkit::install(&["--cann", "8.2.RC1"]);
    let report = Report::of(&toolkit, &[], &[]);
    report.assert_numbers("skipped", &[10, 11, 12]);
    report.assert_numbers("failed", &[]);
    assert!(report.answer(10).contains("this is for CANN 8.2"), "{}", report.answer(10));
    assert!(report.answer(4).ends_with("(heads of 64)"), "{}", report.answer(4));
}

#[test]
fn without_a_device_only_the_compiler_is_asked() {
    let toolkit = Toolkit::install(&["--without", "lib"]);
    let report = Report::of(&toolkit, &["--soc", "Ascend910B3"], &[]);
    report.assert_numbers("ok", &[1, 8]);
    assert_eq!((report.answer(2), report.code), ("it takes a device", 0));
    // A chip that is not that of the device cannot be run on it.
    let report = Report::of(&Toolkit::new(), &["--soc", "Ascend910_9382"], &[]);
    report.assert_numbers("ok", &[1, 8]);
}

#[test]
fn attention_that_becomes_dynamic_is_a_no_with_a_fallback() {
    let report = Report::of(&Toolkit::new(), &[], &[("CANN_SIM_ATC", "dynamic")]);
    assert_eq!(report.code, 1);
    assert!(report.numbers("failed").contains(&4));
    let answer = report.answer(4);
    assert!(answer.starts_with("no: attention: ") && answer.contains("became dynamic"), "{answer}");
    let fallback = "fallback: use a CANN toolkit and a chip that plan attention on the device";
    assert_eq!(report.fallback(4), fallback);
}

#[test]
fn a_runtime_that_holds_inputs_twice_is_found_out() {
    let variables = [("CANN_SIM_IGNORE_MEM_OPTIMIZE", "1")];
    let report = Report::of(&Toolkit::new(), &[], &variables);
    report.assert_numbers("failed", &[5]);
    assert!(report.answer(5).contains("a second time"), "{}", report.answer(5));
}

#[test]
fn a_device_that_breaks_is_not_asked_any_more() {
    let toolkit = Toolkit::new();
    let variables = [("CANN_SIM_FAIL", "aclmdlExecuteAsync:1=async:507015")];
    let report = Report::of(&toolkit, &[], &variables);
    assert_eq!(report.code, 1);
    report.assert_numbers("failed", &[2]);
    report.assert_numbers("ok", &[1, 8]);
    // What CANN has logged is told with the failure.
    let answer = report.answer(2);
    assert!(answer.contains("; CANN's log: [ERROR] "), "{answer}");
    assert!(report.answer(3).starts_with("the device was given up before"), "{}", report.answer(3));
}

#[test]
fn a_device_that_does_not_open_is_told_with_the_log() {
    let toolkit = Toolkit::new();
    // The first time is the check of the devices.
    let variables = [("CANN_SIM_FAIL", "aclrtSetDevice:2=507033")];
    let report = Report::of(&toolkit, &[], &variables);
    report.assert_numbers("ok", &[]);
    assert_eq!(report.code, 1);
    let answer = report.answer(1);
    assert!(answer.starts_with("device 0 cannot be opened: "), "{answer}");
    assert!(answer.contains("; CANN's log: [ERROR] "), "{answer}");
    assert_eq!(answer.matches("CANN's log").count(), 1, "{answer}");
}

#[test]
fn a_step_that_is_broken_on_purpose_ends_as_documented() {
    let toolkit = Toolkit::new();
    let report = Report::of(&toolkit, &["--inject-faults"], &[]);
    report.assert_numbers("skipped", &[11]);
    assert_eq!(report.code, 0, "{}", report.answer(12));
    let answer = report.answer(12);
    assert!(answer.contains("507015") && answer.contains("block 268435456"), "{answer}");
    assert_eq!(toolkit.summary("violations: ").unwrap(), "violations: 0");
}
