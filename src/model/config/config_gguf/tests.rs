use std::collections::BTreeMap;

use super::*;

#[derive(Clone)]
enum Field {
    Integer(u64),
    Float(f64),
    Text(&'static str),
}

#[derive(Clone)]
struct Metadata(BTreeMap<String, Field>);

impl MetadataSource for Metadata {
    fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
    fn u64(&self, key: &str) -> Option<u64> {
        match self.0.get(key)? {
            Field::Integer(number) => Some(*number),
            _ => None,
        }
    }
    fn f64(&self, key: &str) -> Option<f64> {
        match self.0.get(key)? {
            Field::Float(number) => Some(*number),
            Field::Integer(number) => Some(*number as f64),
            Field::Text(_) => None,
        }
    }
    fn str(&self, key: &str) -> Option<String> {
        match self.0.get(key)? {
            Field::Text(text) => Some((*text).to_owned()),
            _ => None,
        }
    }
}

impl Metadata {
    /// The sizes of SmolLM2-135M.
    fn of(architecture: &'static str) -> Self {
        let sizes = [
            ("block_count", Field::Integer(30)),
            ("context_length", Field::Integer(8192)),
            ("embedding_length", Field::Integer(576)),
            ("feed_forward_length", Field::Integer(1536)),
            ("attention.head_count", Field::Integer(9)),
            ("attention.head_count_kv", Field::Integer(3)),
            ("rope.freq_base", Field::Float(100_000.0)),
            ("rope.dimension_count", Field::Integer(64)),
            ("attention.layer_norm_rms_epsilon", Field::Float(f64::from(1e-5_f32))),
        ];
        let mut fields: BTreeMap<_, _> = sizes
            .into_iter()
            .map(|(key, field)| (format!("{architecture}.{key}"), field))
            .collect();
        fields.insert("general.architecture".into(), Field::Text(architecture));
        fields.insert("tokenizer.ggml.eos_token_id".into(), Field::Integer(2));
        fields.insert("tokenizer.ggml.bos_token_id".into(), Field::Integer(1));
        Self(fields)
    }

    fn with(mut self, key: &str, field: Field) -> Self {
        self.0.insert(key.to_owned(), field);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.0.remove(key);
        self
    }
}

fn llama() -> Metadata {
    Metadata::of("llama")
}

fn tensors() -> GgufTensorFacts {
    GgufTensorFacts { vocab_size: 49152, ..GgufTensorFacts::default() }
}

fn error(metadata: &Metadata) -> String {
    let config = ModelConfig::from_gguf(metadata, tensors());
    config.unwrap_err().to_string()
}

#[test]
fn the_metadata_of_a_llama_becomes_its_config() {
    let config = ModelConfig::from_gguf(&llama(), tensors()).unwrap();
    assert_eq!(
        config,
        ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_layers: 30,
            num_attention_heads: 9,
            num_kv_heads: 3,
            head_dim: 64,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-5,
            rope: RopeConfig {
                theta: 100_000.0,
                scaling: RopeScaling::None,
                style: RopeStyle::Interleaved,
            },
            tie_word_embeddings: true,
            attention_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_window: vec![None; 30],
            eos_token_ids: vec![2],
            bos_token_id: Some(1),
        }
    );
}

#[test]
fn the_tensors_decide_about_biases_and_the_output() {
    let facts = GgufTensorFacts { has_output_weight: true, has_attention_bias: true, ..tensors() };
    let config = ModelConfig::from_gguf(&Metadata::of("qwen2"), facts).unwrap();
    assert!(!config.tie_word_embeddings && config.attention_bias);
    assert!(!config.attention_output_bias && !config.mlp_bias && !config.qk_norm);
    assert_eq!(config.rope.style, RopeStyle::Halves);
    let config = ModelConfig::from_gguf(&Metadata::of("qwen3"), tensors()).unwrap();
    assert!(config.qk_norm);
}

