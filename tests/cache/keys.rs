//! What gives a graph another key, and what does not.
//!
//! | Change | Key |
//! | --- | --- |
//! | names of values, weights and graphs; order of the backend's fields; where a model lies, the order of its files' content | the same |
//! | anything that a graph computes with, sizes of a bucket, a field of the backend | another |
//!
//! `tests/golden/keys.json` holds keys of small models, so that none changes by accident: whoever
//! has warmed a cache up compiles all of it again.
//!
//! That canonical bytes see every single change of a graph is tested beside them; here it is about
//! what becomes of a graph on its way to a key.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cairn::backend::compile::{CompileError, Compiler};
use cairn::backend::{
    Artifact, Backend, BackendError, Capabilities, Executable, Files, Memory, StateSpec, Weight,
};
use cairn::ir::{Graph, SymbolId, Verified, text};
use cairn::model::{Model, WeightPolicy};
use cairn_graph_cache::{CacheKey, GraphCache};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use super::deployment::Deployment;
use super::deployment::model::{Tiny, Tokens};
use super::random_graph::{Kind, random_graph};

/// A backend of which only the key is asked.
#[derive(Clone, Debug)]
struct Fake {
    name: &'static str,
    fingerprint: Vec<(&'static str, &'static str)>,
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self, _: &Graph) -> Capabilities {
        Capabilities::ANY
    }

    fn fingerprint(&self) -> Vec<(Cow<'static, str>, String)> {
        let field = |&(name, value): &(&'static str, &str)| (name.into(), value.to_owned());
        self.fingerprint.iter().map(field).collect()
    }

    fn compile(&self, _: &Verified<Graph>) -> Result<Artifact, BackendError> {
        unreachable!("a key needs no artifact")
    }

    fn load(&self, _: &Files<'_>) -> Result<Box<dyn Executable>, BackendError> {
        unreachable!("a key needs no artifact")
    }

    fn place(&self, _: Vec<Weight>, _: &[StateSpec]) -> Result<Box<dyn Memory>, BackendError> {
        unreachable!("a key needs no memory")
    }
}

fn fake() -> Fake {
    Fake { name: "fake", fingerprint: vec![("soc", "B3"), ("compiler", "8.3"), ("options", "-a")] }
}

/// The key of a graph, and the text of what is compiled, without its names.
fn keyed(
    backend: Fake,
    graph: &Graph,
    bucket: &[(SymbolId, u64)],
) -> Result<(CacheKey, String), CompileError> {
    let compiler = Compiler::new(Arc::new(backend), GraphCache::in_memory("tests"));
    let prepared = compiler.prepare(graph, bucket, "test")?;
    let text = with_names(&prepared.graph.to_string(), |_| String::new());
    Ok((prepared.key(), text))
}

fn key(graph: &Graph) -> CacheKey {
    keyed(fake(), graph, &[]).unwrap().0
}

/// The text of a graph with other names. Those of symbols stay: they are the engine's words for the
/// sizes of a bucket, and are read beside an artifact.
fn with_names(text: &str, mut name: impl FnMut(usize) -> String) -> String {
    let mut renamed = String::new();
    let mut count = 0;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while let Some(start) = rest.find('"').filter(|_| !line.starts_with("symbol ")) {
            let mut names =
                serde_json::Deserializer::from_str(&rest[start..]).into_iter::<String>();
            names.next().unwrap().unwrap();
            renamed.push_str(&rest[..start]);
            renamed.push_str(&json!(name(count)).to_string());
            count += 1;
            rest = &rest[start + names.byte_offset()..];
        }
        renamed.push_str(rest);
    }
    renamed
}

/// A graph that a failing property prints as text.
#[derive(Clone)]
struct Shown(Graph);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}", self.0)
    }
}

fn graphs() -> impl Strategy<Value = Shown> {
    proptest::collection::vec(any::<u32>(), 0..80)
        .prop_map(|choices| Shown(random_graph(Kind::Anything, &choices)))
}

/// The graphs of models that are as small as can be, one of each family.
fn model_graphs() -> Vec<Graph> {
    ["llama", "mistral-window", "qwen2", "qwen3"]
        .map(|name| {
            let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
            let model = Model::open(&models.join(name), WeightPolicy::AsStored).unwrap();
            model.graph(16).unwrap()
        })
        .into()
}

const TYPES: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "i32"];

