"""rope_write_kv against its three parts in float64, and against the kernels that it stands for."""

import pytest
import torch

from litellama import kernels
from tests.kernels import references
from tests.kernels.cases import make_attention_inputs, storing
from tests.kernels.compare import DTYPES, all_close

run = storing(kernels.rope_write_kv)

# T, (Hq, Hkv), D, R, block_size
SHAPES = {
    "no_tokens": (0, (2, 1), 8, 8, 4),
    "two_elements": (1, (1, 1), 2, 2, 1),
    "smollm2": (5, (9, 3), 64, 64, 16),
    "head_dim_40": (2, (4, 1), 40, 40, 3),
    "head_dim_80_half_rotated": (2, (5, 1), 80, 40, 16),
    "head_dim_96": (4, (7, 1), 96, 96, 1),
    "qwen3": (3, (16, 8), 128, 128, 64),
    "head_dim_256_a_quarter_rotated": (2, (3, 3), 256, 64, 16),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("norms", [True, False], ids=["normed", "as_they_are"])
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_rope_write_kv(shape, dtype, norms, backend, device):
    """Some tokens have no slot; every slot that none has stays as it was (NaN)."""
    inputs = make_attention_inputs(device, dtype, *shape, norms=norms)
    with kernels.use_backend(backend):
        all_close(run(**inputs), references.rope_write_kv(**inputs))


@pytest.mark.parametrize("norms", [True, False], ids=["normed", "as_they_are"])
def test_the_kernels_that_it_stands_for_say_the_same(norms, device):
    """In float32 to the last few bits, so that lessons may take one for the other."""
    inputs = make_attention_inputs(device, torch.float32, 6, (9, 3), 64, 64, 4, norms)
    apart = dict(inputs)
    if norms:
        weights, eps = (apart.pop("q_norm"), apart.pop("k_norm")), apart.pop("eps")
        normed = [kernels.rms_norm(apart[x], w, eps) for x, w in zip("qk", weights, strict=True)]
        apart |= dict(zip("qk", normed, strict=True))
    q, k = kernels.rope(*(apart[name] for name in ("q", "k", "cos", "sin")))
    stored = storing(kernels.write_kv)(
        **{name: apart[name] for name in ("v", "k_cache", "v_cache", "slots")}, k=k
    )
    torch.testing.assert_close(run(**inputs), (q, *stored), equal_nan=True)


def test_slices_of_a_fused_matrix_are_read_and_left_alone(device):
    inputs = make_attention_inputs(device, torch.float32, 5, (4, 2), 16, 16, 4, norms=True)
    qkv = torch.cat([inputs[name].flatten(1) for name in "qkv"], dim=1)
    before = qkv.clone()
    parts = qkv.split([64, 32, 32], dim=1)
    inputs |= {name: x.unflatten(1, (-1, 16)) for name, x in zip("qkv", parts, strict=True)}
    all_close(run(**inputs), references.rope_write_kv(**inputs))
    assert torch.equal(qkv, before)


def test_negative_slots_store_nothing_and_q_is_rotated(device):
    inputs = make_attention_inputs(device, torch.float32, 5, (4, 2), 16, 16, 4, norms=True)
    inputs["slots"].fill_(-1)
    q, *caches = run(**inputs)
    all_close(q, references.rope_write_kv(**inputs)[0])
    assert all(cache.isnan().all() for cache in caches)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_norm": None}, r"needs q_norm and k_norm \[10\].*got k_norm \(10,\)"),
        ({"k_norm": torch.ones(9)}, r"needs q_norm and k_norm \[10\].*k_norm \(9,\)"),
        ({"cos": torch.ones(4, 3)}, "rope needs q"),
        ({"slots": torch.zeros(4, dtype=torch.int64)}, "write_kv needs k and v"),
    ],
    ids=["one_norm", "a_short_norm", "cos_of_other_tokens", "too_few_slots"],
)
def test_what_does_not_fit_is_refused(backend, change, message, device):
    inputs = make_attention_inputs(device, torch.float32, 5, (3, 1), 10, 6, 4, norms=True)
    inputs |= {n: x if x is None else x.to(device) for n, x in change.items()}
    with kernels.use_backend(backend), pytest.raises(ValueError, match=message):
        kernels.rope_write_kv(**inputs)
