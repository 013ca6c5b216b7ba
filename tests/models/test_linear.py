"""Linear layers: one row or many, with a bias or without, against float64."""

import pytest
import torch

from litellama.models.linear import linear
from tests.kernels.compare import DTYPES, close


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 16, 17])
def test_linear(rows, bias, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 577).to(dtype), torch.randn(90, 577).to(dtype)
    b = torch.randn(90).to(dtype) if bias else None
    expected = x.double() @ weight.double().T + (b.double() if bias else 0)
    out = linear(x, weight, b)
    close(out, expected)
    assert out.is_contiguous()
    close(linear(x.repeat(1, 2)[:, :577], weight, b), expected)  # rows of a wider matrix
