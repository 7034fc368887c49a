//! Every way in which the compiler can be told to misbehave.

use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ascendcl::om;

use super::models::add;
use super::toolkit::{Toolkit, stdout};

fn toolkit() -> Toolkit {
    let toolkit = Toolkit::new("9.0.0");
    toolkit.write(&add());
    toolkit
}

#[test]
fn files_that_are_no_models_are_noticed_when_they_are_read() {
    let toolkit = toolkit();
    for (mischief, is_written) in [("garbage", true), ("truncate", true), ("silent", false)] {
        let _ = std::fs::remove_file(toolkit.path("work/g.om"));
        let output = toolkit.atc().env("CANN_SIM_ATC", mischief).output().unwrap();
        assert!(output.status.success(), "{mischief}");
        match std::fs::read(toolkit.path("work/g.om")) {
            Ok(bytes) => assert!(is_written && om::read(&bytes).is_err(), "{mischief}"),
            Err(_) => assert!(!is_written, "{mischief}"),
        }
    }
}

#[test]
fn it_fails_dies_waits_and_talks() {
    let toolkit = toolkit();
    let run = |mischief: &str| toolkit.atc().env("CANN_SIM_ATC", mischief).output().unwrap();
    let failed = run("fail:E40021");
    assert!(stdout(&failed).contains("E40021: ") && failed.status.code() == Some(255));
    assert_eq!(run("crash").status.signal(), Some(11));
    let start = Instant::now();
    assert!(run("slow:0.3").status.success() && start.elapsed() > Duration::from_millis(300));
    assert!(run("spam").stdout.len() > 99_000_000);
    let dynamic = run("dynamic");
    let name = format!("work/g_linux_{}.om", std::env::consts::ARCH);
    assert!(dynamic.status.success() && toolkit.path(&name).is_file());
    assert!(stdout(&run("nonsense")).contains("ATC run failed"));
}

#[test]
fn a_hanging_compiler_ends_only_with_its_group() {
    let toolkit = toolkit();
    let mut command = toolkit.atc();
    command.env("CANN_SIM_ATC", "hang").stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap();
    let group = format!("-{}", child.id());
    let kill = |signal: &str| {
        let status = std::process::Command::new("kill").args([signal, "--", &group]).status();
        assert!(status.unwrap().success());
    };
    std::thread::sleep(Duration::from_millis(500));
    kill("-TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    kill("-KILL");
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    // The pipe closes: the grandchild that held it is gone as well.
    let mut text = String::new();
    child.stdout.unwrap().read_to_string(&mut text).unwrap();
    assert!(text.starts_with("ATC start"));
}

#[test]
fn calls_are_counted_and_logged() {
    let toolkit = toolkit();
    let (count, log) = (toolkit.path("count"), toolkit.path("log"));
    let codes: Vec<Option<i32>> = (0..3)
        .map(|_| {
            let mut command = toolkit.atc();
            command.env("CANN_SIM_ATC", "fail@2").env("CANN_SIM_ATC_COUNT", &count);
            command.env("CANN_SIM_ATC_LOG", &log).output().unwrap().status.code()
        })
        .collect();
    assert_eq!(codes, [Some(0), Some(255), Some(0)]);
    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<&str> = lines.iter().map(|l| l["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ok", "failed", "ok"]);
    assert_eq!(lines[0]["air_sha256"], lines[2]["air_sha256"]);
    assert_eq!(lines[1]["soc"], "Ascend910B3");
    assert!(lines[0]["start_ms"].as_u64() <= lines[0]["end_ms"].as_u64());
}
