"""GGUF files of Llama, Qwen2 and Qwen3: read, dequantise, and name things as Hugging Face does.

A GGUF file is a magic number, counts, metadata (typed key and value pairs, the vocabulary among
them), a table of tensors, then their bytes at aligned offsets. The package ``gguf`` reads it. The
format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize

from litellama.checkpoints.safetensors_files import DTYPE_NAMES, NewTensor, few
from litellama.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_READS = 3_000_000  # a vocabulary of 262,000 tokens and its merges take two million

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
# What a family has besides those.
BIASES = {
    f"blk.{{}}.attn_{part}.bias": f"model.layers.{{}}.self_attn.{part}_proj.bias" for part in "qkv"
}
NORMS = {
    f"blk.{{}}.attn_{part}_norm.weight": f"model.layers.{{}}.self_attn.{part}_norm.weight"
    for part in "qk"
}


@dataclass(frozen=True)
class Family:
    """An architecture of GGUF: its class in config.json, and the names that are its own.

    interleaved: whether llama.cpp's converter changed the order of the rows of q and k.
    """

    architecture: str
    names: dict[str, str]
    interleaved: bool = False


FAMILIES = {
    "llama": Family("LlamaForCausalLM", {}, interleaved=True),
    "qwen2": Family("Qwen2ForCausalLM", BIASES),
    "qwen3": Family("Qwen3ForCausalLM", NORMS),
}


class BoundedReader(GGUFReader):
    """``GGUFReader`` that stops at the end of the file, and after ``MAX_READS`` values.

    The library's own slices past the end come out short without an error, so that an array said to
    have 2**60 items would fill the memory. Everything is read through ``_get``, which is private
    to the library: the tests of damaged files fail if that changes.
    """

    reads = 0

    def _get(
        self, offset: int, dtype: Any, count: int = 1, override_order: Any = None
    ) -> np.ndarray[Any, Any]:
        end, size = int(offset) + int(count) * np.dtype(dtype).itemsize, len(self.data)
        if end > size:
            raise ValueError(f"bytes {offset} to {end} are announced, and the file has {size}")
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError(f"its metadata and table hold more than {MAX_READS} values")
        return np.frombuffer(self.data, dtype, int(count), int(offset))


class GGUFFile:
    """A GGUF file's ``metadata`` and ``tensors`` by name, checked; data stays on disk.

    Raises CheckpointError if the file is not a GGUF file, is truncated or is corrupted.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._check_header()
        try:
            with np.errstate(over="raise", divide="raise"):  # it computes in NumPy integers
                reader = BoundedReader(self.path)
            self.metadata = {key: field.contents() for key, field in reader.fields.items()}
        except (ValueError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is truncated or corrupted: {error}. Download it again"
            ) from error
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def _check_header(self) -> None:
        try:
            with self.path.open("rb") as file:
                magic, version = file.read(4), file.read(4)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from error
        if magic != MAGIC:
            raise CheckpointError(
                f"{self.path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}"
            )
        number = int.from_bytes(version, "little")
        if len(version) == 4 and number not in VERSIONS:
            raise CheckpointError(f"{self.path} is GGUF version {number}; 2 and 3 are read")

    def read(self, name: str) -> torch.Tensor:
        """The values of a tensor as float32, in torch's order of dimensions."""
        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise CheckpointError(
                f"{self.path} stores {name!r} as {tensor.tensor_type.name}, which cannot be "
                "dequantised"
            ) from None
        return torch.from_numpy(np.require(values, np.float32, ("ALIGNED", "WRITEABLE")))

    def get(self, key: str, expected: type | tuple[type, ...], default: Any = None) -> Any:
        """A metadata value of the expected type; CheckpointError if it is not there and must be."""
        value = self.metadata.get(key, default)
        if not isinstance(value, expected) or isinstance(value, bool) is not (expected is bool):
            raise CheckpointError(f"{self.path} has {key} = {value!r}, which cannot be right")
        return value

    def setting(self, key: str, expected: type | tuple[type, ...], default: Any = None) -> Any:
        """The same for a key that begins with the file's architecture."""
        return self.get(f"{self.get('general.architecture', str)}.{key}", expected, default)

    def family(self) -> Family:
        """The file's family; CheckpointError if it is not supported."""
        name = self.get("general.architecture", str)
        if name not in FAMILIES:
            raise CheckpointError(
                f"{self.path} is of the architecture {name!r}; from GGUF {', '.join(FAMILIES)} "
                "are read"
            )
        return FAMILIES[name]


