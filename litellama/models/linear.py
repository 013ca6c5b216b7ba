"""The one place that makes linear layers: quantised or sharded ones would replace this class."""

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Module):
    """y = x W^T + b, with W [out_features, in_features] left uninitialised for the loader.

    A fused layer is one Linear whose rows are several checkpoint matrices stacked: q, k and v, or
    gate and up.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in_features] -> [tokens, out_features]."""
        return F.linear(x, self.weight, self.bias)
