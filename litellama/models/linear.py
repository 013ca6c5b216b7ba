"""The one place that makes linear layers: quantised or sharded ones would replace this class.

Lesson 05 explains this file.
"""

import torch
import torch.nn.functional as F
from torch import nn

from litellama import kernels
from litellama.kernels.backend import uses_triton
from litellama.kernels.few_rows import fits

# The most rows that ``linear`` multiplies in its own ways on a CPU: as many as an LLM decodes at
# once unless told otherwise.
FEW_ROWS = 16
# The parts that it cuts a float32 matrix into there; 2 to 32 took the same time for one row.
PARTS = 8


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
    if are_few(x):
        return kernels.matvec(x, weight, bias)
    # Few rows against a matrix are limited by reading the matrix, and torch's x W^T on a CPU is far
    # from that limit.
    few = not x.is_cuda and 0 < len(x) <= FEW_ROWS
    if few and x.dtype == torch.bfloat16:
        # W x^T took three quarters of the time on an Intel Xeon with AMX; the same on an AMD EPYC.
        out = (weight @ x.t()).t()
    elif few and x.dtype == torch.float32 and can_part(weight):
        out = product_of_parts(x, weight)
    else:
        return F.linear(x, weight, bias)
    out = out.contiguous()  # rows, as callers expect, and not columns
    return out if bias is None else out + bias


def can_part(weight: torch.Tensor) -> bool:
    """Whether ``product_of_parts`` is possible and pays: torch's batched product must be MKL's."""
    return torch.backends.mkl.is_available() and len(weight) % PARTS == 0 and weight.is_contiguous()


def product_of_parts(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T as a batch of products, each with a part of W's rows: same shapes, maybe as columns.

    For one row MKL's batched product reads at the memory's speed, where its single one does not: on
    2 cores of an AMD EPYC all matrices of SmolLM2 took 17 ms in place of 58, and 57 in place of 70
    to 115 for 8 rows.
    """
    parts = weight.view(PARTS, -1, weight.shape[1])
    if len(x) <= 4:  # x^T must stay a view: MKL is quick for rows read as columns, not for a copy
        return torch.bmm(parts, x.t().expand(PARTS, -1, -1)).flatten(0, 1).t()
    return torch.bmm(x.expand(PARTS, -1, -1), parts.transpose(1, 2)).transpose(0, 1).flatten(1)
