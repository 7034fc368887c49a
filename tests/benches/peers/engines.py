"""The engines that are compared: how each is set up, and how each is asked for the same figures.

| Figure | Method, the same for all |
| --- | --- |
| prefill | `input_len` tokens, divided by the time to the first token |
| decode | tokens after the first, divided by the time from the first to the last, after a prompt of 16 |
| batched | tokens of all sequences, divided by the time from the first prompt to the last token |

All are in tokens per second. Each measurement is a process of its own, which warms up first. Prompts are random tokens,
each engine's own: what a token is does not change the work. llama.cpp's decode counts all tokens, each from the
one before, and starts with 16 in its context.

What this module deliberately does not do: it compares no outputs.
"""

import json
import pathlib

from installed import PINS, Environments, programs_of
from process import Failed, run

HERE = pathlib.Path(__file__).resolve().parent
PREFILL, DECODE, BATCHED = "prefill", "decode", "batched"
DECODE_PROMPT = 16
TYPES = {
    "bf16": "weights and products in bf16",
    "f32": "products in f32; Cairn, Transformers and OpenVINO from weights rounded to bf16",
    "q8_0": "GGUF's blocks of 32 signed bytes",
    "q4_1": "GGUF's blocks of 32 numbers of 4 bits",
    "int8": "Cairn: weights and activations in 8 bits; OpenVINO: only weights, products as it chooses",
}


class Engine:
    """A program under test. `prepare` comes first and may take long; `measure` runs it once."""

    name = ""
    types = ()

    def __init__(self, options, weights):
        self.options = options
        self.weights = weights

    def commands(self, dtype, threads):
        """(figures, command) of each process that a measurement takes."""
        raise NotImplementedError

    def variables(self, threads):
        return {}

    def left_out(self):
        """Sentences about what it does not measure."""
        return []

    def figures(self, printed, figures):
        """The figures in what a process printed."""
        raise NotImplementedError

    def measure(self, dtype, threads):
        """Figure -> tokens per second."""
        results = {}
        for figures, command in self.commands(dtype, threads):
            printed = run(command, self.variables(threads), self.options.timeout)
            try:
                results |= self.figures(printed, figures)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise Failed(f"{self.name} printed something else than figures: {error!r}: {printed[-300:]}") from error
        return results


class Cairn(Engine):
    name = "cairn"
    types = tuple(TYPES)

    def prepare(self):
        self.versions = run([self.options.cairn, "--version"]).strip()

    def _model(self, dtype):
        if dtype in ("q8_0", "q4_1"):
            return [self.weights.gguf("Q8_0") if dtype == "q8_0" else self.weights.q4_1()]
        how = ["--quantization", "int8"] if dtype == "int8" else ["--dtype", dtype]
        # The same weights in another wrapping, where no Python peer can make the first.
        return [self.weights.hf_bf16() if self.weights.has_hf_bf16() else self.weights.gguf("BF16"), *how]

    def commands(self, dtype, threads):
        options = self.options
        common = [*self._model(dtype), "--threads", threads, "--runs", 1, "--json", "--no-progress"]
        lengths = ["--warmup", 1, "--input-len", options.input_len, "--output-len", options.output_len]
        yield (PREFILL, DECODE), [options.cairn, "bench", "latency", *common, *lengths]
        if options.num_seqs:
            lengths = ["--input-len", DECODE_PROMPT, "--output-len", options.output_len]
            seqs = ["--num-seqs", options.num_seqs, "--max-num-seqs", options.num_seqs]
            yield (BATCHED,), [options.cairn, "bench", "throughput", *common, *seqs, *lengths]

    def figures(self, printed, figures):
        results = json.loads(printed)["results"]
        names = {BATCHED: "output_tokens_per_second"}
        return {figure: results[names.get(figure, f"{figure}_tokens_per_second")]["median"] for figure in figures}


