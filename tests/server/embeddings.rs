//! Texts as vectors.

use serde_json::{Value, json};

use super::client::Server;
use super::{MODEL, start_server};

fn ask(server: &Server, body: &Value) -> Value {
    let answer = server.post("/v1/embeddings", body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn vector(object: &Value) -> Vec<f64> {
    let numbers = object["embedding"].as_array().unwrap();
    numbers.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn every_input_becomes_a_vector_of_length_one_in_its_place() {
    let server = start_server(&[]);
    let texts = json!(["one", "two", "one"]);
    let answer = ask(&server, &json!({"model": MODEL, "input": texts}));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!(MODEL)));
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 3);
    for (index, object) in data.iter().enumerate() {
        assert_eq!((&object["object"], &object["index"]), (&json!("embedding"), &json!(index)));
        assert!((length(&vector(object)) - 1.0).abs() < 1e-5);
    }
    assert_eq!(vector(&data[0]), vector(&data[2]));
    assert_ne!(vector(&data[0]), vector(&data[1]));
    let alone = ask(&server, &json!({"input": "two"}));
    assert_eq!(vector(&alone["data"][0]), vector(&data[1]), "a crowd changes nothing");
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], usage["total_tokens"]);
    assert_eq!(usage["prompt_tokens"], 9, "a token for each byte");
}

#[test]
fn forms_and_poolings_are_what_was_asked_for() {
    let server = start_server(&[]);
    let ids = json!([10, 20, 30]);
    let plain = vector(&ask(&server, &json!({"input": ids}))["data"][0]);
    let cut = ask(&server, &json!({"input": ids, "dimensions": 4}));
    let cut = vector(&cut["data"][0]);
    assert_eq!(cut.len(), 4);
    assert!((length(&cut) - 1.0).abs() < 1e-5);
    assert!((cut[0] / cut[1] - plain[0] / plain[1]).abs() < 1e-4);
    let mean = ask(&server, &json!({"input": [ids], "pooling": "mean"}));
    assert_ne!(vector(&mean["data"][0]), plain);
    let packed = ask(&server, &json!({"input": ids, "encoding_format": "base64"}));
    let text = packed["data"][0]["embedding"].as_str().unwrap().to_owned();
    assert_eq!(text.trim_end_matches('=').len(), (plain.len() * 4 * 8).div_ceil(6));
    let kept = ask(&server, &json!({"input": [1, 2, 10, 20, 30], "truncate_prompt_tokens": 3}));
    assert_eq!(vector(&kept["data"][0]), plain);
}

#[test]
fn more_inputs_than_the_queue_holds_are_answered_all_the_same() {
    let server = start_server(&["--max-num-queued-reqs", "4", "--max-num-seqs", "2"]);
    let inputs: Vec<String> = (0..300).map(|idx| format!("text {idx}")).collect();
    let answer = ask(&server, &json!({"input": inputs}));
    assert_eq!(answer["data"].as_array().unwrap().len(), 300);
}

#[test]
fn what_cannot_be_embedded_is_refused_by_name() {
    let server = start_server(&[]);
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": [1_000_000]}), "input"),
        (json!({"input": "x".repeat(5_000)}), "input"),
        (json!({"input": "a", "model": "other"}), "model"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "dimensions": 100_000}), "dimensions"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "a", "pooling": "cls"}), "pooling"),
        (json!({"input": "a", "truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
    ] {
        let answer = server.post("/v1/embeddings", body.to_string());
        assert!([400, 404].contains(&answer.status), "{body}: {}", answer.status);
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    let off = start_server(&["--embeddings", "off"]);
    let answer = off.post("/v1/embeddings", json!({"input": "a"}).to_string());
    assert_eq!(answer.status, 400);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("--embeddings"));
}
