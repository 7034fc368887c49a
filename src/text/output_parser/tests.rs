//! Parsers against texts of every format, cut in every way.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::{OutputFormat, OutputParser, Piece, ReasoningFormat, ToolFormat};
use crate::text::ToolSpec;

/// What an answer comes to: thought, content, and the calls with their arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Whole {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
    ids: Vec<String>,
}

fn joined(pieces: Vec<Piece>) -> Whole {
    let mut whole = Whole::default();
    for piece in pieces {
        match piece {
            Piece::Reasoning(text) => whole.reasoning += &text,
            Piece::Content(text) => whole.content += &text,
            Piece::ToolCall { index, id, name } => {
                assert_eq!(index, whole.calls.len());
                whole.ids.push(id);
                whole.calls.push((name, String::new()));
            }
            Piece::Arguments { index, json } => {
                assert_eq!(index + 1, whole.calls.len(), "only the last call grows");
                whole.calls[index].1 += &json;
            }
        }
    }
    whole
}

fn weather() -> ToolSpec {
    let parameters = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
        "area": {"type": ["array", "null"]},
    }});
    ToolSpec { name: "weather".to_owned(), parameters, ..ToolSpec::default() }
}

fn parse(format: OutputFormat, is_open: bool, cuts: &[&str]) -> Whole {
    let mut parser = OutputParser::new(format, is_open, 7).with_tools(&[weather()]);
    let mut pieces = Vec::new();
    for text in cuts {
        parser.push(text, &mut pieces);
    }
    parser.finish(&mut pieces);
    joined(pieces)
}

/// Parses the text whole, by character, and in every two halves: all must come out alike.
fn parse_all_ways(format: OutputFormat, is_open: bool, text: &str) -> Whole {
    let whole = parse(format, is_open, &[text]);
    let by_character: Vec<&str> = text.split_inclusive(|_| true).collect();
    assert_eq!(parse(format, is_open, &by_character), whole, "{text:?}");
    for (middle, _) in text.char_indices() {
        let (before, after) = text.split_at(middle);
        assert_eq!(parse(format, is_open, &[before, after]), whole, "{before:?} {after:?}");
    }
    whole
}

fn tools(format: ToolFormat) -> OutputFormat {
    OutputFormat { tools: Some(format), reasoning: None }
}

/// Content, then the calls.
fn check(format: ToolFormat, text: &str, content: &str, calls: &[(&str, &str)]) {
    let whole = parse_all_ways(tools(format), false, text);
    let found: Vec<_> = whole.calls.iter().map(|(name, json)| (&**name, &**json)).collect();
    assert_eq!((&*whole.content, &*found), (content, calls), "{format:?}: {text:?}");
}

const HARD: &str = "{\"city\": \"L}y\\\"on \\u00e9 é 😀 </tool_call> ]; {\", \"n\": [1.5e-3, -0, {\"a\": {\"b\": [[]]}}]}";

#[test]
fn hermes_calls_are_found_between_texts() {
    let format = ToolFormat::Hermes;
    check(format, "", "", &[]);
    check(format, " Hello \n", " Hello \n", &[]);
    check(
        format,
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Lyon\"}}\n</tool_call>",
        "",
        &[("weather", "{\"city\": \"Lyon\"}")],
    );
    check(
        format,
        "Let me see.\n\n<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call>\n<tool_call>\n{\"name\": \"b\", \
         \"arguments\": {\"x\": 1}, \"id\": \"z\"}\n</tool_call>\n",
        "Let me see.",
        &[("a", "{}"), ("b", "{\"x\": 1}")],
    );
    let hard = format!("x<tool_call>{{\"name\": \"f\", \"arguments\": {HARD}}}</tool_call>\ny");
    check(format, &hard, "x\ny", &[("f", HARD)]);
}

