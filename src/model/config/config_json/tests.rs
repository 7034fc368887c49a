use serde_json::{Value, json};

use super::*;

/// A config with the keys of Transformers 4, as small as it may be.
fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    })
}

/// The base with some keys replaced.
fn with(changes: Value) -> Value {
    let mut config = base();
    let fields = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        fields.insert(key.clone(), value.clone());
    }
    config
}

fn read(config: &Value) -> Result<ModelConfig> {
    ModelConfig::from_json(config.to_string().as_bytes(), None)
}

fn error(changes: Value) -> String {
    read(&with(changes)).unwrap_err().to_string()
}

fn scaling(changes: Value) -> RopeScaling {
    read(&with(changes)).unwrap().rope.scaling
}

#[test]
fn absent_keys_have_the_defaults_of_the_reference() {
    let config = read(&base()).unwrap();
    assert_eq!(
        config,
        ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 320,
            hidden_size: 64,
            intermediate_size: 96,
            num_layers: 2,
            num_attention_heads: 4,
            num_kv_heads: 4,
            head_dim: 16,
            max_position_embeddings: 256,
            rms_norm_eps: 1e-6,
            rope: RopeConfig {
                theta: 10_000.0,
                scaling: RopeScaling::None,
                style: RopeStyle::Halves,
            },
            tie_word_embeddings: false,
            attention_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_window: vec![None, None],
            eos_token_ids: vec![2],
            bos_token_id: Some(1),
        }
    );
}

#[test]
fn every_golden_checkpoint_loads_and_both_key_styles_mean_the_same() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    let (mut num_configs, mut num_v4) = (0, 0);
    for entry in std::fs::read_dir(golden).unwrap() {
        let folder = entry.unwrap().path();
        let generation = std::fs::read(folder.join("generation_config.json")).unwrap();
        let load = |name| {
            let text = std::fs::read(folder.join(name)).ok()?;
            let config = ModelConfig::from_json(&text, Some(&generation));
            Some(config.unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
        };
        let v5 = load("config.json").unwrap();
        assert_eq!(v5.eos_token_ids, [2]);
        num_configs += 1;
        if let Some(v4) = load("config.v4.json") {
            assert_eq!(v4, v5, "{}", folder.display());
            num_v4 += 1;
        }
    }
    assert!(num_configs >= 12 && num_v4 >= 6, "{num_configs} {num_v4}");
}

#[test]
fn each_architecture_has_its_own_options() {
    let qwen2 = read(&with(json!({"architectures": ["Qwen2ForCausalLM"]}))).unwrap();
    assert!(qwen2.attention_bias && !qwen2.attention_output_bias && !qwen2.qk_norm);
    assert_eq!((qwen2.bos_token_id, qwen2.eos_token_ids), (None, vec![]));

    let options = json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": true});
    let qwen3 = read(&with(options)).unwrap();
    assert!(qwen3.attention_bias && qwen3.attention_output_bias && qwen3.qk_norm);
    assert_eq!(qwen3.head_dim, 128);

    let options = json!({"architectures": ["MistralForCausalLM"], "attention_bias": true});
    let mistral = read(&with(options)).unwrap();
    assert!(!mistral.attention_bias && !mistral.attention_output_bias);

    let options = json!({"attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true});
    let llama = read(&with(options)).unwrap();
    assert!(llama.attention_bias && llama.attention_output_bias && llama.mlp_bias);
    assert!(llama.tie_word_embeddings);
}

#[test]
fn without_architectures_the_model_type_decides() {
    let of = |changes| read(&with(changes)).unwrap().architecture;
    for architectures in [json!(null), json!([])] {
        let changes = json!({"architectures": architectures, "model_type": "qwen3"});
        assert_eq!(of(changes), Architecture::Qwen3);
    }
    let changes = json!({"architectures": null});
    assert_eq!(error(changes), "missing `architectures` in config.json");
}

#[test]
fn an_unknown_architecture_lists_the_supported_ones() {
    let supported = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";
    assert_eq!(
        error(json!({"architectures": ["GPT2LMHeadModel"], "auto_map": {"AutoModel": "x.Y"}})),
        format!("unknown architecture `GPT2LMHeadModel` in config.json: supported are {supported}")
    );
    assert_eq!(
        error(json!({"architectures": [], "model_type": "gpt2"})),
        "unknown architecture `gpt2` in config.json: supported are llama, mistral, qwen2, qwen3"
    );
    let long = error(json!({"architectures": ["x".repeat(1 << 20) + "\n"]}));
    assert!(long.len() < 256, "{long}");
    for names in [json!("LlamaForCausalLM"), json!([1])] {
        let message = error(json!({"architectures": names}));
        assert!(message.contains("expected a list of strings"), "{message}");
    }
}

#[test]
fn code_of_the_checkpoint_is_ignored() {
    let changes = json!({"auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"}});
    assert_eq!(read(&with(changes)).unwrap(), read(&base()).unwrap());
}

#[test]
fn every_absurd_size_is_refused_by_name() {
    let sizes = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ];
    let values = [
        json!(0),
        json!(-1),
        json!(64.5),
        json!(64.0),
        json!("64"),
        json!([64]),
        json!({}),
        json!(true),
        json!(2_000_000_000),
        json!(1_u64 << 40),
        json!(1_u64 << 62),
        json!(u64::MAX),
        json!(1e30),
    ];
    for key in sizes {
        for value in &values {
            let message = error(json!({key: value}));
            let start = format!("invalid `{key}` in config.json: expected an integer from 1 to ");
            assert!(message.starts_with(&start), "{key} {value}: {message}");
        }
    }
    assert_eq!(
        error(json!({"hidden_size": "64"})),
        "invalid `hidden_size` in config.json: expected an integer from 1 to 1048576, got \"64\""
    );
    for key in sizes.iter().filter(|&&key| !matches!(key, "num_key_value_heads" | "head_dim")) {
        let missing = format!("missing `{key}` in config.json");
        assert_eq!(error(json!({*key: null})), missing);
        let mut config = base();
        config.as_object_mut().unwrap().remove(*key);
        assert_eq!(read(&config).unwrap_err().to_string(), missing);
    }
}

