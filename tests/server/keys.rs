//! Keys and limits: who is let in, who is told why not, and what is remembered of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{COMPLETIONS, PATIENCE, Reply, Server, request_bytes, with_model};
use super::{CONTEXT, start_server, tiny_command};

/// A folder with a key file and the state of a server.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(file: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.write(file);
        place
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the file as careful editors do.
    pub(crate) fn write(&self, text: &str) {
        let new = self.path("keys.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    pub(crate) fn start(&self, flags: &[&str]) -> Server {
        let (file, state) = (self.file(), self.state());
        let own = ["--api-keys-file", text(&file), "--state-dir", text(&state)];
        start_server(&[&own[..], flags].concat())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An entry whose key is `sk-` and the name.
pub(crate) fn entry(name: &str, fields: &str) -> String {
    let hash = Sha256::digest(format!("sk-{name}"));
    let hash = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!("[[keys]]\nname = \"{name}\"\nhash = \"sha256:{hash}\"\n{fields}\n\n")
}

pub(crate) fn bearer(name: &str) -> String {
    format!("authorization: Bearer sk-{name}")
}

fn short_completion(num_tokens: usize) -> String {
    with_model(&json!({"prompt": "abcd", "max_tokens": num_tokens, "ignore_eos": true})).to_string()
}

pub(crate) fn complete_as(server: &Server, name: &str) -> Reply {
    server.ask("POST", COMPLETIONS, &[&bearer(name)], &short_completion(2))
}

pub(crate) fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.error()["code"].as_str().unwrap_or_default().to_owned())
}

