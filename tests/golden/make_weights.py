"""Makes tests/golden/weights: what the reference libraries write and read.

    python tests/golden/make_weights.py        (needs numpy, gguf, safetensors)

    blocks/NAME.blocks     raw blocks of one element type, as in a GGUF file
    blocks/NAME.f32        the same blocks through gguf.quants.dequantize, little-endian f32
    tiny.gguf              a few tensors and one metadata value of every type
    tiny.safetensors       a few tensors
    versions.json          of the libraries that made them

Seeded: the same library versions make the same bytes.
"""

import importlib.metadata
import json
import pathlib
import platform

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).parent / "weights"

# Offsets of the f16 scales in a block; all other bytes may be anything.
F16_OFFSETS = {
    Type.Q8_0: [0],
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}
# Zeros of both signs, subnormals, the smallest normal number, the largest: then ordinary ones.
EDGE_SCALES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF]
NUM_RANDOM_BLOCKS = 5


def random_blocks(rng, kind):
    """Blocks of random bytes with finite scales."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    num_blocks = len(EDGE_SCALES) + NUM_RANDOM_BLOCKS
    blocks = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
    for position, offset in enumerate(F16_OFFSETS[kind]):
        scales = rng.normal(0, 0.05, num_blocks).astype("<f2").view("<u2")
        edges = np.roll(np.array(EDGE_SCALES, dtype="<u2"), position)
        scales[: len(edges)] = edges
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def quantised_blocks(rng, kind):
    """Blocks as the library itself makes them, where it can."""
    try:
        return gguf.quants.quantize(rng.normal(0, 1, 256).astype("<f4"), kind).view(np.uint8)
    except NotImplementedError:
        return np.empty(0, dtype=np.uint8)


def write_blocks(rng):
    folder = FOLDER / "blocks"
    folder.mkdir(parents=True, exist_ok=True)
    cases = {}
    for kind in F16_OFFSETS:
        cases[kind] = np.concatenate([random_blocks(rng, kind), quantised_blocks(rng, kind)])
    halves = np.array(EDGE_SCALES + [0x7C00, 0xFC00] + list(range(0x3C00, 0x3C20)), dtype="<u2")
    cases[Type.F16] = halves.view(np.uint8)
    cases[Type.BF16] = rng.integers(0, 0x7F80, 64).astype("<u2").view(np.uint8)
    cases[Type.F32] = rng.normal(0, 1, 16).astype("<f4").view(np.uint8)
    for kind, blocks in cases.items():
        values = gguf.quants.dequantize(blocks, kind).astype("<f4")
        (folder / f"{kind.name.lower()}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{kind.name.lower()}.f32").write_bytes(values.tobytes())


def write_gguf(rng):
    writer = gguf.GGUFWriter(FOLDER / "tiny.gguf", "llama")
    writer.add_uint8("test.u8", 255)
    writer.add_int8("test.i8", -128)
    writer.add_uint16("test.u16", 65535)
    writer.add_int16("test.i16", -32768)
    writer.add_uint32("test.u32", 4294967295)
    writer.add_int32("test.i32", -2147483648)
    writer.add_uint64("test.u64", 18446744073709551615)
    writer.add_int64("test.i64", -9223372036854775808)
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.true", True)
    writer.add_bool("test.false", False)
    writer.add_string("test.string", "h\u00e9llo \u4e16\u754c \U0001f600")
    writer.add_array("test.strings", ["", "a", "\u4e16"])
    writer.add_array("test.f32s", [0.5, -1.5])
    writer.add_array("test.i32s", [1, -2, 3])
    writer.add_tensor("token_embd.weight", rng.normal(0, 1, (4, 32)).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
    writer.add_tensor("rope_freqs.weight", np.arange(8, dtype=np.float32))
    half = rng.normal(0, 1, (2, 32)).astype(np.float16)
    writer.add_tensor("blk.0.attn_q.weight", half)
    rows = gguf.quants.quantize(rng.normal(0, 1, (3, 64)).astype(np.float32), Type.Q4_1)
    writer.add_tensor("blk.0.ffn_down.weight", rows, raw_dtype=Type.Q4_1)
    foreign = rng.integers(0, 256, (1, 66), dtype=np.uint8)
    writer.add_tensor("blk.0.ffn_up.weight", foreign, raw_dtype=Type.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors():
    tensors = {
        "model.norm.weight": np.array([0.5, -1.0, 2.0], dtype=np.float32),
        "lm_head.weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "position_ids": np.arange(4, dtype=np.int64),
        "scalar": np.array(7.0, dtype=np.float32),
    }
    save_file(tensors, FOLDER / "tiny.safetensors", metadata={"format": "pt"})


def write_versions():
    versions = {name: importlib.metadata.version(name) for name in ["gguf", "numpy", "safetensors"]}
    versions["python"] = platform.python_version()
    (FOLDER / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


def main():
    rng = np.random.default_rng(20)
    write_blocks(rng)
    write_gguf(rng)
    write_safetensors()
    write_versions()


if __name__ == "__main__":
    main()
