"""Measures OpenVINO GenAI once: MODEL TYPE THREADS INPUT_LEN DECODE_PROMPT OUTPUT_LEN. Prints JSON."""

import json
import random
import sys
import time

import numpy
import openvino
import openvino_genai

# Any of them: the model's ids go from 0 to 49,151.
VOCAB_SIZE = 49152


class Clock(openvino_genai.StreamerBase):
    """When each token came."""

    def __init__(self):
        super().__init__()
        self.times = []

    def write(self, tokens):
        count = len(tokens) if isinstance(tokens, list) else 1
        self.times.extend([time.perf_counter()] * count)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self):
        pass


def generate(pipeline, rng, input_len, output_len):
    """Seconds to the first token, and from it to the last.

    Every prompt is another one: the pipeline may remember what it computed for earlier ones.
    """
    ids = openvino.Tensor(numpy.array([[rng.randrange(VOCAB_SIZE) for _ in range(input_len)]], dtype=numpy.int64))
    config = openvino_genai.GenerationConfig(
        max_new_tokens=output_len, ignore_eos=True, do_sample=False, apply_chat_template=False
    )
    clock = Clock()
    started = time.perf_counter()
    answer = pipeline.generate(ids, config, clock)
    assert len(answer.tokens[0]) == len(clock.times) == output_len, (len(answer.tokens[0]), len(clock.times))
    return clock.times[0] - started, clock.times[-1] - clock.times[0]


def main():
    folder, dtype = sys.argv[1:3]
    threads, input_len, decode_prompt, output_len = map(int, sys.argv[3:])
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if dtype != "int8":
        settings["INFERENCE_PRECISION_HINT"] = dtype
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **settings)
    rng = random.Random(0)
    for _ in ("warm-up", "measured"):
        prefill, _ = generate(pipeline, rng, input_len, 1)
        _, decode = generate(pipeline, rng, decode_prompt, output_len)
    print(json.dumps({"prefill": input_len / prefill, "decode": (output_len - 1) / decode}))


main()