class LlamaCpp(Engine):
    name = "llama.cpp"
    types = ("bf16", "f32", "q8_0", "q4_1")

    def prepare(self):
        given = self.options.llama_bench
        self.programs = given.parent if given else programs_of(Environments(self.options.dir).of(self.name))
        self.bench = given or self.programs / "llama-bench"
        self.weights.quantize = self._quantize
        self.batched = self.programs / "llama-batched-bench"
        self.versions = self._version()

    def _version(self):
        # A program of another build may not know the flag; the figures of it are still good.
        try:
            text = ", ".join(run([self.bench, "--version"], self.variables(1), all_output=True).split("\n"))
        except Failed:
            text = "does not tell its version"
        return f"{text.strip(', ')} ({self.options.llama_bench or ' '.join(PINS[self.name])})"

    def left_out(self):
        if self.options.num_seqs and not self.batched.exists():
            yield f"batched: no llama-batched-bench beside {self.bench}"

    def variables(self, threads):
        return {"LD_LIBRARY_PATH": str(self.programs)}

    def _quantize(self, source, target, kind):
        quantize = self.programs / "llama-quantize"
        run([quantize, "--allow-requantize", source, target, kind], self.variables(1))

    def commands(self, dtype, threads):
        options = self.options
        model = ["-m", self.weights.q4_1() if dtype == "q4_1" else self.weights.gguf(dtype.upper()), "-t", threads]
        once = [self.bench, *model, "-r", 1, "-o", "json"]
        yield (PREFILL,), [*once, "-p", options.input_len, "-n", 0]
        yield (DECODE,), [*once, "-p", 0, "-n", options.output_len, "-d", DECODE_PROMPT]
        if options.num_seqs and self.batched.exists():
            context = options.num_seqs * (DECODE_PROMPT + options.output_len)
            lengths = ["-npp", DECODE_PROMPT, "-ntg", options.output_len, "-npl", options.num_seqs]
            form = ["--output-format", "jsonl"]
            yield (BATCHED,), [self.batched, *model, "-c", context, *lengths, *form]

    def figures(self, printed, figures):
        if figures == (BATCHED,):
            row = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
            return {BATCHED: row["pl"] * row["tg"] / row["t"]}
        (row,) = json.loads(printed)
        return {figures[0]: row["samples_ts"][0]}


class PythonPeer(Engine):
    """A library that a small program beside this one drives."""

    given = ""
    packages = ()
    worker = ""

    def prepare(self):
        given = getattr(self.options, self.given)
        self.python = given or Environments(self.options.dir).of(self.name) / "bin/python"
        code = "import sys, importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
        self.versions = run([self.python, "-c", code, *self.packages]).strip()
        self.weights.convert = self.weights.convert or self.python

    def variables(self, threads):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
        return offline | {name: str(threads) for name in names}

    def model(self, dtype):
        raise NotImplementedError

    def commands(self, dtype, threads):
        options = self.options
        lengths = [options.input_len, DECODE_PROMPT, options.output_len, options.num_seqs]
        figures = (PREFILL, DECODE, BATCHED) if options.num_seqs else (PREFILL, DECODE)
        yield figures, [self.python, HERE / self.worker, self.model(dtype), dtype, threads, *lengths]

    def figures(self, printed, figures):
        results = json.loads(printed.strip().splitlines()[-1])
        return {figure: results[figure] for figure in figures}


class Transformers(PythonPeer):
    name = "transformers"
    types = ("bf16", "f32")
    given = "python"
    packages = ("torch", "transformers")
    worker = "transformers_worker.py"

    def model(self, dtype):
        return self.weights.hf_bf16()


class OpenVino(PythonPeer):
    name = "openvino"
    types = ("bf16", "f32", "int8")
    given = "openvino_python"
    packages = ("openvino", "openvino-genai", "optimum-intel")
    worker = "openvino_worker.py"

    def model(self, dtype):
        return self.weights.openvino("int8" if dtype == "int8" else "fp32", self._export(dtype))

    def _export(self, dtype):
        form = "int8" if dtype == "int8" else "fp32"
        # The virtual environment's own: the interpreter may be a link to another one's.
        program = pathlib.Path(self.python).parent / "optimum-cli"
        task = ["--task", "text-generation-with-past", "--weight-format", form]
        return lambda model, folder: run(
            [program, "export", "openvino", "-m", model, *task, folder], self.variables(1)
        )


PEERS = {peer.name: peer for peer in (LlamaCpp, Transformers, OpenVino)}
