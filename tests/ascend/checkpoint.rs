//! A checkpoint made from a seed: a Llama in bf16 whose heads are 128 wide, as the packed layout of
//! attention wants them.

use std::path::Path;

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use super::deployment::model::{Tokens, write_text};

const VOCAB: usize = 256;
const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 96;
const LAYERS: usize = 2;
const HEADS: usize = 2;
const KV_HEADS: usize = 1;
const HEAD_DIM: usize = 128;
/// Makes large logits, so that few tokens are nearly as likely as others.
const LM_HEAD_SCALE: f32 = 4.0;

/// The model's tensors, and where each begins.
#[derive(Default)]
struct Tensors {
    header: Map<String, Value>,
    bytes: Vec<u8>,
}

impl Tensors {
    fn add(&mut self, name: &str, shape: &[usize], value: impl FnMut(usize) -> f32) {
        let start = self.bytes.len();
        let values = (0..shape.iter().product()).map(value).map(bf16::from_f32);
        self.bytes.extend(values.flat_map(bf16::to_le_bytes));
        let offsets = [start, self.bytes.len()];
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets});
        self.header.insert(name.to_owned(), entry);
    }

    fn write(&self, path: &Path) {
        let header = Value::Object(self.header.clone()).to_string();
        let len = header.len() as u64;
        std::fs::write(path, [&len.to_le_bytes(), header.as_bytes(), &self.bytes].concat())
            .unwrap();
    }
}

/// Writes the files of the model into a folder; nothing ends its answers.
pub(crate) fn write_wide_heads(folder: &Path) {
    let mut random = ChaCha8Rng::seed_from_u64(128);
    let mut tensors = Tensors::default();
    tensors.add("model.norm.weight", &[HIDDEN], |_| 1.0);
    // Uniform, of such a width that a product with it keeps the size of its other operand.
    let mut matrix = |name: &str, rows: usize, columns: usize, scale: f32| {
        let width = scale * (3.0 / columns as f32).sqrt();
        let value = |_| (random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0) * width;
        tensors.add(name, &[rows, columns], value);
    };
    matrix("model.embed_tokens.weight", VOCAB, HIDDEN, (HIDDEN as f32).sqrt());
    matrix("lm_head.weight", VOCAB, HIDDEN, LM_HEAD_SCALE);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let query = HEADS * HEAD_DIM;
        let kv = KV_HEADS * HEAD_DIM;
        matrix(&name("self_attn.q_proj"), query, HIDDEN, 1.0);
        matrix(&name("self_attn.k_proj"), kv, HIDDEN, 1.0);
        matrix(&name("self_attn.v_proj"), kv, HIDDEN, 1.0);
        matrix(&name("self_attn.o_proj"), HIDDEN, query, 1.0);
        matrix(&name("mlp.gate_proj"), INTERMEDIATE, HIDDEN, 1.0);
        matrix(&name("mlp.up_proj"), INTERMEDIATE, HIDDEN, 1.0);
        matrix(&name("mlp.down_proj"), HIDDEN, INTERMEDIATE, 1.0);
    }
    for layer in 0..LAYERS {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            let name = format!("model.layers.{layer}.{norm}.weight");
            tensors.add(&name, &[HIDDEN], |_| 1.0);
        }
    }
    tensors.write(&folder.join("model.safetensors"));
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": null,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write_text(folder, Tokens::Characters, VOCAB as u32);
}

/// Makes a row of a matrix of f32 in `model.safetensors` NaN.
pub(crate) fn poison_row(folder: &Path, tensor: &str, row: usize) {
    let path = folder.join("model.safetensors");
    let mut file = std::fs::read(&path).unwrap();
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..data]).unwrap();
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let entry = &header[tensor];
    assert_eq!(entry["dtype"], "F32", "{entry}");
    let row_bytes = number(&entry["shape"][1]) * size_of::<f32>();
    let start = data + number(&entry["data_offsets"][0]) + row * row_bytes;
    let (values, _) = file[start..start + row_bytes].as_chunks_mut();
    values.fill(f32::NAN.to_le_bytes());
    std::fs::write(&path, file).unwrap();
}
