//! What operators ask: health before, while and after the server is ready, and its events.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::client::{COMPLETIONS, PATIENCE, Reply, Server};
use super::model::write_model;
use super::{MODEL, start_server};

fn events(server: &Server, query: &str) -> Vec<Value> {
    let reply = server.get(&format!("/admin/events?{query}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    let page = reply.json();
    assert_eq!(page["object"], "list");
    page["data"].as_array().unwrap().clone()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

/// The value of a series that counts.
fn count(server: &Server, series: &str) -> u64 {
    server.metric(series) as u64
}

fn state_dir(folder: &Path) -> [String; 2] {
    ["--state-dir".to_owned(), folder.display().to_string()]
}

fn start_with_state(folder: &Path) -> Server {
    start_server(&state_dir(folder).each_ref().map(String::as_str))
}

#[test]
fn the_events_of_a_start_are_told_in_order() {
    let server = start_server(&[]);
    let told = events(&server, "");
    let (compiles, others): (Vec<&str>, Vec<&str>) =
        kinds(&told).into_iter().partition(|kind| kind.starts_with("graph_compile"));
    assert_eq!(others, ["deploying", "model_loading", "cache_summary", "model_loaded", "ready"]);
    let num_of = |kind: &str| compiles.iter().filter(|found| **found == kind).count();
    let num_compiled = num_of("graph_compile_finished");
    assert_eq!((num_of("graph_compile_started"), num_compiled > 0), (num_compiled, true));
    for (idx, event) in told.iter().enumerate() {
        assert_eq!(event["seq"], idx as u64 + 1);
        assert_eq!((&event["level"], &event["remedy"]), (&json!("normal"), &Value::Null));
        assert!(event["time"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    let version = server.get("/version").json();
    let [.., summary, _, last] = &told[..] else { panic!("{told:?}") };
    let ready = &last["fields"];
    assert_eq!(ready["boot_seconds"], version["boot_seconds"]);
    assert_eq!(ready["start_to_ready_seconds"], version["start_to_ready_seconds"]);
    assert!(ready["start_to_ready_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(last["boot"], version["boot_id"]);
    assert_eq!(summary["fields"]["misses"]["absent"], num_compiled);
    assert_eq!(
        count(&server, "cairn_events_total{model_name=\"tiny\",engine=\"0\",kind=\"ready\""),
        1
    );
    assert_eq!(count(&server, "cairn_ready"), 1);
}

#[test]
fn events_come_in_pages_and_are_filtered() {
    let server = start_server(&[]);
    let mut after = String::new();
    let mut told = Vec::new();
    loop {
        let page = server.get(&format!("/admin/events?limit=3{after}")).json();
        told.extend(page["data"].as_array().unwrap().clone());
        after = format!("&after={}", page["next"]);
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(told, events(&server, "order=asc"));
    told.reverse();
    assert_eq!(told, events(&server, "order=desc"));
    assert_eq!(kinds(&events(&server, "kind=ready,deploying")), ["deploying", "ready"]);
    assert!(events(&server, "level=abnormal").is_empty());
    assert!(events(&server, "until=2001-01-01T00:00:00Z").is_empty());
    assert_eq!(events(&server, "since=1").len(), told.len());
    let refused = server.get("/admin/events?kind=nonsense");
    assert_eq!((refused.status, &refused.error()["param"]), (400, &json!("kind")));
}

#[test]
fn events_can_be_followed_until_the_server_drains() {
    let mut server = start_server(&[]);
    let mut client = server.connect();
    client.send(b"GET /admin/events?follow=true&kind=ready,draining HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    let mut text = client.read_chunk().unwrap();
    assert!(String::from_utf8_lossy(&text).contains(r#""kind":"ready""#));
    server.terminate();
    while let Some(chunk) = client.read_chunk() {
        text.extend(chunk);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.trim_end().lines().last().unwrap().contains(r#""kind":"draining""#), "{text}");
    assert!(server.ended().success());
}

#[test]
fn events_outlive_the_server_and_a_crash_is_told() {
    let state = tempfile::tempdir().unwrap();
    let mut server = start_with_state(state.path());
    let first_ready = events(&server, "kind=ready")[0].clone();
    server.terminate();
    assert!(server.ended().success());

    let mut server = start_with_state(state.path());
    let told = events(&server, "");
    assert!(!kinds(&told).contains(&"crash_recovered"), "{told:?}");
    assert!(told.contains(&first_ready), "{told:?}");
    assert!(kinds(&told).windows(2).any(|pair| pair == ["draining", "stopped"]), "{told:?}");
    let numbers: Vec<u64> = told.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=told.len() as u64), "{numbers:?}");
    server.child.kill().unwrap();
    server.child.wait().unwrap();

    let server = start_with_state(state.path());
    let crash = events(&server, "kind=crash_recovered&level=abnormal");
    let [crash] = &crash[..] else { panic!("{crash:?}") };
    assert_eq!(crash["fields"]["while"], "serving");
    assert_eq!(crash["fields"]["last_event_kind"], "ready");
    assert!(crash["remedy"].is_string() && crash["fields"]["seconds_ago"].is_u64());
}

#[test]
fn a_state_folder_of_no_use_hinders_no_start() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let server = start_with_state(&file);
    assert_eq!(events(&server, "kind=ready").len(), 1);
    server.assert_serves("a start without a state folder");
}

#[test]
fn a_probe_generates_a_token_that_no_metric_of_users_counts() {
    let server = start_server(&[]);
    let probe = |query: &str| server.get(&format!("/health/deep{query}"));
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| probe(""))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for reply in &replies {
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("ok")), "{reply:?}");
        assert!(reply.json()["seconds"].as_f64().unwrap() > 0.0);
    }
    let generated =
        server.metric("cairn_deep_health_total{model_name=\"tiny\",engine=\"0\",result=\"ok\"");
    assert!((1.0..8.0).contains(&generated), "{generated} generations for 8 probes at once");
    for series in [
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_count",
        "vllm:request_success_total{model_name=\"tiny\",engine=\"0\",finished_reason=\"length\"",
    ] {
        assert_eq!(count(&server, series), 0, "{series}");
    }
    let bad = probe("?timeout=1000");
    assert_eq!((bad.status, &bad.error()["param"]), (400, &json!("timeout")));
}

#[test]
fn a_probe_that_is_late_says_so_and_raises_an_alarm() {
    let server = start_server(&[]);
    let reply = server.get("/health/deep?timeout=0");
    assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("late")), "{reply:?}");
    let alarm = &events(&server, "kind=alarm")[0];
    assert_eq!(
        (&alarm["level"], &alarm["fields"]["alarm"]),
        (&json!("abnormal"), &json!("deep_health"))
    );
}

#[test]
fn the_other_names_of_health_answer_alike() {
    let server = start_server(&[]);
    for path in ["/health", "/health/live", "/v2/health/live", "/ping"] {
        assert_eq!(
            (server.get(path).status, &server.get(path).json()["status"]),
            (200, &json!("ok"))
        );
    }
    for path in ["/health/ready", "/v2/health/ready"] {
        assert_eq!(server.get(path).json()["status"], "ready");
    }
}

/// A server that reads its keys from a pipe, and so starts for as long as nobody writes there.
fn start_held() -> (Server, std::path::PathBuf, BufReader<std::process::ChildStderr>) {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let pipe = folder.path().join("keys");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .arg("serve")
        .arg(folder.path())
        .args(["--served-model-name", MODEL, "--port", "0", "--cache-trust", "signed"])
        .arg("--cache-keys")
        .arg(&pipe)
        .arg("--cache-dir")
        .arg(folder.path().join("cache"))
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let address = read_until(&mut stderr, "starting on http://").parse().unwrap();
    let server = Server { address, child, patience: PATIENCE, _folder: Some(folder) };
    (server, pipe, stderr)
}

/// Reads lines until one holds the text: what follows it.
fn read_until(stderr: &mut impl BufRead, text: &str) -> String {
    let mut said = String::new();
    loop {
        let start = said.len();
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "no `{text}`: {said}");
        if let Some((_, rest)) = said[start..].split_once(text) {
            return rest.trim().to_owned();
        }
    }
}

#[test]
fn a_server_that_starts_is_alive_and_says_how_far_it_is() {
    let (mut server, pipe, mut stderr) = start_held();
    for path in ["/health", "/health/live", "/v2/health/live", "/ping"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, ready.header("retry-after").is_some()), (503, true));
    assert_eq!(ready.json()["status"], "starting");
    assert!(ready.json()["phase"].is_string() && ready.json()["seconds"].is_f64(), "{ready:?}");
    assert_eq!(server.get("/version").json()["is_ready"], false);
    assert_eq!(count(&server, "cairn_ready"), 0);
    let refused = [
        server.post(COMPLETIONS, "{}"),
        server.get("/v1/models"),
        server.get("/admin/events"),
        server.get("/nothing"),
    ];
    for reply in refused {
        assert_eq!((reply.status, &reply.error()["code"]), (503, &json!("starting")));
        assert!(reply.header("retry-after").is_some());
    }

    // One connection sees the change.
    let mut client = server.connect();
    client.send(b"GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_reply().unwrap().status, 503);
    let mut keys = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    keys.write_all(KEY.as_bytes()).unwrap();
    drop(keys);
    read_until(&mut stderr, "listening on http://");
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    client.send(b"GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_reply().unwrap().status, 200);
    assert_eq!(count(&server, "cairn_ready"), 1);
    server.assert_serves("its start");
    server.terminate();
    assert!(server.ended().success());
}

/// A public key, of nobody.
const KEY: &str = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\n";

#[test]
fn a_start_that_is_told_to_stop_ends_at_once_in_good_order() {
    let (mut server, _pipe, mut stderr) = start_held();
    server.terminate();
    read_until(&mut stderr, "stopped");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_start_that_fails_ends_the_server_with_the_reason() {
    let (mut server, pipe, mut stderr) = start_held();
    std::fs::write(&pipe, "no key\n").unwrap();
    let error = read_until(&mut stderr, "error: ");
    assert!(error.contains("line 1: expected a public key"), "{error}");
    assert_eq!(server.ended().code(), Some(1));
    let log = pipe.with_file_name("state/events/tiny-0/events.jsonl");
    let log = std::fs::read_to_string(log).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["kind"], &last["level"]), (&json!("stopped"), &json!("abnormal")));
    assert_eq!(last["fields"]["exit_code"], 1);
}
