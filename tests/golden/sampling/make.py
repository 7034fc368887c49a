"""Makes the golden files of the sampler: what other implementations do with the same logits.

    python make.py [OUT_DIR]          (default: the folder of this script)

Needs torch and transformers; the versions used are recorded in the files. Everything is seeded: the
same versions write the same files.

    steps.json    rows of logits, parameters, what came before; for each the probabilities after all
                  filters, the greedy token, and log probabilities and ranks of the raw logits
    beams.json    tables of logits by last token, and the texts that beam search finds in them

Steps are computed with the logits processors of Transformers, in the order in which vLLM applies its own
(v1/sample/sampler.py), in double precision. What Transformers has no processor for is written out here:
allowed tokens, and the presence and frequency penalties by their formula. Cases in which a filter's border
lies so close to a token that rounding could move it are drawn again.

Beams are found three ways: by `generate` of Transformers for a model that is nothing but the table, without
an end-of-text token, where its definition is vLLM's; by trying all texts, where the search is wide enough to
lose none; and by a plain search, written from the definition in vLLM's beam_search.py, for all else.
"""

import itertools
import json
import math
import pathlib
import platform
import random
import sys

import torch
import transformers
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.generation import logits_process as hf
from transformers.modeling_outputs import CausalLMOutputWithPast

VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "transformers": transformers.__version__,
}
NUM_TOP = 3
# How far a border must be from the tokens on both sides of it.
MARGIN = 1e-4
# Logits are multiples of it, and thus the same numbers here and in single precision.
GRID = 64

# --- steps ------------------------------------------------------------------------------------------

