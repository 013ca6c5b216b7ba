"""ModelConfig: what a model must know about itself, and how a ``config.json`` is read.

``ConfigReader`` reads what all families share, and each family (``litellama.models``) adds its own
settings.  What a file asks for and is not supported is refused by name, so that a model never runs
with a setting silently ignored.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litellama.errors import ConfigError


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those of pre-training.

    kind: "none"; "linear" (every frequency divided by ``factor``); or "llama3" (long wavelengths
    divided by ``factor``, short ones kept, smooth between; the Llama 3.1 rule).
    """

    kind: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class VisionConfig:
    """The shape of a CLIP vision tower, and what a language model takes from it.

    image_size, patch_size: edges in pixels of the square picture and of its square patches.
    num_layers: blocks that are computed: those up to the features, not all of the checkpoint's.
    activation: "quick_gelu" or "gelu", of the blocks.
    keeps_class_token: whether the class token's features are passed on with the patches'.
    projector_bias: whether the two layers of the projector add a bias.
    image_token_id: the token that stands for a picture in a prompt.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    activation: str
    keeps_class_token: bool
    projector_bias: bool
    image_token_id: int

    @property
    def num_patches(self) -> int:
        """Patches of one picture; a rest that is no whole patch is left out."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_image_tokens(self) -> int:
        """Tokens that one picture takes in a prompt."""
        return self.num_patches + self.keeps_class_token


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder; the names are those of ``config.json`` unless the field says why.

    context: the longest sequence in tokens (``max_position_embeddings``).
    eos_token_ids: tokens that end an answer, from ``generation_config.json`` where there is one.
    qkv_bias, o_bias, mlp_bias: whether those linear layers add a bias.
    vision: of a model that reads pictures too, its tower.  decoder: its decoder's architecture.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    eos_token_ids: tuple[int, ...] = ()
    vision: VisionConfig | None = None
    decoder: str = ""

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (and of all value heads)."""
        return self.num_kv_heads * self.head_dim

    def kv_bytes_per_token(self, element_size: int) -> int:
        """Bytes of KV cache that one token takes, keys and values, all layers."""
        return 2 * self.num_layers * self.kv_size * element_size


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ConfigError if it is missing or is not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist: a checkpoint is a folder with config.json, model.safetensors "
            "and the tokenizer's files"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object, found a {type(value).__name__}")
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


class ConfigReader:
    """Typed access to the dictionary of a ``config.json``; errors name the file, key and value.

    config: the dictionary.  source: what errors call it.  generation: the dictionary of the
    ``generation_config.json`` beside it.
    """

    def __init__(
        self, config: dict[str, Any], source: str, generation: dict[str, Any] | None = None
    ) -> None:
        self.config, self.source, self.generation = config, source, generation or {}
        # transformers 5 groups rope_theta and the scaling under "rope_parameters".
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            self.refuse(f"rope_scaling must be an object, found {rope!r}")
        self.rope = rope

    @classmethod
    def of_folder(cls, folder: str | Path) -> "ConfigReader":
        """Of a checkpoint's folder; ConfigError if ``config.json`` is missing or malformed."""
        path, generation = Path(folder) / "config.json", Path(folder) / "generation_config.json"
        ends = read_json(generation) if generation.exists() else {}
        return cls(read_json(path), str(path), ends)

    def decoder(self, **differences: Any) -> ModelConfig:
        """What Llama and its relatives share, and a family's ``differences`` from it, by field.

        Raises ConfigError for a value that makes no sense or a setting that is not supported.
        """
        self.refuse_unsupported()
        hidden_size, num_heads = self.size("hidden_size"), self.size("num_attention_heads")
        eos = self.generation.get("eos_token_id", self.config.get("eos_token_id"))
        fields: dict[str, Any] = {
            "architecture": self.architecture(),
            "vocab_size": self.size("vocab_size"),
            "hidden_size": hidden_size,
            "intermediate_size": self.size("intermediate_size"),
            "num_layers": self.size("num_hidden_layers"),
            "num_heads": num_heads,
            "num_kv_heads": self.size("num_key_value_heads", default=num_heads),
            "head_dim": self.size("head_dim", default=max(hidden_size // num_heads, 1)),
            "context": self.size("max_position_embeddings", default=2048),
            "rms_norm_eps": self.positive("rms_norm_eps", default=1e-6),
            "rope_theta": self.rope_theta(),
            "rope_scaling": self.rope_scaling(),
            "tie_word_embeddings": self.flag("tie_word_embeddings"),
            "eos_token_ids": self.token_ids("eos_token_id", eos),
        }
        made = ModelConfig(**(fields | differences))
        if made.num_heads % made.num_kv_heads:
            self.refuse(
                f"num_attention_heads ({made.num_heads}) must be a multiple of "
                f"num_key_value_heads ({made.num_kv_heads})"
            )
        if made.head_dim % 2:
            self.refuse(f"head_dim ({made.head_dim}) must be even for rotary embeddings")
        return made

    def refuse_unsupported(self) -> None:
        """Settings that change what a decoder computes, and that ours does not know."""
        activation = self.config.get("hidden_act", "silu")
        if activation not in ("silu", "swish"):
            self.refuse(f"hidden_act {activation!r} is not supported, only 'silu'")
        if quantization := self.config.get("quantization_config"):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            self.refuse(
                f"quantized weights ({method!r}) are not supported: use the original checkpoint"
            )
        # Checkpoints of Qwen2.5 give a window's size and say that it is not used.
        if self.flag("use_sliding_window"):
            self.refuse("use_sliding_window is true, and sliding windows are not supported")
        for kind in self.config.get("layer_types") or []:
            if kind != "full_attention":
                self.refuse(f"layer_types has {kind!r}; only 'full_attention' is supported")

    def refuse(self, message: str) -> None:
        raise ConfigError(f"{self.source}: {message}")

    def section(self, key: str, **defaults: Any) -> "ConfigReader":
        """A reader of the object under ``key``; what it leaves out is taken from ``defaults``."""
        value = self.config.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict):
            self.refuse(f"{key} must be an object, found {value!r}")
        return ConfigReader(defaults | value, f"{self.source}, {key}", self.generation)

    def choice(self, key: str, default: str, *supported: str) -> str:
        """One of the ``supported`` strings."""
        value = self.config.get(key, default)
        if value not in supported:
            self.refuse(f"{key} {value!r} is not supported; supported: {', '.join(supported)}")
        return value

    def architecture(self) -> str:
        """The one name under "architectures"."""
        names = self.config.get("architectures") or []
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            self.refuse(f"architectures must hold one name, found {names!r}")
        return names[0]

    def size(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if value is None:
            self.refuse(f"{key} is missing")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.refuse(f"{key} must be a positive integer, found {value!r}")
        return value  # type: ignore[return-value]

    def positive(self, key: str, default: float, table: dict[str, Any] | None = None) -> float:
        value = (self.config if table is None else table).get(key, default)
        if not is_number(value) or value <= 0:
            self.refuse(f"{key} must be a positive number, found {value!r}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.config.get(key) or False
        if not isinstance(value, bool):
            self.refuse(f"{key} must be true or false, found {value!r}")
        return value

    def token_ids(self, key: str, value: Any) -> tuple[int, ...]:
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            self.refuse(f"{key} must be a token id or a list of them, found {value!r}")
        return tuple(ids)

    def rope_theta(self) -> float:
        table = self.rope if "rope_theta" in self.rope else self.config
        return self.positive("rope_theta", 10000.0, table)

    def rope_scaling(self) -> RopeScaling:
        kind = self.rope.get("rope_type") or self.rope.get("type") or "default"
        if self.rope.get("partial_rotary_factor", 1.0) != 1.0:
            self.refuse("partial_rotary_factor other than 1 is not supported")
        if kind == "default":
            return RopeScaling()
        if kind not in ("linear", "llama3"):
            self.refuse(f"RoPE scaling {kind!r} is not supported; supported: linear, llama3")
        if "factor" not in self.rope:
            self.refuse(f"RoPE scaling {kind!r} needs a factor")
        factor = self.positive("factor", 1.0, self.rope)
        if kind == "linear":
            return RopeScaling("linear", factor)
        low = self.positive("low_freq_factor", 1.0, self.rope)
        high = self.positive("high_freq_factor", 4.0, self.rope)
        if high <= low:
            self.refuse(f"high_freq_factor ({high}) must be above low_freq_factor ({low})")
        original = self.positive("original_max_position_embeddings", 8192, self.rope)
        return RopeScaling("llama3", factor, low, high, int(original))
