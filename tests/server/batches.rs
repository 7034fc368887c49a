//! Files and batches: uploaded, answered, kept over a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Reply, Server};
use super::keys::{Place, bearer, entry, eventually};
use super::{model::write_model, serve_command, start_server};

const BOUNDARY: &str = "----parts";

fn part(name: &str, filename: Option<&str>, content: &str) -> String {
    let filename = filename.map_or_else(String::new, |name| format!("; filename=\"{name}\""));
    format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{filename}\r\n\r\n{content}\r\n"
    )
}

fn send_form(server: &Server, parts: &[String]) -> Reply {
    let body = format!("{}--{BOUNDARY}--\r\n", parts.concat());
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; \
         boundary={BOUNDARY}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    server.connect().exchange(format!("{head}{body}").as_bytes())
}

fn upload(server: &Server, content: &str) -> String {
    let parts = [part("purpose", None, "batch"), part("file", Some("in.jsonl"), content)];
    let reply = send_form(server, &parts);
    assert_eq!(reply.status, 200, "{reply:?}");
    let file = reply.json();
    assert_eq!((&file["object"], &file["purpose"]), (&json!("file"), &json!("batch")));
    assert_eq!((&file["bytes"], &file["filename"]), (&json!(content.len()), &json!("in.jsonl")));
    file["id"].as_str().unwrap().to_owned()
}

fn line(custom_id: &str, url: &str, body: &Value) -> String {
    format!("{}\n", json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}))
}

