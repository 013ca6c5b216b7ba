"""GGUF files of the Llama family: read, dequantise, and name things as Hugging Face does.

A GGUF file is a magic number, counts, metadata (typed key and value pairs, the vocabulary among
them), a table of tensors, then their bytes at aligned offsets. Sizes are little-endian. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from litellama.checkpoints.safetensors_files import DTYPE_NAMES, NewTensor, few
from litellama.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?")))  # type code -> struct format
SCALARS |= {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_DIMS = 4

# GGUF name -> Hugging Face name, and what else to do; {} is the layer.
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blk.{}.attn_q.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blk.{}.attn_k.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blk.{}.attn_v.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blk.{}.attn_output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight": "model.layers.{}.mlp.down_proj.weight",
}
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor: ``shape`` in torch's order, ``kind`` the ggml type's code, bytes at ``start``."""

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int
    nbytes: int


class GGUFFile:
    """A GGUF file's ``metadata`` and table of ``tensors``, read and checked; data stays on disk.

    Raises CheckpointError if the file is not a GGUF file, is truncated or is corrupted.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                magic = file.read(4)
                if magic != MAGIC:
                    raise CheckpointError(
                        f"{path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}"
                    )
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        self._at = 4
        version = self._scalar("I")
        if version not in VERSIONS:
            raise CheckpointError(f"{path} is GGUF version {version}; 2 and 3 are read")
        tensor_count, pair_count = self._scalar("Q"), self._scalar("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._string()
            self.metadata[key] = self._value(self._scalar("I"))
        self.tensors = self._table(tensor_count)

    def _take(self, count: int) -> int:
        """Step over ``count`` bytes and return where they begin; they must be in the file."""
        start = self._at
        if count > len(self._data) - start:
            raise CheckpointError(
                f"{self.path} is truncated or corrupted: {count} bytes are announced at byte "
                f"{start}, and the file has {len(self._data)}. Download it again"
            )
        self._at += count
        return start

    def _scalar(self, fmt: str) -> Any:
        return struct.unpack_from("<" + fmt, self._data, self._take(struct.calcsize("<" + fmt)))[0]

    def _string(self) -> str:
        size = self._scalar("Q")
        start = self._take(size)
        try:
            return self._data[start : start + size].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.path} is corrupted: the string at byte {start} is not UTF-8"
            ) from error

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._scalar(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            raise CheckpointError(f"{self.path} is corrupted: {kind} is no GGUF value type")
        item, count = self._scalar("I"), self._scalar("Q")
        if item in SCALARS:
            fmt = SCALARS[item]
            start = self._take(struct.calcsize("<" + fmt) * count)
            return list(struct.unpack_from(f"<{count}{fmt}", self._data, start))
        if item == STRING:
            return [self._string() for _ in range(count)]
        raise CheckpointError(f"{self.path} has an array of GGUF value type {item}: not supported")

    def _table(self, count: int) -> dict[str, GGUFTensor]:
        entries = []
        for _ in range(count):
            name, dims = self._string(), self._scalar("I")
            if dims > MAX_DIMS:
                raise CheckpointError(f"{self.path} is corrupted: {name!r} has {dims} dimensions")
            shape = tuple(self._scalar("Q") for _ in range(dims))[::-1]
            entries.append((name, shape, self._scalar("I"), self._scalar("Q")))
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self.path} is corrupted: general.alignment is {alignment!r}")
        data_start = -(-self._at // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise CheckpointError(f"{self.path} is corrupted: {name!r} appears twice")
            tensor = GGUFTensor(
                name, kind, shape, data_start + offset, self._nbytes(name, shape, kind)
            )
            if tensor.start + tensor.nbytes > len(self._data):
                raise CheckpointError(
                    f"{self.path} is truncated: {name!r} ends at byte "
                    f"{tensor.start + tensor.nbytes}, and the file has {len(self._data)}. "
                    "Download it again"
                )
            tensors[name] = tensor
        return tensors

    def _nbytes(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise CheckpointError(
                f"{self.path} stores {name!r} in ggml type {kind}, which is not known"
            ) from None
        if shape and shape[-1] % block:
            raise CheckpointError(
                f"{self.path} is corrupted: rows of {name!r} have {shape[-1]} values, not a "
                f"multiple of its block of {block}"
            )
        return math.prod(shape) // block * size

    def read(self, tensor: GGUFTensor) -> torch.Tensor:
        """The tensor's values as float32, in ``tensor.shape``."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        stored = np.frombuffer(self._data, np.uint8, tensor.nbytes, tensor.start)
        kind = GGMLQuantizationType(tensor.kind)
        plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
        try:
            if kind in plain:
                values = stored.view(plain[kind]).astype(np.float32)
            else:
                rows = math.prod(tensor.shape[:-1])
                values = dequantize(stored.reshape(rows, -1), kind)
        except NotImplementedError:
            raise CheckpointError(
                f"{self.path} stores {tensor.name!r} as {kind.name}, which cannot be dequantised"
            ) from None
        return torch.from_numpy(values.reshape(tensor.shape))

    def get(self, key: str, expected: type | tuple[type, ...], default: Any = None) -> Any:
        """A metadata value of the expected type; CheckpointError if it is not there and must be."""
        value = self.metadata.get(key, default)
        if not isinstance(value, expected) or isinstance(value, bool) is not (expected is bool):
            raise CheckpointError(f"{self.path} has {key} = {value!r}, which cannot be right")
        return value


