"""Reference logits and greedy tokens of SmolLM2-135M-Instruct, from Transformers in float32.

    python make_smollm2.py MODEL.gguf OUT_DIR [--hf-f32 DIR] [--hf-bf16 DIR]

The weights are those of the GGUF file, dequantised: whoever reads the same file should get the
same logits up to rounding. Written to OUT_DIR:

    reference.json       versions, prompts, token ids, logits of the last position (the 50 largest,
                         and 200 at fixed ids), 64 greedy tokens (end of sequence does not stop),
                         and for each the gap between the best and the second best logit
    NAME.logits.bin      all logits of the last position of prompt NAME, little-endian f32

A prompt is kept only if its smallest gap is above MIN_GAP, so that a difference in rounding
cannot change a token; the dropped ones are listed. Needs torch, transformers, tokenizers, gguf.
"""

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import random

import gguf
import numpy
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NUM_GREEDY = 64
NUM_TOP = 50
NUM_FIXED = 200
NUM_LONG = 1500
MIN_GAP = 2e-3
FULL_LOGITS = ("english-fact", "chinese-question")
CONTROL_TOKEN = 3

TEXTS = {
    "one-token": "The",
    "one-token-newline": "\n",
    "english-fact": "The capital of France is",
    "english-story": "Once upon a time, in a small harbour town, a girl found a key that fitted no door, and",
    "english-list": "Five things to pack for a week in the mountains:\n1.",
    "english-definition": "Photosynthesis is the process by which",
    "english-email": "Subject: Meeting moved to Thursday\n\nDear colleagues,\n\n",
    "english-poem": "Autumn\n\nThe leaves come down without a sound,\n",
    "english-upper": "WARNING: DO NOT OPEN THE LID WHILE",
    "code-python": 'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n',
    "code-rust": "/// Sum of the squares.\nfn sum_of_squares(values: &[u64]) -> u64 {\n",
    "code-c": "#include <stdio.h>\n\nint main(int argc, char **argv) {\n\tfor (int i = 0; i < argc; i++) {\n",
    "code-sql": "SELECT name, COUNT(*) AS orders\nFROM customers\n",
    "code-html": '<!DOCTYPE html>\n<html lang="en">\n<head>\n  <title>',
    "json": '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "',
    "chinese-question": "中国的首都是哪里？",
    "chinese-sentence": "今天天气很好，我们一起去公园",
    "japanese": "日本で一番高い山は富士山です。その高さは",
    "korean": "안녕하세요. 저는 학생입니다.",
    "arabic": "مرحبا، كيف حالك اليوم؟",
    "russian": "Москва является столицей",
    "german": "Die Straße ist nass, weil es die ganze Nacht",
    "french": "Le garçon a mangé une pomme parce qu'",
    "emoji": "I love pizza 🍕 and 🎉 parties! 😀👩‍👩‍👧",
    "digits": "3.14159265358979323846",
    "arithmetic": "12 + 30 = 42\n17 + 25 = 42\n100 + 250 = ",
    "year": "In 1969, the first",
    "whitespace": "   \n\n\t  \n",
    "spaces-inside": "a  b   c    d     e",
    "repetition": "la la la la la la la la la la la la",
    "punctuation": "?!... -- (()) [[]] {{}} <<>> ''' \"\"\" ;;; :::",
    "accents-mixed": "naïve café Ωμέγα ½ ™ ﬁne Ａ",
}

CHATS = {
    "chat-hello": [{"role": "user", "content": "Hello! Who are you?"}],
    "chat-capital": [{"role": "user", "content": "What is the capital of Italy?"}],
    "chat-system": [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
    "chat-turns": [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "Apple."},
        {"role": "user", "content": "Name another one, of another colour."},
    ],
    "chat-code": [{"role": "user", "content": "Write a Python function that reverses a string."}],
    "chat-chinese": [{"role": "user", "content": "用一句话介绍一下长城。"}],
}

# HF name of each GGUF tensor of a block.
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def field(reader, key):
    return reader.fields[key].contents()


def unpermute(weight, num_heads):
    """GGUF stores each head's rows as (0, half, 1, half + 1, ...): back to two halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def hf_name(name):
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in top:
        return top[name]
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{BLOCK_TENSORS[kind]}.weight"


def build_model(reader):
    num_heads = field(reader, "llama.attention.head_count")
    num_kv_heads = field(reader, "llama.attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=field(reader, "llama.vocab_size"),
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=float(numpy.float32(field(reader, "llama.attention.layer_norm_rms_epsilon"))),
        rope_parameters={"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=field(reader, "tokenizer.ggml.padding_token_id"),
    )
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).float().eval()
    state = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if ".attn_q." in tensor.name:
            weight = unpermute(weight, num_heads)
        if ".attn_k." in tensor.name:
            weight = unpermute(weight, num_kv_heads)
        state[hf_name(tensor.name)] = torch.from_numpy(numpy.ascontiguousarray(weight))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def build_tokenizer(reader):
    """The tokenizer in the file, with the digit split that `tokenizer.ggml.pre = smollm` stands for."""
    assert field(reader, "tokenizer.ggml.pre") == "smollm"
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types) if kind == CONTROL_TOKEN]
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])

    def name(key):
        return tokens[field(reader, f"tokenizer.ggml.{key}_token_id")]

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=name("bos"),
        eos_token=name("eos"),
        unk_token=name("unknown"),
        pad_token=name("padding"),
        clean_up_tokenization_spaces=False,
        model_max_length=field(reader, "llama.context_length"),
    )
    tokenizer.chat_template = field(reader, "tokenizer.chat_template")
    return tokenizer


def long_text(seed):
    """A harbour's log: long, repetitive enough to be predictable, varied enough to need attention."""
    rng = random.Random(seed)
    ships = ["Albatross", "Morning Star", "Petrel", "Old Margaret", "Swift", "Sea Holly"]
    goods = ["salt", "timber", "oranges", "wool", "glass", "copper", "paper", "tea"]
    ports = ["Lisbon", "Bergen", "Genoa", "Riga", "Cork", "Malta"]
    weather = ["clear", "foggy", "windy from the west", "calm", "stormy until noon"]
    lines = ["The log of the harbour master.\n"]
    for day in range(1, 200):
        ship, cargo, port = rng.choice(ships), rng.choice(goods), rng.choice(ports)
        lines.append(
            f"Day {day}. The weather was {rng.choice(weather)}. The {ship} came in from {port} with "
            f"{rng.randint(5, 95)} tons of {cargo}, and left for {rng.choice(ports)} in the evening.\n"
        )
    return "".join(lines)