# Names of the processors that a case may use; each is used alone, and then many together.
OPTIONS = {
    "allowed_token_ids": lambda rng, vocab: sorted(rng.sample(range(vocab), vocab * 2 // 3)),
    "bad_words": lambda rng, vocab: "from the output",
    "min_tokens": lambda rng, vocab: rng.choice([1, 4, 9]),
    "logit_bias": lambda rng, vocab: [[t, rng.choice([-100.0, -1.5, 0.75, 3.0])] for t in rng.sample(range(vocab), 4)],
    "repetition_penalty": lambda rng, vocab: rng.choice([0.5, 1.25, 1.75]),
    "frequency_penalty": lambda rng, vocab: rng.choice([-0.5, 0.25, 1.5]),
    "presence_penalty": lambda rng, vocab: rng.choice([-1.0, 0.5, 2.0]),
    "temperature": lambda rng, vocab: rng.choice([0.25, 0.75, 1.5, 4.0]),
    "min_p": lambda rng, vocab: rng.choice([0.015625, 0.125, 0.5]),
    "top_k": lambda rng, vocab: rng.choice([1, 3, 8, vocab, 100]),
    "top_p": lambda rng, vocab: rng.choice([0.125, 0.5, 0.75, 0.96875]),
}


def draw_case(rng, names):
    vocab = rng.randint(12, 40)
    # All different, so that no two implementations can disagree about ties.
    logits = [value / GRID for value in rng.sample(range(-5 * GRID, 5 * GRID), vocab)]
    prompt = [rng.randrange(vocab) for _ in range(rng.randint(1, 8))]
    output = [rng.randrange(vocab) for _ in range(rng.choice([0, 2, 6]))]
    params = {name: OPTIONS[name](rng, vocab) for name in names}
    if "bad_words" in params:
        ends = rng.sample(range(vocab), 5)
        params["bad_words"] = [
            [ends[0]],
            [*output[-1:], ends[1]],
            [*output[-2:], ends[2]],
            # Not forbidden: the output does not end like this.
            [ends[0], (output[-1] if output else 0) ^ 1, ends[3]],
            # Not forbidden either: only generated tokens count.
            [*prompt[-1:], *output, ends[4]],
        ]
    stop = sorted(rng.sample(range(vocab), 2))
    return {"logits": logits, "prompt": prompt, "output": output, "stop_token_ids": stop, "params": params}


def change(case):
    """The logits after all that can change a greedy choice."""
    params, output = case["params"], torch.tensor([case["output"]], dtype=torch.long)
    everything = torch.tensor([case["prompt"] + case["output"]], dtype=torch.long)
    scores = torch.tensor([case["logits"]], dtype=torch.float64)
    vocab = scores.shape[1]
    if "allowed_token_ids" in params:
        allowed = torch.zeros(vocab, dtype=torch.bool)
        allowed[params["allowed_token_ids"]] = True
        scores = scores.masked_fill(~allowed, -math.inf)
    if "bad_words" in params:
        scores = hf.NoBadWordsLogitsProcessor(params["bad_words"])(output, scores)
    if "min_tokens" in params:
        processor = hf.MinNewTokensLengthLogitsProcessor(
            len(case["prompt"]), params["min_tokens"], case["stop_token_ids"], device="cpu"
        )
        scores = processor(everything, scores)
    if "logit_bias" in params:
        bias = {(token,): bias for token, bias in params["logit_bias"]}
        scores = hf.SequenceBiasLogitsProcessor(bias)(output, scores)
    if "repetition_penalty" in params:
        scores = hf.RepetitionPenaltyLogitsProcessor(params["repetition_penalty"])(everything, scores)
    counts = torch.bincount(output[0], minlength=vocab)
    scores = scores - params.get("frequency_penalty", 0.0) * counts
    return scores - params.get("presence_penalty", 0.0) * (counts > 0)


def filtered(case, scores):
    params, ids = case["params"], torch.zeros((1, 0), dtype=torch.long)
    if "temperature" in params:
        scores = hf.TemperatureLogitsWarper(params["temperature"])(ids, scores)
    if "min_p" in params:
        ratios = (scores.softmax(-1) / scores.softmax(-1).max()).flatten()
        if (ratios / params["min_p"] - 1).abs().min() < MARGIN:
            return None
        scores = hf.MinPLogitsWarper(params["min_p"])(ids, scores)
    if "top_k" in params:
        scores = hf.TopKLogitsWarper(params["top_k"])(ids, scores)
    if "top_p" in params:
        sums = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
        if (sums - params["top_p"]).abs().min() < MARGIN:
            return None
        scores = hf.TopPLogitsWarper(params["top_p"])(ids, scores)
    return scores


def expectations(case):
    scores = change(case)
    finite = scores[scores > -math.inf].sort().values
    # Equal after a change: a tie, or as good as one.
    if len(finite) == 0 or (len(finite) > 1 and finite.diff().min() < MARGIN):
        return None
    greedy = scores.argmax(-1).item()
    scores = filtered(case, scores)
    if scores is None:
        return None
    raw = torch.tensor(case["logits"], dtype=torch.float64)
    logprobs = raw.log_softmax(-1)
    return {
        "greedy": greedy,
        "probabilities": digits(scores.softmax(-1).flatten()),
        "logprobs": digits(logprobs),
        "ranks": [int((logprobs >= logprob).sum()) for logprob in logprobs],
        "top": logprobs.topk(NUM_TOP).indices.tolist(),
    }


def digits(values):
    return [float(f"{value:.8g}") for value in values.tolist()]


def make_steps():
    rng = random.Random(20240607)
    names = list(OPTIONS)
    choices = [[]] + [[name] for name in names for _ in range(2)]
    choices += [[name for name in names if rng.random() < 0.5] for _ in range(45)]
    cases = []
    for chosen in choices:
        while True:
            case = draw_case(rng, chosen)
            expected = expectations(case)
            if expected is not None:
                break
        cases.append(case | {"expected": expected})
    return cases


# --- beams ------------------------------------------------------------------------------------------


class TableConfig(PretrainedConfig):
    model_type = "table"


class TableModel(PreTrainedModel, GenerationMixin):
    """Logits are a row of a table, by the last token."""

    config_class = TableConfig

    def __init__(self, table):
        super().__init__(TableConfig(vocab_size=len(table), num_hidden_layers=1))
        self.table = torch.nn.Parameter(torch.tensor(table), requires_grad=False)

    def forward(self, input_ids, **_):
        return CausalLMOutputWithPast(logits=self.table[input_ids])

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}


def by_generate(case):
    """`generate` has no end of text here, and therefore no length to compare."""
    model = TableModel(case["table"])
    found = model.generate(
        torch.tensor([case["prompt"]]),
        num_beams=case["width"],
        num_return_sequences=case["width"],
        max_new_tokens=case["max_tokens"],
        length_penalty=0.0,
        do_sample=False,
        use_cache=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = found.sequences[:, len(case["prompt"]) :].tolist()
    scale = (len(case["prompt"]) + case["max_tokens"]) ** case["length_penalty"]
    return [(text, score / scale) for text, score in zip(texts, found.sequences_scores.tolist())]


def log_softmax(case):
    return torch.tensor(case["table"], dtype=torch.float64).log_softmax(-1).tolist()


def score(case, text, logprob):
    length = len(case["prompt"]) + len(text) - (bool(text) and text[-1] in case["stop_token_ids"])
    return logprob / length ** case["length_penalty"]


def by_trying_all(case):
    logprobs, tokens = log_softmax(case), range(len(case["table"]))
    found = []
    for length in range(1, case["max_tokens"] + 1):
        for text in itertools.product(tokens, repeat=length):
            is_stopped = text[-1] in case["stop_token_ids"]
            if any(token in case["stop_token_ids"] for token in text[:-1]):
                continue
            if length < case["max_tokens"] and not is_stopped:
                continue
            before = [case["prompt"][-1], *text]
            logprob = sum(logprobs[last][token] for last, token in itertools.pairwise(before))
            found.append((list(text), score(case, text, logprob)))
    return best(case, found)


def by_searching(case):
    table, width = log_softmax(case), case["width"]
    beams, found = [([], 0.0)], []
    for _ in range(case["max_tokens"]):
        offers = []
        for text, logprob in beams:
            row = table[text[-1] if text else case["prompt"][-1]]
            for token in sorted(range(len(row)), key=lambda token: -row[token])[: 2 * width]:
                offer = (text + [token], logprob + row[token])
                (found if token in case["stop_token_ids"] else offers).append(offer)
        beams = sorted(offers, key=lambda offer: -offer[1])[:width]
        if case["early_stopping"] and len(found) >= width:
            beams = []
            break
    return best(case, [(text, score(case, text, logprob)) for text, logprob in found + beams])


def best(case, found):
    return sorted(found, key=lambda text: -text[1])[: case["width"]]


def draw_beam_case(rng, vocab, **settings):
    table = [[value / GRID for value in rng.sample(range(-3 * GRID, 3 * GRID), vocab)] for _ in range(vocab)]
    prompt = [rng.randrange(vocab) for _ in range(rng.randint(1, 6))]
    case = {"table": table, "prompt": prompt, "length_penalty": 1.0, "early_stopping": False, "stop_token_ids": []}
    return case | settings


def make_beams():
    rng = random.Random(20240608)
    penalties = [0.0, 1.0, -0.5, 2.0]
    drawn = []
    for width, max_tokens in [(2, 5), (3, 6), (4, 8), (5, 3)]:
        settings = {"width": width, "max_tokens": max_tokens, "length_penalty": penalties[width % 4]}
        drawn.append(("generate", by_generate, 12, settings))
    for penalty in penalties:
        settings = {"width": 128, "max_tokens": 3, "length_penalty": penalty, "stop_token_ids": [2]}
        drawn.append(("all texts", by_trying_all, 5, settings))
    for width, penalty, early in itertools.product([1, 3, 6], penalties, [False, True]):
        settings = {"width": width, "max_tokens": 9, "length_penalty": penalty, "early_stopping": early}
        drawn.append(("search", by_searching, 10, settings | {"stop_token_ids": [1, 4]}))
    cases = []
    for how, find, vocab, settings in drawn:
        while True:
            case = draw_beam_case(rng, vocab, **settings)
            found = find(case)
            scores = sorted(score for _, score in found)
            # The order of equals is nobody's definition.
            if all(b - a > 1e-6 for a, b in itertools.pairwise(scores)):
                break
        # The worst of very many tell nothing more.
        texts = [{"token_ids": text, "score": float(f"{score:.8g}")} for text, score in found[:24]]
        cases.append({"reference": how} | case | {"expected": texts})
    return cases


def write(path, cases):
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f'{{"versions": {json.dumps(VERSIONS)}, "cases": [\n{lines}\n]}}\n')


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    write(out / "steps.json", make_steps())
    write(out / "beams.json", make_beams())


if __name__ == "__main__":
    main()
