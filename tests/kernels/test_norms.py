"""rms_norm and skip_rms_norm against float64: named edges, properties, and what is refused."""

import pytest
import torch

from litellama import kernels
from tests.kernels import references
from tests.kernels.cases import normal
from tests.kernels.compare import DTYPES, all_close, close

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

SHAPES = {
    "no_rows": (0, 64),
    "one_element": (1, 1),
    "one_row_alone": (31,),
    "odd": (3, 31),
    "smollm2": (5, 576),
    "per_head": (2, 3, 40),
    "a_head_more_than_a_program_has": (3, 11, 96),
    "one_more_than_a_power_of_two": (1, 4097),
    "the_longest": (2, 65536),
}


@dtypes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rms_norm(shape, dtype, device):
    x, weight = (normal(*s, dtype=dtype, device=device) for s in (shape, shape[-1:]))
    close(kernels.rms_norm(x, weight, 1e-5), references.rms_norm(x, weight, 1e-5))


@dtypes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_skip_rms_norm(shape, dtype, device):
    x, residual = normal(2, *shape, dtype=dtype, device=device)
    weight = normal(shape[-1], dtype=dtype, device=device)
    out = kernels.skip_rms_norm(x, residual, weight, 1e-5)
    all_close(out, references.skip_rms_norm(x, residual, weight, 1e-5))


@dtypes
def test_skip_rms_norm_is_the_add_and_then_the_norm(dtype, device):
    """The sum bit for bit, and a norm of the sum as it was rounded: the two ways make one model."""
    x, residual = normal(2, 7, 100, dtype=dtype, device=device)
    weight = normal(100, dtype=dtype, device=device)
    out, total = kernels.skip_rms_norm(x, residual, weight)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(out, kernels.rms_norm(x + residual, weight))


@pytest.mark.parametrize("factor", [2.0**-20, 3.0, 2.0**20])
def test_rms_norm_ignores_the_scale_of_a_row(factor, device):
    x, weight = (normal(*s, dtype=torch.float32, device=device) for s in ((4, 37), (37,)))
    out = kernels.rms_norm(x, weight, eps=0.0)
    torch.testing.assert_close(kernels.rms_norm(factor * x, weight, eps=0.0), out)


def test_rms_norm_gives_rows_of_mean_square_one(device):
    x = normal(4, 37, dtype=torch.float32, device=device, scale=50.0)
    out = kernels.rms_norm(x, torch.ones(37, device=device), eps=0.0)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(4, device=device))


def test_rms_norm_epsilon_is_inside_the_root(device):
    x = torch.full((1, 8), 1e-4, device=device)
    out = kernels.rms_norm(x, torch.ones(8, device=device), eps=1e-4)
    close(out, torch.full((1, 8), 1e-4 / (1e-8 + 1e-4) ** 0.5, dtype=torch.float64, device=device))


def test_rms_norm_of_zeros_is_zero(device):
    x = torch.zeros(2, 8, device=device)
    assert torch.equal(kernels.rms_norm(x, torch.ones(8, device=device)), x)


def test_rms_norm_of_half_precision_squares_in_float32(device):
    """300 squared is more than float16 can hold."""
    x = torch.full((1, 64), 300.0, dtype=torch.float16, device=device)
    out = kernels.rms_norm(x, torch.ones(64, dtype=torch.float16, device=device))
    assert torch.equal(out, torch.ones_like(x))


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch's: it is slower so
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_rms_norm_of_a_dtype_other_than_the_weights_has_its_own(backend, device):
    x = normal(3, 31, dtype=torch.bfloat16, device=device)
    weight = normal(31, dtype=torch.float32, device=device)
    with kernels.use_backend(backend):
        out = kernels.rms_norm(x, weight)
    assert out.dtype == torch.bfloat16
    close(out, references.rms_norm(x, weight))


def test_rms_norm_of_a_slice_of_heads(device):
    """Per-head use: [T, H, D] cut out of a wider fused matrix, so rows are strided."""
    qkv = normal(5, 7 * 24, dtype=torch.float32, device=device)
    x = qkv[:, 24 : 24 * 4].view(5, 3, 24)
    weight = normal(24, dtype=torch.float32, device=device)
    close(kernels.rms_norm(x, weight), references.rms_norm(x, weight))


def test_skip_rms_norm_leaves_its_inputs_alone(device):
    wide = normal(4, 100, dtype=torch.float32, device=device)
    before = wide.clone()
    kernels.skip_rms_norm(wide[:, 3:40], wide[:, 50:87], torch.ones(37, device=device))
    assert torch.equal(wide, before)


@pytest.mark.parametrize("width", [0, 65537])
def test_rows_that_no_block_holds_are_refused(width, device):
    x, weight = torch.ones(1, width, device=device), torch.ones(width, device=device)
    with pytest.raises(ValueError, match=f"1 to 65536 elements, got {width}"):
        kernels.rms_norm(x, weight)
    with pytest.raises(ValueError, match=f"1 to 65536 elements, got {width}"):
        kernels.skip_rms_norm(x, x, weight)


@pytest.mark.parametrize("shape", [(7,), (1, 8), ()], ids=str)
def test_a_weight_that_does_not_fit_is_refused(shape, device):
    x, weight = torch.ones(2, 8, device=device), torch.ones(shape, device=device)
    with pytest.raises(ValueError, match=r"x \(2, 8\) and weight \("):
        kernels.rms_norm(x, weight)
    with pytest.raises(ValueError, match=r"x \(2, 8\) and weight \("):
        kernels.skip_rms_norm(x, x, weight)


@pytest.mark.parametrize("other", [torch.ones(8), torch.ones(2, 8).half()], ids=["shape", "dtype"])
def test_a_residual_that_does_not_fit_is_refused(other, device):
    x, weight = torch.ones(2, 8, device=device), torch.ones(8, device=device)
    with pytest.raises(ValueError, match=r"x and residual must have one shape, dtype and device"):
        kernels.skip_rms_norm(x, other.to(device), weight)
