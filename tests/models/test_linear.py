"""Linear layers: one row or many, with a bias or without, against float64."""

import pytest
import torch

from litellama.models.linear import can_part, linear, product_of_parts
from tests.kernels.compare import DTYPES, close


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5, 16, 17])
@pytest.mark.parametrize("width", [88, 90], ids=["in_parts", "whole"])
def test_linear(width, rows, bias, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 577).to(dtype), torch.randn(width, 577).to(dtype)
    b = torch.randn(width).to(dtype) if bias else None
    expected = x.double() @ weight.double().T + (b.double() if bias else 0)
    out = linear(x, weight, b)
    close(out, expected)
    assert out.is_contiguous()
    close(linear(x.repeat(1, 2)[:, :577], weight, b), expected)  # rows of a wider matrix


@pytest.mark.parametrize("rows", [1, 4, 5, 16])
def test_a_matrix_in_parts(rows):
    """Said outright, for torches without MKL as well; and a matrix that has no such view."""
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 577), torch.randn(88, 577)
    expected = x.double() @ weight.double().T
    close(product_of_parts(x, weight), expected)
    assert can_part(weight) == torch.backends.mkl.is_available()
    assert not can_part(weight[:87])
    columns = torch.randn(577, 88).t()
    assert not can_part(columns)
    close(linear(x, columns), x.double() @ columns.double().T)