pub(crate) fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn metric(server: &Server, name: &str, labels: &str) -> f64 {
    let page = String::from_utf8(server.get("/metrics").body).unwrap();
    let is_series = |line: &&str| line.starts_with(name) && line.contains(&format!(",{labels}}}"));
    let line = page.lines().find(is_series).unwrap_or_else(|| panic!("no {name} {labels}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn without_a_right_key_only_health_and_the_like_are_answered() {
    let place = Place::new(&entry("alice", ""));
    let server = place.start(&[]);
    for path in ["/health", "/health/live", "/health/ready", "/version", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let long = format!("authorization: Bearer {}", "k".repeat(10_000));
    for headers in [
        &[][..],
        &["authorization: Bearer sk-bob"],
        &["authorization: Bearer sk-alic"],
        &["authorization: Bearer sk-alice2"],
        &["authorization: Bearer"],
        &["authorization: Basic sk-alice"],
        &["authorization: sk-alice"],
        &["authorization: Bearer SK-ALICE"],
        &["authorization: Bearer sk-alice", "authorization: Bearer sk-alice"],
        &["authorization: Bearer sk-alice", "x-api-key: sk-bob"],
        &["x-api-key: "],
        &["api-key: \u{e9}"],
        &[&long],
    ] {
        for (method, path) in [
            ("POST", COMPLETIONS),
            ("GET", "/v1/models"),
            ("POST", "/reset_prefix_cache"),
            ("GET", "/nowhere"),
            ("GET", "/admin/keys"),
            ("GET", "/v1/../admin/keys"),
        ] {
            let reply = server.ask(method, path, headers, "");
            assert_eq!(code(&reply), (401, "invalid_api_key".into()), "{headers:?} {path}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert!(!String::from_utf8_lossy(&reply.body).contains("sk-"), "{reply:?}");
        }
    }
    for header in ["authorization: bearer  sk-alice", "x-api-key: sk-alice", "api-key: sk-alice"] {
        let reply = server.ask("POST", COMPLETIONS, &[header], &short_completion(1));
        assert_eq!(reply.status, 200, "{header}: {reply:?}");
    }
    let unknown = metric(&server, "cairn_key_requests_total", "key=\"-\",outcome=\"unauthorized\"");
    assert_eq!(unknown as usize, 13 * 6);
}

#[test]
fn a_key_that_may_not_is_told_why() {
    let file = [
        entry("off", "disabled = true"),
        entry("old", "expires = \"2020-01-01T00:00:00Z\""),
        entry("early", "not_before = 9000-01-01T00:00:00Z"),
        entry("other", "models = [\"other*\"]"),
        entry("listed", "models = [\"ti*\"]\nendpoints = [\"/v1/models*\"]"),
        entry("fine", "models = [\"tiny\"]\nendpoints = [\"/v1/comp*\"]"),
    ];
    let place = Place::new(&file.concat());
    let server = place.start(&[]);
    for (name, expected) in [
        ("off", "key_disabled"),
        ("old", "key_expired"),
        ("early", "key_not_yet_valid"),
        ("other", "model_not_allowed"),
        ("listed", "endpoint_not_allowed"),
    ] {
        assert_eq!(code(&complete_as(&server, name)), (403, expected.into()), "{name}");
        let forbidden = format!("key=\"{name}\",outcome=\"forbidden\"");
        assert_eq!(metric(&server, "cairn_key_requests_total", &forbidden) as u64, 1);
        let admin = server.ask("GET", "/admin/keys", &[&bearer(name)], "");
        assert_eq!(admin.status, 403, "{name}");
    }
    assert_eq!(complete_as(&server, "fine").status, 200);
    for path in ["/v1/models", "/v1/models/tiny"] {
        assert_eq!(server.ask("GET", path, &[&bearer("listed")], "").status, 200, "{path}");
    }
}

#[test]
fn rates_are_told_and_held() {
    let file = entry("slow", "requests_per_second = 0.001\nburst = 2");
    let file = file + &entry("poor", "tokens_per_minute = 5") + &entry("free", "");
    let place = Place::new(&file);
    let server = place.start(&[]);
    for left in ["1", "0"] {
        let reply = complete_as(&server, "slow");
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("2"));
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some(left));
        assert!(reply.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), None);
    }
    let reply = complete_as(&server, "slow");
    assert_eq!(code(&reply), (429, "rate_limit_exceeded".into()));
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("0"));

    // Anything left lets a request in, which then pays for all that it uses: 4 and 40.
    let reply = server.ask("POST", COMPLETIONS, &[&bearer("poor")], &short_completion(40));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-ratelimit-remaining-tokens"), Some("5"));
    let reply = complete_as(&server, "poor");
    assert_eq!(code(&reply), (429, "rate_limit_exceeded".into()));
    assert!(reply.error()["message"].as_str().unwrap().contains("tokens_per_minute"));
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("5"));
    assert_eq!(reply.header("x-ratelimit-remaining-tokens"), Some("0"));
    assert_eq!(complete_as(&server, "free").status, 200);

    for (series, labels, expected) in [
        ("cairn_key_requests_total", "key=\"slow\",outcome=\"accepted\"", 2),
        ("cairn_key_requests_total", "key=\"slow\",outcome=\"limited\"", 1),
        ("cairn_key_limited_total", "key=\"slow\",limit=\"requests_per_second\"", 1),
        ("cairn_key_limited_total", "key=\"poor\",limit=\"tokens_per_minute\"", 1),
        ("cairn_key_tokens_total", "key=\"poor\",kind=\"prompt\"", 4),
        ("cairn_key_tokens_total", "key=\"poor\",kind=\"completion\"", 40),
    ] {
        assert_eq!(metric(&server, series, labels) as u64, expected, "{series} {labels}");
    }
}

#[test]
fn a_stream_holds_its_place_to_its_end_or_until_its_client_leaves() {
    let place = Place::new(&entry("one", "max_concurrent_requests = 1"));
    let server = place.start(&[]);
    let fields = json!({"prompt": "a", "max_tokens": CONTEXT, "ignore_eos": true, "stream": true});
    let stream =
        request_bytes("POST", COMPLETIONS, &[&bearer("one")], &with_model(&fields).to_string());
    for _ in 0..3 {
        let mut client = server.connect();
        client.send(stream.as_bytes());
        assert_eq!(client.read_head().unwrap().status, 200);
        client.read_chunk().unwrap();
        let reply = complete_as(&server, "one");
        assert_eq!(code(&reply), (429, "rate_limit_exceeded".into()));
        assert_eq!(reply.header("retry-after"), Some("1"));
        drop(client);
        eventually("its place is free", || complete_as(&server, "one").status == 200);
    }
    // What was generated for clients that left is paid for.
    let labels = "key=\"one\",kind=\"completion\"";
    assert!(metric(&server, "cairn_key_tokens_total", labels) as u64 >= 3 + 3 * 2);
    let mut whole = server.connect();
    let fields = json!({"prompt": "a", "max_tokens": 5, "ignore_eos": true, "stream": true});
    let stream =
        request_bytes("POST", COMPLETIONS, &[&bearer("one")], &with_model(&fields).to_string());
    whole.send(stream.as_bytes());
    assert_eq!(whole.read_reply().unwrap().status, 200);
    eventually("its place is free", || complete_as(&server, "one").status == 200);
}

