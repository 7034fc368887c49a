//! The admin API: who gets it, and that what it changes holds at once, on disk and here.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::client::{COMPLETIONS, Reply, Server, request_bytes, with_model};
use super::keys::{Place, bearer, code, complete_as, entry, eventually};
use super::start_server;

fn boss(server: &Server, method: &str, path: &str, body: &Value) -> Reply {
    server.ask(method, path, &[&bearer("boss")], &body.to_string())
}

fn place() -> Place {
    Place::new(&(entry("boss", "admin = true") + &entry("alice", "")))
}

#[test]
fn keys_are_added_changed_and_removed_while_the_server_runs() {
    let place = place();
    let server = place.start(&[]);
    let list = boss(&server, "GET", "/admin/keys", &json!({})).json();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
    assert_eq!(names, ["boss", "alice"]);
    assert!(!list.to_string().contains("sha256"), "{list}");

    let fields = json!({"name": "bob", "max_concurrent_requests": 9, "models": ["tiny"]});
    let added = boss(&server, "POST", "/admin/keys", &fields);
    assert_eq!(added.status, 201, "{added:?}");
    let key = added.json()["key"].as_str().unwrap().to_owned();
    let as_bob = || {
        let body = with_model(&json!({"prompt": "a", "max_tokens": 1})).to_string();
        server.ask("POST", COMPLETIONS, &[&format!("x-api-key: {key}")], &body)
    };
    assert_eq!(as_bob().status, 200);
    let limit = json!({"requests_per_second": 0.001, "max_concurrent_requests": null});
    let changed = boss(&server, "PATCH", "/admin/keys/bob", &limit).json();
    let expected = json!({"object": "key", "name": "bob", "models": ["tiny"],
                          "requests_per_second": 0.001});
    assert_eq!(changed, expected);
    assert_eq!((as_bob().status, as_bob().status), (200, 429));
    let file = std::fs::read_to_string(place.file()).unwrap();
    assert!(file.contains("name = \"bob\"") && file.contains("requests_per_second = 0.001"));
    assert!(!file.contains(&key), "{file}");

    // What the file's owner writes meanwhile is kept.
    place.write(&(file + &entry("carol", "")));
    let fields = json!({"name": "dave", "hash": format!("sha256:{}", "0".repeat(64))});
    let added = boss(&server, "POST", "/admin/keys", &fields);
    assert_eq!((added.status, added.json().get("key")), (201, None));
    assert_eq!(complete_as(&server, "carol").status, 200);

    let removed = boss(&server, "DELETE", "/admin/keys/bob", &json!({}));
    assert_eq!((removed.status, removed.json()["deleted"].clone()), (200, json!(true)));
    assert_eq!(as_bob().status, 401);
    drop(server);
    let again = place.start(&[]);
    assert_eq!(complete_as(&again, "carol").status, 200);
    assert_eq!(boss(&again, "DELETE", "/admin/keys/bob", &json!({})).status, 404);
}

#[test]
fn what_is_asked_wrongly_changes_nothing() {
    let place = place();
    let server = place.start(&[]);
    let before = std::fs::read(place.file()).unwrap();
    for (method, path, body, expected) in [
        ("POST", "/admin/keys", json!({}), (400, "name")),
        ("POST", "/admin/keys", json!({"name": "a b"}), (400, "name")),
        ("POST", "/admin/keys", json!({"name": "x", "hash": "sk-plain"}), (400, "hash")),
        ("POST", "/admin/keys", json!({"name": "x", "burst": 2}), (400, "requests_per_second")),
        ("POST", "/admin/keys", json!({"name": "x", "colour": 2}), (400, "colour")),
        ("POST", "/admin/keys", json!({"name": "alice"}), (409, "")),
        ("POST", "/admin/keys", json!([1]), (400, "")),
        ("PATCH", "/admin/keys/alice", json!({"name": "boss"}), (409, "")),
        ("PATCH", "/admin/keys/alice", json!({"hash": null}), (400, "hash")),
        ("PATCH", "/admin/keys/alice", json!({"tokens_per_day": -1}), (400, "tokens_per_day")),
        ("PATCH", "/admin/keys/nobody", json!({}), (404, "")),
        ("PATCH", "/admin/keys/%ff", json!({}), (400, "name")),
        ("DELETE", "/admin/keys/nobody", json!({}), (404, "")),
        ("PUT", "/admin/keys/alice", json!({}), (405, "")),
        ("GET", "/admin/usage?days=0", json!({}), (400, "days")),
        ("GET", "/admin/usage?key=nobody", json!({}), (404, "")),
        ("PATCH", "/admin/limits", json!({"max_connections": 1}), (400, "max_connections")),
        (
            "PATCH",
            "/admin/limits",
            json!({"max_concurrent_requests": 0}),
            (400, "max_concurrent_requests"),
        ),
        ("GET", "/admin/nothing", json!({}), (404, "")),
    ] {
        let reply = boss(&server, method, path, &body);
        let error = reply.error();
        let param = error["param"].as_str().unwrap_or_default();
        assert_eq!((reply.status, param), expected, "{method} {path} {body}: {reply:?}");
        assert!(!error.to_string().contains("sk-plain"), "{error}");
    }
    assert_eq!(std::fs::read(place.file()).unwrap(), before);
    for (method, path) in [("GET", "/admin/keys"), ("POST", "/admin/drain")] {
        let reply = server.ask(method, path, &[&bearer("alice")], "");
        assert_eq!(code(&reply), (403, "admin_required".into()), "{path}");
        assert_eq!(server.ask(method, path, &[], "").status, 401, "{path}");
    }

    // A file that is wrong or may not be written is left alone.
    let read_only = std::fs::Permissions::from_mode(0o400);
    std::fs::set_permissions(place.file(), read_only).unwrap();
    let reply = boss(&server, "POST", "/admin/keys", &json!({"name": "x"}));
    assert_eq!(code(&reply), (409, "key_file_unusable".into()));
    place.write("nonsense");
    for (method, path) in [("POST", "/admin/keys/reload"), ("DELETE", "/admin/keys/alice")] {
        let reply = boss(&server, method, path, &json!({}));
        assert_eq!(code(&reply), (409, "key_file_unusable".into()), "{path}");
    }
    assert_eq!(complete_as(&server, "alice").status, 200);
    place.write(&entry("boss", "admin = true"));
    let reply = boss(&server, "POST", "/admin/keys/reload", &json!({}));
    assert_eq!((reply.status, reply.json()["keys"].clone()), (200, json!(1)));
    assert_eq!(complete_as(&server, "alice").status, 401);
}