#[test]
fn the_keys_of_a_call_may_stand_in_any_order_and_its_arguments_may_be_text() {
    let format = ToolFormat::Hermes;
    let call = |object: &str| format!("<tool_call>{object}</tool_call>");
    check(
        format,
        &call(r#"{"arguments": {"a": "}"}, "name": "f"}"#),
        "",
        &[("f", r#"{"a": "}"}"#)],
    );
    check(
        format,
        &call(r#"{"name": "f", "arguments": "{\"a\": 1}"}"#),
        "",
        &[("f", r#"{"a": 1}"#)],
    );
    check(format, &call(r#"{"name": "f", "arguments": null}"#), "", &[("f", "{}")]);
    check(format, &call(r#"{"name": "f"}"#), "", &[("f", "{}")]);
    check(
        format,
        &call(r#"{"type": "function", "name": "f", "parameters": {}}"#),
        "",
        &[("f", "{}")],
    );
}

#[test]
fn what_is_no_call_is_content() {
    let format = ToolFormat::Hermes;
    for text in [
        "<tool_call>",
        "a <tool_call> b",
        "<tool_call>{\"nam",
        "<tool_call>[1]</tool_call>",
        "<tool_call>{\"result\": 5}</tool_call>",
        "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}, \"nome\": \"f\"}</tool_call>",
        "<tool_call>{\"arguments\": {\"a\"",
        "< tool_call>",
        "<tool_cal",
        "<<tool_cal  ",
        "</tool_call>",
    ] {
        check(format, text, text, &[]);
    }
    check(
        format,
        "<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        "<tool_call>",
        &[("f", "{}")],
    );
    let name = "n".repeat(2000);
    let endless = format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {{}}}}</tool_call>");
    check(format, &endless, &endless, &[]);
}

#[test]
fn a_call_that_is_cut_off_keeps_what_came_of_its_arguments() {
    let head = "<tool_call>{\"name\": \"f\", \"arguments\": ";
    check(ToolFormat::Hermes, &format!("{head}{{\"a\": [1, \"x"), "", &[("f", "{\"a\": [1, \"x")]);
    check(ToolFormat::Hermes, &format!("{head}{{}}"), "", &[("f", "{}")]);
    check(ToolFormat::Hermes, &format!("{head}{{}}}}</tool_"), "", &[("f", "{}")]);
    check(ToolFormat::Hermes, &format!("{head}{{}}</tool_call>b"), "b", &[("f", "{}")]);
}

#[test]
fn line_ends_within_strings_are_escaped() {
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\ny\\\n\"\n}}</tool_call>";
    let whole = parse_all_ways(tools(ToolFormat::Hermes), false, text);
    assert_eq!(whole.calls[0].1, "{\"a\": \"x\\ny\\\n\"\n}");
    let text = "<tool_call>{\"arguments\": {\"a\": \"x\ny\"}, \"name\": \"f\"}</tool_call>";
    check(ToolFormat::Hermes, text, "", &[("f", "{\"a\": \"x\\ny\"}")]);
}

#[test]
fn llama_calls_are_the_whole_answer_or_follow_the_tag() {
    let format = ToolFormat::Llama3Json;
    let call = "{\"name\": \"f\", \"parameters\": {\"a\": \"x; {\"}}";
    let found = ("f", "{\"a\": \"x; {\"}");
    check(format, call, "", &[found]);
    check(format, &format!("\n{call}\n"), "", &[found]);
    check(format, &format!("<|python_tag|>{call}; {call};{call}"), "", &[found, found, found]);
    check(format, &format!("{call}\n{call}"), "", &[found, found]);
    check(format, &format!("Well <|python_tag|>{call}"), "Well", &[found]);
    check(format, "{\"name\": \"f\", \"arguments\": {}}", "", &[("f", "{}")]);
    check(format, &format!("{call}; and"), "; and", &[found]);
    for text in [
        &format!("Well {call}"),
        "{\"a\": 1}",
        "{\"name\": \"Bob\", \"age\": 5}",
        "{\"name\": \"Bob\"}",
        "<|python_tag|>print(1)",
        "{",
        "{}",
    ] {
        check(format, text, text, &[]);
    }
}

#[test]
fn mistral_calls_are_a_list_or_named() {
    let format = ToolFormat::Mistral;
    check(
        format,
        &format!(
            "ok [TOOL_CALLS] [{{\"name\": \"f\", \"arguments\": {HARD}}}, {{\"name\":\"g\",\"arguments\":{{}}}}]"
        ),
        "ok",
        &[("f", HARD), ("g", "{}")],
    );
    check(
        format,
        &format!("[TOOL_CALLS]f[ARGS]{HARD}[TOOL_CALLS]g{{}}"),
        "",
        &[("f", HARD), ("g", "{}")],
    );
    check(format, "[TOOL_CALLS]f[CALL_ID]abc123def[ARGS] {\"a\": 1}", "", &[("f", "{\"a\": 1}")]);
    check(format, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}", "", &[("f", "{}")]);
    check(format, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]!", "!", &[("f", "{}")]);
    for text in
        ["[TOOL_CALLS]", "[TOOL_CALLS]f(1)", "[TOOL_CALLS][]", "[TOOL_CALLS][ARGS]{}", "[TOOL"]
    {
        check(format, text, text, &[]);
    }
    let ids = parse(tools(format), false, &["[TOOL_CALLS]f{}[TOOL_CALLS]g{}"]).ids;
    assert!(ids.iter().all(|id| id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric())));
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn deepseek_calls_stand_between_markers() {
    for format in [ToolFormat::DeepSeekV3, ToolFormat::DeepSeekV31] {
        let mut text = "Sure.\n<｜tool▁calls▁begin｜>".to_owned();
        for name in ["f", "g"] {
            write!(
                text,
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{HARD}\n```<｜tool▁call▁end｜>\n"
            )
            .unwrap();
        }
        text += "<｜tool▁calls▁end｜>";
        check(format, &text, "Sure.", &[("f", HARD), ("g", HARD)]);
        let text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>\
                    <｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜> x";
        check(format, text, " x", &[("f", "{\"a\": 1}"), ("g", "{}")]);
        let text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\nnothing";
        check(format, text, text, &[]);
    }
}

#[test]
fn tagged_arguments_get_the_types_of_the_schema() {
    let text = "Now\n<tool_call>\n<function=weather>\n<parameter=city>\n5 \"é\"\n<b>\n</parameter>\n\
                <parameter=days>\n5\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n<parameter=area>[1]\
                </parameter><parameter=other>7</parameter>\n</function>\n</tool_call>";
    let json = r#"{"city": "5 \"é\"\n<b>", "days": 5, "exact": true, "area": [1], "other": "7"}"#;
    check(ToolFormat::Qwen3Coder, text, "Now", &[("weather", json)]);
    let empty =
        "<tool_call><function=f></function></tool_call><tool_call><function=f></tool_call>.";
    check(ToolFormat::Qwen3Coder, empty, ".", &[("f", "{}"), ("f", "{}")]);
    let cut = "<tool_call><function=weather><parameter=days>five";
    check(ToolFormat::Qwen3Coder, cut, "", &[("weather", "{\"days\": \"five\"")]);
}

#[test]
fn pythonic_calls_are_a_list_of_calls() {
    let text =
        "[f(a=\"x)]'\\n\\u00e9\", b=[1, 2.5, -3], c={'k': (True, None)}, d='it\\'s',), g.h()]";
    let json = r#"{"a": "x)]'\né", "b": [1, 2.5, -3], "c": {"k": [true, null]}, "d": "it's"}"#;
    check(ToolFormat::Pythonic, text, "", &[("f", json), ("g.h", "{}")]);
    for text in ["[1, 2]", "[f(1)]", "[f(a=b)]", "[f(a=", "Look: [f()]", "[f(a='\\ud800')]"] {
        check(ToolFormat::Pythonic, text, text, &[]);
    }
    let deep = format!("[f(a={}1{})]", "[".repeat(500), "]".repeat(500));
    check(ToolFormat::Pythonic, &deep, &deep, &[]);
}

fn thoughts(format: ReasoningFormat, is_open: bool, text: &str) -> (String, String) {
    let format = OutputFormat { tools: Some(ToolFormat::Hermes), reasoning: Some(format) };
    let whole = parse_all_ways(format, is_open, text);
    assert!(whole.calls.is_empty());
    (whole.reasoning, whole.content)
}

#[test]
fn thoughts_are_told_apart_from_the_answer() {
    let pair = |thought: &str, answer: &str| (thought.to_owned(), answer.to_owned());
    let qwen = |text| thoughts(ReasoningFormat::Qwen3, false, text);
    let open = |text| thoughts(ReasoningFormat::DeepSeekR1, true, text);
    assert_eq!(qwen("<think>\nHm <b>\n\n</think>\n\nYes.\n"), pair("Hm <b>", "Yes.\n"));
    assert_eq!(qwen("\n<think>\n\n</think>\n\nYes"), pair("", "Yes"));
    assert_eq!(qwen(" Yes <think>no</think>"), pair("", " Yes <think>no</think>"));
    assert_eq!(qwen("<thin"), pair("", "<thin"));
    assert_eq!(qwen("<think>Hm </thi"), pair("Hm </thi", ""));
    assert_eq!(open("Hm </think> Yes"), pair("Hm", "Yes"));
    assert_eq!(open("<think> Hm \n</think>Yes</think>"), pair("Hm", "Yes</think>"));
    assert_eq!(open("<thi Hm \n"), pair("<thi Hm", ""));
    assert_eq!(open(" \n"), pair("", ""));
    assert_eq!(thoughts(ReasoningFormat::Mistral, false, "[THINK]a[/THINK]b"), pair("a", "b"));
    assert_eq!(open("</think>Yes"), pair("", "Yes"));
}

#[test]
fn a_call_in_a_thought_is_thought_and_one_after_it_is_a_call() {
    let format =
        OutputFormat { tools: Some(ToolFormat::Hermes), reasoning: Some(ReasoningFormat::Qwen3) };
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let whole = parse_all_ways(format, true, &format!("a {call}</think>\n\n{call}"));
    assert_eq!(whole.reasoning, format!("a {call}"));
    assert_eq!((whole.content, whole.calls.len()), (String::new(), 1));
}

#[test]
fn text_waits_only_while_it_may_be_a_marker() {
    let mut parser = OutputParser::new(tools(ToolFormat::Hermes), false, 0);
    let mut shown = |text: &str| {
        let mut pieces = Vec::new();
        parser.push(text, &mut pieces);
        pieces
    };
    let content = |text: &str| vec![Piece::Content(text.to_owned())];
    assert_eq!(shown("a b"), content("a b"));
    assert_eq!(shown(" \n<tool"), vec![]);
    assert_eq!(shown("s "), content(" \n<tools"));
    assert_eq!(shown("c<tool_call>{\"name\": \"f\", \"arguments\":"), content(" c"));
    let id = "call_0eyJkyjsJU6CvAbOuKr2kuoK".len();
    match &shown(" {")[..] {
        [Piece::ToolCall { index: 0, id: got, name }, Piece::Arguments { index: 0, json }] => {
            assert_eq!((got.len(), &**name, &**json), (id, "f", "{"));
        }
        other => panic!("{other:?}"),
    }
    let arguments = |json: &str| vec![Piece::Arguments { index: 0, json: json.to_owned() }];
    assert_eq!(shown("\"a\": \"<"), arguments("\"a\": \"<"));
    assert_eq!(shown("/tool_call>\"}"), arguments("/tool_call>\"}"));
    assert_eq!(shown("}</tool_call>"), vec![]);
}

#[test]
fn names_of_parsers_are_those_of_vllm() {
    assert_eq!("hermes".parse(), Ok(ToolFormat::Hermes));
    assert_eq!("llama3_json".parse(), Ok(ToolFormat::Llama3Json));
    assert_eq!("deepseek_r1".parse(), Ok(ReasoningFormat::DeepSeekR1));
    let error = "hermés".parse::<ToolFormat>().unwrap_err().to_string();
    assert!(error.starts_with("unknown tool call parser `hermés` (known: hermes, "), "{error}");
}

#[test]
fn templates_tell_their_format() {
    use {ReasoningFormat as R, ToolFormat as T};

    let detect = |source| {
        let format = OutputFormat::detect(source);
        (format.tools, format.reasoning)
    };
    assert_eq!(detect("{{ messages }}"), (None, None));
    assert_eq!(detect("<tool_call>{{ x }}"), (Some(T::Hermes), None));
    assert_eq!(detect("<tool_call>..'</think>'"), (Some(T::Hermes), Some(R::Qwen3)));
    assert_eq!(detect("<tool_call><function="), (Some(T::Qwen3Coder), None));
    assert_eq!(detect("[TOOL_CALLS] [THINK]"), (Some(T::Mistral), Some(R::Mistral)));
    assert_eq!(detect("<|python_tag|>"), (Some(T::Llama3Json), None));
    let deepseek = "<｜Assistant｜><｜tool▁call▁begin｜>```json</think>";
    assert_eq!(detect(deepseek), (Some(T::DeepSeekV3), Some(R::DeepSeekR1)));
    assert!(R::DeepSeekR1.starts_in_reasoning("<｜Assistant｜>"));
    assert!(!R::DeepSeekR1.starts_in_reasoning("<｜Assistant｜></think>\n"));
    assert!(R::Qwen3.starts_in_reasoning("<|im_start|>assistant\n<think>\n"));
    assert!(!R::Qwen3.starts_in_reasoning("<think>\n\n</think>\n\n"));
}

const FORMATS: [ToolFormat; 7] = [
    ToolFormat::Hermes,
    ToolFormat::Llama3Json,
    ToolFormat::Mistral,
    ToolFormat::DeepSeekV3,
    ToolFormat::DeepSeekV31,
    ToolFormat::Qwen3Coder,
    ToolFormat::Pythonic,
];

/// How a model of that format writes a call of `f` with those arguments.
fn written(format: ToolFormat, json: &str) -> String {
    match format {
        ToolFormat::Hermes => {
            format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {json}}}\n</tool_call>")
        }
        ToolFormat::Llama3Json => {
            format!("<|python_tag|>{{\"name\": \"f\", \"parameters\": {json}}}")
        }
        ToolFormat::Mistral => format!("[TOOL_CALLS]f[ARGS]{json}"),
        ToolFormat::DeepSeekV3 => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{json}\n```\
             <｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        _ => format!("<｜tool▁call▁begin｜>f<｜tool▁sep｜>{json}<｜tool▁call▁end｜>"),
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|fact| json!(fact)),
        any::<i32>().prop_map(|number| json!(number)),
        "[a-z{}\\[\\]\"\\\\<>/é\n ;,]{0,12}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::btree_map("[a-z}\"]{0,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// Fragments of all formats, in any order: calls, half calls, and text.
fn any_soup() -> impl Strategy<Value = String> {
    let fragments = vec![
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"f\", \"arguments\": ",
        "{\"arguments\": ",
        "{}",
        "}",
        "{\"a\": \"x",
        "\"",
        "\\",
        "[TOOL_CALLS]",
        "[",
        "]",
        "f[ARGS]",
        "{",
        "<|python_tag|>",
        ";",
        ", ",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "function<｜tool▁sep｜>f\n```json\n",
        "\n```",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<function=f>",
        "<parameter=a>",
        "</parameter>",
        "</function>",
        "f(a=1",
        ")",
        "'",
        "<think>",
        "</think>",
        " ",
        "\n",
        "é",
        "text",
        "<",
        "\"name\": \"f\"",
    ];
    prop::collection::vec(prop::sample::select(fragments), 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_any_text_comes_to_the_same(
        text in any_soup(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        is_open: bool,
    ) {
        let mut places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        places.push(text.len());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&places)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        for tools in FORMATS {
            for reasoning in [None, Some(ReasoningFormat::Qwen3)] {
                let format = OutputFormat { tools: Some(tools), reasoning };
                let whole = parse(format, is_open, &[&text]);
                prop_assert_eq!(parse(format, is_open, &parts), whole);
            }
        }
    }

    #[test]
    fn calls_with_any_arguments_are_read_as_they_were_written(
        arguments in prop::collection::btree_map("[a-z}\"]{0,4}", any_json(), 0..4),
        before in "[a-z <\\[{é]{0,8}[a-z]",
        count in 1_usize..4,
    ) {
        let json = json!(arguments).to_string();
        for format in &FORMATS[..5] {
            let call = written(*format, &json);
            let separator = if *format == ToolFormat::Llama3Json { ";" } else { "" };
            let calls = vec![call.clone(); count].join(separator);
            let calls = calls.replace(";<|python_tag|>", ";");
            let whole = parse(tools(*format), false, &[&before, "\n", &calls]);
            prop_assert_eq!(&whole.content, &before);
            prop_assert_eq!(whole.calls, vec![("f".to_owned(), json.clone()); count]);
        }
    }
}
