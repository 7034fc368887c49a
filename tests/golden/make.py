"""Tiny random checkpoints, one for each architecture and option, with reference outputs from Transformers.

    python make.py [OUT_DIR]          (default: the folder of this script)

Written to OUT_DIR:

    versions.json             what made the files
    rope/vectors.json         rope frequencies, cosines and sines for every kind of scaling
    models/NAME/              config.json, generation_config.json and safetensors, as Transformers saves them
        config.v4.json        some: the same settings in the keys of Transformers 4
        reference.json        prompts; for each the positions whose logits are stored, and 24 greedy tokens
        logits.bin            those logits, prompt after prompt, [rows, vocab_size], little-endian f32

The reference computes in float32 with eager attention, from weights rounded to the type in which
they are stored. End of sequence does not stop the greedy tokens. Prompts are random, drawn until
the greedy tokens are not all alike, and the best and the second best logit differ by at least
MIN_GAP in each step, so that a difference in rounding cannot change a token. Needs torch and
transformers.
"""

import json
import pathlib
import platform
import sys

import torch
import transformers

NUM_GREEDY = 24
PROMPT_LENGTHS = (1, 7, 40)
ALL_POSITIONS_UP_TO = 7
MIN_GAP = 5e-3
MIN_DISTINCT = 8

SMALL = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
# Rows of 64 and 128 elements: whole blocks of every GGUF type with blocks of 32.
WIDE = SMALL | {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128}


def llama(**options):
    return transformers.LlamaConfig(**SMALL | options)


def rope(kind, **options):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | options}


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
LINEAR = rope("linear", factor=4.0)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}

# name: (config, type of the weights, other arguments of save_pretrained, style of config.v4.json)
MODELS = {
    "llama": (transformers.LlamaConfig(**WIDE), torch.float32, {}, "type"),
    "llama-tied": (llama(tie_word_embeddings=True), torch.float32, {}, None),
    "llama-head-dim": (llama(head_dim=16), torch.float32, {}, None),
    "llama-mha": (llama(num_key_value_heads=4), torch.float32, {}, None),
    "llama-bias": (llama(attention_bias=True, mlp_bias=True), torch.float32, {}, None),
    "llama-rope-llama3": (llama(**LLAMA3), torch.float32, {}, "rope_type"),
    "llama-rope-linear": (llama(**LINEAR), torch.float32, {}, "type"),
    "llama-rope-yarn": (llama(**YARN), torch.float32, {}, "type"),
    "llama-f16": (llama(), torch.float16, {}, None),
    "llama-bf16": (llama(), torch.bfloat16, {}, None),
    "llama-sharded": (llama(), torch.float32, {"max_shard_size": "60KB"}, None),
    "mistral": (transformers.MistralConfig(**SMALL, sliding_window=None), torch.float32, {}, "rope_type"),
    "mistral-window": (transformers.MistralConfig(**SMALL, sliding_window=16), torch.float32, {}, "rope_type"),
    "qwen2": (transformers.Qwen2Config(**SMALL, tie_word_embeddings=True), torch.float32, {}, "type"),
    "qwen2-window": (transformers.Qwen2Config(**SMALL | QWEN_WINDOW), torch.float32, {}, "type"),
    "qwen3": (transformers.Qwen3Config(**SMALL, head_dim=32), torch.bfloat16, {}, "rope_type"),
    "qwen3-wide": (
        transformers.Qwen3Config(**WIDE, head_dim=32, attention_bias=True, tie_word_embeddings=True),
        torch.float32,
        {},
        None,
    ),
}

