//! Spans of requests: what a collector gets.

#[cfg(not(feature = "otel"))]
#[test]
fn a_build_that_sends_no_traces_says_how_to_get_one_that_does() {
    let folder = tempfile::tempdir().unwrap();
    super::model::write_model(folder.path());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cairn"))
        .arg("serve")
        .arg(folder.path())
        .args(["--port", "0", "--otlp-traces-endpoint", "http://127.0.0.1:4318"])
        .env("CAIRN_STATE_DIR", folder.path().join("state"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error: `--otlp-traces-endpoint` cannot be used: this build"),
        "{stderr}"
    );
    assert!(
        stderr.contains("hint: build with `cargo build --release --features otel`"),
        "{stderr}"
    );
}

#[cfg(feature = "otel")]
mod sent {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::super::client::{CHAT, PATIENCE, post_bytes, user, with_model};
    use super::super::start_server;
    use serde_json::json;

    /// One post: its head, and its body.
    fn post(listener: &TcpListener) -> (String, Vec<u8>) {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(read::<1>(&mut stream)[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.split_once("content-length: ").unwrap().1.split_once('\r').unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        (head, body)
    }

    fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
        let mut bytes = [0; N];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn holds(body: &[u8], part: &[u8]) -> bool {
        body.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn a_collector_gets_a_span_in_the_clients_trace_and_nothing_of_the_prompt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = start_server(&["--otlp-traces-endpoint", &endpoint]);
        let fields = json!({"messages": user("secretword"), "max_tokens": 2});
        let request = post_bytes(CHAT, with_model(&fields).to_string().as_bytes());
        let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        let request = String::from_utf8(request).unwrap();
        let request = request.replacen("host: x\r\n", &format!("host: x\r\n{trace}"), 1);
        assert_eq!(server.connect().exchange(request.as_bytes()).status, 200);

        let (head, body) = post(&listener);
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
        let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
        assert!(holds(&body, &trace_id));
        assert!(holds(&body, &0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()), "the parent");
        for text in [
            "chat tiny",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.response.finish_reasons",
            "gen_ai.latency.time_in_queue",
            "gen_ai.latency.time_in_model_prefill",
            "gen_ai.latency.time_in_model_decode",
        ] {
            assert!(holds(&body, text.as_bytes()), "{text}");
        }
        assert!(!holds(&body, b"secretword"));
    }
}
