"""Real architectures by name, as their published ``config.json`` has them, for random weights.

What a model costs in memory and time depends on its shape and not on what it has learnt, so speed
can be measured at full size without a download: ``LLM("random:llama-3.2-1b")`` makes the weights on
the device and takes prompts of token ids.  The token ids that it answers mean nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch

from litellama.config import ModelConfig
from litellama.errors import RequestError
from litellama.models import Model, empty_model, parse_config

PREFIX = "random:"
STD = 0.02  # of random weights, as most families initialise them before training

LLAMA3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "eos_token_id": 128001,
    "tie_word_embeddings": True,
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "eos_token_id": 151645,
    "tie_word_embeddings": True,
}
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "eos_token_id": 151645,
    "tie_word_embeddings": True,
}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


# Name: the dictionary of its config.json, as far as it says how the model is computed.
PRESETS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **_sizes(576, 1536, 30, 9),
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000.0,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": LLAMA3 | _sizes(2048, 8192, 16, 32) | {"head_dim": 64},
    "llama-3.2-3b": LLAMA3 | _sizes(3072, 8192, 28, 24) | {"head_dim": 128},
    "llama-3.1-8b": LLAMA3
    | _sizes(4096, 14336, 32, 32)
    | {"rope_scaling": LLAMA3["rope_scaling"] | {"factor": 8.0}, "tie_word_embeddings": False},
    "qwen2.5-0.5b": QWEN2 | _sizes(896, 4864, 24, 14) | {"num_key_value_heads": 2},
    "qwen2.5-1.5b": QWEN2 | _sizes(1536, 8960, 28, 12) | {"num_key_value_heads": 2},
    "qwen2.5-7b": QWEN2
    | _sizes(3584, 18944, 28, 28)
    | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "qwen3-0.6b": QWEN3 | _sizes(1024, 3072, 28, 16),
    "qwen3-4b": QWEN3 | _sizes(2560, 9728, 36, 32),
    "qwen3-8b": QWEN3 | _sizes(4096, 12288, 36, 32) | {"tie_word_embeddings": False},
    "llava-1.5-7b": {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **_sizes(1024, 4096, 24, 16),
            "image_size": 336,
            "patch_size": 14,
        },
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
}


def preset_config(name: str) -> ModelConfig:
    """The config of a preset, with or without the prefix; RequestError if there is no such one."""
    name = name.removeprefix(PREFIX)
    if name not in PRESETS:
        raise RequestError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return parse_config(PRESETS[name], source=f"preset {name}")


@torch.no_grad()
def random_model(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Model:
    """A model whose matrices are normal with standard deviation 0.02; norms 1, biases 0.

    Made on the device in the dtype, with nothing copied from the host.  The same seed gives the
    same weights on the same device and version of torch.
    """
    model = empty_model(config, device, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1)
        else:
            parameter.normal_(0, STD, generator=generator)
    return model


class NumberTokenizer:
    """Stands where a checkpoint's tokenizer does: token ids in, and as text their numbers."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """There is no vocabulary to encode with: RequestError."""
        raise RequestError("a preset has no tokenizer: give the prompt as a list of token ids")

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """[7, 23] -> " 7 23"."""
        return "".join(f" {i}" for i in token_ids)