ROPE_POSITIONS = [0, 1, 2, 3, 10, 31, 100, 1023, 4095, 8191]
# name: (theta, head_dim, max_position_embeddings, rope parameters)
ROPE_CASES = {
    "default": (10000.0, 64, 2048, {"rope_type": "default"}),
    "default-smollm2": (100000.0, 64, 8192, {"rope_type": "default"}),
    "default-qwen": (1000000.0, 128, 32768, {"rope_type": "default"}),
    "linear": (10000.0, 64, 8192, {"rope_type": "linear", "factor": 3.0}),
    "llama3": (
        500000.0,
        128,
        131072,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "llama3-small": (
        500000.0,
        64,
        131072,
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "yarn-qwen": (
        1000000.0,
        128,
        32768,
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    "yarn-attention-factor": (
        10000.0,
        64,
        8192,
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024, "attention_factor": 0.75},
    ),
    "yarn-mscale": (
        10000.0,
        64,
        8192,
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
        },
    ),
    "yarn-no-truncate": (
        150000.0,
        64,
        131072,
        {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
    ),
    "yarn-without-ramp": (
        10000.0,
        16,
        64,
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4},
    ),
}


@torch.no_grad()
def randomise(model):
    """Weights that keep activations near 1, make attention selective, and leave no bias or norm at its default."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if "norm" in name:
            parameter.copy_(1.0 + 0.3 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            parameter.copy_(0.4 * noise)
        elif "lm_head" in name:
            parameter.copy_(2.0 * noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)


@torch.no_grad()
def run(model, ids):
    """Logits of every prompt position; then the greedy tokens, and the smallest gap to the second best."""
    output = model(torch.tensor([ids]), use_cache=True)
    prompt_logits, greedy, gap = output.logits[0], [], float("inf")
    for step in range(NUM_GREEDY):
        best = torch.topk(output.logits[0, -1], 2)
        greedy.append(int(best.indices[0]))
        gap = min(gap, float(best.values[0] - best.values[1]))
        if step + 1 < NUM_GREEDY:
            token = torch.tensor([[greedy[-1]]])
            output = model(token, past_key_values=output.past_key_values, use_cache=True)
    return prompt_logits, greedy, gap


def reference(model, vocab_size):
    """Prompts with their outputs, and the logits of the stored positions as one [rows, vocab_size] tensor."""
    prompts, stored = [], []
    for length in PROMPT_LENGTHS:
        gap, greedy = 0.0, []
        while gap < MIN_GAP or len(set(greedy)) < MIN_DISTINCT:
            ids = torch.randint(3, vocab_size, (length,)).tolist()
            logits, greedy, gap = run(model, ids)
        positions = list(range(length)) if length <= ALL_POSITIONS_UP_TO else [length - 1]
        stored.append(logits[positions])
        prompts.append({"ids": ids, "positions": positions, "greedy": greedy, "min_gap": round(gap, 6)})
    return prompts, torch.cat(stored)


def v4_config(config, type_key):
    """The same settings as Transformers 4 wrote them: the rope base on top, its scaling beside it, torch_dtype."""
    rope_scaling = config.pop("rope_parameters")
    config["rope_theta"] = rope_scaling.pop("rope_theta")
    kind = rope_scaling.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {type_key: kind} | rope_scaling
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    config.pop("layer_types", None)
    return dict(sorted(config.items()))


def make_model(folder, seed, config, dtype, save_options, v4_style):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomise(model)
    model.to(dtype).save_pretrained(folder, **save_options)
    # Not model.float(): its rope frequencies have been rounded to dtype as well.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompts, logits = reference(model, config.vocab_size)

    for path in folder.iterdir():
        path.chmod(0o644)
    write_json(folder / "reference.json", {"prompts": prompts})
    logits.numpy().astype("<f4").tofile(folder / "logits.bin")
    if v4_style:
        v5 = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.v4.json", v4_config(v5, v4_style))
    print(f"{folder.name:20} logits from {logits.min():.2f} to {logits.max():.2f}")


def make_rope_case(name, theta, head_dim, max_position_embeddings, parameters):
    config = transformers.LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        max_position_embeddings=max_position_embeddings,
        rope_parameters=parameters | {"rope_theta": theta},
    )
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), torch.tensor([ROPE_POSITIONS]))
    half = head_dim // 2
    return {
        "name": name,
        "head_dim": head_dim,
        "config": {
            "max_position_embeddings": max_position_embeddings,
            "rope_parameters": parameters | {"rope_theta": theta},
        },
        "inv_freq": exact(embedding.inv_freq),
        "cos": [exact(row) for row in cos[0, :, :half]],
        "sin": [exact(row) for row in sin[0, :, :half]],
    }


def exact(values):
    """Nine digits name every f32."""
    return [float(f"{value:.9g}") for value in values.tolist()]


def write_json(path, value):
    """Indented, but with each list of plain values on one line."""
    path.write_text(layout(value, 0) + "\n")


def layout(value, depth):
    compact = json.dumps(value, ensure_ascii=False)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    if depth > 0 and not any(isinstance(child, dict | list) for child in children):
        return compact
    if not children:
        return compact
    pad, end = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {layout(child, depth + 1)}" for key, child in value.items()]
        return "{" + pad + ("," + pad).join(items) + end + "}"
    return "[" + pad + ("," + pad).join(layout(child, depth + 1) for child in value) + end + "]"


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    torch.set_num_threads(1)  # the order of sums, and so the last bits, stay the same everywhere
    (out / "rope").mkdir(parents=True, exist_ok=True)
    write_json(
        out / "versions.json",
        {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
    )
    cases = [make_rope_case(name, *case) for name, case in ROPE_CASES.items()]
    write_json(out / "rope" / "vectors.json", {"positions": ROPE_POSITIONS, "cases": cases})
    for seed, (name, model) in enumerate(MODELS.items()):
        make_model(out / "models" / name, seed, *model)


if __name__ == "__main__":
    main()