def hf_config(file: GGUFFile) -> dict[str, Any]:
    """The ``config.json`` that says what the GGUF metadata says.

    Raises CheckpointError for an architecture or RoPE scaling that is not supported.
    """
    family = file.family()
    if file.setting("expert_count", int, 0):
        raise CheckpointError(f"{file.path} is a mixture of experts, which is not supported")
    heads = file.setting("attention.head_count", int)
    hidden = file.setting("embedding_length", int)
    head_dim = file.setting("attention.key_length", int, hidden // max(heads, 1))
    rotated = file.setting("rope.dimension_count", int, head_dim)
    if rotated != head_dim:
        raise CheckpointError(
            f"{file.path} rotates {rotated} of the {head_dim} dimensions of a head; only all of "
            "them is supported"
        )
    theta = _shortest(file.setting("rope.freq_base", float, 10000.0))
    vocabulary = file.get("tokenizer.ggml.tokens", list)
    return {
        "architectures": [family.architecture],
        "model_type": file.get("general.architecture", str),
        "vocab_size": file.setting("vocab_size", int, len(vocabulary)),
        "hidden_size": hidden,
        "intermediate_size": file.setting("feed_forward_length", int),
        "num_hidden_layers": file.setting("block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": file.setting("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": file.setting("context_length", int),
        "rms_norm_eps": _shortest(file.setting("attention.layer_norm_rms_epsilon", float)),
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
    kind = file.setting("rope.scaling.type", str, "none")
    if ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, theta, head_dim)
    if kind == "none":
        return None
    if kind != "linear":
        raise CheckpointError(
            f"{file.path} scales RoPE by {kind!r}; 'linear' and Llama 3's are supported"
        )
    return {"rope_type": "linear", "factor": file.setting("rope.scaling.factor", float)}


def _llama3_scaling(file: GGUFFile, theta: float, head_dim: int) -> dict[str, Any]:
    """Find Llama 3's parameters from the divisor of each frequency, and prove them."""
    stored = file.read(ROPE_FACTORS).numpy()
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

    Raises CheckpointError for a tensor that the architecture does not have.
    """
    family = file.family()
    known = NAMES | family.names
    names = {name: _hf_name(name, known) for name in file.tensors if name != ROPE_FACTORS}
    if unknown := sorted(name for name, ours in names.items() if ours is None):
        raise CheckpointError(
            f"{file.path} holds {few(unknown)}, which is not part of {family.architecture}"
        )
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    if not family.interleaved:
        heads = {}
    made = []
    for name, ours in names.items():
        assert ours is not None
        shape = torch_shape(file.tensors[name])
        permuted = next((count for part, count in heads.items() if f".{part}." in name), 0)
        if permuted and (len(shape) != 2 or shape[0] % (2 * permuted)):
            raise CheckpointError(
                f"{file.path}: {name!r} has shape {list(shape)}, whose rows do not make "
                f"{permuted} heads of an even size"
            )
        made.append(NewTensor(ours, DTYPE_NAMES[dtype], shape, _reader(file, name, permuted)))
    return made


def torch_shape(tensor: ReaderTensor) -> tuple[int, ...]:
    """GGUF gives the dimensions from the fastest to the slowest, torch the other way round."""
    return tuple(reversed(tensor.shape.tolist()))


def _hf_name(name: str, known: dict[str, str]) -> str | None:
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if layer is None:
        return known.get(name)
    ours = known.get(f"blk.{{}}.{layer[2]}")
    return ours and ours.format(int(layer[1]))


def _reader(file: GGUFFile, name: str, heads: int) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        values = file.read(name)
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
