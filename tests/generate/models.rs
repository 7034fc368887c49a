//! Models that cannot be run, and what is said about them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::deployment::Deployment;
use super::generate;

/// A deployment whose model was changed.
fn with(change: impl FnOnce(&Path)) -> Deployment {
    let deployment = Deployment::new();
    change(&deployment.path("model"));
    deployment
}

/// What `generate` says about the changed model.
fn error(change: impl FnOnce(&Path)) -> String {
    with(change).failure(&generate("hello", &["--max-tokens", "4"]))
}

fn change_config(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn assert_says(error: &str, parts: &[&str]) {
    assert!(error.starts_with("error: "), "{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let error = error(|model| fs::remove_file(model.join(name)).unwrap());
        assert_says(&error, &[name]);
    }
}

#[test]
fn a_named_pipe_is_not_waited_for() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let error = error(|model| {
            fs::remove_file(model.join(name)).unwrap();
            assert!(Command::new("mkfifo").arg(model.join(name)).status().unwrap().success());
        });
        assert_says(&error, &[name, "regular file"]);
    }
}

#[test]
fn a_folder_is_no_file() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let error = error(|model| {
            fs::remove_file(model.join(name)).unwrap();
            fs::create_dir(model.join(name)).unwrap();
        });
        assert_says(&error, &[name]);
    }
}

#[test]
fn a_file_that_is_cut_is_named() {
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        for keep in [0, 1, 7, 8, 100] {
            let error = error(|model| {
                let bytes = fs::read(model.join(name)).unwrap();
                fs::write(model.join(name), &bytes[..keep]).unwrap();
            });
            assert_says(&error, &[name]);
        }
    }
    let error = error(|model| {
        let bytes = fs::read(model.join("model.safetensors")).unwrap();
        fs::write(model.join("model.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    });
    assert_says(&error, &["model.safetensors", "past the end"]);
}

#[test]
fn a_gguf_file_that_is_cut_is_refused_wherever_the_cut_is() {
    let whole = fs::read("tests/golden/weights/tiny.gguf").unwrap();
    let deployment = Deployment::new();
    for keep in (0..whole.len()).step_by(whole.len() / 16 + 1) {
        fs::write(deployment.path("cut.gguf"), &whole[..keep]).unwrap();
        let error = deployment.failure(&["generate", "cut.gguf", "--prompt", "hello"]);
        assert_says(&error, &["cut.gguf"]);
    }
}

#[test]
fn an_unknown_architecture_is_told_the_known_ones() {
    let error = error(|model| {
        change_config(model, "architectures", serde_json::json!(["GPT2LMHeadModel"]));
    });
    assert_says(&error, &["unknown architecture `GPT2LMHeadModel`"]);
    let known = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];
    assert_says(&error, &known);
}

#[test]
fn a_config_with_fewer_layers_than_the_weights_is_refused() {
    let error = error(|model| change_config(model, "num_hidden_layers", 1.into()));
    assert_says(&error, &["the config has 1 layers", "model.layers.1.input_layernorm.weight"]);
}

#[test]
fn absurd_sizes_are_refused_by_key() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
    ] {
        for value in
            ["0", "-1", "1e300", "18446744073709551615", "9007199254740993", "\"64\"", "[]"]
        {
            let value: Value = serde_json::from_str(value).unwrap();
            let error = error(|model| change_config(model, key, value.clone()));
            assert_says(&error, &[key]);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_the_weights_name_a_tensor() {
    for (key, value) in [("hidden_size", 128), ("intermediate_size", 64), ("vocab_size", 1 << 20)] {
        let error = error(|model| change_config(model, key, value.into()));
        assert_says(&error, &["weight"]);
    }
    let error = error(|model| change_config(model, "num_hidden_layers", 3.into()));
    assert_says(&error, &["model.layers.2."]);
}

#[test]
fn weights_that_are_no_numbers_are_told_from_the_first_token_on() {
    let deployment = with(|model| {
        let path = model.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let (len, rest) = bytes.split_first_chunk().unwrap();
        let len = u64::from_le_bytes(*len) as usize;
        let header: Value = serde_json::from_slice(&rest[..len]).unwrap();
        let offsets = &header["model.norm.weight"]["data_offsets"];
        let [start, end] = [0, 1].map(|i| 8 + len + offsets[i].as_u64().unwrap() as usize);
        for value in bytes[start..end].chunks_mut(4) {
            value.copy_from_slice(&f32::NAN.to_le_bytes());
        }
        fs::write(path, bytes).unwrap();
    });
    for more in [&[][..], &["--temperature", "1"], &["--json"], &["--raw", "--top-k", "3"]] {
        let error = deployment.failure(&generate("hello", more));
        assert_says(&error, &["not finite numbers: NaN for token"]);
    }
}