#[test]
fn heads_must_divide_evenly() {
    let table = [
        (
            json!({"num_attention_heads": 3}),
            "invalid `hidden_size` in config.json: expected a multiple of `num_attention_heads` 3 \
             without `head_dim`, got 64",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "invalid `num_key_value_heads` in config.json: expected a divisor of \
             `num_attention_heads` 4, got 3",
        ),
        (
            json!({"num_key_value_heads": 8}),
            "invalid `num_key_value_heads` in config.json: expected a divisor of \
             `num_attention_heads` 4, got 8",
        ),
        (
            json!({"head_dim": 15}),
            "invalid `head_dim` in config.json: expected an even number up to 4096, got 15",
        ),
        (
            json!({"hidden_size": 1 << 20, "num_attention_heads": 1}),
            "invalid `head_dim` in config.json: expected an even number up to 4096, got 1048576",
        ),
    ];
    for (changes, message) in table {
        assert_eq!(error(changes), message);
    }
    let config = read(&with(json!({"num_attention_heads": 3, "head_dim": 32}))).unwrap();
    assert_eq!((config.head_dim, config.num_kv_heads), (32, 3));
}

#[test]
fn numbers_out_of_range_are_refused() {
    for value in [json!(0), json!(-1e-5), json!("1e-5"), json!(2), json!(1e-60)] {
        let message = error(json!({"rms_norm_eps": value}));
        assert!(
            message.starts_with(
                "invalid `rms_norm_eps` in config.json: expected a number from 1e-30 to 1.0"
            ),
            "{message}"
        );
    }
    for value in [json!(0), json!(-10_000), json!(1), json!(1e300), json!("10000")] {
        let expected = "expected a number from 2.0 to 1e18";
        let message = error(json!({"rope_theta": value}));
        assert!(message.contains(&format!("`rope_theta` in config.json: {expected}")), "{message}");
        let message = error(json!({"rope_parameters": {"rope_theta": value}}));
        assert!(
            message.contains(&format!("`rope_parameters.rope_theta` in config.json: {expected}")),
            "{message}"
        );
    }
    let nan = base().to_string().replacen('{', "{\"rms_norm_eps\": NaN,", 1);
    let error = ModelConfig::from_json(nan.as_bytes(), None).unwrap_err();
    assert_eq!(error.to_string(), "config.json is not valid JSON");
}

#[test]
fn rope_scaling_loads_in_both_key_styles() {
    assert_eq!(scaling(json!({"rope_scaling": null})), RopeScaling::None);
    assert_eq!(scaling(json!({"rope_scaling": {}})), RopeScaling::None);
    assert_eq!(scaling(json!({"rope_parameters": {"rope_type": "default"}})), RopeScaling::None);
    let linear = RopeScaling::Linear { factor: 4.0 };
    for key in ["type", "rope_type"] {
        assert_eq!(scaling(json!({"rope_scaling": {key: "linear", "factor": 4}})), linear);
    }
    assert_eq!(scaling(json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0}})), linear);
    assert_eq!(
        scaling(json!({"rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        }})),
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }
    );
    assert_eq!(
        scaling(json!({"rope_scaling": {"type": "yarn", "factor": 4.0}})),
        RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 256,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 0.1 * 4_f64.ln() + 1.0,
            truncate: true,
        }
    );
}

