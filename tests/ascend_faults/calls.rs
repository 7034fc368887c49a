//! Each function of ACL that the program calls, failing once: with a code of every class, at its
//! first call and at a later one.
//!
//! | [`Role`] | Functions that | Exit code when one fails |
//! | --- | --- | --- |
//! | `Ignored` | say what nobody relies on | 0 |
//! | `Opens` | come before there is a device | 1; 3 or 4 where the device is at fault |
//! | `Loads` | load a graph | by class; a refused graph is compiled again: 0 |
//! | `Describes` | tell of a loaded graph, without a status | 0: the graph is compiled again |
//! | `Creates` | return a pointer, which is null | 1 |
//! | `Works` | everything else up to the last step | by class |
//! | `Waits` | the same, and after it nobody may know what the device does | by class |
//! | `Frees` | give something back | 0 and a warning |
//! | `FreesHost` | give a little memory of the host back | 0 |

use std::collections::BTreeMap;

use crate::place::{Place, Run, for_each_case};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ignored,
    Opens,
    Loads,
    Describes,
    Creates,
    Works,
    Waits,
    Frees,
    FreesHost,
}

/// The role of every function that a good run calls. One that is new has to find its place here.
fn role(function: &str) -> Role {
    match function {
        "aclsysGetCANNVersion"
        | "aclGetRecentErrMsg"
        | "aclrtGetCurrentContext"
        | "aclmdlGetInputFormat"
        | "aclmdlGetInputSizeByIndex"
        | "aclmdlGetOutputNameByIndex"
        | "aclmdlGetOutputFormat"
        | "aclmdlGetOutputSizeByIndex" => Role::Ignored,
        "aclrtGetVersion" | "aclInit" | "aclrtSetDevice" | "aclrtCreateContext"
        | "aclrtGetSocName" => Role::Opens,
        "aclmdlSetConfigOpt"
        | "aclmdlLoadWithConfig"
        | "aclmdlGetDesc"
        | "aclmdlGetInputDims"
        | "aclmdlGetOutputDims" => Role::Loads,
        "aclmdlGetNumInputs"
        | "aclmdlGetNumOutputs"
        | "aclmdlGetInputNameByIndex"
        | "aclmdlGetInputDataType"
        | "aclmdlGetOutputDataType" => Role::Describes,
        "aclmdlCreateConfigHandle"
        | "aclmdlCreateDesc"
        | "aclmdlCreateDataset"
        | "aclCreateDataBuffer" => Role::Creates,
        "aclrtSetCurrentContext"
        | "aclrtGetMemInfo"
        | "aclrtMalloc"
        | "aclrtMallocHost"
        | "aclrtCreateStreamWithConfig"
        | "aclrtSetStreamFailureMode"
        | "aclmdlAddDatasetBuffer"
        | "aclrtMemcpyAsync"
        | "aclmdlExecuteAsync" => Role::Works,
        "aclrtMemcpy" | "aclrtMemset" | "aclrtSynchronizeStreamWithTimeout" => Role::Waits,
        "aclmdlDestroyDataset"
        | "aclDestroyDataBuffer"
        | "aclmdlUnload"
        | "aclrtFree"
        | "aclrtFreeHost"
        | "aclrtDestroyStream"
        | "aclrtDestroyContext"
        | "aclrtResetDevice"
        | "aclFinalize" => Role::Frees,
        "aclmdlDestroyConfigHandle" | "aclmdlDestroyDesc" => Role::FreesHost,
        _ => panic!("`{function}` is called: what does its failure mean?"),
    }
}

/// What can be done about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Misuse,
    Retry,
    DropEntry,
    Environment,
    Restart,
    DeviceLost,
}

