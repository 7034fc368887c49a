//! The compiler's behaviours, played by small shell scripts.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as StdCommand;
use std::time::Instant;
use std::{fs, thread};

use super::super::om::OmError;
use super::super::om::tests::om;
use super::*;

/// A script in the place of `atc`, and a folder for compiles. In the script, `$OUT` is the value of
/// `--output`, `$MODEL` that of `--model`, and `$OM` a file with a good offline model.
struct Fake {
    folder: TempDir,
    limits: AtcLimits,
}

const PRELUDE: &str = r#"#!/bin/sh
for argument in "$@"; do
  case "$argument" in
    --output=*) OUT="${argument#--output=}" ;;
    --model=*) MODEL="${argument#--model=}" ;;
  esac
done
"#;

impl Fake {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("scratch")).unwrap();
        fs::write(path("good.om"), om(&[("memory_size", 64)], true)).unwrap();
        let text = format!("{PRELUDE}OM={}\n{script}\n", path("good.om").display());
        fs::write(path("text"), text).unwrap();
        // Copied by another process: a file that this one has open for writing while another test
        // forks could not be executed.
        let copied = StdCommand::new("cp").args([path("text"), path("atc")]).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(path("atc"), fs::Permissions::from_mode(0o755)).unwrap();
        let limits = AtcLimits { timeout: Duration::from_mins(1), ..AtcLimits::default() };
        Self { folder, limits }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn atc(&self) -> Atc {
        let environment = vec![("GIVEN".into(), "yes".into())];
        Atc::new(self.path("atc"), self.folder.path().to_owned(), environment, self.limits)
    }

    /// Compiles, and makes sure that nothing is left of it.
    fn compile(&self) -> Result<OfflineModel, AtcError> {
        self.compile_with(&self.atc())
    }

    fn compile_with(&self, atc: &Atc) -> Result<OfflineModel, AtcError> {
        let result = atc.compile(b"graph", "Ascend910B3".parse().unwrap(), &self.path("scratch"));
        let left: Vec<_> = fs::read_dir(self.path("scratch")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        result
    }

    fn failure(&self) -> AtcError {
        self.compile().unwrap_err()
    }
}

#[test]
fn the_model_that_the_compiler_writes_is_returned() {
    let fake = Fake::new(
        "[ \"$(cat \"$MODEL\")\" = graph ] && cp \"$OM\" \"$OUT.om\" && echo all is well",
    );
    let OfflineModel { om, tail } = fake.compile().unwrap();
    assert_eq!(om, fs::read(fake.path("good.om")).unwrap());
    assert!(tail.contains("all is well"), "{tail}");
}

#[test]
fn a_model_with_a_suffix_is_found() {
    let fake = Fake::new("cp \"$OM\" \"${OUT}_linux_aarch64.om\"; touch \"$OUT.json\"");
    assert!(fake.compile().is_ok());
}

#[test]
fn the_compiler_sees_only_what_it_is_given_and_its_own_folder() {
    let fake =
        Fake::new("cp \"$OM\" \"$OUT.om\"; env > \"$(dirname \"$OM\")/env\"; pwd -P >&2; umask");
    fs::create_dir_all(fake.path("aarch64-linux/devlib")).unwrap();
    fake.compile().unwrap();
    let env = fs::read_to_string(fake.path("env")).unwrap();
    let value = |name: &str| {
        let prefix = format!("{name}=");
        env.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
    };
    assert_eq!(value("GIVEN").as_deref(), Some("yes"));
    assert_eq!(value("CARGO_MANIFEST_DIR"), None);
    let scratch = fake.path("scratch").join("atc-").display().to_string();
    for name in ["HOME", "TMPDIR", "ASCEND_PROCESS_LOG_PATH", "ASCEND_WORK_PATH"] {
        let value = value(name).unwrap();
        assert!(value.starts_with(&scratch), "{name}={value}");
    }
    assert_eq!(value("ASCEND_OPP_PATH"), Some(fake.path("opp").display().to_string()));
    let libraries = fake.path("aarch64-linux/devlib").display().to_string();
    assert_eq!(value("LD_LIBRARY_PATH"), Some(libraries));
}

