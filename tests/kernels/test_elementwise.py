"""mul, softmax and swiglu against float64: named edges, properties, and what is refused."""

import pytest
import torch

from litellama import kernels
from litellama.kernels.softmax import MAX_BLOCK
from tests.kernels import references
from tests.kernels.cases import normal
from tests.kernels.compare import DTYPES, close

# numpy's warnings of infinities and NaN, in the interpreter
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

MUL = {
    "no_elements": (0,),
    "a_scalar": (),
    "one": (1,),
    "one_less_than_a_block": (1023,),
    "a_block": (1024,),
    "one_more_than_a_block": (1025,),
    "several_axes": (3, 5, 7),
}


@dtypes
@pytest.mark.parametrize("shape", MUL.values(), ids=MUL)
def test_mul(shape, dtype, device):
    a, b = normal(2, *shape, dtype=dtype, device=device)
    close(kernels.mul(a, b), references.mul(a, b))


def test_mul_keeps_inf_and_nan(device):
    a = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0], device=device)
    torch.testing.assert_close(kernels.mul(a, a.flip(0)), a * a.flip(0), equal_nan=True)


@pytest.mark.parametrize("other", [torch.ones(4), torch.ones(3).half()], ids=["shape", "dtype"])
def test_mul_refuses_tensors_that_differ(other, device):
    with pytest.raises(ValueError, match=r"one shape, dtype and device.*\(3,\) torch.float32"):
        kernels.mul(torch.ones(3, device=device), other.to(device))


SOFTMAX = {
    "no_rows": (0, 8),
    "no_columns": (3, 0),
    "one_column": (4, 1),
    "one_row_alone": (31,),
    "odd": (3, 31),
    "three_axes": (2, 5, 128),
    "not_a_power_of_two": (1, 1000),
    "the_longest_in_one_pass": (2, MAX_BLOCK),
}


@dtypes
@pytest.mark.parametrize("shape", SOFTMAX.values(), ids=SOFTMAX)
def test_softmax(shape, dtype, device):
    x = normal(*shape, dtype=dtype, device=device, scale=4.0)
    out = kernels.softmax(x)
    if x.numel():
        close(out, references.softmax(x))
    assert out.shape == x.shape
    assert out.dtype == dtype


@dtypes
@pytest.mark.parametrize("columns", [MAX_BLOCK + 1, 2 * MAX_BLOCK - 1, 2 * MAX_BLOCK, 262144])
def test_softmax_of_rows_longer_than_a_block(columns, dtype, device):
    x = normal(2, columns, dtype=dtype, device=device, scale=4.0)
    close(kernels.softmax(x), references.softmax(x))


one_pass_and_online = pytest.mark.parametrize(
    "columns", [50, 2 * MAX_BLOCK + 50], ids=["one_pass", "online"]
)


@one_pass_and_online
def test_softmax_rows_sum_to_one_and_ignore_a_shift(columns, device):
    x = normal(3, columns, dtype=torch.float32, device=device)
    out = kernels.softmax(x)
    torch.testing.assert_close(out.sum(-1), torch.ones(3, device=device))
    torch.testing.assert_close(kernels.softmax(x + 50.0), out, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(kernels.softmax(x * 0 + 88.0), torch.full_like(x, 1 / columns))


@one_pass_and_online
def test_softmax_of_large_and_masked_scores(columns, device):
    """The first half -inf: whole blocks and whole lanes in which nothing was seen yet."""
    x = normal(2, columns, dtype=torch.float32, device=device, scale=1e4)
    x[:, : columns // 2] = -torch.inf
    out = kernels.softmax(x)
    close(out, references.softmax(x))
    assert (out[:, : columns // 2] == 0).all()


@one_pass_and_online
@pytest.mark.parametrize("place", ["first", "last"])
def test_softmax_with_one_score_that_is_not_masked(columns, place, device):
    x = torch.full((2, columns), -torch.inf, device=device)
    x[:, 0 if place == "first" else -1] = -300.0
    assert torch.equal(kernels.softmax(x), torch.where(x == -300.0, 1.0, 0.0))


@one_pass_and_online
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan], ids=str)
def test_softmax_that_does_not_exist_is_nan_in_its_row_alone(columns, value, device):
    """A row all masked, or with an infinity or a NaN in it, is NaN as in torch, and alone so."""
    x = normal(3, columns, dtype=torch.float32, device=device)
    x[1, slice(None) if value == -torch.inf else 3] = value
    out = kernels.softmax(x)
    assert out[1].isnan().all()
    close(out[::2], references.softmax(x[::2]))


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_softmax_refuses_a_tensor_without_axes(backend, device):
    with kernels.use_backend(backend), pytest.raises(ValueError, match="at least one axis"):
        kernels.softmax(torch.ones((), device=device))


SWIGLU = {
    "no_tokens": (0, 8),
    "no_columns": (3, 0),
    "one_column": (1, 2),
    "odd": (3, 62),
    "one_more_than_a_block": (2, 2 * 1025),
}


@dtypes
@pytest.mark.parametrize("shape", SWIGLU.values(), ids=SWIGLU)
def test_swiglu(shape, dtype, device):
    gate_up = normal(*shape, dtype=dtype, device=device, scale=3.0)
    close(kernels.swiglu(gate_up), references.swiglu(gate_up))


def test_swiglu_of_very_negative_gates_is_zero_not_nan(device):
    gate_up = torch.tensor([[-1e4, -200.0, 1.0, 1.0]], device=device)
    assert torch.equal(kernels.swiglu(gate_up), torch.zeros(1, 2, device=device))


def test_swiglu_of_very_positive_gates_is_a_product(device):
    gate_up = torch.tensor([[1e4, 200.0, 3.0, -2.0]], device=device)
    assert torch.equal(kernels.swiglu(gate_up), torch.tensor([[3e4, -400.0]], device=device))


@pytest.mark.parametrize("shape", [(3, 7), (6,), (2, 3, 4)], ids=["odd_width", "1d", "3d"])
def test_swiglu_refuses_what_is_no_fused_matrix(shape, device):
    with pytest.raises(ValueError, match=r"\[tokens, 2 \* intermediate\], got"):
        kernels.swiglu(torch.ones(shape, device=device))