#[test]
fn the_file_is_followed_and_a_broken_one_changes_nothing() {
    let place = Place::new(&entry("first", ""));
    let server = place.start(&[]);
    let fields = json!({"prompt": "a", "max_tokens": 1_500, "ignore_eos": true, "stream": true});
    let mut running = server.connect();
    let stream =
        request_bytes("POST", COMPLETIONS, &[&bearer("first")], &with_model(&fields).to_string());
    running.send(stream.as_bytes());
    assert_eq!(running.read_head().unwrap().status, 200);
    assert_eq!(complete_as(&server, "second").status, 401);

    place.write(&entry("second", "requests_per_second = 0.001"));
    eventually("the new key is known", || complete_as(&server, "second").status == 200);
    assert_eq!(complete_as(&server, "first").status, 401);
    // Whoever ran goes on.
    let mut last = Vec::new();
    while let Some(chunk) = running.read_chunk() {
        last = chunk;
    }
    assert!(last.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&last));

    // What was used stays used under other limits.
    let boss = entry("boss", "admin = true");
    place.write(&(entry("second", "requests_per_second = 0.002") + &entry("third", "") + &boss));
    eventually("the third key is known", || complete_as(&server, "third").status == 200);
    assert_eq!(complete_as(&server, "second").status, 429);

    let failed = |server: &Server| {
        metric(server, "cairn_key_file_reloads_total", "outcome=\"failed\"") as u64
    };
    place.write("[[keys]\n");
    eventually("the file is read", || failed(&server) == 1);
    let alarms = server.ask("GET", "/admin/events?kind=alarm", &[&bearer("boss")], "").json();
    assert!(alarms.to_string().contains("keys.toml, line 1"), "{alarms}");
    assert_eq!(complete_as(&server, "third").status, 200);
    std::fs::remove_file(place.file()).unwrap();
    eventually("the file is missed", || failed(&server) == 2);
    assert_eq!(complete_as(&server, "third").status, 200);
    // A file without keys is none that lets everybody in.
    place.write("");
    eventually("the keys are gone", || complete_as(&server, "third").status == 401);
    assert_eq!(server.complete(&json!({"prompt": "a"})).status, 401);

    place.write(&entry("fourth", ""));
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    eventually("SIGHUP is heard", || complete_as(&server, "fourth").status == 200);
}

fn usage(server: &Server, name: &str) -> Value {
    let path = format!("/admin/usage?key={name}");
    let reply = server.ask("GET", &path, &[&bearer("boss")], "");
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["data"][0]["total"].clone()
}

#[test]
fn usage_outlives_the_end_a_kill_and_a_damaged_file() {
    let file = entry("alice", "tokens_per_day = 12") + &entry("boss", "admin = true");
    let place = Place::new(&file);
    let mut server = place.start(&[]);
    assert_eq!(complete_as(&server, "alice").status, 200);
    let expected = json!({"requests": 1, "prompt_tokens": 4, "cached_tokens": 0,
                          "completion_tokens": 2, "refused": {}});
    assert_eq!(usage(&server, "alice"), expected);
    server.terminate();
    assert!(server.ended().success());

    let server = place.start(&[]);
    assert_eq!(usage(&server, "alice"), expected);
    assert_eq!(complete_as(&server, "alice").status, 200);
    let refused = complete_as(&server, "alice");
    assert_eq!(refused.status, 429, "the day goes on");
    assert_eq!(refused.header("x-ratelimit-limit-tokens"), Some("12"));
    let saved = place.state().join("usage-0.json");
    eventually("it is written", || {
        std::fs::read_to_string(&saved).unwrap().contains("\"tokens_per_day\":1")
    });
    // A server beside it has a file of its own.
    let beside = place.start(&[]);
    assert_eq!(complete_as(&beside, "alice").status, 200);
    drop(server);
    drop(beside);

    let server = place.start(&[]);
    let used = usage(&server, "alice");
    assert_eq!((&used["requests"], &used["completion_tokens"]), (&json!(2), &json!(4)));
    assert_eq!(used["refused"], json!({"tokens_per_day": 1}));
    drop(server);
    std::fs::write(&saved, "{\"version\":").unwrap();
    let server = place.start(&[]);
    assert_eq!(complete_as(&server, "alice").status, 200);
    assert!(place.state().join("usage-0.json.bad").exists());
    drop(server);
    // A state folder that cannot be one is no reason not to serve.
    let (keys, file) = (place.file(), place.file());
    let server = start_server(&["--api-keys-file", text(&keys), "--state-dir", text(&file)]);
    assert_eq!(complete_as(&server, "alice").status, 200);
}

