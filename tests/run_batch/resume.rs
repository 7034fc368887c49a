//! What is left after an end at any moment, and how the next run goes on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Nothing here may take this long.
const PATIENCE: Duration = Duration::from_mins(1);

fn many_lines(count: usize, max_tokens: usize) -> Vec<String> {
    (0..count).map(|i| completion(&format!("id-{i}"), &format!("prompt {i}"), max_tokens)).collect()
}

fn spawn(deployment: &Deployment, more: &[&str]) -> Child {
    let mut command = deployment.process(&batch(more));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn num_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Waits until the file is that long, or the program has ended.
fn wait_for_bytes(child: &mut Child, path: &Path, bytes: u64) {
    let start = Instant::now();
    while num_bytes(path) < bytes && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "nothing is written");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn texts(path: &Path) -> Vec<String> {
    by_custom_id(path).values().map(|result| text(result).to_owned()).collect()
}

#[test]
fn killed_at_any_moment_it_loses_and_repeats_nothing() {
    let lines = many_lines(48, 24);
    let whole = with_lines(&lines);
    assert_eq!(run(&whole, &[]).code, 0);
    let expected = texts(&whole.path("out.jsonl"));

    let deployment = with_lines(&lines);
    let out = deployment.path("out.jsonl");
    let (mut num_kills, mut random) = (0_u64, 12_345_u64);
    loop {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = spawn(&deployment, &["--max-in-flight", "4"]);
        let more_bytes = (random >> 33) % 3000;
        let target = num_bytes(&out) + more_bytes;
        wait_for_bytes(&mut child, &out, target);
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.code(), None, "{output:?}");
        num_kills += 1;
        // As if the kill had come in the middle of a write.
        let torn = num_bytes(&out).saturating_sub((random >> 40) % 200);
        let bytes = std::fs::read(&out).unwrap_or_default();
        let last_line = bytes[..bytes.len().saturating_sub(1)].iter().rposition(|&b| b == b'\n');
        let last_line = last_line.map_or(0, |at| at as u64 + 1);
        if num_kills.is_multiple_of(2) && out.exists() {
            let file = std::fs::OpenOptions::new().write(true).open(&out).unwrap();
            file.set_len(torn.max(last_line)).unwrap();
        }
        assert!(num_kills < 1000, "it does not get on");
    }
    assert!(num_kills > 3, "only {num_kills} kills");
    assert_eq!(by_custom_id(&out).len(), lines.len());
    assert_eq!(texts(&out), expected);
    // All is done: nothing is even loaded.
    std::fs::remove_dir_all(deployment.path("model")).unwrap();
    let ended = run(&deployment, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.stderr.contains("48 lines: 48 answered, 0 failed (48 of them before)"),
        "{ended:?}"
    );
}

#[test]
fn a_torn_last_line_is_answered_again() {
    let deployment = with_lines(&many_lines(3, 4));
    let out = deployment.path("out.jsonl");
    assert_eq!(run(&deployment, &[]).code, 0);
    let whole = texts(&out);
    let bytes = std::fs::read(&out).unwrap();
    std::fs::write(&out, &bytes[..bytes.len() - 30]).unwrap();
    let ended = run(&deployment, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.starts_with("the last result was torn"), "{ended:?}");
    assert!(ended.stderr.contains("3 lines: 3 answered, 0 failed (2 of them before)"), "{ended:?}");
    assert_eq!(texts(&out), whole);
}

#[test]
fn lines_may_be_added_but_not_changed() {
    let mut lines = many_lines(3, 4);
    let deployment = with_lines(&lines);
    let (input, out) = (deployment.path("in.jsonl"), deployment.path("out.jsonl"));
    assert_eq!(run(&deployment, &[]).code, 0);
    let before = std::fs::read(&out).unwrap();
    let write = |lines: &[String]| std::fs::write(&input, file_of(lines)).unwrap();
    for (change, says) in [
        (&lines[..2], "it has 1 lines more"),
        (&[lines[0].clone(), lines[2].clone()], "line 2 is not the one that was answered"),
        (&[String::new()], "it has 3 lines more"),
    ] {
        write(change);
        let error = deployment.failure(&batch(&[]));
        assert!(error.starts_with("error: the results are those of another input: "), "{error}");
        assert!(error.contains(says) && error.contains("`--overwrite`"), "{error}");
        assert_eq!(std::fs::read(&out).unwrap(), before);
    }
    lines.push(completion("new", "new", 4));
    write(&lines);
    assert_eq!(run(&deployment, &[]).code, 0);
    assert_eq!(by_custom_id(&out).len(), 4);
    assert!(std::fs::read(&out).unwrap().starts_with(&before));

    write(&[completion("other", "other", 4)]);
    assert_eq!(run(&deployment, &["--overwrite"]).code, 0);
    assert_eq!(by_custom_id(&out).len(), 1);
}

#[test]
fn ctrl_c_finishes_what_is_in_work_and_says_how_to_go_on() {
    let deployment = with_lines(&many_lines(400, 60));
    let out = deployment.path("out.jsonl");
    let mut child = spawn(&deployment, &["--max-in-flight", "2"]);
    wait_for_bytes(&mut child, &out, 1);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.ends_with("interrupted: the same command goes on from here\n"), "{stderr}");
    let before = by_custom_id(&out).len();
    assert!((1..400).contains(&before), "{before}");
    // The rest would take its time; that it goes on is enough.
    let mut child = spawn(&deployment, &[]);
    let bytes = num_bytes(&out);
    wait_for_bytes(&mut child, &out, bytes + 1);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn failed_lines_are_not_forgotten_by_the_next_run() {
    let lines = [completion("good", "a", 2), "nonsense".to_owned()];
    let deployment = with_lines(&lines);
    for _ in 0..2 {
        let ended = run(&deployment, &[]);
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("error: 1 of 2 lines failed"), "{ended:?}");
    }
    assert_eq!(results(&deployment.path("out.jsonl")).len(), 2);
}
