"""ModelConfig: what the decoder must know, read from a Hugging Face ``config.json``.

The file is read here and nowhere else; what it asks for and is not supported is refused by name,
so that a model never runs with a setting silently ignored.
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
class ModelConfig:
    """The shape of a decoder; the names are those of ``config.json`` unless the field says why.

    context: the longest sequence in tokens (``max_position_embeddings``).
    eos_token_ids: tokens that end an answer, from ``generation_config.json`` where there is one.
    qkv_bias, o_bias, mlp_bias: whether those linear layers add a bias.
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

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelConfig":
        """Read ``config.json``, and ``generation_config.json`` if it is there.

        Raises ConfigError for a file that is missing or malformed, an architecture that is not
        known, or a setting that is not supported.
        """
        path = Path(folder) / "config.json"
        config = read_json(path)
        generation_path = Path(folder) / "generation_config.json"
        generation = read_json(generation_path) if generation_path.exists() else {}
        return cls.from_dict(config, generation, source=path)

    @classmethod
    def from_dict(
        cls,
        config: dict[str, Any],
        generation: dict[str, Any] | None = None,
        source: Any = "config",
    ) -> "ModelConfig":
        """The same from dictionaries; ``source`` is named in errors."""
        reader = _Reader(config, str(source))
        refuse_unsupported(reader)
        hidden_size, num_heads = reader.size("hidden_size"), reader.size("num_attention_heads")
        attention_bias = reader.flag("attention_bias")
        eos = (generation or {}).get("eos_token_id", config.get("eos_token_id"))
        made = cls(
            architecture=reader.architecture(),
            vocab_size=reader.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=reader.size("intermediate_size"),
            num_layers=reader.size("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=reader.size("num_key_value_heads", default=num_heads),
            head_dim=reader.size("head_dim", default=hidden_size // num_heads),
            context=reader.size("max_position_embeddings", default=2048),
            rms_norm_eps=reader.positive("rms_norm_eps", default=1e-6),
            rope_theta=reader.rope_theta(),
            rope_scaling=reader.rope_scaling(),
            tie_word_embeddings=reader.flag("tie_word_embeddings"),
            qkv_bias=attention_bias,
            o_bias=attention_bias,
            mlp_bias=reader.flag("mlp_bias"),
            eos_token_ids=reader.token_ids("eos_token_id", eos),
        )
        made.check(reader)
        return made

    def check(self, reader: "_Reader") -> None:
        """Refuse sizes that do not fit each other."""
        if self.num_heads % self.num_kv_heads:
            reader.refuse(
                f"num_attention_heads ({self.num_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            reader.refuse(f"head_dim ({self.head_dim}) must be even for rotary embeddings")

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


def refuse_unsupported(reader: "_Reader") -> None:
    """Settings that change the computation and that the decoder does not know."""
    activation = reader.config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        reader.refuse(f"hidden_act {activation!r} is not supported, only 'silu'")
    if reader.config.get("quantization_config"):
        method = reader.config["quantization_config"].get("quant_method", "unknown")
        reader.refuse(
            f"quantized weights ({method!r}) are not supported: use the original checkpoint"
        )


class _Reader:
    """Typed access to a config dictionary, with errors that name the file, key and value."""

    def __init__(self, config: dict[str, Any], source: str) -> None:
        self.config, self.source = config, source
        # transformers 5 groups rope_theta and the scaling under "rope_parameters".
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            self.refuse(f"rope_scaling must be an object, found {rope!r}")
        self.rope = rope

    def refuse(self, message: str) -> None:
        raise ConfigError(f"{self.source}: {message}")

    def architecture(self) -> str:
        from litellama.models import FAMILIES

        names = self.config.get("architectures") or []
        if not isinstance(names, list) or len(names) != 1 or names[0] not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            self.refuse(f"architecture {names!r} is not supported; supported: {known}")
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
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or value <= 0
        ):
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