#[test]
fn a_bad_key_file_is_an_error_at_the_start() {
    for (file, message) in [
        ("[[keys]\n".to_owned(), "keys.toml, line 1: not TOML: "),
        (entry("a", "tokens_per_minut = 5"), "did you mean `tokens_per_minute`?"),
        (entry("a", "requests_per_second = -1"), "invalid requests_per_second"),
        (entry("a", "") + &entry("a", ""), "key 1 has the same name"),
        ("[[keys]]\nname = \"a\"\nhash = \"sk-a\"".to_owned(), "(`a`): invalid hash: expected"),
    ] {
        let place = Place::new(&file);
        let (mut command, _folder) = tiny_command(&["--api-keys-file", text(&place.file())]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(message) && stderr.contains("keys.toml"), "{stderr}");
        assert!(!stderr.contains("sk-a"), "{stderr}");
    }
    let (mut command, _folder) = tiny_command(&["--api-keys-file", "/nowhere/keys.toml"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere/keys.toml"));
}

#[test]
fn keys_by_flag_and_by_variable_have_no_limits() {
    let folder = tempfile::tempdir().unwrap();
    let state = ["--state-dir", text(folder.path())];
    let flags = ["--api-key", "sk-one", "--api-key", "sk-two", "--require-key-for-metrics"];
    let server = start_server(&[&flags[..], &state].concat());
    for name in ["one", "two"] {
        assert_eq!(complete_as(&server, name).status, 200, "{name}");
        let admin = server.ask("GET", "/admin/keys", &[&bearer(name)], "");
        assert_eq!(code(&admin), (403, "admin_required".into()));
    }
    assert_eq!(complete_as(&server, "three").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    let page = server.ask("GET", "/metrics", &[&bearer("one")], "");
    let page = String::from_utf8(page.body).unwrap();
    let both = ",key=\"--api-key\",outcome=\"accepted\"} 2";
    assert!(page.contains(both), "{page}");

    let (mut command, model) = tiny_command(&state);
    command.env("VLLM_API_KEY", "sk-inherited");
    let server = Server::start(command, Some(model));
    assert_eq!(complete_as(&server, "inherited").status, 200);
    assert_eq!(complete_as(&server, "one").status, 401);
    let (mut command, _model) = tiny_command(&["--api-key", "sk-one", "--print-config"]);
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(shown.contains("api-key") && !shown.contains("sk-one"), "{shown}");
}

#[test]
fn fresh_keys_are_good_and_hashes_are_those_of_the_file() {
    use std::io::Write as _;
    let cairn = || Command::new(env!("CARGO_BIN_EXE_cairn"));
    let made = cairn().args(["keys", "new", "--name", "fresh"]).output().unwrap();
    assert!(made.status.success());
    let place = Place::new(str::from_utf8(&made.stdout).unwrap());
    let said = String::from_utf8(made.stderr).unwrap();
    let key = said.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(key.starts_with("sk-cairn-"), "{said}");
    let server = place.start(&[]);
    let header = format!("x-api-key: {key}");
    assert_eq!(server.ask("GET", "/v1/models", &[&header], "").status, 200);

    let mut hash = cairn()
        .args(["keys", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    hash.stdin.take().unwrap().write_all(format!("{key}\n").as_bytes()).unwrap();
    let hash = String::from_utf8(hash.wait_with_output().unwrap().stdout).unwrap();
    assert!(std::fs::read_to_string(place.file()).unwrap().contains(hash.trim()), "{hash}");
    let bad = cairn().args(["keys", "new", "--name", "a b"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(bad.stdout.is_empty());
}