#[test]
fn the_servers_own_limit_changes_live() {
    let place = place();
    let server = place.start(&[]);
    let set = |max: Value| {
        let fields = json!({"max_concurrent_requests": max});
        let reply = boss(&server, "PATCH", "/admin/limits", &fields);
        assert_eq!(reply.json()["max_concurrent_requests"], max, "{reply:?}");
    };
    set(json!(1));
    let fields = json!({"prompt": "a", "max_tokens": 1_900, "ignore_eos": true, "stream": true});
    let mut client = server.connect();
    let body = with_model(&fields).to_string();
    client.send(request_bytes("POST", COMPLETIONS, &[&bearer("alice")], &body).as_bytes());
    assert_eq!(client.read_head().unwrap().status, 200);
    assert_eq!(complete_as(&server, "alice").status, 429);
    set(json!(null));
    assert_eq!(complete_as(&server, "alice").status, 200);
    drop(client);
    let inside = || boss(&server, "GET", "/admin/limits", &json!({})).json();
    eventually("all have left", || inside()["concurrent_requests"] == 0);
}

#[test]
fn a_drain_can_be_taken_back() {
    let place = place();
    let server = place.start(&[]);
    assert_eq!(boss(&server, "POST", "/admin/drain", &json!({})).json()["is_draining"], true);
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(code(&complete_as(&server, "alice")), (503, "draining".into()));
    assert_eq!(boss(&server, "POST", "/admin/undrain", &json!({})).json()["is_draining"], false);
    assert_eq!(server.get("/health/ready").status, 200);
    assert_eq!(complete_as(&server, "alice").status, 200);
}

#[test]
fn an_address_of_its_own_needs_no_key_for_admins_and_one_for_all_else() {
    let place = Place::new(&entry("alice", ""));
    let socket = place.path("admin.sock");
    let flag = format!("unix:{}", socket.display());
    let mut server = place.start(&["--admin-listen", &flag]);
    let ask = |method: &str, path: &str, body: &str| -> String {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let bytes = request_bytes(method, path, &["connection: close"], body);
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let added = ask("POST", "/admin/keys", "{\"name\": \"bob\"}");
    assert!(added.starts_with("HTTP/1.1 201"), "{added}");
    assert!(ask("GET", "/admin/usage", "").starts_with("HTTP/1.1 200"));
    assert!(ask("GET", "/metrics", "").starts_with("HTTP/1.1 200"));
    assert!(ask("GET", "/v1/models", "").starts_with("HTTP/1.1 401"));
    assert_eq!(server.get("/admin/keys").status, 401);
    assert_eq!(server.ask("GET", "/admin/keys", &[&bearer("alice")], "").status, 403);
    server.terminate();
    assert!(server.ended().success());
    assert!(!socket.exists());
}

#[test]
fn a_server_without_keys_is_administered_only_by_reading_from_here() {
    let server = start_server(&[]);
    assert_eq!(server.get("/admin/keys").json()["data"], json!([]));
    assert_eq!(server.get("/admin/limits").status, 200);
    let forwarded = server.ask("GET", "/admin/limits", &["x-forwarded-for: 10.0.0.1"], "");
    assert_eq!(code(&forwarded), (403, "admin_required".into()));
    for path in ["/admin/drain", "/admin/keys"] {
        let reply = server.ask("POST", path, &[], "{\"name\": \"x\"}");
        assert_eq!(code(&reply), (403, "admin_required".into()), "{path}");
    }
    server.assert_serves("attempts to administer");
}