fn begin(server: &Server, file: &str, endpoint: &str) -> Value {
    let body = json!({"input_file_id": file, "endpoint": endpoint, "completion_window": "24h",
                      "metadata": {"for": "a test"}});
    let reply = server.post("/v1/batches", body.to_string());
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// The batch once it has ended.
fn ended(server: &Server, id: &str) -> Value {
    let start = Instant::now();
    loop {
        let batch = server.get(&format!("/v1/batches/{id}")).json();
        let status = batch["status"].as_str().unwrap();
        if ["completed", "failed", "cancelled", "expired"].contains(&status) {
            return batch;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "{batch}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn content(server: &Server, file: &Value) -> Vec<Value> {
    let reply = server.get(&format!("/v1/files/{}/content", file.as_str().unwrap()));
    assert_eq!(reply.status, 200, "{reply:?}");
    let text = String::from_utf8(reply.body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kept_server(folder: &Path) -> Server {
    Server::start(serve_command(":", folder, &["--port", "0"]), None)
}

#[test]
fn a_batch_is_answered_line_by_line() {
    let server = start_server(&[]);
    let complete = |id: &str, max_tokens: i64| {
        let body = json!({"prompt": "hello", "max_tokens": max_tokens, "temperature": 0});
        line(id, "/v1/completions", &body)
    };
    let chat = line("elsewhere", "/v1/chat/completions", &json!({}));
    let lines = [complete("a", 3), complete("bad", -3), chat, "no JSON\n".into(), complete("b", 5)];
    let file = upload(&server, &lines.concat());
    let begun = begin(&server, &file, "/v1/completions");
    assert_eq!((&begun["object"], &begun["status"]), (&json!("batch"), &json!("validating")));
    assert_eq!(begun["metadata"], json!({"for": "a test"}));
    let batch = ended(&server, begun["id"].as_str().unwrap());
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["request_counts"], json!({"total": 5, "completed": 2, "failed": 3}));
    let mut answers = content(&server, &batch["output_file_id"]);
    answers.sort_by_key(|answer| answer["custom_id"].to_string());
    let alone = server.complete(&json!({"prompt": "hello", "max_tokens": 5, "temperature": 0}));
    assert_eq!(answers[0]["custom_id"], "a");
    let choice = &answers[1]["response"]["body"]["choices"][0];
    assert_eq!(choice["text"], alone.json()["choices"][0]["text"]);
    assert!(answers.iter().all(|answer| answer["response"]["status_code"] == 200));
    let errors = content(&server, &batch["error_file_id"]);
    assert_eq!(errors.len(), 3);
    assert!(errors.iter().all(|error| error["error"]["message"].is_string()), "{errors:?}");
}

#[test]
fn embeddings_come_in_batches_too() {
    let server = start_server(&[]);
    let file = upload(&server, &line("a", "/v1/embeddings", &json!({"input": ["x", "y"]})));
    let batch = begin(&server, &file, "/v1/embeddings");
    let batch = ended(&server, batch["id"].as_str().unwrap());
    let answers = content(&server, &batch["output_file_id"]);
    assert_eq!(answers[0]["response"]["body"]["data"].as_array().unwrap().len(), 2);
    assert!(batch.get("error_file_id").is_none(), "{batch}");
}

#[test]
fn a_killed_server_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let body = json!({"prompt": "hello", "max_tokens": 150, "temperature": 0, "ignore_eos": true});
    let lines: String =
        (0..40).map(|idx| line(&format!("line-{idx}"), "/v1/completions", &body)).collect();
    let id = {
        let server = kept_server(folder.path());
        let file = upload(&server, &lines);
        let id = begin(&server, &file, "/v1/completions")["id"].as_str().unwrap().to_owned();
        let start = Instant::now();
        while server.get(&format!("/v1/batches/{id}")).json()["request_counts"]["completed"] == 0 {
            assert!(start.elapsed() < Duration::from_mins(1));
            std::thread::sleep(Duration::from_millis(5));
        }
        // Dropped, it is killed in the middle.
        id
    };
    let server = kept_server(folder.path());
    let batch = ended(&server, &id);
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["request_counts"], json!({"total": 40, "completed": 40, "failed": 0}));
    let answers = content(&server, &batch["output_file_id"]);
    let ids: std::collections::BTreeSet<_> =
        answers.iter().map(|answer| answer["custom_id"].to_string()).collect();
    assert_eq!((answers.len(), ids.len()), (40, 40), "each line once");
}

#[test]
fn a_cancelled_batch_ends_with_the_lines_in_work() {
    let server = start_server(&["--max-num-seqs", "2"]);
    let body = json!({"prompt": "hello", "max_tokens": 1500, "temperature": 0, "ignore_eos": true});
    let lines: String =
        (0..500).map(|idx| line(&format!("line-{idx}"), "/v1/completions", &body)).collect();
    let file = upload(&server, &lines);
    let id = begin(&server, &file, "/v1/completions")["id"].as_str().unwrap().to_owned();
    let in_use = server
        .connect()
        .exchange(format!("DELETE /v1/files/{file} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
    assert_eq!(in_use.status, 400, "{in_use:?}");
    let cancelled = server.post(&format!("/v1/batches/{id}/cancel"), "");
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let batch = ended(&server, &id);
    assert_eq!(batch["status"], "cancelled");
    assert!(batch["request_counts"]["completed"].as_u64().unwrap() < 500);
    assert_eq!(server.post(&format!("/v1/batches/{id}/cancel"), "").status, 400);
}

#[test]
fn files_and_batches_are_listed_in_pages() {
    let server = start_server(&[]);
    let ids: Vec<String> = (0..3).map(|idx| upload(&server, &format!("{idx}\n"))).collect();
    let page = server.get("/v1/files?limit=2").json();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["has_more"]), (2, &json!(true)));
    let last = page["last_id"].as_str().unwrap();
    let rest = server.get(&format!("/v1/files?limit=2&after={last}")).json();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)));
    let gone = server
        .connect()
        .exchange(format!("DELETE /v1/files/{} HTTP/1.1\r\nhost: x\r\n\r\n", ids[0]).as_bytes());
    assert_eq!(gone.json()["deleted"], true);
    assert_eq!(server.get(&format!("/v1/files/{}", ids[0])).status, 404);
    assert_eq!(server.get(&format!("/v1/files/{}", ids[1])).json()["id"], ids[1]);
    assert_eq!(server.get("/v1/batches").json()["data"], json!([]));
}