/// Texts that differ from the given one by a number, a type or an operand. Most are no graphs: only
/// the rules of the IR know which.
fn changed_texts(text: &str) -> Vec<String> {
    // Nothing within these names looks like a number or a type.
    let text = with_names(text, |idx| format!("n{idx}"));
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let bytes = text.as_bytes();
    let mut changed = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + bytes[at..].iter().take_while(|&&byte| is_word(byte)).count();
        if end == at {
            at += 1;
            continue;
        }
        let word = &text[at..end];
        let others: Vec<String> = if let Ok(number) = word.parse::<u64>() {
            vec![(number + 1).to_string(), number.saturating_sub(1).to_string()]
        } else if let Ok(number) = word.parse::<f32>() {
            vec![(number * 2.0).to_string()]
        } else if TYPES.contains(&word) {
            TYPES.map(str::to_owned).into()
        } else {
            Vec::new()
        };
        let others = others.into_iter().filter(|other| other != word);
        changed.extend(others.map(|other| format!("{}{other}{}", &text[..at], &text[end..])));
        at = end;
    }
    changed
}

/// The graph of a text, and its key, if it is one.
fn parsed(text: &str) -> Option<(CacheKey, String)> {
    keyed(fake(), &text::parse(text).ok()?, &[]).ok()
}

