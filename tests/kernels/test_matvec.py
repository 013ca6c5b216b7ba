"""matvec, the linear layer of few rows, against float64: edges, properties, refusals."""

from itertools import combinations

import pytest
import torch

from litellama import kernels
from tests.kernels import references
from tests.kernels.cases import EXTRAS, make_linear, normal
from tests.kernels.compare import DTYPES, close

# numpy's warnings of infinities and NaN, in the interpreter
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# T, N, K
SHAPES = {
    "no_rows": (0, 5, 7),
    "no_outputs": (2, 0, 7),
    "one_of_everything": (1, 1, 1),
    "odd": (1, 37, 71),
    "two_rows": (2, 33, 100),
    "three_rows": (3, 64, 64),
    "seven_rows": (7, 40, 65),
    "sixteen_rows": (16, 20, 96),
    "one_less_than_a_power_of_two": (1, 127, 1023),
    "one_more": (1, 129, 1025),
    "smollm2_down": (1, 40, 1536),
    "long_rows": (2, 5, 8200),
    "many_outputs": (1, 300, 16),
    "few_rows": (2, 33, 64),
    "few_rows_of_an_odd_number": (3, 70, 192),
    "a_full_tile_of_rows": (16, 64, 128),
    "more_rows_than_the_first_tile": (17, 31, 320),
    "few_rows_in_tiles_of_16": (5, 20, 512),
    "few_rows_in_tiles_of_32": (3, 40, 2304),
    "as_many_as_go_to_tensor_cores": (32, 65, 128),
    "one_more_than_that": (33, 20, 64),
}


@dtypes
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["plain", "with_all_extras"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_matvec(shape, extras, dtype, device):
    inputs = make_linear(device, dtype, *shape, extras)
    close(kernels.matvec(**inputs), references.matvec(**inputs))


@pytest.mark.gpu
@pytest.mark.sanitize
@pytest.mark.parametrize("T", [2, 17, 32])
@pytest.mark.parametrize("K", [192, 1024, 2304])
def test_few_rows_under_the_memory_checker(T, K):
    """For tools/sanitize.py: the kernel on tensor cores in each tile, the last one not full."""
    extras = EXTRAS if K == 192 else tuple(extra for extra in EXTRAS if extra != "swiglu")
    inputs = make_linear("cuda", torch.bfloat16, T, 70, K, extras)
    close(kernels.matvec(**inputs), references.matvec(**inputs))


@pytest.mark.gpu
@pytest.mark.parametrize(("wider", "later"), [(8, 0), (3, 0), (8, 4)])
def test_few_rows_of_a_weight_that_is_a_slice(wider, later):
    """Weights are fetched ahead only where rows begin at multiples of 16 bytes, as in the first."""
    inputs = make_linear("cuda", torch.bfloat16, 5, 70, 320, ())
    wide = torch.nn.functional.pad(inputs["weight"], (later, wider - later))
    sliced = inputs | {"weight": wide[:, later : later + 320]}
    close(kernels.matvec(**sliced), references.matvec(**inputs))


COMBINATIONS = [some for n in (1, 2, 3) for some in combinations(EXTRAS, n)]


@pytest.mark.parametrize("extras", COMBINATIONS, ids="_".join)
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_every_combination_of_what_is_done_on_the_way(extras, backend, device):
    inputs = make_linear(device, torch.float32, 2, 21, 50, extras)
    with kernels.use_backend(backend):
        close(kernels.matvec(**inputs), references.matvec(**inputs))


def test_the_norms_epsilon_is_inside_the_root(device):
    x, weight = torch.full((1, 8), 1e-3, device=device), torch.eye(8, device=device)
    inputs = {"x": x, "weight": weight, "norm": torch.ones(8, device=device), "eps": 1e-4}
    close(kernels.matvec(**inputs), references.matvec(**inputs))


def test_unit_vectors_give_the_columns(device):
    weight = normal(37, 16, dtype=torch.float32, device=device)
    assert torch.equal(kernels.matvec(torch.eye(16, device=device), weight), weight.T)


def test_the_product_is_linear(device):
    weight = normal(37, 71, dtype=torch.float32, device=device)
    a, b = normal(2, 3, 71, dtype=torch.float32, device=device)
    out = kernels.matvec(2 * a - b, weight)
    parts = 2 * kernels.matvec(a, weight) - kernels.matvec(b, weight)
    torch.testing.assert_close(out, parts, rtol=1e-4, atol=1e-4)


def test_rows_do_not_mix(device):
    """A row of NaN beside others: theirs are what they are alone."""
    x, weight = (normal(*s, dtype=torch.float32, device=device) for s in ((5, 71), (37, 71)))
    x[2] = torch.nan
    out = kernels.matvec(x, weight)
    assert out[2].isnan().all()
    for row in (0, 1, 3, 4):
        alone = kernels.matvec(x[row : row + 1], weight)
        torch.testing.assert_close(out[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("T", [2, 32])
def test_rows_do_not_mix_on_tensor_cores(T, device):
    x, weight, norm = (
        normal(*s, dtype=torch.bfloat16, device=device) for s in ((T, 64), (40, 64), (64,))
    )
    x[1] = torch.nan
    out = kernels.matvec(x, weight, norm=norm, swiglu=True)
    assert out[1].isnan().all()
    assert not out[0].isnan().any()


def test_half_precision_accumulates_in_float32(device):
    """1 + 2048 times 2^-11 is 2; in float16 the sum would stay at 1."""
    x = torch.ones(1, 2049, dtype=torch.float16, device=device)
    weight = torch.full((1, 2049), 2.0**-11, dtype=torch.float16, device=device)
    weight[0, 0] = 1.0
    assert kernels.matvec(x, weight).item() == 2.0


REFUSED = {
    "other_inner_size": {"weight": (6, 9)},
    "weight_of_one_axis": {"weight": (8,)},
    "x_of_one_axis": {"x": (8,)},
    "bias_of_other_size": {"bias": (5,)},
    "bias_of_two_axes": {"bias": (1, 6)},
    "norm_of_other_size": {"norm": (6,)},
    "residual_of_other_tokens": {"residual": (2, 6)},
    "residual_of_one_axis": {"residual": (6,)},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_shapes_that_do_not_fit_are_refused(change, device):
    shapes = {"x": (3, 8), "weight": (6, 8)} | change
    inputs = {name: torch.ones(shape, device=device) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match="matvec needs x"):
        kernels.matvec(**inputs)


def test_swiglu_of_an_odd_number_of_rows_is_refused(device):
    x, weight = torch.ones(1, 8, device=device), torch.ones(5, 8, device=device)
    with pytest.raises(ValueError, match="N even for swiglu"):
        kernels.matvec(x, weight, swiglu=True)


@pytest.mark.gpu
@pytest.mark.large
def test_a_weight_of_more_than_two_to_the_31_elements():
    x = normal(3, 2048, dtype=torch.bfloat16, device="cuda")
    weight = torch.zeros(2**20 + 3, 2048, dtype=torch.bfloat16, device="cuda")
    edge = [0, 1, -2, -1]
    weight[edge] = normal(4, 2048, dtype=torch.bfloat16, device="cuda")
    out = kernels.matvec(x, weight)
    close(out[:, edge], references.matvec(x, weight[edge]))
    assert (out[:, 2:-2] == 0).all()
