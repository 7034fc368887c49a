//! Grammars over small vocabularies, against what they are by definition, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::text::{GgufVocab, Tokenizer};

/// A vocabulary: the bytes, then an end-of-text token, another special token, and these words.
struct Words {
    tokenizer: Tokenizer,
    grammars: GrammarCompiler,
}

const EOS: u32 = 256;
const SPECIAL: u32 = 257;
const FIRST_WORD: u32 = 258;

/// Words that cross the parts of JSON, and two that are bytes as well.
const WORDS: [&str; 24] = [
    "{\"", "\":", "\",\"", "\"}", "},{", "[[", "]]", "tru", "true", "e}", "null", "1.", "-1", "00",
    "ab", "abc", "aba", "ba", "é", "中", "\\\"", "a", "b", ", ",
];

impl Words {
    fn new() -> Self {
        let mut tokens: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut token_types = vec![6; 256];
        tokens.extend(["<|end|>", "<|mark|>"].map(str::to_owned));
        token_types.extend([3, 3]);
        tokens.extend(WORDS.map(|word| word.replace(' ', "▁")));
        token_types.extend([1; WORDS.len()]);
        let vocab = GgufVocab {
            model: "llama".into(),
            scores: Some(vec![0.0; tokens.len()]),
            tokens,
            token_types: Some(token_types),
            add_space_prefix: Some(false),
            eos_token_id: Some(EOS),
            ..GgufVocab::default()
        };
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        // Logits may be wider than the vocabulary.
        let grammars = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size() + 100, &[EOS]);
        Self { grammars: grammars.unwrap(), tokenizer }
    }

    fn num(&self) -> u32 {
        self.tokenizer.vocab_size() as u32
    }

    fn bytes(&self, token_id: u32) -> &[u8] {
        self.tokenizer.token_bytes(token_id).unwrap()
    }

    fn compile(&self, spec: &GrammarSpec) -> Result<Grammar, GrammarError> {
        self.grammars.compile(spec)
    }

    /// Whether a matcher takes a token as it would take its bytes one after the other.
    fn takes_bytes(&self, matcher: &Matcher, token_id: u32) -> bool {
        let mut matcher = matcher.clone();
        let bytes = self.bytes(token_id);
        bytes.iter().enumerate().all(|(idx, &byte)| {
            let is_last = idx + 1 == bytes.len();
            let byte = u32::from(byte);
            matcher.mask().unwrap().allows(byte) && (is_last || !matcher.consume(byte).unwrap())
        })
    }
}

fn choice(choices: &[&str]) -> GrammarSpec {
    GrammarSpec::Choice(choices.iter().map(ToString::to_string).collect())
}

fn schema(text: &str) -> GrammarSpec {
    GrammarSpec::JsonSchema(text.to_owned())
}

#[test]
fn a_token_is_allowed_exactly_if_a_choice_begins_with_the_text_and_it() {
    let words = Words::new();
    let choices = ["abc", "ab", "abab", "中é", "truth", "{\"a\": [[1.00]]}", " ,", "a\\\"\n/"];
    let grammar = words.compile(&choice(&choices)).unwrap();
    let mut open = vec![(Vec::new(), grammar.matcher())];
    let (mut num_states, mut num_complete) = (0, 0);
    while let Some((text, mut matcher)) = open.pop() {
        num_states += 1;
        let mask = matcher.clone().mask().unwrap();
        let is_choice = choices.iter().any(|choice| choice.as_bytes() == text);
        assert_eq!(mask.allows(EOS), is_choice, "{text:?}");
        assert!(
            !mask.allows(SPECIAL) && !mask.allows(words.num()) && !mask.allows(words.num() + 99)
        );
        for token_id in (0..words.num()).filter(|id| ![EOS, SPECIAL].contains(id)) {
            let next = [&text, words.bytes(token_id)].concat();
            let is_begin = choices.iter().any(|choice| choice.as_bytes().starts_with(&next));
            assert_eq!(mask.allows(token_id), is_begin, "{text:?} and {token_id}");
            if is_begin {
                let mut fork = matcher.clone();
                let is_complete = fork.consume(token_id).unwrap();
                let goes_on = choices.iter().any(|choice| {
                    choice.len() > next.len() && choice.as_bytes().starts_with(&next)
                });
                assert_eq!(is_complete, !goes_on, "{next:?}");
                num_complete += usize::from(is_complete);
                if goes_on {
                    open.push((next, fork));
                }
            } else {
                assert!(matcher.clone().consume(token_id).is_err(), "{text:?} and {token_id}");
            }
        }
        if is_choice {
            assert!(matcher.consume(EOS).unwrap());
        }
    }
    assert!(num_states > 50 && num_complete > 10, "{num_states} {num_complete}");
}

