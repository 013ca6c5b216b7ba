"""The models: one decoder, and for each family a file that says only what is different."""

from pathlib import Path
from typing import Any

import torch

from litellama.config import ConfigReader, ModelConfig
from litellama.models.decoder import Decoder
from litellama.models.llama import LlamaForCausalLM
from litellama.models.llava import LlavaForConditionalGeneration
from litellama.models.qwen2 import Qwen2ForCausalLM
from litellama.models.qwen3 import Qwen3ForCausalLM

Model = Decoder | LlavaForConditionalGeneration
# The architecture names of config.json, and the class that reads its config and runs it.
FAMILIES: dict[str, type[Model]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
    "LlavaForConditionalGeneration": LlavaForConditionalGeneration,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
}

__all__ = ["FAMILIES", "Model", "decoder_of", "empty_model", "parse_config", "read_config"]


def read_config(folder: str | Path) -> ModelConfig:
    """The config of a checkpoint's folder, from ``config.json`` and ``generation_config.json``.

    Raises ConfigError for a file that is missing or malformed, an architecture that is not known,
    or a setting that is not supported.
    """
    return _read(ConfigReader.of_folder(folder))


def parse_config(config: dict[str, Any], source: str = "config") -> ModelConfig:
    """The same from the dictionary of a ``config.json``; ``source`` is named in errors."""
    return _read(ConfigReader(config, source))


def _read(reader: ConfigReader) -> ModelConfig:
    name = reader.architecture()
    if name not in FAMILIES:
        reader.refuse(
            f"architecture {name!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name].read_config(reader)


def decoder_of(model: Model) -> Decoder:
    """The model itself, or the decoder that a picture is put in front of."""
    return model if isinstance(model, Decoder) else model.language_model


def empty_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Model:
    """The family's model on the device, in the dtype, its parameters not initialised."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return FAMILIES[config.architecture](config).eval()
    finally:
        torch.set_default_dtype(before)