#[test]
fn what_is_given_wins_over_the_toolkits_own_but_not_over_the_folder() {
    let fake = Fake::new("cp \"$OM\" \"$OUT.om\"; env > \"$(dirname \"$OM\")/env\"");
    fs::create_dir(fake.path("lib64")).unwrap();
    let given = [
        ("ASCEND_OPP_PATH", "/o"),
        ("LD_LIBRARY_PATH", "/l"),
        ("HOME", "/h"),
        ("PATH", "/usr/bin:/bin"),
    ];
    let given = given.map(|(name, value)| (name.into(), value.into())).to_vec();
    let atc = Atc::new(fake.path("atc"), fake.folder.path().to_owned(), given, fake.limits);
    fake.compile_with(&atc).unwrap();
    let env = fs::read_to_string(fake.path("env")).unwrap();
    assert!(env.contains("ASCEND_OPP_PATH=/o\n"), "{env}");
    assert!(env.contains(&format!("LD_LIBRARY_PATH=/l:{}\n", fake.path("lib64").display())));
    assert!(!env.contains("HOME=/h\n") && env.contains("PATH=/usr/bin:/bin\n"));
}

#[test]
fn the_arguments_of_the_key_name_no_path() {
    let arguments = Atc::arguments("Ascend910B3".parse().unwrap());
    assert!(arguments.contains(&"--soc_version=Ascend910B3".to_owned()));
    assert!(arguments.contains(&"--precision_mode_v2=origin".to_owned()));
    assert!(arguments.iter().all(|argument| !argument.contains('/')));
}

#[test]
fn kernels_are_shared_when_a_folder_is_given() {
    let fake = Fake::new("cp \"$OM\" \"$OUT.om\"; echo \"$@\" > \"$(dirname \"$OM\")/arguments\"");
    let atc = fake.atc().with_kernel_cache(fake.path("cache/kernel"));
    fake.compile_with(&atc).unwrap();
    let arguments = fs::read_to_string(fake.path("arguments")).unwrap();
    assert!(arguments.contains("--op_compiler_cache_mode=enable --op_compiler_cache_dir="));
    assert!(fake.path("cache/kernel").is_dir());
}

#[test]
fn codes_output_and_log_are_in_the_error_with_remedies() {
    let fake = Fake::new(
        "mkdir -p \"$ASCEND_PROCESS_LOG_PATH/debug/plog\"\n\
         echo '[ERROR] GE(1,atc):EZ3003 no kernel for node n7' \
           > \"$ASCEND_PROCESS_LOG_PATH/debug/plog/plog-1_2.log\"\n\
         echo 'ATC start working now'\n\
         echo 'E19999: Inner Error!'; echo 'detail' >&2; exit 255",
    );
    let error = fake.failure();
    let report = error.report().unwrap();
    assert_eq!(report.codes, ["E19999", "EZ3003"]);
    let text = error.to_string();
    assert!(
        text.starts_with("atc failed: exit status: 255 (E19999, EZ3003); its output"),
        "{text}"
    );
    assert!(text.contains("\n  detail") && text.contains("no kernel for node n7"), "{text}");
    let remedies = error.remedies();
    assert_eq!(remedies.len(), 2, "{remedies:?}");
    assert!(remedies[1].contains("`ops` package"));
}

