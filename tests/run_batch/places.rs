//! Where lines come from, and where results go.

use std::fs;

use super::deployment::finish;
use super::*;

#[test]
fn a_folder_and_a_list_are_answered_as_one_input() {
    let deployment = Deployment::new();
    fs::create_dir(deployment.path("in")).unwrap();
    for name in ["b", "a"] {
        let lines = [completion(&format!("{name}1"), name, 2), chat(&format!("{name}2"), name, 2)];
        fs::write(deployment.path(&format!("in/{name}.jsonl")), file_of(&lines)).unwrap();
    }
    fs::write(deployment.path("in/notes.md"), "no requests").unwrap();
    fs::write(deployment.path("list.txt"), "# some\nin/b.jsonl\n").unwrap();
    let run = |input: &str, out: &str| {
        let ended = deployment.run(&["run-batch", "model", "-i", input, "-o", out]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let results = by_custom_id(&deployment.path(out));
        let ids = results.values().map(|result| result["id"].as_str().unwrap().to_owned());
        let number = |id: String| id.split('_').nth(2).unwrap().to_owned();
        results.keys().cloned().zip(ids.map(number)).collect::<Vec<_>>()
    };
    let pairs = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
        expected.iter().map(|(id, number)| ((*id).to_owned(), (*number).to_owned())).collect()
    };
    assert_eq!(
        run("in", "folder.jsonl"),
        pairs(&[("a1", "1"), ("a2", "2"), ("b1", "3"), ("b2", "4")])
    );
    assert_eq!(run("list.txt", "list.jsonl"), pairs(&[("b1", "1"), ("b2", "2")]));
}

#[test]
fn stdin_is_read_and_goes_on_like_a_file() {
    let deployment = Deployment::new();
    let lines = [completion("a", "a", 2), completion("b", "b", 2), completion("c", "c", 2)];
    let run = |lines: &[String]| {
        let args = ["run-batch", "model", "-i", "-", "-o", "out.jsonl"];
        finish(deployment.command(&args).write_stdin(file_of(lines)))
    };
    assert_eq!(run(&lines[..2]).code, 0);
    assert_eq!(run(&lines).code, 0);
    assert_eq!(by_custom_id(&deployment.path("out.jsonl")).len(), 3);
    for other in [&lines[1..], &lines[..1]] {
        let ended = run(other);
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("those of another input"), "{ended:?}");
    }
    assert_eq!(by_custom_id(&deployment.path("out.jsonl")).len(), 3);
}

#[test]
fn failed_lines_may_go_to_a_file_of_their_own_and_are_tried_again_without_it() {
    let deployment = with_lines(&[completion("good", "a", 2), completion("bad", "", 2)]);
    let (out, errors) = (deployment.path("out.jsonl"), deployment.path("errors.jsonl"));
    for _ in 0..2 {
        let ended = run(&deployment, &["--errors", "errors.jsonl"]);
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("`errors.jsonl` says why"), "{ended:?}");
        let ids = |path| by_custom_id(path).into_keys().collect::<Vec<_>>();
        assert_eq!((ids(&out), ids(&errors)), (vec!["good".to_owned()], vec!["bad".to_owned()]));
    }
    fs::remove_file(&errors).unwrap();
    let ended = run(&deployment, &["--errors", "errors.jsonl"]);
    assert!(ended.stderr.contains("2 lines: 1 answered, 1 failed (1 of them before)"), "{ended:?}");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_loaded() {
    let deployment = with_lines(&[completion("a", "a", 2)]);
    let before = fs::read(deployment.path("in.jsonl")).unwrap();
    fs::write(deployment.path("notes"), "mine\n").unwrap();
    for (input, output, more, code, says) in [
        ("in.jsonl", "in.jsonl", &[][..], 2, "would be read as requests"),
        ("in.jsonl", "./in.jsonl", &["--overwrite"], 2, "would be read as requests"),
        (".", "new.jsonl", &[], 2, "would be read as requests"),
        ("in.jsonl", "out", &["--errors", "./out"], 2, "name the same file"),
        ("model", "out", &[], 2, "there is no file `*.jsonl` in `model`"),
        ("missing.jsonl", "out", &[], 1, "missing.jsonl"),
        ("in.jsonl", "notes", &[], 1, "line 1 is no result of a batch"),
        ("in.jsonl", "model", &[], 1, "model"),
        ("in.jsonl", "/dev/null", &[], 1, "no regular file"),
        ("in.jsonl", "nowhere/out", &[], 1, "nowhere/out"),
    ] {
        let args = [&["run-batch", "no model", "-i", input, "-o", output], more].concat();
        let ended = deployment.run(&args);
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("no model"), "{ended:?}");
    }
    assert_eq!(fs::read(deployment.path("in.jsonl")).unwrap(), before);
    assert_eq!(fs::read(deployment.path("notes")).unwrap(), b"mine\n");
}

#[test]
fn an_empty_input_is_done() {
    let deployment = with_lines(&[]);
    let ended = run(&deployment, &[]);
    assert_eq!(ended.code, 0);
    assert!(ended.stderr.starts_with("0 lines: 0 answered, 0 failed"), "{ended:?}");
}