/// A code, its name, its class, and whether the simulated context is unusable after it.
type Code = (i32, &'static str, Class, bool);

const CODES: [Code; 11] = [
    (100_000, "ACL_ERROR_INVALID_PARAM", Class::Misuse, false),
    (107_002, "ACL_ERROR_RT_CONTEXT_NULL", Class::Misuse, false),
    (207_001, "ACL_ERROR_RT_MEMORY_ALLOCATION", Class::Retry, false),
    (207_018, "ACL_ERROR_RT_DEVICE_OOM", Class::Retry, false),
    (145_006, "ACL_ERROR_GE_EXEC_MODEL_DATA_SIZE_INVALID", Class::DropEntry, false),
    (545_001, "ACL_ERROR_GE_LOAD_MODEL", Class::DropEntry, false),
    (207_004, "ACL_ERROR_RT_NO_DEVICE", Class::Environment, false),
    (507_011, "ACL_ERROR_RT_MODEL_EXECUTE", Class::Restart, false),
    (507_015, "ACL_ERROR_RT_AICORE_EXCEPTION", Class::Restart, true),
    (507_010, "ACL_ERROR_RT_LOST_HEARTBEAT", Class::DeviceLost, true),
    (507_054, "ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR", Class::DeviceLost, true),
];

/// One failing call.
#[derive(Debug)]
struct Case {
    function: String,
    role: Role,
    nth: usize,
    code: Code,
}

impl Case {
    /// The exit codes that are right.
    fn exit_codes(&self) -> &'static [i32] {
        let (_, _, class, is_exception) = self.code;
        match (self.role, class) {
            // These do not tell their code; an exception shows at the next call that does, if any.
            (Role::Ignored | Role::Describes | Role::FreesHost, _) if is_exception => &[0, 3, 4],
            (Role::Creates, _) if is_exception => &[1, 3, 4],
            (Role::Ignored | Role::Describes | Role::Frees | Role::FreesHost, _)
            | (Role::Loads, Class::DropEntry) => &[0],
            (Role::Opens, _) if self.function == "aclrtGetVersion" => &[1],
            (Role::Opens, _) if self.function == "aclrtGetSocName" => &[1],
            (_, Class::Restart) if self.role != Role::Creates => &[3],
            (_, Class::DeviceLost) if self.role != Role::Creates => &[4],
            (Role::Works | Role::Waits | Role::Loads, Class::Environment) => &[4],
            // While loading, and in a step.
            (Role::Works | Role::Waits, Class::DropEntry) => &[1, 3],
            _ => &[1],
        }
    }

    /// Whether something may stay behind: what was not taken back, or everything of a device that
    /// was given up, since it may still be at work.
    fn may_leak(&self) -> bool {
        let (_, _, class, is_exception) = self.code;
        let is_lost = matches!(class, Class::Restart | Class::DeviceLost);
        match self.role {
            Role::Frees | Role::FreesHost => true,
            Role::Waits => is_lost,
            _ => is_exception,
        }
    }

    /// Words of a remedy.
    fn remedy(&self) -> &'static str {
        match self.code.2 {
            _ if self.role == Role::Creates => "free some",
            Class::Misuse => "not valid here",
            Class::Retry => "free some",
            Class::DropEntry => "compile it again",
            Class::Environment => "check the driver and permissions",
            Class::Restart => "restart the process",
            Class::DeviceLost if self.role == Role::Opens => "link to it failed",
            Class::DeviceLost => "look at it before a restart",
        }
    }

    /// What is wrong with how the program ended.
    fn fault(&self, run: &Run, right: &str) -> Option<String> {
        let Run { ended, .. } = run;
        let (_, name, _, is_exception) = self.code;
        if !self.exit_codes().contains(&ended.code) {
            return Some(format!("exit code {}, expected {:?}", ended.code, self.exit_codes()));
        }
        if !run.is_prefix_of(right) || (ended.code == 0 && ended.stdout != right) {
            return Some(format!("it printed {:?}, expected {right:?}", ended.stdout));
        }
        if !run.keeps_rules() {
            return Some("it broke a rule".to_owned());
        }
        if run.leaks().is_some_and(|leaks| leaks != "0") && !self.may_leak() {
            return Some("it leaks".to_owned());
        }
        if self.role == Role::Frees && !ended.stderr.contains("could be given back") {
            return Some("nobody is told what stays behind".to_owned());
        }
        if ended.code == 0 {
            return None;
        }
        let error = run.error();
        let status = if self.role == Role::Creates { "ACL_ERROR_BAD_ALLOC" } else { name };
        let mut words = vec![self.function.as_str(), status, self.remedy()];
        if self.function == "aclrtGetSocName" {
            words = vec!["aclrtGetSocName", "hint: "];
        } else if is_exception {
            // Perhaps told by another call, and as what it is.
            words = vec!["failed: ACL_ERROR_"];
        }
        if let Some(word) = words.iter().find(|word| !error.contains(**word)) {
            return Some(format!("the error does not say `{word}`"));
        }
        let said = run.times_told();
        let is_silent = matches!(&*self.function, "aclrtGetVersion" | "aclrtGetSocName");
        (said != usize::from(!is_silent)).then(|| format!("CANN's words are told {said} times"))
    }
}

