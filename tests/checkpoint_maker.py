"""Small checkpoints for tests, written by transformers itself, tokenizer included."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
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


def make_tokenizer(folder: Path, extra: Sequence[str] = ()) -> int:
    """Write a byte-level BPE tokenizer; returns the size of its vocabulary.

    extra: special tokens at its end.
    """
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(m) for m in MERGES]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[0],
        additional_special_tokens=[*SPECIAL[1:], *extra],
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


def make_llava(
    folder: Path,
    family: str = "llama",
    seed: int = 0,
    spelling: str | None = None,
    max_shard_size: str = "5GB",
    text: dict | None = None,
    vision: dict | None = None,
    **overrides,
) -> Path:
    """Write a random LlavaForConditionalGeneration, its tokenizer and its image processor.

    text, vision and overrides go to its three configs.  spelling: of the tensors' names, see
    ``respell``.
    """
    torch.manual_seed(seed)
    vocabulary = make_tokenizer(folder, extra=["<image>"])
    settings = decoder_settings(vocabulary) | (text or {})
    if family == "qwen2":
        del settings["head_dim"]
    tower = {
        "hidden_size": 36,
        "intermediate_size": 50,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 30,
        "patch_size": 7,
    } | (vision or {})
    joint = {"image_token_index": vocabulary - 1, "tie_word_embeddings": True} | overrides
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower), text_config=CONFIGS[family](**settings), **joint
    )
    model = LlavaForConditionalGeneration(config)
    roughen(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if spelling:
        respell(folder, spelling)
    CLIPImageProcessorPil(
        size={"shortest_edge": tower["image_size"]},
        crop_size={"height": tower["image_size"], "width": tower["image_size"]},
    ).save_pretrained(folder)
    return folder


def respell(folder: Path, spelling: str) -> None:
    """Rename the tensors of one model.safetensors as another transformers names them.

    "published": as in the checkpoints of 2023; "newer": as transformers 4.52 to 4.57 writes them.
    """
    path, renamed = folder / "model.safetensors", {}
    for name, tensor in load_file(path).items():
        part, _, rest = name.partition(".")
        if part == "vision_tower":
            rest = f"vision_model.{rest}"
        if spelling == "newer":
            rest = rest.removeprefix("model.") if part == "language_model" else rest
            head = rest.startswith("lm_head")
            renamed[rest if head else f"model.{part}.{rest}"] = tensor
        else:
            renamed[f"{part}.{rest}"] = tensor
    if spelling == "published":
        renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17.0)[None]
    save_file(renamed, path)


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