const PERSON: &str = r#"{"type": "object", "additionalProperties": false,
    "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "number"}},
        "ab": {"enum": [true, null, "é"]}}, "required": ["a", "ab"]}"#;

fn specs() -> Vec<GrammarSpec> {
    vec![
        GrammarSpec::JsonObject,
        schema(PERSON),
        schema(
            r##"{"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}"##,
        ),
        GrammarSpec::Regex("^(ab|[0-9]{2,3})*é?$".into()),
        GrammarSpec::Lark("start: s\ns: \"(\" s \")\" | \"ab\" s | \"a\"".into()),
        GrammarSpec::Lark(format!("start: \"ab\" %json {PERSON} \"ab\"")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Wherever a text is, a token of several bytes is allowed exactly if its bytes are.
    #[test]
    fn a_token_is_allowed_exactly_if_its_bytes_are(dice in prop::collection::vec(0_usize..1000, 25)) {
        let words = Words::new();
        for spec in specs() {
            let mut matcher = words.compile(&spec).unwrap().matcher();
            for &roll in &dice {
                let mask = matcher.clone().mask().unwrap();
                for token_id in FIRST_WORD..words.num() {
                    prop_assert_eq!(
                        mask.allows(token_id), words.takes_bytes(&matcher, token_id),
                        "{:?} {:?}", spec, token_id
                    );
                }
                let allowed: Vec<u32> =
                    (0..words.num()).filter(|id| *id != EOS && mask.allows(*id)).collect();
                if allowed.is_empty() {
                    break;
                }
                // Words and ends of strings are more interesting than letters.
                let rare: Vec<u32> =
                    allowed.iter().copied().filter(|id| *id > 255 || *id == 34).collect();
                let from = if roll % 3 > 0 && !rare.is_empty() { &rare } else { &allowed };
                if matcher.consume(from[roll % from.len()]).unwrap() {
                    break;
                }
            }
        }
    }
}

/// The bytes of a text, one token each; whether it is complete, and whether it may end.
fn walk(words: &Words, spec: &GrammarSpec, text: &str) -> Option<(bool, bool)> {
    let mut matcher = words.compile(spec).unwrap().matcher();
    let mut is_complete = false;
    for byte in text.bytes().map(u32::from) {
        if is_complete || !matcher.mask().unwrap().allows(byte) {
            return None;
        }
        is_complete = matcher.consume(byte).unwrap();
    }
    Some((is_complete, is_complete || matcher.mask().unwrap().allows(EOS)))
}

#[test]
fn each_kind_of_spec_takes_its_texts_and_no_others() {
    let words = Words::new();
    let (over, may_end, goes_on) = (Some((true, true)), Some((false, true)), Some((false, false)));
    let [object, person, tree, regex, lark, mixed] = &specs()[..] else { panic!() };
    for (spec, text, expected) in [
        (object, "{}", over),
        (object, "{\"x\": [1, {\"y\": null}]}", over),
        (object, "[", None),
        (object, "{\"x\"", goes_on),
        (person, r#"{"a": "é\n", "ab": "é"}"#, over),
        (person, r#"{"a": "", "b": [1, -2.5e3], "ab": true}"#, over),
        (person, r#"{"ab"#, None),
        (person, r#"{"a": "", "c"#, None),
        (person, r#"{"a": 1"#, None),
        (tree, "[[], [[]]]", over),
        (regex, "", may_end),
        (regex, "ab12", may_end),
        (regex, "ab12é", over),
        (regex, "ab1", goes_on),
        (lark, "(aba)", over),
        (lark, "(aba", goes_on),
        (mixed, r#"ab{"a": "", "ab": null}ab"#, over),
        (mixed, r#"ab{"a": "", "c"#, None),
    ] {
        assert_eq!(walk(&words, spec, text), expected, "{spec:?} {text}");
    }
    let blank = format!("{{{}", " ".repeat(65));
    assert_eq!(walk(&words, object, &blank), None, "no endless blank");
    let anchored = GrammarSpec::Regex("^ab$".into());
    assert_eq!(walk(&words, &anchored, "ab"), over);
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let words = Words::new();
    let message = |spec: GrammarSpec| words.compile(&spec).unwrap_err().to_string();
    for (spec, expected) in [
        (choice(&[]), "expected at least one choice, got none"),
        (schema("{"), "the JSON schema is not JSON"),
        (schema("false"), "Unsatisfiable schema"),
        (schema(r#"{"type": "integer", "minimum": 5, "maximum": 1}"#), "minimum (5) is greater"),
        (schema(r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#), "oneOf"),
        (schema(r##"{"$ref": "#"}"##), "no text can follow"),
        (schema(r#"{"pattern": "("}"#), "cannot be compiled"),
        (GrammarSpec::Regex("(".into()), "the regular expression cannot be compiled"),
        (GrammarSpec::Regex("(?=a)".into()), "look-around"),
        (GrammarSpec::Lark("start: nothing".into()), "the grammar cannot be compiled"),
        (GrammarSpec::Lark(String::new()), "the grammar cannot be compiled"),
        (GrammarSpec::Lark("start: %json {\"not\": {}}".into()), "`not` is not supported"),
    ] {
        let got = message(spec.clone());
        assert!(got.contains(expected), "{spec:?}: {got}");
        assert!(
            got.len() < 1000 && !got.contains("<state>") && !got.contains("backtrace"),
            "{got}"
        );
    }
}

/// Each ends in a grammar or in an error; what it takes in time is measured elsewhere.
#[test]
fn hostile_specs_end() {
    let words = Words::new();
    let list = |num: usize, item: &dyn Fn(usize) -> String| {
        (0..num).map(item).collect::<Vec<_>>().join(",")
    };
    let nested = |depth: usize, open: &str, close: &str| {
        format!("{}true{}", open.repeat(depth), close.repeat(depth))
    };
    let enums = list(20_000, &|idx| format!("\"{idx}\""));
    let properties = list(5_000, &|idx| format!("\"p{idx}\":{{}}"));
    let patterns = list(300, &|idx| format!("\"^a{idx}_.*b$\":{{}}"));
    let union = |idx: usize| {
        format!(r#"{{"anyOf":[{{"required":["a{idx}"]}},{{"required":["b{idx}"]}}]}}"#)
    };
    let chain =
        list(12_000, &|idx| format!(r##""a{idx}":{{"items":{{"$ref":"#/$defs/a{}"}}}}"##, idx + 1));
    let doubling: Vec<String> = (0..40).map(|i| format!("T{i}: T{} T{}", i + 1, i + 1)).collect();
    let doubling = doubling.join("\n");
    let cases = [
        ("ok", schema(r#"{"type": "array", "minItems": 1000000000}"#)),
        ("ok", schema(r#"{"type": "string", "minLength": 1000000000}"#)),
        ("ok", schema(r#"{"type": "object", "minProperties": 1000000000}"#)),
        ("ok", schema(&format!(r#"{{"enum": [{enums}]}}"#))),
        ("at most 20000 values", schema(&format!(r#"{{"enum": [{enums}, 1]}}"#))),
        ("properties of one object", schema(&format!(r#"{{"properties": {{{properties}}}}}"#))),
        ("patternProperties", schema(&format!(r#"{{"patternProperties": {{{patterns}}}}}"#))),
        ("combined", schema(&format!(r#"{{"allOf": [{}]}}"#, list(40, &union)))),
        ("5000 levels", schema(&format!(r#"{{"$defs": {{{chain}, "a12000": {{}}}}}}"#))),
        ("recursion limit", schema(&nested(100_000, "[", "]"))),
        ("ok", schema(&nested(120, r#"{"items":"#, "}"))),
        ("bytes of its source", schema(&format!(r#"{{"title": "{}"}}"#, "x".repeat(2_000_000)))),
        ("ok", GrammarSpec::Regex("(a|b)*a(a|b){30}".into())),
        ("ok", GrammarSpec::Regex("((a{1,1000}){1,1000}){1,1000}".into())),
        ("nested brackets", GrammarSpec::Regex(nested(2_000, "(", ")"))),
        ("bytes of a pattern", GrammarSpec::Regex("a?".repeat(40_000))),
        ("nested brackets", GrammarSpec::Lark(format!("start: {}", nested(30_000, "(", ")")))),
        ("too big", GrammarSpec::Lark(format!("start: T0\n{doubling}\nT40: \"a\""))),
        ("at most 20000 choices", GrammarSpec::Choice(vec!["a".into(); 20_001])),
    ];
    for (expected, spec) in cases {
        let shown: String = format!("{spec:?}").chars().take(80).collect();
        match words.compile(&spec) {
            Ok(grammar) => {
                assert_eq!(expected, "ok", "{shown}");
                assert!(grammar.matcher().mask().is_ok(), "{shown}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{shown}: {error}");
                assert!(error.len() < 1000, "{shown}");
            }
        }
    }
}

#[test]
fn equal_specs_are_compiled_once_and_the_oldest_is_forgotten() {
    let words = Words::new();
    let spec = |idx: usize| choice(&[&format!("c{idx}")]);
    for idx in 0..100 {
        words.compile(&spec(idx)).unwrap();
        words.compile(&spec(0)).unwrap();
    }
    assert_eq!(words.grammars.num_cached(), compiler::MAX_CACHED);
    let long = |idx: usize| choice(&[&format!("{idx}{}", "a".repeat(400_000))]);
    for idx in 0..8 {
        words.compile(&long(idx)).unwrap();
    }
    assert!(words.grammars.num_cached() < 10, "bounded by bytes, too");
    let error = words.compile(&choice(&[])).unwrap_err();
    assert_eq!(error, GrammarError::NoChoice);
}

#[test]
fn a_text_that_spends_its_budget_fails_and_the_next_one_starts_afresh() {
    let words = Words::new();
    let spec = GrammarSpec::Regex("[^\\p{L}\\p{N}]{1,30000}(.|\\n){20000}x".into());
    let grammar = words.compile(&spec).unwrap();
    let mut matcher = grammar.matcher();
    let failed = (0..60_000).find_map(|_| {
        let mask = matcher.mask();
        mask.and_then(|mask| {
            assert!(mask.allows(u32::from(b'!')));
            matcher.consume(u32::from(b'!'))
        })
        .err()
    });
    let error = failed.expect("an error").to_string();
    assert!(error.starts_with("the output cannot go on as its grammar wants: "), "{error}");
    assert!(grammar.is_worn(usize::MAX));
    let afresh = words.compile(&spec).unwrap();
    assert!(!afresh.is_worn(usize::MAX) && afresh.matcher().mask().is_ok());
}

#[test]
fn a_model_without_an_end_of_text_has_no_grammars() {
    let words = Words::new();
    let size = words.tokenizer.vocab_size();
    for eos in [&[][..], &[size as u32]] {
        let error = GrammarCompiler::new(&words.tokenizer, size, eos).unwrap_err();
        assert!(matches!(error, GrammarError::Vocabulary(_)));
    }
}