#[test]
fn the_rope_base_inside_wins_over_the_one_beside() {
    let theta = |changes| read(&with(changes)).unwrap().rope.theta;
    let inside = json!({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e6}});
    assert!((theta(inside) - 1e6).abs() < 1e-9);
    let beside = json!({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}});
    assert!((theta(beside) - 5e5).abs() < 1e-9);
    assert!((theta(json!({"rope_theta": 5e5})) - 5e5).abs() < 1e-9);
}

#[test]
fn bad_rope_settings_are_refused_by_key_path() {
    let llama3 = |low: f64, high: f64| {
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low,
               "high_freq_factor": high}})
    };
    let table = [
        (
            json!({"rope_scaling": {"type": "longrope"}}),
            "invalid `rope_scaling.type` in config.json: expected default, linear, llama3 or yarn, got longrope",
        ),
        (
            json!({"rope_scaling": "linear"}),
            "invalid `rope_scaling` in config.json: expected an object, got \"linear\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": 3}}),
            "invalid `rope_parameters.rope_type` in config.json: expected a string, got 3",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "missing `rope_scaling.factor` in config.json",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "invalid `rope_scaling.factor` in config.json: expected a number from 1e-6 to 1000000.0, got 0",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": -2.0}}),
            "invalid `rope_scaling.factor` in config.json: expected a number from 1e-6 to 1000000.0, got -2.0",
        ),
        (
            llama3(4.0, 4.0),
            "invalid `rope_scaling.high_freq_factor` in config.json: expected more than \
             `low_freq_factor` 4, got 4",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "invalid `partial_rotary_factor` in config.json: expected 1, every element of a head \
             rotating, got 0.5",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            "unsupported `rope_parameters.full_attention` in config.json: rope settings for each \
             type of layer are not implemented; expected one set for all layers",
        ),
    ];
    for (changes, message) in table {
        assert_eq!(error(changes), message);
    }
}

#[test]
fn options_that_change_the_result_are_refused() {
    let message = error(json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}));
    assert!(
        message.starts_with(
            "unsupported `quantization_config` in config.json: quantised safetensors \
             (quant_method \"gptq\") cannot be read"
        ),
        "{message}"
    );
    assert_eq!(
        error(json!({"hidden_act": "gelu"})),
        "invalid `hidden_act` in config.json: expected silu or swish, got gelu"
    );
    assert_eq!(
        error(json!({"torch_dtype": "float8"})),
        "invalid `torch_dtype` in config.json: expected float32, float16 or bfloat16, got float8"
    );
    assert_eq!(
        error(json!({"tie_word_embeddings": "yes"})),
        "invalid `tie_word_embeddings` in config.json: expected true or false, got \"yes\""
    );
    assert!(read(&with(json!({"hidden_act": "swish", "dtype": "bfloat16"}))).is_ok());
}

#[test]
fn mistral_slides_in_every_layer() {
    let windows = |changes: Value| {
        let mut config = with(changes);
        config["architectures"] = json!(["MistralForCausalLM"]);
        read(&config).map(|config| config.sliding_window)
    };
    assert_eq!(windows(json!({})).unwrap(), [Some(4096); 2]);
    assert_eq!(windows(json!({"sliding_window": null})).unwrap(), [None; 2]);
    assert_eq!(windows(json!({"sliding_window": 16})).unwrap(), [Some(16); 2]);
    let message = windows(json!({"sliding_window": 0})).unwrap_err().to_string();
    assert!(message.starts_with("invalid `sliding_window`"), "{message}");
}

#[test]
fn qwen_slides_only_where_it_is_told_to() {
    let windows = |changes: Value| {
        let mut config = with(changes);
        config["architectures"] = json!(["Qwen2ForCausalLM"]);
        read(&config).map(|config| config.sliding_window)
    };
    assert_eq!(windows(json!({"sliding_window": 16})).unwrap(), [None; 2]);
    let sliding = |more: Value| {
        let mut changes = json!({"use_sliding_window": true, "sliding_window": 16});
        let fields = changes.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        changes
    };
    assert_eq!(windows(sliding(json!({}))).unwrap(), [None; 2]);
    let first = windows(sliding(json!({"max_window_layers": 1}))).unwrap();
    assert_eq!(first, [None, Some(16)]);
    let all = windows(sliding(json!({"max_window_layers": 0}))).unwrap();
    assert_eq!(all, [Some(16); 2]);
    let types = json!({"layer_types": ["sliding_attention", "full_attention"]});
    assert_eq!(windows(sliding(types.clone())).unwrap(), [Some(16), None]);

    for changes in [
        types,
        sliding(json!({"layer_types": ["full_attention"]})),
        sliding(json!({"layer_types": ["full_attention", "chunked"]})),
        sliding(json!({"layer_types": ["full_attention", 1]})),
        sliding(json!({"layer_types": "full_attention"})),
    ] {
        let message = windows(changes).unwrap_err().to_string();
        assert!(message.starts_with("invalid `layer_types`"), "{message}");
    }
    let message = windows(json!({"use_sliding_window": 1})).unwrap_err().to_string();
    assert!(message.starts_with("invalid `use_sliding_window`"), "{message}");
}

