"""Measures Transformers once: MODEL TYPE THREADS INPUT_LEN DECODE_PROMPT OUTPUT_LEN NUM_SEQS. Prints JSON."""

import json
import random
import sys
import time

import torch
import transformers


class Clock(transformers.generation.streamers.BaseStreamer):
    """When the prompt was handed over, and when each token came."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def generate(model, rng, num_seqs, input_len, output_len, streamer=None):
    """When it was asked; it is answered whole."""
    ids = [[rng.randrange(model.config.vocab_size) for _ in range(input_len)] for _ in range(num_seqs)]
    ids = torch.tensor(ids)
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=output_len,
            do_sample=False,
            use_cache=True,
            streamer=streamer,
        )
    assert output.shape == (num_seqs, input_len + output_len), output.shape
    return started


def one(model, rng, input_len, output_len):
    """Seconds to the first token, and from it to the last."""
    clock = Clock()
    started = generate(model, rng, 1, input_len, output_len, clock)
    # The streamer gets the prompt, too, as the first.
    tokens = clock.times[1:]
    assert len(tokens) == output_len, len(tokens)
    return tokens[0] - started, tokens[-1] - tokens[0]


def main():
    folder, dtype = sys.argv[1:3]
    threads, input_len, decode_prompt, output_len, num_seqs = map(int, sys.argv[3:])
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    types = {"bf16": torch.bfloat16, "f32": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=types[dtype]).eval()
    # Nothing ends an answer but its length.
    model.generation_config.eos_token_id = None
    rng = random.Random(0)
    results = {}
    for _ in ("warm-up", "measured"):
        results["prefill"] = input_len / one(model, rng, input_len, 1)[0]
        results["decode"] = (output_len - 1) / one(model, rng, decode_prompt, output_len)[1]
        if num_seqs:
            started = generate(model, rng, num_seqs, decode_prompt, output_len)
            results["batched"] = num_seqs * output_len / (time.perf_counter() - started)
    print(json.dumps(results))


main()