#[test]
fn a_compiler_that_hangs_is_ended_with_its_children() {
    let mut fake = Fake::new(
        "folder=$(dirname \"$OM\"); trap '' TERM\n\
         sh -c 'sleep 4; touch \"$0/alive\"' \"$folder\" & echo waiting; sleep 100; sleep 100",
    );
    fake.limits.timeout = Duration::from_millis(500);
    fake.limits.patience = Duration::from_millis(300);
    let started = Instant::now();
    let error = fake.failure();
    assert!(matches!(error, AtcError::Timeout { .. }), "{error}");
    assert!(
        error.to_string().starts_with("atc did not finish within 0.5 s; its output"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    thread::sleep(Duration::from_secs(5).saturating_sub(started.elapsed()));
    assert!(!fake.path("alive").exists(), "the grandchild went on");
}

#[test]
fn a_hundred_megabytes_of_output_are_read_and_their_end_is_kept() {
    let fake = Fake::new("head -c 100000000 /dev/zero | tr '\\0' y >&2; echo E10001; exit 1");
    let error = fake.failure();
    let report = error.report().unwrap();
    assert!(report.tail.len() <= process::TAIL_BYTES, "{}", report.tail.len());
    assert!(report.codes.len() <= 1);
    assert!(error.to_string().len() < 8000);
}

#[test]
fn success_without_a_model_is_a_failure() {
    let fake = Fake::new("echo 'ATC run success, welcome to the next use.'");
    let text = fake.failure().to_string();
    assert!(text.starts_with("atc succeeded, but wrote no offline model; its output"), "{text}");
}

#[test]
fn two_models_are_one_too_many() {
    let fake = Fake::new("cp \"$OM\" \"$OUT.om\"; cp \"$OM\" \"${OUT}_linux_x86_64.om\"");
    let error = fake.failure();
    assert!(matches!(&error, AtcError::NoOutput { found, .. } if found.len() == 2), "{error}");
    assert!(error.to_string().contains("2 offline models: g.om, g_linux_x86_64.om"), "{error}");
}

#[test]
fn a_folder_or_a_pipe_is_no_model() {
    let fake = Fake::new("mkdir \"$OUT.om\"; mkfifo \"${OUT}_linux.om\"");
    assert!(matches!(fake.failure(), AtcError::NoOutput { found, .. } if found.is_empty()));
}

#[test]
fn garbage_and_dynamic_models_are_refused() {
    let fake = Fake::new("head -c 1000 /dev/urandom | tr 'I' 'J' > \"$OUT.om\"");
    assert!(matches!(
        fake.failure(),
        AtcError::BadOm { source: OmError::Header { field: "magic", .. }, .. }
    ));
    let fake =
        Fake::new("(head -c 193 \"$OM\"; printf '\\001'; tail -c +195 \"$OM\") > \"$OUT.om\"");
    let error = fake.failure();
    assert!(error.to_string().starts_with("atc succeeded, but graph became dynamic"), "{error}");
    assert_eq!(error.remedies().len(), 1);
}

#[test]
fn a_model_beyond_the_limit_is_not_read() {
    let mut fake = Fake::new("cp \"$OM\" \"$OUT.om\"");
    fake.limits.max_om_bytes = 100;
    let error = fake.failure();
    assert!(matches!(error, AtcError::Folder { .. }), "{error}");
}

#[test]
fn a_crash_names_the_signal() {
    let fake = Fake::new("kill -SEGV $$");
    assert!(fake.failure().to_string().starts_with("atc failed: signal: 11"));
    let killed = Fake::new("kill -KILL $$").failure();
    assert!(killed.remedies()[0].contains("lack of memory"), "{killed}");
}

#[test]
fn a_compiler_that_is_not_there_or_no_program_is_told_apart() {
    let fake = Fake::new("");
    let atc = |path: PathBuf| Atc::new(path, fake.folder.path().to_owned(), vec![], fake.limits);
    let missing = fake.compile_with(&atc(fake.path("nothing"))).unwrap_err();
    assert!(matches!(missing, AtcError::NotFound { .. }), "{missing}");
    let no_program = fake.compile_with(&atc(fake.path("good.om"))).unwrap_err();
    assert!(matches!(no_program, AtcError::Spawn { .. }), "{no_program}");
    assert!(!no_program.remedies().is_empty());
}

#[test]
fn a_scratch_folder_is_made_or_named() {
    let fake = Fake::new("cp \"$OM\" \"$OUT.om\"");
    let compile = |scratch: &Path| {
        fake.atc().compile(b"graph", "Ascend910B3".parse().unwrap(), scratch).map(drop)
    };
    let missing = fake.path("missing/scratch");
    compile(&missing).unwrap();
    assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&missing).unwrap().count(), 0);
    let file = fake.path("good.om");
    let error = compile(&file.join("below")).unwrap_err().to_string();
    let beginning = format!("compiling needs `{}`: ", file.join("below").display());
    assert!(error.starts_with(&beginning), "{error}");
}

#[test]
fn help_is_proof_that_the_compiler_runs() {
    let help = |script: &str| {
        let fake = Fake::new(script);
        fake.atc().help(&fake.path("scratch"))
    };
    assert_eq!(help("[ \"$1\" = --help ] && echo usage; exit 255").unwrap(), "usage\n");
    let error = help("echo 'libge_compiler.so: cannot open shared object file'; exit 127");
    assert!(error.unwrap_err().to_string().contains("libge_compiler.so"));
    assert!(matches!(help("kill -ABRT $$"), Err(AtcError::Failed { .. })));
}

#[test]
fn jobs_are_bounded_by_cores_and_memory() {
    let gib = |count: u64| count << 30;
    assert_eq!(compile_jobs(192, gib(1024)), 24);
    assert_eq!(compile_jobs(192, gib(32)), 4);
    assert_eq!(compile_jobs(2, gib(4)), 1);
    assert_eq!(compile_jobs(0, 0), 1);
}