/// A place, what it answers, and how often it then calls what.
struct Bench {
    place: Place,
    right: String,
    calls: BTreeMap<String, usize>,
}

impl Bench {
    fn new() -> Self {
        let place = Place::warm();
        let right = place.right_answer();
        let calls = place.generate(&[]).calls();
        Self { place, right, calls }
    }

    /// The process after it finds what it needs, and nothing that is wrong.
    fn check_next(&self, before: &Run) -> Result<(), String> {
        let is_stale = before.ended.stderr.contains("dropped from the cache");
        let next = self.place.generate(&[]);
        let expected = usize::from(is_stale && before.ended.code != 0);
        if next.ended.code != 0 || next.ended.stdout != self.right {
            return Err(format!("the next run fails: {:?}", next.ended));
        }
        match next.ended.graphs()[0] {
            compiled if compiled == expected => Ok(()),
            compiled => Err(format!("the next run compiles {compiled}, expected {expected}")),
        }
    }
}

fn script(function: &str, nth: usize, code: i32) -> String {
    format!("{function}:{nth}={code}")
}

#[test]
fn every_call_that_fails_ends_in_the_documented_action() {
    let bench = Bench::new();
    let mut cases = Vec::new();
    for (function, count) in &bench.calls {
        let role = role(function);
        // The second one while loading; the calls after that come from everywhere.
        let later = if function == "aclrtSetCurrentContext" { 2 } else { *count };
        let mut places = vec![1, later];
        places.dedup();
        for nth in places {
            for code in CODES {
                cases.push(Case { function: function.clone(), role, nth, code });
            }
        }
    }
    assert!(cases.len() > 500, "{}", cases.len());
    for_each_case(Bench::new, &cases, |bench, case| {
        let script = script(&case.function, case.nth, case.code.0);
        let run = bench.place.generate_failing(&script);
        let told = |fault: String| {
            let leaks = run.leaks();
            Err(format!("{script} ({:?}): {fault}; leaks {leaks:?}\n{:#?}", case.role, run.ended))
        };
        match case.fault(&run, &bench.right) {
            Some(fault) => told(fault),
            None if matches!(run.ended.code, 0 | 1) && !run.ended.stderr.contains("dropped") => {
                Ok(())
            }
            None => bench.check_next(&run).or_else(told),
        }
    });
}

#[test]
fn wherever_a_call_fails_nothing_hangs_and_no_token_is_wrong() {
    /// How many calls of each function.
    const NUM_PLACES: usize = 10;
    let bench = Bench::new();
    let mut cases = Vec::new();
    for (function, &count) in &bench.calls {
        let step = count.div_ceil(NUM_PLACES);
        for nth in (1..=count).step_by(step) {
            for code in [107_002, 207_018, 507_011] {
                cases.push((function.clone(), nth, code));
            }
        }
    }
    for_each_case(Bench::new, &cases, |bench, (function, nth, code)| {
        let script = script(function, *nth, *code);
        let run = bench.place.generate_failing(&script);
        let is_right = match run.ended.code {
            0 => run.ended.stdout == bench.right,
            1 | 3 => run.is_prefix_of(&bench.right),
            _ => false,
        };
        let leaks = run.leaks();
        let is_told = run.ended.code == 3 || run.ended.stderr.contains("could be given back");
        let may_leak = is_told || role(function) == Role::FreesHost;
        if is_right && run.keeps_rules() && (leaks.is_none_or(|leaks| leaks == "0") || may_leak) {
            return Ok(());
        }
        Err(format!("{script}: leaks {leaks:?}\n{:#?}", run.ended))
    });
}

#[test]
fn a_failure_that_cann_says_nothing_about_is_told_all_the_same() {
    let place = Place::warm();
    // The first message is asked for when no context is current yet.
    let run = place.generate_failing("aclrtMalloc:1=107002,aclGetRecentErrMsg:2=1");
    assert_eq!(run.ended.code, 1);
    let expected = "`aclrtMalloc` failed: ACL_ERROR_RT_CONTEXT_NULL (107002): the call is not valid \
                    here; CANN's log: ";
    assert!(run.error().contains(expected), "{run:?}");
}