#[test]
fn what_cannot_be_a_file_or_a_batch_is_refused_by_name() {
    let server = start_server(&[]);
    for (parts, param) in [
        (vec![part("file", Some("a"), "x")], json!("purpose")),
        (vec![part("purpose", None, "batch")], json!("file")),
        (vec![part("purpose", None, "fun"), part("file", Some("a"), "x")], json!("purpose")),
        (vec![part("purpose", None, &"x".repeat(9000))], json!("purpose")),
    ] {
        let reply = send_form(&server, &parts);
        assert_eq!((reply.status, &reply.error()["param"]), (400, &param), "{parts:?}");
    }
    let plain = server.post("/v1/files", "{}");
    assert_eq!(plain.status, 400, "{plain:?}");
    plain.error();
    let file = upload(&server, "x\n");
    let good =
        json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"});
    for (key, value) in [
        ("input_file_id", json!("file-none")),
        ("input_file_id", json!("../../etc/passwd")),
        ("input_file_id", json!(5)),
        ("endpoint", json!("/metrics")),
        ("completion_window", json!("1h")),
        ("metadata", json!({"a": 1})),
    ] {
        let mut body = good.clone();
        body[key] = value;
        let reply = server.post("/v1/batches", body.to_string());
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(key)), "{body}");
    }
    for path in [
        "/v1/files/none",
        "/v1/files/none/content",
        "/v1/files/..%2f..%2fetc%2fpasswd/content",
        "/v1/batches/none",
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        reply.error();
    }
    for path in
        ["/v1/files?limit=0", "/v1/files?limit=x", "/v1/files?after=none", "/v1/files?order=up"]
    {
        let reply = server.get(path);
        assert_eq!(reply.status, 400, "{path}");
        reply.error();
    }
    assert_eq!(server.post("/v1/batches/none/cancel", "").status, 404);
}

#[test]
fn a_batch_belongs_to_its_key_and_may_do_no_more_than_it() {
    let keys = entry("ada", "")
        + &entry("ben", "")
        + &entry("few", "endpoints = [\"/v1/files*\", \"/v1/batches*\", \"/v1/embeddings\"]");
    let place = Place::new(&keys);
    let server = place.start(&[]);
    let ask = |method: &str, path: &str, name: &str, body: &str| {
        server.ask(method, path, &[&bearer(name)], body)
    };
    let upload_as = |name: &str| {
        let lines = line("a", "/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
        let parts = part("purpose", None, "batch") + &part("file", Some("in.jsonl"), &lines);
        let body = format!("{parts}--{BOUNDARY}--\r\n");
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nhost: x\r\n{}\r\ncontent-type: multipart/form-data; \
             boundary={BOUNDARY}\r\ncontent-length: {}\r\n\r\n",
            bearer(name),
            body.len()
        );
        let reply = server.connect().exchange(format!("{head}{body}").as_bytes());
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    };
    let wanted = |file: &str| {
        json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"})
            .to_string()
    };

    let file = upload_as("ada");
    for path in [format!("/v1/files/{file}"), format!("/v1/files/{file}/content")] {
        assert_eq!(ask("GET", &path, "ben", "").status, 404, "{path}");
        assert_eq!(ask("GET", &path, "ada", "").status, 200, "{path}");
    }
    assert_eq!(ask("POST", "/v1/batches", "ben", &wanted(&file)).status, 400);
    let refused = ask("POST", "/v1/batches", "few", &wanted(&upload_as("few")));
    assert_eq!((refused.status, &refused.error()["code"]), (403, &json!("endpoint_not_allowed")));

    let batch = ask("POST", "/v1/batches", "ada", &wanted(&file)).json();
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    eventually("the batch ends", || ask("GET", &path, "ada", "").json()["status"] == "completed");
    assert_eq!(ask("GET", &path, "ben", "").status, 404);
    assert_eq!(ask("GET", "/v1/batches", "ben", "").json()["data"], json!([]));
    let counts = &ask("GET", &path, "ada", "").json()["request_counts"];
    assert_eq!(*counts, json!({"total": 1, "completed": 1, "failed": 0}));
}