#[test]
fn rope_scaling_and_frequency_factors_load() {
    let scaling =
        |metadata: &Metadata| ModelConfig::from_gguf(metadata, tensors()).unwrap().rope.scaling;
    let linear = llama()
        .with("llama.rope.scaling.type", Field::Text("linear"))
        .with("llama.rope.scaling.factor", Field::Float(4.0));
    assert_eq!(scaling(&linear), RopeScaling::Linear { factor: 4.0 });
    let old = llama().with("llama.rope.scale_linear", Field::Float(2.0));
    assert_eq!(scaling(&old), RopeScaling::Linear { factor: 2.0 });
    let yarn = llama()
        .with("llama.rope.scaling.type", Field::Text("yarn"))
        .with("llama.rope.scaling.factor", Field::Float(4.0))
        .with("llama.rope.scaling.original_context_length", Field::Integer(2048));
    assert_eq!(
        scaling(&yarn),
        RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 2048,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 0.1 * 4_f64.ln() + 1.0,
            truncate: true,
        }
    );

    let with_factors = |factors: Vec<f32>, metadata: &Metadata| {
        let facts = GgufTensorFacts { frequency_factors: Some(factors), ..tensors() };
        ModelConfig::from_gguf(metadata, facts).map(|config| config.rope.scaling)
    };
    let factors = vec![8.0; 32];
    assert_eq!(
        with_factors(factors.clone(), &llama()).unwrap(),
        RopeScaling::FrequencyFactors(factors.clone())
    );
    for (factors, metadata) in [
        (vec![8.0; 31], llama()),
        (vec![0.0; 32], llama()),
        (vec![f32::NAN; 32], llama()),
        (factors, linear),
    ] {
        assert!(with_factors(factors, &metadata).is_err());
    }
}

#[test]
fn every_end_of_text_stops() {
    let metadata = llama()
        .with("tokenizer.ggml.eot_token_id", Field::Integer(7))
        .with("tokenizer.ggml.eom_token_id", Field::Integer(2));
    let config = ModelConfig::from_gguf(&metadata, tensors()).unwrap();
    assert_eq!(config.eos_token_ids, [2, 7]);
}

#[test]
fn bad_metadata_is_refused_by_key() {
    let table = [
        (
            llama().without("general.architecture"),
            "missing `general.architecture` in GGUF metadata",
        ),
        (
            Metadata::of("gpt2"),
            "unknown architecture `gpt2` in GGUF metadata: supported are llama, qwen2, qwen3",
        ),
        (llama().without("llama.block_count"), "missing `llama.block_count` in GGUF metadata"),
        (
            llama().with("llama.block_count", Field::Integer(u64::MAX)),
            "invalid `llama.block_count` in GGUF metadata: expected an integer from 1 to 4096, got 18446744073709551615",
        ),
        (
            llama().with("llama.embedding_length", Field::Text("576")),
            "invalid `llama.embedding_length` in GGUF metadata: expected an integer from 1 to 1048576, got another type",
        ),
        (
            llama().with("llama.attention.head_count_kv", Field::Integer(4)),
            "invalid `llama.attention.head_count_kv` in GGUF metadata: expected a divisor of `llama.attention.head_count` 9, got 4",
        ),
        (
            llama().with("llama.rope.dimension_count", Field::Integer(32)),
            "invalid `llama.rope.dimension_count` in GGUF metadata: expected 64, the size of a head, got 32",
        ),
        (
            llama().with("llama.rope.freq_base", Field::Float(f64::NAN)),
            "invalid `llama.rope.freq_base` in GGUF metadata: expected a number from 2.0 to 1e18, got NaN",
        ),
        (
            llama().with("llama.attention.layer_norm_rms_epsilon", Field::Float(f64::NAN)),
            "invalid `llama.attention.layer_norm_rms_epsilon` in GGUF metadata: expected a number from 1e-30 to 1.0, got NaN",
        ),
        (
            llama().with("llama.rope.scaling.type", Field::Text("longrope")),
            "invalid `llama.rope.scaling.type` in GGUF metadata: expected none, linear or yarn, got longrope",
        ),
        (
            llama().with("llama.rope.scaling.type", Field::Text("linear")),
            "missing `llama.rope.scaling.factor` in GGUF metadata",
        ),
        (
            llama().with("llama.expert_count", Field::Integer(8)),
            "unsupported `llama.expert_count` in GGUF metadata: a mixture of 8 experts is not implemented",
        ),
        (
            llama().with("tokenizer.ggml.eos_token_id", Field::Integer(1_000_000_000_000)),
            "invalid `tokenizer.ggml.eos_token_id` in GGUF metadata: expected a token id below the 49152 rows of token_embd.weight, got 1000000000000",
        ),
    ];
    for (metadata, message) in table {
        assert_eq!(error(&metadata), message);
    }
    let empty = ModelConfig::from_gguf(&llama(), GgufTensorFacts::default());
    assert!(empty.unwrap_err().to_string().starts_with("invalid `token_embd.weight`"));
}
