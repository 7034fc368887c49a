//! Chat templates against what the reference renders.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn::text::{ChatMessage, ChatTemplate, Conversation, TextError};
use serde_json::{Value, json};

use super::golden;

/// The clock of the goldens: `unix_time` in `chat_templates.json`.
fn golden_clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_770_127_509)
}

fn conversation(value: &Value) -> Vec<ChatMessage> {
    let messages = value.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    messages
        .map(|message| ChatMessage::new(text(&message["role"]), text(&message["content"])))
        .collect()
}

fn render(
    template: &ChatTemplate,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<String, TextError> {
    template.render(&Conversation { add_generation_prompt, ..Conversation::new(messages) })
}

fn user(content: &str) -> Vec<ChatMessage> {
    conversation(&json!([{"role": "user", "content": content}]))
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source.to_owned(), Some("<s>"), None).unwrap()
}

#[test]
fn prompts_equal_the_reference() {
    let golden = golden::read("chat_templates.json");
    assert_eq!(
        golden_clock(),
        UNIX_EPOCH + Duration::from_secs(golden["unix_time"].as_u64().unwrap())
    );
    for case in golden["templates"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap().to_owned();
        let template =
            ChatTemplate::new(source, case["bos"].as_str(), case["eos"].as_str()).unwrap();
        let template = template.with_clock(golden_clock);
        let conversations = golden["conversations"].as_array().unwrap();
        for (messages, rendered) in conversations.iter().zip(case["rendered"].as_array().unwrap()) {
            for (prompt, expected) in [false, true].into_iter().zip(rendered.as_array().unwrap()) {
                let name = format!("{}, {messages}, {prompt}", case["name"]);
                let result = render(&template, &conversation(messages), prompt);
                match (result, expected["text"].as_str(), expected["raised"].as_str()) {
                    (Ok(text), Some(expected), _) => assert_eq!(text, expected, "{name}"),
                    (Err(TextError::Refused(message)), _, Some(expected)) => {
                        assert_eq!(message, expected, "{name}");
                    }
                    (Err(TextError::Template { .. }), None, None) => {}
                    (result, ..) => panic!("{name}: got {result:?}, expected {expected}"),
                }
            }
        }
    }
}

#[test]
fn the_folder_has_a_file_or_a_configured_text_or_a_named_list() {
    let folder = tempfile::tempdir().unwrap();
    let rendered = |path: &Path| {
        let template = ChatTemplate::from_folder(path).unwrap();
        template.map(|template| render(&template, &user("x"), false).unwrap())
    };
    let configure = |config: Value| {
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    };
    assert_eq!(rendered(folder.path()), None);
    configure(json!({"bos_token": "<b>"}));
    assert_eq!(rendered(folder.path()), None);
    configure(json!({"bos_token": "<b>", "chat_template": "text {{ bos_token }}"}));
    assert_eq!(rendered(folder.path()).unwrap(), "text <b>");
    let named = |name: &str| json!([{"name": "tool_use", "template": "t"}, {"name": name, "template": "d"}]);
    configure(json!({"chat_template": named("default")}));
    assert_eq!(rendered(folder.path()).unwrap(), "d");
    configure(json!({"chat_template": named("rag")}));
    assert!(
        ChatTemplate::from_folder(folder.path())
            .unwrap_err()
            .to_string()
            .contains("named `default`")
    );
    std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(rendered(folder.path()).unwrap(), "file");
}

#[test]
fn a_syntax_error_has_its_line() {
    for source in [
        "a\nb\n{% if %}",
        "a\nb\n{{ 'x }}",
        "\n\n{% include 'x' %}",
        "\n\n{% import 'x' as y %}",
        "\n\n{% extends 'x' %}",
    ] {
        match ChatTemplate::new(source.to_owned(), None, None) {
            Err(TextError::Template { line: Some(3), .. }) => {}
            other => panic!("{source:?}: {other:?}"),
        }
    }
}

#[test]
fn work_without_end_and_text_without_end_run_out_of_budget() {
    let sources = [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'a' * 10**10 }}",
        "{% set s = 'a' * 90000000 %}{{ s ~ s ~ s ~ s ~ s ~ s ~ s ~ s ~ s }}",
        "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
        "{% set s = 'a' * 1000000 %}{{ s | replace('a', s) }}",
        "{% set s = 'a' * 1000000 %}{{ s.join(range(99999)) }}",
        "{% set s = 'a' * 1000000 %}{{ range(99999) | join(s) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ '%9999999999d' | format(1) }}",
        "{% set s = '{0}' * 100000 %}{{ s.format('a' * 1000000) }}",
        "{{ 'x' | indent(9999999999) }}",
        "{{ 'x' | center(9999999999) }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(400) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    ];
    for source in sources {
        let start = std::time::Instant::now();
        // A syntax error (a filter that does not exist) would do as well; text would not.
        let result = ChatTemplate::new(source.to_owned(), None, None)
            .and_then(|template| render(&template, &user("x"), false));
        assert!(result.is_err(), "{source}");
        assert!(start.elapsed() < Duration::from_secs(30), "{source}: {:?}", start.elapsed());
    }
}

#[test]
fn there_is_no_way_out_of_the_sandbox() {
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ namespace.__init__.__globals__['os'] }}",
        "{{ open('/etc/passwd').read() }}",
    ] {
        let result = render(&template(source), &user("x"), false);
        assert!(
            result.is_err() || result.as_ref().is_ok_and(String::is_empty),
            "{source}: {result:?}"
        );
    }
}

#[test]
fn contents_are_never_templates_and_are_not_escaped() {
    let nasty = "{{ bos_token }}{% raw %}<b>&'\"\u{0}\n";
    assert_eq!(render(&template("{{ messages[0].content }}"), &user(nasty), false).unwrap(), nasty);
}

#[test]
fn a_long_conversation_fits_the_budget() {
    let golden = golden::read("chat_templates.json");
    let sources = golden["templates"].as_array().unwrap().iter();
    for case in sources
        .filter(|case| ["chatml", "qwen3", "gemma"].contains(&case["name"].as_str().unwrap()))
    {
        let template = template(case["source"].as_str().unwrap());
        let mut messages = Vec::new();
        for _ in 0..2000 {
            messages.extend(conversation(&json!([
                {"role": "user", "content": "x".repeat(1000)},
                {"role": "assistant", "content": "y".repeat(1000)},
            ])));
        }
        assert!(render(&template, &messages, true).unwrap().len() > 4_000_000, "{}", case["name"]);
    }
}