#[test]
fn every_change_of_a_model_that_leaves_a_graph_gives_another_key() {
    for graph in model_graphs() {
        let (key, nameless) = keyed(fake(), &graph, &[]).unwrap();
        let mut keys = HashSet::from([key]);
        for changed in changed_texts(&graph.to_string()) {
            let Some((other, other_nameless)) = parsed(&changed) else { continue };
            assert_eq!(key == other, nameless == other_nameless, "{changed}");
            keys.insert(other);
        }
        assert!(keys.len() > 50, "{}: only {} keys", graph.name(), keys.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_are_no_part_of_a_key(Shown(graph) in graphs(), prefix in ".{0,6}", at in any::<Index>()) {
        // Graphs of models, and random ones.
        let mut models = model_graphs();
        for graph in [models.swap_remove(at.index(models.len())), graph] {
            // Names bind weights to tensors: two that were one tensor must stay so, or be none.
            let text = with_names(&graph.to_string(), |idx| format!("{prefix}{idx}"));
            let renamed = text::parse(&text).unwrap();
            prop_assert_eq!(key(&renamed), key(&graph));
        }
    }

    #[test]
    fn a_key_is_another_exactly_when_another_graph_is_compiled(
        Shown(graph) in graphs(), picks in proptest::collection::vec(any::<Index>(), 20),
    ) {
        let (key, nameless) = keyed(fake(), &graph, &[]).unwrap();
        let changed = changed_texts(&graph.to_string());
        for pick in picks {
            let text = &changed[pick.index(changed.len())];
            if let Some((other, other_nameless)) = parsed(text) {
                prop_assert_eq!(key == other, nameless == other_nameless, "{}", text);
            }
        }
    }
}

#[test]
fn every_size_of_a_bucket_gives_a_key_of_its_own() {
    let graph = model_graphs().swap_remove(0);
    let mut keys = HashSet::from([key(&graph)]);
    let num_symbols = graph.symbols().len() as u32;
    for id in (0..num_symbols).map(SymbolId) {
        let symbol = &graph.symbols()[id.0 as usize];
        for size in [symbol.min, symbol.min + 1, symbol.max] {
            let (key, _) = keyed(fake(), &graph, &[(id, size)]).unwrap();
            assert!(keys.insert(key), "{} = {size} has the key of another", symbol.name);
        }
    }
    assert_eq!(keys.len() as u32, 1 + 3 * num_symbols);
}

#[test]
fn every_field_of_a_backend_is_in_the_key_but_not_their_order() {
    let graph = model_graphs().swap_remove(0);
    let key_with = |change: &dyn Fn(&mut Fake)| {
        let mut backend = fake();
        change(&mut backend);
        keyed(backend, &graph, &[]).unwrap().0
    };
    assert_eq!(key_with(&|backend| backend.fingerprint.reverse()), key(&graph));
    let mut keys = HashSet::from([key(&graph)]);
    assert!(keys.insert(key_with(&|backend| backend.name = "other")));
    for idx in 0..fake().fingerprint.len() {
        assert!(keys.insert(key_with(&|backend| backend.fingerprint[idx].1 = "other")));
        assert!(keys.insert(key_with(&|backend| backend.fingerprint[idx].0 = "other")));
        assert!(keys.insert(key_with(&|backend| {
            backend.fingerprint.remove(idx);
        })));
    }
    assert!(keys.insert(key_with(&|backend| backend.fingerprint.push(("soc", "B3")))));
}

#[test]
fn the_types_of_weights_and_the_size_of_blocks_are_in_the_key() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    let mut keys = HashSet::new();
    for policy in [WeightPolicy::AsStored, WeightPolicy::F16, WeightPolicy::BF16] {
        for block_size in [16, 32] {
            let model = Model::open(&models.join("llama"), policy).unwrap();
            assert!(keys.insert(key(&model.graph(block_size).unwrap())));
        }
    }
    // It is stored as f32.
    let model = Model::open(&models.join("llama"), WeightPolicy::F32).unwrap();
    assert!(!keys.insert(key(&model.graph(16).unwrap())));
}

/// The keys that a warm-up looks for: of the request, and of each graph by its bucket.
fn keys_of(deployment: &Deployment, flags: &[&str]) -> Value {
    let own = ["warmup", "model", "--verify", "--json", "--backend", "null", "--no-cache"];
    let report = deployment.json(&[&own[..], flags].concat());
    let graphs = report["graphs"].as_array().unwrap().iter();
    let graphs: Map<String, Value> = graphs
        .map(|graph| (graph["bucket"].as_str().unwrap().to_owned(), graph["key"].clone()))
        .collect();
    json!({"request": report["request"], "graphs": graphs})
}

#[test]
fn the_order_of_what_a_models_files_hold_means_nothing() {
    let deployment = Deployment::new();
    let before = keys_of(&deployment, &[]);
    let config = deployment.path("model/config.json");
    let value: Map<String, Value> = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let reversed: Map<String, Value> = value.into_iter().rev().collect();
    fs::write(&config, json!(reversed).to_string()).unwrap();

    let weights = deployment.path("model/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, values) = rest.split_at(length);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let reversed: Map<String, Value> = header.into_iter().rev().collect();
    let mut header = json!(reversed).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&weights, [&length[..], header.as_bytes(), values].concat()).unwrap();
    assert_eq!(keys_of(&deployment, &[]), before);
}

#[test]
fn what_decides_about_no_graph_is_not_in_the_request() {
    let deployment = Deployment::new();
    let before = keys_of(&deployment, &[]);
    for flags in [
        &["--threads", "1"][..],
        &["--device", "3"],
        &["--log-level", "error"],
        &["--cache-lock-timeout", "3"],
    ] {
        assert_eq!(keys_of(&deployment, flags), before, "{flags:?}");
    }
}

#[test]
fn what_decides_about_graphs_is_in_the_request() {
    let deployment = Deployment::new();
    let request = |flags: &[&str]| keys_of(&deployment, flags)["request"].to_string();
    let mut requests = HashSet::from([request(&[])]);
    for flags in [
        &["--max-model-len", "100"][..],
        &["--max-num-seqs", "3"],
        &["--max-num-batched-tokens", "7"],
        &["--kv-cache-bytes", "1MiB"],
        &["--block-size", "32"],
        &["--dtype", "bf16"],
        &["--static-shapes"],
    ] {
        assert!(requests.insert(request(flags)), "{flags:?}");
    }
    let of_cpu = deployment.json(&["warmup", "model", "--verify", "--json", "--no-cache"]);
    assert!(requests.insert(of_cpu["request"].to_string()));
    for (name, value) in [
        ("rms_norm_eps", json!(1e-3)),
        ("rope_parameters", json!({"rope_theta": 5e5, "rope_type": "default"})),
    ] {
        let path = deployment.path("model/config.json");
        let before = fs::read(&path).unwrap();
        let mut config: Value = serde_json::from_slice(&before).unwrap();
        config[name] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert!(requests.insert(request(&[])), "{name}");
        fs::write(&path, before).unwrap();
    }
}

const SMALL: [&str; 5] =
    ["--static-shapes", "--max-num-seqs", "4", "--max-num-batched-tokens", "16"];

/// Small models and settings whose keys are written down.
const GOLDEN: [(&str, &[&str]); 7] = [
    ("llama", &[]),
    ("llama", &["--dtype", "bf16"]),
    ("llama", &SMALL),
    ("llama-bf16", &[]),
    ("mistral-window", &[]),
    ("qwen2", &[]),
    ("qwen3", &SMALL),
];

#[test]
fn keys_change_on_purpose_only() {
    let mut keys = BTreeMap::new();
    for (golden, flags) in GOLDEN {
        let tiny = Tiny { golden, tokens: Tokens::Bytes, config: &[] };
        let deployment = Deployment::with_model(|folder| tiny.write(folder));
        let name = [&[golden], flags].concat().join(" ");
        keys.insert(name, keys_of(&deployment, flags));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keys.json");
    let text = format!("{:#}\n", json!(keys));
    if std::env::var_os("CAIRN_WRITE_GOLDEN_KEYS").is_some() {
        return fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "keys of compiled graphs have changed: everybody compiles them again. If that is what was \
         meant, write the new ones with\n\n    CAIRN_WRITE_GOLDEN_KEYS=1 cargo test --test cache \
         keys_change_on_purpose_only\n\nand look at the difference: a change of the version \
         changes requests only, a change of one family only that one.\n\nexpected {expected}\ngot \
         {text}"
    );
}
