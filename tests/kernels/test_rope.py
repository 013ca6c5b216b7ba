"""rope against complex multiplication in float64: named edges, properties, and what is refused."""

import pytest
import torch

from litellama import kernels
from tests.kernels import references
from tests.kernels.cases import make_rope
from tests.kernels.compare import DTYPES, all_close

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# T, (Hq, Hkv), D, R
SHAPES = {
    "no_tokens": (0, (2, 1), 8, 8),
    "two_elements": (1, (1, 1), 2, 2),
    "smollm2": (5, (9, 3), 64, 64),
    "head_dim_10": (3, (6, 3), 10, 10),
    "head_dim_32": (3, (4, 4), 32, 32),
    "head_dim_40": (2, (4, 1), 40, 40),
    "head_dim_80_half_rotated": (2, (5, 1), 80, 40),
    "head_dim_96": (4, (7, 1), 96, 96),
    "head_dim_128": (2, (8, 1), 128, 128),
    "head_dim_256_a_quarter_rotated": (2, (3, 3), 256, 64),
    "a_sliver_rotated": (3, (2, 2), 12, 2),
}


@dtypes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rope(shape, dtype, device):
    inputs = make_rope(device, dtype, *shape)
    all_close(kernels.rope(**inputs), references.rope(**inputs))


def test_what_is_not_rotated_passes_through(device):
    inputs = make_rope(device, torch.float32, 4, (3, 1), 20, 12)
    q_out, k_out = kernels.rope(**inputs)
    assert torch.equal(q_out[..., 12:], inputs["q"][..., 12:])
    assert torch.equal(k_out[..., 12:], inputs["k"][..., 12:])


def test_tables_with_repeated_halves(device):
    inputs = make_rope(device, torch.float32, 4, (3, 1), 20, 20)
    narrow = kernels.rope(**inputs)
    inputs |= {name: inputs[name].repeat(1, 2) for name in ("cos", "sin")}
    wide = kernels.rope(**inputs)
    assert torch.equal(wide[0], narrow[0])
    assert torch.equal(wide[1], narrow[1])


@dtypes
def test_tables_of_the_models_dtype(dtype, device):
    inputs = make_rope(device, dtype, 4, (3, 1), 20, 20)
    inputs |= {name: inputs[name].to(dtype) for name in ("cos", "sin")}
    all_close(kernels.rope(**inputs), references.rope(**inputs))


def test_slices_of_a_fused_matrix_are_read_and_left_alone(device):
    qkv = torch.randn(5, (4 + 2 + 2) * 16, device=device)
    before = qkv.clone()
    inputs = make_rope(device, torch.float32, 5, (4, 2), 16, 16)
    inputs |= {"q": qkv[:, :64].view(5, 4, 16), "k": qkv[:, 64:96].view(5, 2, 16)}
    all_close(kernels.rope(**inputs), references.rope(**inputs))
    assert torch.equal(qkv, before)


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x [T, H, D] at positions [T], with the frequencies of a small model."""
    D = x.shape[-1]
    angles = positions[:, None] * 100.0 ** -(torch.arange(0, D, 2, device=x.device) / D)
    return kernels.rope(x, x, angles.cos(), angles.sin())[0]


def test_scores_depend_on_distance_alone(device):
    q, k = torch.randn(2, 1, 2, 32, device=device).expand(2, 9, 2, 32)
    positions = torch.arange(9.0, device=device)

    def scores(shift: float) -> torch.Tensor:
        """Of queries at all positions with keys at all positions, [heads, 9, 9]."""
        here, there = turned(q, positions + shift), turned(k, positions + shift)
        return torch.einsum("qhd,khd->hqk", here, there)

    near = scores(0.0)
    torch.testing.assert_close(scores(40.0), near, rtol=1e-4, atol=1e-4)
    for distance in range(-8, 9):
        diagonal = near.diagonal(distance, 1, 2)
        torch.testing.assert_close(
            diagonal, diagonal[:, :1].expand_as(diagonal), rtol=1e-4, atol=1e-4
        )
    assert (near[:, 0, 0] - near[:, 0, 3]).abs().min() > 1e-3


def test_a_turn_keeps_the_length_and_position_zero_turns_nothing(device):
    q = torch.randn(3, 2, 32, device=device)
    out = turned(q, torch.tensor([0.0, 7.0, 300.0], device=device))
    torch.testing.assert_close(out.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(out[0], q[0])


REFUSED = {
    "odd_head_dim": {"q": (4, 2, 15), "k": (4, 2, 15)},
    "other_tokens": {"k": (3, 2, 16)},
    "other_head_dim": {"k": (4, 2, 8)},
    "no_heads_axis": {"q": (4, 16), "k": (4, 16)},
    "tables_of_other_tokens": {"cos": (5, 8), "sin": (5, 8)},
    "tables_that_differ": {"sin": (4, 4)},
    "tables_wider_than_half": {"cos": (4, 9), "sin": (4, 9)},
    "tables_of_no_width": {"cos": (4, 0), "sin": (4, 0)},
    "tables_of_one_axis": {"cos": (8,), "sin": (8,)},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_shapes_that_do_not_fit_are_refused(change, backend, device):
    shapes = {"q": (4, 2, 16), "k": (4, 2, 16), "cos": (4, 8), "sin": (4, 8)} | change
    inputs = {name: torch.ones(shape, device=device) for name, shape in shapes.items()}
    with kernels.use_backend(backend), pytest.raises(ValueError, match="rope needs q"):
        kernels.rope(**inputs)