#[test]
fn end_of_text_comes_from_the_generation_config_first() {
    let ids = |config: Value, generation: Option<&str>| {
        let text = with(config).to_string();
        ModelConfig::from_json(text.as_bytes(), generation.map(str::as_bytes))
            .map(|config| config.eos_token_ids)
    };
    assert_eq!(ids(json!({"eos_token_id": 7}), None).unwrap(), [7]);
    assert_eq!(ids(json!({"eos_token_id": [7, 8, 7]}), None).unwrap(), [7, 8]);
    assert_eq!(ids(json!({"eos_token_id": null}), None).unwrap(), [0; 0]);
    let generation = r#"{"eos_token_id": [9, 10], "temperature": 0.6}"#;
    assert_eq!(ids(json!({"eos_token_id": 7}), Some(generation)).unwrap(), [9, 10]);
    assert_eq!(ids(json!({"eos_token_id": 7}), Some("{}")).unwrap(), [7]);

    for id in [json!(1_000_000_000_000_u64), json!(1e12), json!(320), json!(-1), json!("</s>")] {
        let message = error(json!({"eos_token_id": id}));
        assert!(
            message.starts_with(
                "invalid `eos_token_id` in config.json: expected a token id below `vocab_size` 320"
            ),
            "{message}"
        );
    }
    assert!(error(json!({"eos_token_id": vec![1; 1000]})).ends_with("got a list of 1000"));
    let message = ids(json!({}), Some(r#"{"eos_token_id": 320}"#)).unwrap_err().to_string();
    assert!(message.contains("in generation_config.json"), "{message}");
}

#[test]
fn text_that_is_no_json_object_is_refused() {
    let of = |text: &[u8]| ModelConfig::from_json(text, None).unwrap_err().to_string();
    assert_eq!(of(b""), "config.json is not valid JSON");
    assert_eq!(of(b"{\"vocab_size\": 3"), "config.json is not valid JSON");
    assert_eq!(of(b"\xff\xfe{}"), "config.json is not valid JSON");
    assert_eq!(of(b"[1, 2]"), "config.json must hold a JSON object, got a list of 2");
    assert_eq!(of(b"null"), "config.json must hold a JSON object, got null");
    let deep = "[".repeat(100_000);
    assert_eq!(of(deep.as_bytes()), "config.json is not valid JSON");
    let deep = format!("{{\"x\": {}", "{\"x\":".repeat(100_000));
    assert_eq!(of(deep.as_bytes()), "config.json is not valid JSON");
    let base = base().to_string();
    let error = ModelConfig::from_json(base.as_bytes(), Some(b"[]")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "generation_config.json must hold a JSON object, got a list of 0"
    );
}

#[test]
fn a_file_beyond_any_config_is_refused_unparsed() {
    let spaces = vec![b' '; MAX_CONFIG_BYTES + 1];
    assert_eq!(
        ModelConfig::from_json(&spaces, None).unwrap_err().to_string(),
        "config.json is too large: expected at most 16777216 bytes, got 16777217"
    );
}

#[test]
fn messages_carry_no_control_characters() {
    let message = error(json!({"hidden_act": "\u{1b}[31m\nred"}));
    assert!(!message.contains(char::is_control), "{message:?}");
}

#[test]
fn a_flipped_bit_never_panics_and_never_makes_a_table_of_nan() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    for name in ["llama-rope-llama3", "llama-rope-yarn", "qwen2-window"] {
        let mut text = std::fs::read(golden.join(name).join("config.json")).unwrap();
        for bit in 0..8 * text.len() {
            text[bit / 8] ^= 1 << (bit % 8);
            if let Ok(config) = ModelConfig::from_json(&text, None) {
                assert_eq!(config.sliding_window.len(), config.num_layers);
                let tables = crate::model::rope::rope_tables(&config.rope, config.head_dim, 3);
                assert!(tables.unwrap().cos.iter().all(|cos| cos.is_finite()));
            }
            text[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
