"""The one place that makes linear layers: quantised or sharded ones would replace this class.

Lesson 05 explains this file.
"""

import torch
import torch.nn.functional as F
from torch import nn

from litellama import kernels
from litellama.kernels.backend import uses_triton
from litellama.kernels.few_rows import fits

# The most rows that ``linear`` multiplies from the left on a CPU; for more, nothing is gained.
FEW_ROWS = 16


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

    def forward_few(
        self,
        x: torch.Tensor,
        *,
        norm: torch.Tensor | None = None,
        eps: float = 1e-6,
        swiglu: bool = False,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [n, in_features] -> [n, out_features], with neighbours as ``kernels.matvec`` says."""
        return kernels.matvec(
            x, self.weight, self.bias, norm=norm, eps=eps, swiglu=swiglu, residual=residual
        )


def are_few(x: torch.Tensor) -> bool:
    """Whether x [n, features] is so few tokens on a GPU that reading weights is all that counts."""
    return (len(x) == 1 or fits(x)) and uses_triton(x)


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
    if are_few(x):
        return kernels.matvec(x, weight, bias)
    return F.linear(x, weight, bias)
