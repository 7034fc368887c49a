"""Measures OpenVINO GenAI once: MODEL TYPE THREADS INPUT_LEN DECODE_PROMPT OUTPUT_LEN NUM_SEQS. Prints JSON."""

import json
import random
import sys
import time

import numpy
import openvino
import openvino_genai

# Any of them: the model's ids go from 0 to 49,151.
VOCAB_SIZE = 49152
# Of keys and values: enough for tens of thousands of tokens of this model.
CACHE_GB = 1


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


def prompt(rng, input_len):
    """Another one each time: a pipeline may remember what it computed for earlier ones."""
    return openvino.Tensor(numpy.array([[rng.randrange(VOCAB_SIZE) for _ in range(input_len)]], dtype=numpy.int64))


def length(output_len):
    return openvino_genai.GenerationConfig(
        max_new_tokens=output_len, ignore_eos=True, do_sample=False, apply_chat_template=False
    )


def one(pipeline, rng, input_len, output_len):
    """Seconds to the first token, and from it to the last."""
    ids, clock = prompt(rng, input_len), Clock()
    started = time.perf_counter()
    answer = pipeline.generate(ids, length(output_len), clock)
    assert len(answer.tokens[0]) == len(clock.times) == output_len, (len(answer.tokens[0]), len(clock.times))
    return clock.times[0] - started, clock.times[-1] - clock.times[0]


def many(pipeline, rng, num_seqs, input_len, output_len):
    """Seconds until all are answered."""
    ids = [prompt(rng, input_len) for _ in range(num_seqs)]
    started = time.perf_counter()
    answers = pipeline.generate(ids, [length(output_len)] * num_seqs)
    seconds = time.perf_counter() - started
    got = [len(answer.m_generation_ids[0]) for answer in answers]
    assert got == [output_len] * num_seqs, got
    return seconds


def main():
    folder, dtype = sys.argv[1:3]
    threads, input_len, decode_prompt, output_len, num_seqs = map(int, sys.argv[3:])
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if dtype != "int8":
        settings["INFERENCE_PRECISION_HINT"] = dtype
    rng = random.Random(0)
    results = {}
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **settings)
    for _ in ("warm-up", "measured"):
        results["prefill"] = input_len / one(pipeline, rng, input_len, 1)[0]
        results["decode"] = (output_len - 1) / one(pipeline, rng, decode_prompt, output_len)[1]
    if num_seqs:
        del pipeline  # two models would not share the memory of one
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_seqs = num_seqs
        pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", settings)
        for _ in ("warm-up", "measured"):
            seconds = many(pipeline, rng, num_seqs, decode_prompt, output_len)
            results["batched"] = num_seqs * output_len / seconds
    print(json.dumps(results))


main()
