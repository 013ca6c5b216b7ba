"""The one place that makes linear layers: quantised or sharded ones would replace this class."""

import torch
import torch.nn.functional as F
from torch import nn

from litellama import kernels

# The most rows that ``linear`` multiplies from the left on a CPU; for more, nothing is gained.
FEW_ROWS = 16
# The most rows on a GPU for which reading the weights once is all that counts.
MATVEC_ROWS = 1


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
    if x.dtype == torch.bfloat16 and not x.is_cuda and 0 < len(x) <= FEW_ROWS:
        # Few rows against a matrix are limited by reading the matrix.  On a CPU torch's bfloat16
        # W x and W x^T do that in about three quarters of the time of its x W^T.
        if len(x) == 1:
            out = torch.mv(weight, x.reshape(-1)).view(1, -1)
        else:
            out = (weight @ x.t()).t().contiguous()  # rows, as callers expect, and not columns
        return out if bias is None else out + bias
    if x.is_cuda and len(x) <= MATVEC_ROWS:
        return kernels.matvec(x, weight, bias)
    return F.linear(x, weight, bias)
