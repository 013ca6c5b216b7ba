"""Low-rank changes to a frozen language model, merged into its weights when training is over.

y = W x becomes y = W x + B A x, with A [rank, in] random and B [out, rank] zero at the start, so
that training begins at the model as it is.  Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", 2021, arXiv:2106.09685.
"""

import torch
from torch import nn

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LowRank(nn.Module):
    """A frozen linear layer and its trainable change."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        device = linear.weight.device
        self.linear = linear
        self.A = nn.Parameter(torch.randn(rank, linear.in_features, device=device) * 0.02)
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        change = (x @ self.A.t().to(x.dtype)) @ self.B.t().to(x.dtype)
        return self.linear(x) + change


def add_low_rank(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Replace the linear layers of a decoder in place; returns what is to be trained."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in LAYERS and isinstance(child, nn.Linear)
    ]
    trained: list[nn.Parameter] = []
    for parent, name, child in found:
        layer = LowRank(child, rank)
        setattr(parent, name, layer)
        trained += [layer.A, layer.B]
    return trained


def low_rank_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """A and B of every changed layer, under the name of the weight that they change."""
    return {
        f"{name}.weight.{part}": getattr(layer, part).detach()
        for name, layer in model.named_modules()
        if isinstance(layer, LowRank)
        for part in ("A", "B")
    }
