"""Attention of dense tensors against the formula head by head: edges, properties, refusals."""

import pytest
import torch

from litellama import kernels
from tests.kernels import references
from tests.kernels.cases import make_dense
from tests.kernels.compare import DTYPES, close

# numpy's warnings of infinities and NaN, in the interpreter
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both = pytest.mark.parametrize("kernel", [kernels.flash_attention, kernels.flash_attention_v1])
causal_and_not = pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])

# B, (Hq, Hkv), Tq, Tk, D
SHAPES = {
    "no_batch": (0, (2, 1), 5, 5, 16),
    "no_queries": (1, (2, 1), 0, 5, 16),
    "one_query_and_one_key": (2, (1, 1), 1, 1, 16),
    "one_query_sees_all": (1, (4, 2), 1, 70, 16),
    "one_tile_and_one_more": (1, (1, 1), 129, 129, 16),
    "a_chunk_at_an_offset": (2, (2, 1), 33, 95, 16),
    "group_of_3": (2, (6, 2), 40, 40, 16),
    "group_of_4": (1, (8, 2), 20, 33, 32),
    "group_of_7": (1, (7, 1), 20, 20, 16),
    "group_of_8": (1, (8, 1), 17, 64, 16),
    "head_dim_10": (1, (2, 2), 20, 40, 10),
    "head_dim_32": (1, (2, 1), 64, 65, 32),
    "head_dim_40": (1, (2, 1), 9, 31, 40),
    "head_dim_64": (1, (2, 1), 66, 66, 64),
    "head_dim_80": (1, (1, 1), 31, 65, 80),
    "head_dim_96": (1, (1, 1), 15, 70, 96),
    "head_dim_128": (1, (2, 1), 40, 67, 128),
    "head_dim_256": (1, (2, 1), 6, 40, 256),
}


@both
@causal_and_not
@dtypes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_dense(kernel, shape, dtype, causal, device):
    inputs = make_dense(device, dtype, *shape, causal)
    close(kernel(**inputs), references.dense_attention(**inputs))


@both
@causal_and_not
def test_a_scale_of_ones_own(kernel, causal, device):
    inputs = make_dense(device, torch.float32, 1, (2, 1), 9, 20, 16, causal) | {"scale": 0.7}
    close(kernel(**inputs), references.dense_attention(**inputs))


@both
def test_large_scores_do_not_overflow(kernel, device):
    inputs = make_dense(device, torch.float32, 1, (2, 1), 9, 70, 16, True)
    inputs["q"] *= 1000
    expected = references.dense_attention(**inputs)
    torch.testing.assert_close(kernel(**inputs).double(), expected, rtol=1e-3, atol=1e-3)


@both
@causal_and_not
def test_equal_values_give_that_value(kernel, causal, device):
    inputs = make_dense(device, torch.float32, 2, (4, 2), 20, 70, 16, causal)
    value = torch.randn(2, 2, 1, 16, device=device)
    out = kernel(**inputs | {"v": value.expand(2, 2, 70, 16).contiguous()})
    torch.testing.assert_close(out, value.repeat_interleave(2, dim=1).expand(2, 4, 20, 16))


@both
def test_the_order_of_keys_changes_nothing(kernel, device):
    inputs = make_dense(device, torch.float32, 2, (4, 2), 20, 70, 16, False)
    order = torch.randperm(70, device=device)
    shuffled = inputs | {name: inputs[name][:, :, order] for name in ("k", "v")}
    torch.testing.assert_close(kernel(**shuffled), kernel(**inputs), rtol=1e-5, atol=1e-6)


@both
def test_causal_attention_ignores_what_comes_later(kernel, device):
    inputs = make_dense(device, torch.float32, 1, (2, 1), 50, 50, 16, True)
    before = kernel(**inputs)
    inputs["k"][:, :, 30:] += 1
    inputs["v"][:, :, 30:] = 7.0
    after = kernel(**inputs)
    assert torch.equal(before[:, :, :30], after[:, :, :30])
    assert (before[:, :, 30:] != after[:, :, 30:]).any(-1).all()


@both
def test_chunks_give_what_the_whole_gives(kernel, device):
    """Queries at an offset: the last ones of the whole prompt over all its keys."""
    inputs = make_dense(device, torch.float32, 2, (3, 1), 100, 100, 16, True)
    whole = kernel(**inputs)
    for start, stop in ((0, 1), (1, 40), (40, 99), (99, 100)):
        chunk = {"q": inputs["q"][:, :, start:stop]}
        chunk |= {name: inputs[name][:, :, :stop] for name in ("k", "v")}
        out = kernel(**chunk, causal=True)
        torch.testing.assert_close(out, whole[:, :, start:stop], rtol=1e-5, atol=1e-6)


@causal_and_not
def test_both_versions_and_torch_agree(causal, device):
    inputs = make_dense(device, torch.float32, 2, (4, 2), 40, 70, 32, causal)
    expected = references.dense_attention(**inputs)
    for backend in ("torch", "triton"):
        with kernels.use_backend(backend):
            close(kernels.flash_attention(**inputs), expected)
            close(kernels.flash_attention_v1(**inputs), expected)


REFUSED = {
    "heads_that_make_no_groups": {"q": (1, 3, 5, 16)},
    "other_batch": {"q": (2, 4, 5, 16)},
    "other_head_dim": {"q": (1, 4, 5, 8)},
    "no_batch_axis": {"q": (4, 5, 16)},
    "v_of_other_length": {"v": (1, 2, 6, 16)},
    "more_queries_than_keys": {"q": (1, 4, 8, 16)},
    "head_dim_too_large": {"q": (1, 4, 5, 257), "k": (1, 2, 7, 257), "v": (1, 2, 7, 257)},
}


@both
@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_shapes_that_do_not_fit_are_refused(kernel, change, backend, device):
    shapes = {"q": (1, 4, 5, 16), "k": (1, 2, 7, 16), "v": (1, 2, 7, 16)} | change
    inputs = {name: torch.ones(shape, device=device) for name, shape in shapes.items()}
    with kernels.use_backend(backend), pytest.raises(ValueError, match="attention needs q"):
        kernel(**inputs)


@both
@pytest.mark.gpu
@pytest.mark.large
def test_tensors_of_more_than_two_to_the_31_elements(kernel):
    """1025 sequences of 512 tokens: the last of them, in every head."""
    last = make_dense("cuda", torch.bfloat16, 1, (32, 32), 512, 512, 128, True)
    tensors = {}
    for name in ("q", "k", "v"):
        tensors[name] = last[name].new_zeros(1025, 32, 512, 128)
        tensors[name][-1:] = last[name]
    out = kernel(**tensors)
    close(out[-1:], references.dense_attention(**last))
    assert not any(part.isnan().any() for part in out.split(64)), "rows were not written"


@both
@pytest.mark.gpu
def test_a_larger_batch_than_an_axis_of_the_grid_has_programs(kernel):
    inputs = make_dense("cuda", torch.bfloat16, 1, (2, 1), 3, 3, 16, True)
    B = 65536 + 5
    many = {name: inputs[name].repeat(B, 1, 1, 1) for name in ("q", "k", "v")}
    expected = references.dense_attention(**inputs).expand(B, 2, 3, 16)
    close(kernel(**many), expected)
