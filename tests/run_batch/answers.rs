//! Results of good and of bad lines.

use std::process::Command;

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, Server};
use super::deployment::model::CONTEXT;
use super::*;

/// A result without what differs from one request to the next.
fn without_id_and_time(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap();
    let id = format!("\"id\":{}", value["id"]);
    let created = format!("\"created\":{}", value["created"]);
    assert!(body.contains(&id) && body.contains(&created), "{body}");
    body.replace(&id, "").replace(&created, "")
}

#[test]
fn every_line_is_answered() {
    let lines = [chat("c", "hello", 8), completion("t", "hello", 8), chat("d", "bye", 3)];
    let deployment = with_lines(&lines);
    let ended = run(&deployment, &[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
    let begin = "3 lines: 3 answered, 0 failed; ";
    assert!(ended.summary().starts_with(begin), "{ended:?}");
    assert!(ended.summary().contains(" and 19 generated tokens, "), "{ended:?}");
    assert!(ended.summary().ends_with("% of the prompts from the prefix cache"), "{ended:?}");

    let results = by_custom_id(&deployment.path("out.jsonl"));
    assert_eq!(results.len(), 3);
    for (custom_id, object) in
        [("c", "chat.completion"), ("t", "text_completion"), ("d", "chat.completion")]
    {
        let result = &results[custom_id];
        let keys: Vec<_> = result.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["id", "custom_id", "response", "error"]);
        let response = &result["response"];
        assert_eq!(
            (&response["status_code"], &response["body"]["object"]),
            (&json!(200), &json!(object))
        );
        assert_eq!(response["request_id"], result["id"]);
        assert!(response["body"]["id"].as_str().unwrap().ends_with(result["id"].as_str().unwrap()));
        assert!(!text(result).is_empty());
    }
    let generated =
        deployment.run(&["generate", "model", "--prompt", "hello", "--max-tokens", "8"]);
    assert_eq!(generated.stdout, format!("{}\n", text(&results["c"])));
}

#[test]
fn an_answer_is_what_the_server_sends() {
    let requests = [
        (COMPLETIONS, json!({"prompt": "a", "max_tokens": 9, "temperature": 0})),
        (COMPLETIONS, json!({"prompt": ["a", "bc"], "max_tokens": 4, "seed": 5, "echo": true})),
        (COMPLETIONS, json!({"model": MODEL, "prompt": [5, 6, 7], "seed": 1, "top_k": 3})),
        (CHAT, json!({"messages": [{"role": "user", "content": "é"}], "max_tokens": 6, "seed": 2})),
        (COMPLETIONS, json!({"prompt": "a", "temperature": 7e9})),
        (COMPLETIONS, json!({"prompt": "x".repeat(CONTEXT)})),
        (COMPLETIONS, json!({"prompt": ""})),
        (COMPLETIONS, json!({"model": "another", "prompt": "a"})),
        (CHAT, json!({"messages": []})),
        (CHAT, json!([1])),
        ("/v1/rerank", json!({"query": "a"})),
    ];
    let lines: Vec<String> = requests
        .iter()
        .enumerate()
        .map(|(i, (url, body))| line(&i.to_string(), url, body))
        .collect();
    let deployment = with_lines(&lines);
    let ended = run(&deployment, &["--no-cache"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let text = std::fs::read_to_string(deployment.path("out.jsonl")).unwrap();

    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.arg("serve").arg(deployment.path("model")).args(["--port", "0", "--no-cache"]);
    let server = Server::start(command, None);
    for (i, (url, body)) in requests.iter().enumerate() {
        let reply = server.post(url, body.to_string());
        let expected = String::from_utf8(reply.body).unwrap();
        let custom_id = format!("\"custom_id\":\"{i}\"");
        let result = text.lines().find(|line| line.contains(&custom_id)).unwrap();
        let (_, rest) = result.split_once("\"body\":").unwrap();
        let (got, _) = rest.rsplit_once("},\"error\":").unwrap();
        let result: Value = serde_json::from_str(result).unwrap();
        assert_eq!(result["response"]["status_code"], reply.status, "{result}");
        assert_eq!(result["error"].is_null(), reply.status == 200, "{result}");
        if reply.status == 200 {
            assert_eq!(without_id_and_time(got), without_id_and_time(&expected));
        } else {
            assert_eq!(got, expected);
            let error: Value = serde_json::from_str(&expected).unwrap();
            assert_eq!(result["error"]["message"], error["error"]["message"]);
        }
    }
}

#[test]
fn bad_lines_fail_and_the_others_are_answered() {
    let stream = json!({"prompt": "a", "stream": true});
    let lines = [
        completion("good", "a", 2),
        "{\"custom_id\": \"torn".to_owned(),
        String::new(),
        "[]".to_owned(),
        json!({"method": "POST", "url": COMPLETIONS, "body": {}}).to_string(),
        json!({"custom_id": "get", "method": "GET", "url": COMPLETIONS, "body": {}}).to_string(),
        json!({"custom_id": "no body", "method": "POST", "url": COMPLETIONS}).to_string(),
        line("stream", COMPLETIONS, &stream),
        completion("long", &"x".repeat(5000), 2),
        line("unknown field", COMPLETIONS, &json!({"prompt": "a", "max_tokens": "many"})),
        completion("good", "another", 2),
        chat("last", "b", 2),
    ];
    let deployment = with_lines(&lines);
    let ended = run(&deployment, &["--max-line-bytes", "4096", "--json"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let hint =
        "error: 9 of 11 lines failed\nhint: `error` in the results in `out.jsonl` says why\n";
    assert_eq!(ended.stderr, hint);
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    let counts = ["lines", "answered", "failed", "lines_before"].map(|key| summary[key].as_u64());
    assert_eq!(counts, [11, 2, 9, 0].map(Some), "{summary}");

    let results = results(&deployment.path("out.jsonl"));
    let of_line = |number: usize| {
        let begin = format!("batch_req_{number}_");
        let found =
            results.iter().find(|result| result["id"].as_str().unwrap().starts_with(&begin));
        found.unwrap_or_else(|| panic!("line {number} has no result"))
    };
    assert_eq!(results.len(), 11);
    for (number, custom_id, code) in [
        (2, Value::Null, "invalid_json"),
        (4, Value::Null, "invalid_request"),
        (5, Value::Null, "invalid_request"),
        (6, json!("get"), "invalid_method"),
        (7, json!("no body"), "invalid_request"),
        (9, Value::Null, "line_too_long"),
        (11, json!("good"), "duplicate_custom_id"),
    ] {
        let result = of_line(number);
        assert_eq!((&result["custom_id"], &result["response"]), (&custom_id, &Value::Null));
        assert_eq!(result["error"]["code"], code, "{result}");
        assert!(!result["error"]["message"].as_str().unwrap().is_empty());
    }
    for (number, param) in [(8, "stream"), (10, "max_tokens")] {
        let result = of_line(number);
        assert_eq!(result["response"]["status_code"], 400, "{result}");
        assert_eq!(result["response"]["body"]["error"]["param"], param);
        assert_eq!(result["error"]["code"], "invalid_request_error");
    }
    assert!(!text(of_line(1)).is_empty() && !text(of_line(12)).is_empty());
}

#[test]
fn more_lines_than_the_engine_holds_are_all_answered() {
    let body = json!({"prompt": vec!["a"; 40], "max_tokens": 1});
    let lines: Vec<String> = (0..12).map(|i| line(&i.to_string(), COMPLETIONS, &body)).collect();
    let deployment = with_lines(&lines);
    let ended = run(&deployment, &["--max-num-seqs", "2", "--max-in-flight", "1000"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for (_, result) in by_custom_id(&deployment.path("out.jsonl")) {
        assert_eq!(result["response"]["body"]["choices"].as_array().unwrap().len(), 40);
    }
}
