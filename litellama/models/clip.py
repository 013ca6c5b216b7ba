"""CLIP's vision tower: a picture cut into patches, and a transformer that lets them see each other.

pixels [n, 3, S, S] -> patches of P x P pixels, one row of 3 P P numbers each -> a linear layer to
``hidden`` -> a learnt class token in front and a learnt position added -> blocks of LayerNorm,
attention of all to all, LayerNorm, feed-forward, each with its residual add.  Nothing is causal and
nothing is cached: the tower runs once a picture.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021, arXiv:2103.00020; Dosovitskiy et al., "An Image Is Worth 16x16 Words", 2020, arXiv:2010.11929.
Lesson 13 builds this file.
"""

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from litellama import kernels
from litellama.config import VisionConfig
from litellama.models.decoder import Pieces, fused_pieces
from litellama.models.linear import Linear, linear


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's approximation of GELU: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


Activation = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[str, Activation] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class PatchEmbeddings(nn.Module):
    """Patches as rows, through one matrix; the class token in front; positions added.

    The matrix is kept in the shape of the convolution that checkpoints call it, [hidden, 3, P, P]:
    a convolution whose stride is its kernel's size is a linear layer on patches.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        hidden, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(hidden), requires_grad=False)
        self.patch_embedding = nn.Parameter(
            torch.empty(hidden, 3, patch, patch), requires_grad=False
        )
        self.position_embedding = nn.Parameter(
            torch.empty(config.num_patches + 1, hidden), requires_grad=False
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels [n, 3, S, S] -> [n, 1 + patches, hidden]."""
        patches = linear(self.patches(pixels).flatten(0, 1), self.patch_embedding.flatten(1))
        patches = patches.view(len(pixels), -1, self.config.hidden_size)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, S, S] -> [n, patches, 3 P P]: row by row, each patch channel by channel."""
        P = self.config.patch_size
        side = self.config.image_size // P
        grid = pixels[:, :, : side * P, : side * P].unflatten(2, (side, P)).unflatten(4, (side, P))
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class VisionAttention(nn.Module):
    """Attention of every patch to every patch, with q, k and v from one matrix."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv_proj = Linear(config.hidden_size, 3 * config.hidden_size, bias=True)
        self.out_proj = Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, T, hidden] -> [n, T, hidden]."""
        n, T, hidden = x.shape
        qkv = self.qkv_proj(x.flatten(0, 1)).view(n, T, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, T, head_dim]
        mixed = kernels.flash_attention(q, k, v, causal=False)
        return self.out_proj(mixed.transpose(1, 2).reshape(n * T, hidden)).view(n, T, hidden)


class VisionMLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.activation: Activation = ACTIVATIONS[config.activation]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, T, hidden] -> [n, T, hidden]."""
        return self.fc2(self.activation(self.fc1(x.flatten(0, 1)))).view(x.shape)


class VisionLayer(nn.Module):
    """A pre-norm block: the residual stream is only ever added to."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, T, hidden] -> [n, T, hidden]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionTower(nn.Module):
    """Pixels to features, up to the layer that the language model takes them from."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # their name
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels [n, 3, S, S] -> [n, image tokens, hidden], in the weights' dtype."""
        x = self.embeddings(pixels.to(self.pre_layrnorm.weight.dtype))
        x = self.pre_layrnorm(x)
        for layer in self.layers:
            x = layer(x)
        return x if self.config.keeps_class_token else x[:, 1:]

    def checkpoint_layout(self) -> dict[str, Pieces]:
        """For each parameter, the checkpoint tensors that make it, in the names of CLIP."""
        hidden = self.config.hidden_size
        fused = {"qkv_proj": [(f"{part}_proj", hidden) for part in "qkv"]}
        layout = {}
        for name, parameter in self.named_parameters():
            theirs = name.replace("layers.", "encoder.layers.")
            if name in ("embeddings.patch_embedding", "embeddings.position_embedding"):
                theirs += ".weight"
            layout[name] = fused_pieces(theirs, parameter.shape, fused)
        return layout

    def ignored_checkpoint_names(self) -> list[str | re.Pattern[str]]:
        """What comes after the features is not computed, and position ids only count."""
        computed = "|".join(str(i) for i in range(self.config.num_layers)) or "none"
        later = re.compile(rf"encoder\.layers\.(?!(?:{computed})\.).*")
        return ["embeddings.position_ids", re.compile(r"post_layernorm\..*"), later]