def hf_config(file: GGUFFile) -> dict[str, Any]:
    """The ``config.json`` that says what the GGUF metadata says.

    Raises CheckpointError for an architecture or RoPE scaling that is not supported.
    """
    architecture = file.get("general.architecture", str)
    if architecture != "llama":
        raise CheckpointError(
            f"{file.path} is of the architecture {architecture!r}; only 'llama' is read from GGUF"
        )
    if file.metadata.get("llama.expert_count"):
        raise CheckpointError(f"{file.path} is a mixture of experts, which is not supported")
    heads = file.get("llama.attention.head_count", int)
    hidden = file.get("llama.embedding_length", int)
    head_dim = file.get("llama.attention.key_length", int, hidden // max(heads, 1))
    rotated = file.get("llama.rope.dimension_count", int, head_dim)
    if rotated != head_dim:
        raise CheckpointError(
            f"{file.path} rotates {rotated} of the {head_dim} dimensions of a head; only all of "
            "them is supported"
        )
    theta = _shortest(file.get("llama.rope.freq_base", float, 10000.0))
    vocabulary = file.get("tokenizer.ggml.tokens", list)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": file.get("llama.vocab_size", int, len(vocabulary)),
        "hidden_size": hidden,
        "intermediate_size": file.get("llama.feed_forward_length", int),
        "num_hidden_layers": file.get("llama.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get("llama.attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": file.get("llama.context_length", int),
        "rms_norm_eps": _shortest(file.get("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(file, theta, head_dim),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_special_ids(file),
    }


def _shortest(value: float) -> float:
    """A float32 as people write it: 9.999999747378752e-06 is 1e-05."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GGUFFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """The ``rope_scaling`` of config.json: none, linear, or Llama 3's (stored as its factors)."""
    kind = file.get("llama.rope.scaling.type", str, "none")
    if ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, theta, head_dim)
    if kind == "none":
        return None
    if kind != "linear":
        raise CheckpointError(
            f"{file.path} scales RoPE by {kind!r}; 'linear' and Llama 3's are supported"
        )
    return {"rope_type": "linear", "factor": file.get("llama.rope.scaling.factor", float)}


def _llama3_scaling(file: GGUFFile, theta: float, head_dim: int) -> dict[str, Any]:
    """Find Llama 3's parameters from the divisor of each frequency, and prove them."""
    stored = file.read(file.tensors[ROPE_FACTORS]).numpy()
    factor = float(stored.max())
    low, high, context = 1.0, 4.0, 8192  # those of every Llama 3.x
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    blend = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    expected = 1 / ((1 - blend) / factor + blend)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-3):
        raise CheckpointError(
            f"{file.path} has {ROPE_FACTORS} that are not those of Llama 3.x: not supported"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _special_ids(file: GGUFFile) -> dict[str, int]:
    keys = {"bos": "bos", "eos": "eos", "pad": "padding"}
    ids = {f"{ours}_token_id": f"tokenizer.ggml.{theirs}_token_id" for ours, theirs in keys.items()}
    return {ours: file.metadata[theirs] for ours, theirs in ids.items() if theirs in file.metadata}


def generation_config(file: GGUFFile) -> dict[str, Any]:
    """The ``generation_config.json``: which tokens begin, end and pad a text.

    ``eos_token_id`` is a list when a turn ends with another token than a text does (Llama 3).
    """
    ids: dict[str, Any] = dict(_special_ids(file))
    ends = [
        file.metadata[key]
        for key in (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
        if key in file.metadata
    ]
    ends = list(dict.fromkeys(ends))
    if len(ends) > 1:
        ids["eos_token_id"] = ends
    return ids


def hf_tensors(file: GGUFFile, config: dict[str, Any], dtype: torch.dtype) -> list[NewTensor]:
    """The tensors of the Hugging Face checkpoint, each dequantised when it is written.

    Raises CheckpointError for a tensor that the Llama architecture does not have.
    """
    names = {name: _hf_name(name) for name in file.tensors if name != ROPE_FACTORS}
    if unknown := sorted(name for name, ours in names.items() if ours is None):
        raise CheckpointError(f"{file.path} holds {few(unknown)}, which is not part of Llama")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    made = []
    for name, ours in names.items():
        assert ours is not None
        tensor = file.tensors[name]
        permuted = next((count for part, count in heads.items() if f".{part}." in name), 0)
        if permuted and (len(tensor.shape) != 2 or tensor.shape[0] % (2 * permuted)):
            raise CheckpointError(
                f"{file.path}: {name!r} has shape {list(tensor.shape)}, whose rows do not make "
                f"{permuted} heads of an even size"
            )
        read = _reader(file, tensor, permuted)
        made.append(NewTensor(ours, DTYPE_NAMES[dtype], tensor.shape, read))
    return made


def _hf_name(name: str) -> str | None:
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if layer is None:
        return NAMES.get(name)
    ours = NAMES.get(f"blk.{{}}.{layer[2]}")
    return ours and ours.format(int(layer[1]))


def _reader(file: GGUFFile, tensor: GGUFTensor, heads: int) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        values = file.read(tensor)
        return split_halves(values, heads) if heads else values

    return read


def split_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's order of the rows of q and k: [heads * head_dim, hidden], same shape out.

    llama.cpp rotates neighbours (rows 0 and 1, 2 and 3, ...), Hugging Face row i and row
    i + head_dim/2, so its converter interleaved the two halves of each head.
    """
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
