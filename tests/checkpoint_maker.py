"""Small checkpoints for tests, written by transformers itself, tokenizer included."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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


def make_llama(folder: Path, seed: int = 0, max_shard_size: str = "5GB", **overrides) -> Path:
    """Write a random LlamaForCausalLM with odd sizes; ``overrides`` go to LlamaConfig."""
    vocabulary = make_tokenizer(folder)
    settings = {
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
    settings |= overrides
    # Large enough that the logits are far from uniform, small enough that rounding does not grow.
    settings.setdefault("initializer_range", 1.5 * settings["hidden_size"] ** -0.5)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            # Norm weights of 1 and biases of 0 would hide a norm or a bias that is left out.
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