def build_prompts(tokenizer):
    prompts = [{"name": name, "text": text} for name, text in TEXTS.items()]
    for name, messages in CHATS.items():
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append({"name": name, "messages": messages, "text": text})
    for prompt in prompts:
        prompt["ids"] = tokenizer.encode(prompt["text"], add_special_tokens=False)
    ids = tokenizer.encode(long_text(seed=11), add_special_tokens=False)[:NUM_LONG]
    assert len(ids) == NUM_LONG
    prompts.append({"name": "long", "text": tokenizer.decode(ids), "ids": ids})
    return prompts


@torch.no_grad()
def run(model, ids):
    """Logits of the last prompt position; then the greedy tokens and the gap at each."""
    output = model(torch.tensor([ids]), use_cache=True)
    last = logits = output.logits[0, -1]
    greedy, gaps = [], []
    for step in range(NUM_GREEDY):
        best = torch.topk(logits, 2)
        greedy.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 6))
        if step + 1 < NUM_GREEDY:
            output = model(torch.tensor([[greedy[-1]]]), past_key_values=output.past_key_values, use_cache=True)
            logits = output.logits[0, -1]
    return last, greedy, gaps


def rounded(values):
    return [round(float(value), 6) for value in values]


def save_hf(model, tokenizer, folder, dtype):
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--hf-f32", type=pathlib.Path, help="also save the float32 model here")
    parser.add_argument("--hf-bf16", type=pathlib.Path, help="also save it rounded to bfloat16 here")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, and so the last bits, stay the same everywhere

    reader = gguf.GGUFReader(args.gguf)
    model, tokenizer = build_model(reader), build_tokenizer(reader)
    if args.hf_f32:
        save_hf(model, tokenizer, args.hf_f32, torch.float32)
    fixed_ids = sorted(random.Random(5).sample(range(model.config.vocab_size), NUM_FIXED))
    args.out.mkdir(parents=True, exist_ok=True)

    kept, dropped = [], {}
    for prompt in build_prompts(tokenizer):
        last, greedy, gaps = run(model, prompt["ids"])
        print(f"{prompt['name']:20} {len(prompt['ids']):5} tokens, smallest gap {min(gaps):.4f}", flush=True)
        if min(gaps) < MIN_GAP:
            dropped[prompt["name"]] = min(gaps)
            continue
        top = torch.topk(last, NUM_TOP)
        prompt |= {
            "top_ids": top.indices.tolist(),
            "top_logits": rounded(top.values),
            "fixed_logits": rounded(last[fixed_ids]),
            "greedy": greedy,
            "greedy_text": tokenizer.decode(greedy),
            "gaps": gaps,
            "min_gap": min(gaps),
        }
        if prompt["name"] in FULL_LOGITS:
            prompt["full_logits"] = f"{prompt['name']}.logits.bin"
            last.numpy().astype("<f4").tofile(args.out / prompt["full_logits"])
        kept.append(prompt)

    reference = {
        "model_file": args.gguf.name,
        "model_sha256": hashlib.sha256(args.gguf.read_bytes()).hexdigest(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "gguf": importlib.metadata.version("gguf"),
            "numpy": numpy.__version__,
        },
        "dtype": "float32",
        "attention": "eager",
        "min_gap": MIN_GAP,
        "dropped_for_small_gaps": dropped,
        "fixed_ids": fixed_ids,
        "prompts": kept,
    }
    write_json(args.out / "reference.json", reference)
    if args.hf_bf16:
        save_hf(model, tokenizer, args.hf_bf16, torch.bfloat16)


def write_json(path, reference):
    """One line per value of the top level and per field of a prompt: small, and still readable in a diff."""
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    prompts = [
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v, **compact)}" for k, v in prompt.items()) + "\n}"
        for prompt in reference.pop("prompts")
    ]
    head = [f"{json.dumps(k)}: {json.dumps(v, **compact)}" for k, v in reference.items()]
    path.write_text("{\n" + ",\n".join(head + ['"prompts": [\n' + ",\n".join(prompts) + "\n]"]) + "\n}\n")


if __name__ == "__main__":
    main()
