"""mul, softmax, rms_norm, skip_rms_norm and swiglu against float64, on irregular shapes."""

import pytest
import torch

from litellama import kernels
from litellama.kernels.softmax import MAX_BLOCK
from tests.kernels.compare import DTYPES, close

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def normal(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(device=device, dtype=dtype)


@dtypes
@pytest.mark.parametrize("shape", [(1,), (1023,), (1024,), (1025,), (3, 5, 7), (0,), ()], ids=str)
def test_mul(shape, dtype, device):
    a, b = normal(*shape, dtype=dtype, device=device), normal(*shape, dtype=dtype, device=device)
    close(kernels.mul(a, b), a.double() * b.double())


def test_mul_of_transposed_tensors(device):
    a = normal(33, 17, dtype=torch.float32, device=device)
    b = normal(17, 33, dtype=torch.float32, device=device)
    close(kernels.mul(a.T, b), a.T.double() * b.double())


def test_mul_refuses_shapes_that_differ(device):
    with pytest.raises(ValueError, match=r"one shape.*\(3,\).*\(4,\)"):
        kernels.mul(torch.ones(3, device=device), torch.ones(4, device=device))


@dtypes
@pytest.mark.parametrize("shape", [(4, 1), (3, 31), (2, 5, 128), (1, 1000), (0, 8)], ids=str)
def test_softmax(shape, dtype, device):
    x = 4 * normal(*shape, dtype=dtype, device=device)
    out = kernels.softmax(x)
    close(out, x.double().softmax(-1))


@pytest.mark.parametrize("extra", [-1, 0, 1, 777])
def test_softmax_of_rows_longer_than_a_block(extra, device):
    x = 4 * normal(2, 2 * MAX_BLOCK + extra, dtype=torch.float32, device=device)
    close(kernels.softmax(x), x.double().softmax(-1))


@pytest.mark.parametrize("columns", [50, MAX_BLOCK + 50], ids=["one_pass", "online"])
def test_softmax_rows_sum_to_one_and_ignore_a_shift(columns, device):
    x = normal(3, columns, dtype=torch.float32, device=device)
    out = kernels.softmax(x)
    torch.testing.assert_close(out.sum(-1), torch.ones(3, device=device))
    torch.testing.assert_close(kernels.softmax(x + 50.0), out, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(kernels.softmax(x * 0 + 88.0), torch.full_like(x, 1 / columns))


@pytest.mark.parametrize("columns", [40, 2 * MAX_BLOCK], ids=["one_pass", "online"])
def test_softmax_of_large_and_masked_scores(columns, device):
    x = normal(2, columns, dtype=torch.float32, device=device) * 1e4
    x[:, : columns // 2] = -float("inf")
    close(kernels.softmax(x), x.double().softmax(-1))


@dtypes
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 31), (5, 576), (2, 3, 40), (1, 4097), (0, 64)], ids=str
)
def test_rms_norm(shape, dtype, device):
    x, weight = (normal(*s, dtype=dtype, device=device) for s in (shape, shape[-1:]))
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    close(kernels.rms_norm(x, weight, 1e-5), expected)


def test_rms_norm_epsilon_is_inside_the_root(device):
    x = torch.full((1, 8), 1e-4, device=device)
    out = kernels.rms_norm(x, torch.ones(8, device=device), eps=1e-4)
    close(out, torch.full((1, 8), 1e-4 / (1e-8 + 1e-4) ** 0.5, dtype=torch.float64, device=device))


def test_rms_norm_of_a_slice_of_heads(device):
    """Per-head use: [T, H, D] cut out of a wider fused matrix, so rows are strided."""
    qkv = normal(5, 7 * 24, dtype=torch.float32, device=device)
    x = qkv[:, 24 : 24 * 4].view(5, 3, 24)
    weight = normal(24, dtype=torch.float32, device=device)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    close(kernels.rms_norm(x, weight), expected)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (5, 577), (2, 3, 40), (0, 64)], ids=str)
def test_skip_rms_norm(shape, dtype, device):
    x, residual = (normal(*shape, dtype=dtype, device=device) for _ in range(2))
    weight = normal(shape[-1], dtype=dtype, device=device)
    out, total = kernels.skip_rms_norm(x, residual, weight, 1e-5)
    close(total, x.double() + residual.double())
    wide = total.double()  # the norm of the rounded sum, as the unfused version computes it
    close(out, wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double())


def test_skip_rms_norm_leaves_its_inputs_alone_and_reads_strided_rows(device):
    wide = normal(4, 100, dtype=torch.float32, device=device)
    x, residual = wide[:, 3:40], wide[:, 50:87]
    before = wide.clone()
    out, total = kernels.skip_rms_norm(x, residual, torch.ones(37, device=device))
    torch.testing.assert_close(total, x + residual)
    assert torch.equal(wide, before)
    close(out, total.double() / (total.double().square().mean(-1, keepdim=True) + 1e-6).sqrt())


@pytest.mark.parametrize("width", [0, 65537])
def test_rms_norm_refuses_rows_it_cannot_hold(width, device):
    x = torch.ones(1, width, device=device)
    with pytest.raises(ValueError, match=f"1 to 65536 elements, got {width}"):
        kernels.rms_norm(x, torch.ones(width, device=device))


def test_rms_norm_refuses_a_weight_that_does_not_fit(device):
    with pytest.raises(ValueError, match=r"x \(2, 8\) and weight \(7,\)"):
        kernels.rms_norm(torch.ones(2, 8, device=device), torch.ones(7, device=device))


@dtypes
@pytest.mark.parametrize("shape", [(1, 2), (3, 62), (2, 2 * 1025), (0, 8)], ids=str)
def test_swiglu(shape, dtype, device):
    gate_up = 3 * normal(*shape, dtype=dtype, device=device)
    gate, up = gate_up.double().chunk(2, -1)
    close(kernels.swiglu(gate_up), gate * gate.sigmoid() * up)


def test_swiglu_of_very_negative_gates_is_zero_not_nan(device):
    gate_up = torch.tensor([[-1e4, -200.0, 1.0, 1.0]], device=device)
    assert torch.equal(kernels.swiglu(gate_up), torch.zeros(1, 2, device=device))
