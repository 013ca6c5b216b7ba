"""Small checkpoints for tests, written by transformers itself, tokenizer included."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
# Merges that make tokens of several bytes: two words, and the halves of an emoji.
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("ð", "Ł")]


def make_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE tokenizer; returns the size of its vocabulary."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(m) for m in MERGES]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], additional_special_tokens=SPECIAL[1:]
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def make_llama(folder: Path, **settings) -> Path:
    """Write a random LlamaForCausalLM; ``settings`` as for ``make_decoder``."""
    return make_decoder(folder, "llama", **settings)


def make_decoder(
    folder: Path, family: str, seed: int = 0, max_shard_size: str = "5GB", **overrides
) -> Path:
    """Write a random model of a family ("llama", "qwen2", "qwen3") with odd sizes, and a tokenizer.

    ``overrides`` go to the family's config class.
    """
    torch.manual_seed(seed)
    settings = decoder_settings(make_tokenizer(folder)) | overrides
    if family == "qwen2":
        del settings["head_dim"]  # Qwen2's config has none: it is hidden_size over heads
    config = CONFIGS[family](**settings)
    model = AutoModelForCausalLM.from_config(config)
    roughen(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def decoder_settings(vocabulary: int) -> dict:
    """Sizes that are no multiple of anything, and weights large enough to tell logits apart."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": 60,
        "intermediate_size": 97,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "max_position_embeddings": 512,
        "eos_token_id": vocabulary - 4,
        "bos_token_id": None,
        "tie_word_embeddings": True,
    }


@torch.no_grad()
def roughen(model: torch.nn.Module) -> None:
    """Random weights of a size that keeps logits far from uniform, and rounding from growing.

    Norm weights of 1 and biases of 0 would hide a norm or a bias that is left out.
    """
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
        else:
            parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
