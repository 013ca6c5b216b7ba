"""LLaVA 1.5: CLIP's patches, projected into the language model's space, among its words.

A prompt holds ``num_image_tokens`` image tokens for each picture.  Their embeddings are replaced by
the picture's projected features; from there on they are tokens like any other, with positions, keys
and values in the same cache.  The decoder is Llama, Qwen2 or Qwen3 as it is.

Source: Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485, and "Improved Baselines
with Visual Instruction Tuning", 2023, arXiv:2310.03744.  Lesson 13 builds this file.
"""

import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from litellama.config import ConfigReader, ModelConfig, VisionConfig
from litellama.models.clip import VisionTower
from litellama.models.decoder import Decoder, Pieces
from litellama.models.linear import Linear
from litellama.models.llama import LlamaForCausalLM
from litellama.models.qwen2 import Qwen2ForCausalLM
from litellama.models.qwen3 import Qwen3ForCausalLM

# The model_type of text_config, and the decoder that it stands for.
DECODERS: dict[str, type[Decoder]] = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}
# LLaVA's config.json leaves out what is as in Llama 7B and in CLIP ViT-L/14.
LLAMA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "eos_token_id": 2,
}
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
# Checkpoints come in two spellings; this is how the newer one is read as the older.
OLDER_NAMES = (
    (re.compile(r"model\.language_model\.(.*)"), r"language_model.model.\1"),
    (re.compile(r"lm_head\.(.*)"), r"language_model.lm_head.\1"),
    (re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?(.*)"), r"vision_tower.\1"),
    (re.compile(r"model\.(multi_modal_projector\..*)"), r"\1"),
)


class Projector(nn.Module):
    """Two linear layers with a GELU between: vision features to the width of the decoder."""

    def __init__(self, vision: VisionConfig, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = Linear(vision.hidden_size, hidden_size, bias=vision.projector_bias)
        self.linear_2 = Linear(hidden_size, hidden_size, bias=vision.projector_bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [tokens, vision hidden] -> [tokens, hidden]."""
        return self.linear_2(F.gelu(self.linear_1(features)))


class LlavaForConditionalGeneration(nn.Module):
    """A vision tower and a projector before a decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vision is not None
        self.config = config
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(config.vision, config.hidden_size)
        decoder = {family.__name__: family for family in DECODERS.values()}[config.decoder]
        self.language_model = decoder(config)

    @classmethod
    def read_config(cls, reader: ConfigReader) -> ModelConfig:
        """Of LLaVA's ``config.json``: text_config, vision_config, and how the two are joined."""
        text = reader.section("text_config", **LLAMA_7B)
        decoder = DECODERS[text.choice("model_type", "llama", *DECODERS)]
        text.config["architectures"] = [decoder.__name__]
        if reader.flag("tie_word_embeddings"):
            text.config["tie_word_embeddings"] = True
        config = decoder.read_config(text)
        return replace(
            config,
            architecture=reader.architecture(),
            decoder=decoder.__name__,
            vision=read_vision(reader, config.vocab_size),
        )

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels [n, 3, S, S] -> [n, image tokens, hidden]: what replaces their embeddings."""
        features = self.vision_tower(pixels)
        return self.multi_modal_projector(features.flatten(0, 1)).view(*features.shape[:2], -1)

    def checkpoint_layout(self) -> dict[str, Pieces]:
        """For each parameter, the checkpoint tensors that make it, in the older spelling."""
        layout = {}
        for part in (self.language_model, self.vision_tower):
            prefix = "language_model." if part is self.language_model else "vision_tower."
            for name, pieces in part.checkpoint_layout().items():
                layout[prefix + name] = [(prefix + theirs, shape) for theirs, shape in pieces]
        for name, parameter in self.multi_modal_projector.named_parameters(
            prefix="multi_modal_projector"
        ):
            layout[name] = [(name, tuple(parameter.shape))]
        return layout

    def ignored_checkpoint_names(self) -> list[str | re.Pattern[str]]:
        """Tensors that may be in a checkpoint and are not needed, in the older spelling."""
        return [
            re.compile(
                re.escape(prefix) + (re.escape(rule) if isinstance(rule, str) else rule.pattern)
            )
            for prefix, part in (
                ("language_model.", self.language_model),
                ("vision_tower.", self.vision_tower),
            )
            for rule in part.ignored_checkpoint_names()
        ]

    def checkpoint_name(self, name: str) -> str:
        """A checkpoint's name of a tensor, in the older spelling."""
        for newer, older in OLDER_NAMES:
            if match := newer.fullmatch(name):
                return match.expand(older)
        return name


def read_vision(reader: ConfigReader, vocab_size: int) -> VisionConfig:
    """The vision tower, and what joins it to a decoder with this vocabulary."""
    vision = reader.section("vision_config", **CLIP_LARGE)
    vision.choice("model_type", "clip_vision_model", "clip_vision_model")
    reader.choice("projector_hidden_act", "gelu", "gelu")
    strategy = reader.choice("vision_feature_select_strategy", "default", "default", "full")
    hidden_size, num_heads = vision.size("hidden_size"), vision.size("num_attention_heads")
    if hidden_size % num_heads:
        vision.refuse(
            f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({num_heads})"
        )
    if vision.size("num_channels", default=3) != 3:
        vision.refuse("num_channels must be 3: red, green and blue")
    image_size, patch_size = vision.size("image_size"), vision.size("patch_size")
    if patch_size > image_size:
        vision.refuse(f"patch_size ({patch_size}) is larger than image_size ({image_size})")
    return VisionConfig(
        hidden_size=hidden_size,
        intermediate_size=vision.size("intermediate_size"),
        num_layers=feature_depth(reader, vision.size("num_hidden_layers")),
        num_heads=num_heads,
        image_size=image_size,
        patch_size=patch_size,
        layer_norm_eps=vision.positive("layer_norm_eps", default=1e-5),
        activation=vision.choice("hidden_act", "quick_gelu", "quick_gelu", "gelu"),
        keeps_class_token=strategy == "full",
        projector_bias=reader.config.get("multimodal_projector_bias") is not False,
        image_token_id=image_token_id(reader, vocab_size),
    )


def feature_depth(reader: ConfigReader, num_layers: int) -> int:
    """After how many of the tower's layers its features are taken: -1 is after the last."""
    layer = reader.config.get("vision_feature_layer", -2)
    if not isinstance(layer, int) or isinstance(layer, bool):
        reader.refuse(f"vision_feature_layer must be one layer's number, found {layer!r}")
    depth = num_layers + 1 + layer if layer < 0 else layer
    if not 0 <= depth <= num_layers:
        reader.refuse(f"vision_feature_layer is {layer}, and the tower has {num_layers} layers")
    return depth


def image_token_id(reader: ConfigReader, vocab_size: int) -> int:
    """The token that stands for a picture; transformers has two names for its key."""
    key = "image_token_id" if "image_token_id" in reader.config else "image_token_index"
    value = reader.config.get(key, 32000)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab_size:
        reader.refuse(f"{key} must be a token id below {vocab_size}, found {value!r}")
    return value
