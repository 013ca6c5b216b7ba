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
        return linear(x, self.weight, self.bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + b: x [n, in_features], weight [out_features, in_features] -> [n, out_features]."""
    if len(x) == 1 and x.dtype == torch.bfloat16 and not x.is_cuda:
        # One row against a matrix is limited by reading the matrix.  On a CPU torch's bfloat16
        # matrix-vector product does that in two thirds of the time of its matrix product.
        out = torch.mv(weight, x.view(-1))
        return (out if bias is None else out + bias).view(1, -1)
    return F.linear(x, weight, bias)
