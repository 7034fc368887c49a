//! Grammars of calls: what they let through is what the parsers read.

use cairn::text::grammar::{GrammarCompiler, GrammarSpec};
use cairn::text::output_parser::{
    OutputFormat, OutputParser, Piece, ReasoningFormat, RequiredCalls, RequiredTool, ToolFormat,
};
use cairn::text::{Tokenizer, ToolSpec};
use serde_json::{Value, json};

/// A token for each byte, and some markers, which are special tokens or plain ones.
fn tokenizer(markers: &[(&str, bool)]) -> Tokenizer {
    // The byte-level alphabet: printable bytes stand for themselves, others for what follows U+0100.
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let alphabet =
        (0..256_u32).map(|byte| if printable(&byte) { byte } else { others.next().unwrap() });
    let vocab: serde_json::Map<String, Value> = alphabet
        .enumerate()
        .map(|(id, code)| (char::from_u32(code).unwrap().to_string(), json!(id)))
        .collect();
    let mut added = vec![("<eos>", true)];
    added.extend(markers);
    let added: Vec<Value> = added
        .iter()
        .enumerate()
        .map(|(index, (content, special))| {
            json!({"id": 256 + index, "content": content, "special": special, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "post_processor": null, "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false},
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "<eos>"}"#)
        .unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

/// How many bytes of a text the grammar takes, and whether the answer may end there.
fn taken(tokenizer: &Tokenizer, spec: &GrammarSpec, text: &str) -> (usize, bool) {
    let compiler = GrammarCompiler::new(tokenizer, tokenizer.vocab_size(), &[256]).unwrap();
    let mut matcher =
        compiler.compile(spec).unwrap_or_else(|error| panic!("{error}\n{spec:?}")).matcher();
    let mut num_bytes = 0;
    for id in tokenizer.encode(text, false).unwrap() {
        if !matcher.mask().unwrap().allows(id) {
            return (num_bytes, false);
        }
        let is_complete = matcher.consume(id).unwrap();
        num_bytes += tokenizer.token_bytes(id).unwrap().len();
        if is_complete {
            return (num_bytes, num_bytes == text.len());
        }
    }
    (num_bytes, matcher.mask().unwrap().allows(256))
}

fn tools() -> Vec<ToolSpec> {
    let tool = |name: &str, parameters: Value| ToolSpec {
        name: name.to_owned(),
        parameters,
        ..ToolSpec::default()
    };
    let weather = json!({"type": "object", "additionalProperties": false, "required": ["city"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    vec![tool("weather", weather), tool("now", Value::Null)]
}

fn calls_in(format: OutputFormat, text: &str) -> Vec<(String, Value)> {
    let mut parser = OutputParser::new(format, false, 1).with_tools(&tools());
    let mut pieces = Vec::new();
    parser.push(text, &mut pieces);
    parser.finish(&mut pieces);
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::ToolCall { name, .. } => calls.push((name, String::new())),
            Piece::Arguments { json, .. } => calls.last_mut().unwrap().1.push_str(&json),
            Piece::Reasoning(_) => {}
            Piece::Content(text) => panic!("content {text:?}"),
        }
    }
    calls.into_iter().map(|(name, json)| (name, serde_json::from_str(&json).unwrap())).collect()
}

/// A text that calls `weather` with a city and a number of days, and one that calls `now` as well.
fn examples(format: ToolFormat) -> [String; 2] {
    let weather = r#"{"city": "Lyon", "days": 3}"#;
    let named =
        |key: &str, name: &str, json: &str| format!("{{\"name\": \"{name}\", \"{key}\": {json}}}");
    let [one, two] = match format {
        ToolFormat::Hermes => [("weather", weather), ("now", "{}")].map(|(name, json)| {
            format!("<tool_call>\n{}\n</tool_call>", named("arguments", name, json))
        }),
        ToolFormat::Llama3Json => {
            [("weather", weather), ("now", "{}")].map(|(name, json)| named("parameters", name, json))
        }
        ToolFormat::Mistral => {
            [("weather", weather), ("now", "{}")].map(|(name, json)| named("arguments", name, json))
        }
        ToolFormat::DeepSeekV3 => [("weather", weather), ("now", "{}")].map(|(name, json)| {
            format!(
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json}\n```<｜tool▁call▁end｜>"
            )
        }),
        ToolFormat::DeepSeekV31 => [("weather", weather), ("now", "{}")].map(|(name, json)| {
            format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json}<｜tool▁call▁end｜>")
        }),
        ToolFormat::Qwen3Coder => [
            "<parameter=city>\nLyon\n</parameter>\n<parameter=days>\n3\n</parameter>\n",
            "",
        ]
        .map(|parameters| {
            let name = if parameters.is_empty() { "now" } else { "weather" };
            format!("<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
        }),
        ToolFormat::Pythonic => {
            ["weather(days=3, city=\"Lyon\")".to_owned(), "now()".to_owned()]
        }
        other => panic!("{other:?}"),
    };
    let frame = |calls: String| match format {
        ToolFormat::Mistral => format!("[TOOL_CALLS][{calls}]"),
        ToolFormat::Pythonic => format!("[{calls}]"),
        ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekV31 => {
            format!("<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>")
        }
        _ => calls,
    };
    let separator = match format {
        ToolFormat::Mistral | ToolFormat::Pythonic => ", ",
        ToolFormat::Llama3Json => "; ",
        ToolFormat::DeepSeekV31 => "",
        _ => "\n",
    };
    [frame(one.clone()), frame(format!("{one}{separator}{two}"))]
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

#[test]
fn a_grammar_of_calls_takes_what_its_parser_reads() {
    let tools = tools();
    let plain = tokenizer(&[]);
    // The same markers as special tokens.
    let special = tokenizer(&[
        ("<tool_call>", true),
        ("</tool_call>", true),
        ("[TOOL_CALLS]", true),
        ("<｜tool▁calls▁begin｜>", true),
        ("<｜tool▁sep｜>", true),
        ("<｜tool▁call▁end｜>", false),
    ]);
    for format in FORMATS {
        let output = OutputFormat { tools: Some(format), reasoning: None };
        let [one, two] = examples(format);
        let weather = ("weather".to_owned(), json!({"city": "Lyon", "days": 3}));
        assert_eq!(calls_in(output, &one), std::slice::from_ref(&weather));
        assert_eq!(calls_in(output, &two), [weather, ("now".to_owned(), json!({}))]);
        for tokenizer in [&plain, &special] {
            let spec = |choice: &RequiredTool, parallel| {
                let calls = RequiredCalls { tools: &tools, choice, parallel };
                output.grammar_of_calls(&calls, false, tokenizer).unwrap()
            };
            let named = |name: &str| RequiredTool::Named(name.to_owned());
            let any = spec(&RequiredTool::Any, true);
            assert_eq!(taken(tokenizer, &any, &one), (one.len(), true), "{format:?} {any:?}");
            assert_eq!(taken(tokenizer, &any, &two), (two.len(), true), "{format:?} {any:?}");
            let single = spec(&named("weather"), false);
            assert_eq!(taken(tokenizer, &single, &one), (one.len(), true), "{format:?}");
            assert!(!taken(tokenizer, &single, &two).1, "{format:?}: one call only");
            assert!(
                !taken(tokenizer, &spec(&named("now"), false), &one).1,
                "{format:?}: another tool"
            );
            let wrong = one.replace('3', "true");
            assert!(!taken(tokenizer, &single, &wrong).1, "{format:?}: against the schema");
            assert_eq!(taken(tokenizer, &any, "Well").0, 0, "{format:?}: no text");
        }
        let calls = RequiredCalls {
            tools: &tools,
            choice: &RequiredTool::Named("x".into()),
            parallel: true,
        };
        assert_eq!(output.grammar_of_calls(&calls, false, &plain), None);
    }
}

#[test]
fn newer_models_of_mistral_write_names_before_arguments() {
    let tokenizer = tokenizer(&[("[TOOL_CALLS]", true), ("[ARGS]", true)]);
    let tools = tools();
    let output = OutputFormat { tools: Some(ToolFormat::Mistral), reasoning: None };
    let calls = RequiredCalls { tools: &tools, choice: &RequiredTool::Any, parallel: true };
    let spec = output.grammar_of_calls(&calls, false, &tokenizer).unwrap();
    let text = "[TOOL_CALLS]weather[ARGS]{\"city\": \"Lyon\"}[TOOL_CALLS]now[ARGS]{}";
    assert_eq!(taken(&tokenizer, &spec, text), (text.len(), true));
    assert_eq!(calls_in(output, text).len(), 2);
}

#[test]
fn a_thought_may_come_before_what_the_grammar_asks_for() {
    let tools = tools();
    let choice = RequiredTool::Named("now".to_owned());
    let calls = RequiredCalls { tools: &tools, choice: &choice, parallel: false };
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    for tokenizer in [tokenizer(&[]), tokenizer(&[("<think>", true), ("</think>", true)])] {
        let ends = |reasoning, is_open, text: &str| {
            let output =
                OutputFormat { tools: Some(ToolFormat::Hermes), reasoning: Some(reasoning) };
            let spec = output.grammar_of_calls(&calls, is_open, &tokenizer).unwrap();
            taken(&tokenizer, &spec, text).1
        };
        let thought = format!("Hm <b>\n\n</think>\n\n{call}");
        assert!(ends(ReasoningFormat::Qwen3, true, &thought));
        assert!(ends(ReasoningFormat::Qwen3, false, &format!("<think>{thought}")));
        assert!(ends(ReasoningFormat::Qwen3, false, call));
        assert!(ends(ReasoningFormat::DeepSeekR1, true, &thought));
        assert!(ends(ReasoningFormat::DeepSeekR1, true, &format!("<think>{thought}")));
        assert!(!ends(ReasoningFormat::Qwen3, true, call), "the thought is still open");
        let output = OutputFormat { tools: None, reasoning: Some(ReasoningFormat::Qwen3) };
        let spec = output.grammar_of_json(r#"{"type": "integer"}"#, true, &tokenizer);
        assert!(taken(&tokenizer, &spec, "Hm\n</think>\n\n5").1);
        assert!(!taken(&tokenizer, &spec, "Hm\n</think>\n\nfive").1);
    }
}
