"""write_kv against a loop over tokens, what it must not touch, and what it must refuse."""

import pytest
import torch

from litellama import kernels
from tests.kernels import references
from tests.kernels.cases import make_cache_write, written
from tests.kernels.compare import DTYPES, all_close
from tests.kernels.paged import make_step

# T, heads, head_dim, block_size
SHAPES = {
    "no_tokens": (0, 2, 8, 4),
    "two_elements": (1, 1, 2, 1),
    "blocks_of_1": (5, 2, 16, 1),
    "blocks_of_3": (7, 3, 40, 3),
    "head_dim_10": (9, 7, 10, 4),
    "head_dim_96": (20, 2, 96, 16),
    "head_dim_256": (3, 1, 256, 16),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_write_kv(shape, dtype, backend, device):
    """Tokens in any slots, some in none, and every other slot as it was (NaN)."""
    inputs = make_cache_write(device, dtype, *shape)
    with kernels.use_backend(backend):
        all_close(written(**inputs), references.write_kv(**inputs))


def test_values_are_stored_bit_for_bit(device):
    """inf, NaN, zeros of both signs and the least float32 of all are values like others."""
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 0.0, 1e-45, 1.0, 2.0])
    k = odd.view(1, 2, 4).to(device)
    cache = torch.zeros(2, 1, 1, 2, 4, device=device)
    slots = torch.zeros(1, dtype=torch.int64, device=device)
    kernels.write_kv(k, -k, cache[0], cache[1], slots)
    assert torch.equal(cache[0].view(torch.int32).flatten(), k.view(torch.int32).flatten())
    assert torch.equal(cache[1].view(torch.int32).flatten(), (-k).view(torch.int32).flatten())


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_negative_slots_store_nothing(backend, device):
    inputs = make_cache_write(device, torch.float32, 5, 2, 8, 4)
    inputs["slots"].fill_(-1)
    with kernels.use_backend(backend):
        assert all(cache.isnan().all() for cache in written(**inputs))


def test_a_write_then_attention_is_a_round_trip(device):
    """Chunk by chunk into an empty cache, and attention as over the cache that was filled."""
    step = make_step([(23, 23), (1, 1), (40, 40)], 6, 2, 32, 4, device)
    k_cache, v_cache = torch.full((2, *step.k_cache.shape), torch.nan, device=device)
    keys, values = (x.flatten(0, 1)[step.batch.slots] for x in (step.k_cache, step.v_cache))
    for chunk in torch.arange(64, device=device).split(17):
        slots = step.batch.slots[chunk]
        kernels.write_kv(keys[chunk], values[chunk], k_cache, v_cache, slots)
    out = kernels.flash_attention_varlen(step.q, k_cache, v_cache, step.batch)
    assert torch.equal(out, step.run(kernels.flash_attention_varlen))


ONE = torch.ones(2, 3, 8)
CACHE = torch.ones(4, 5, 3, 8)
REFUSED = {
    "v_of_other_shape": {"v": torch.ones(2, 3, 4)},
    "k_without_heads": {"k": torch.ones(2, 8), "v": torch.ones(2, 8)},
    "other_heads": {"k": torch.ones(2, 2, 8), "v": torch.ones(2, 2, 8)},
    "caches_that_differ": {"v_cache": torch.ones(3, 5, 3, 8)},
    "a_cache_of_slots": {"k_cache": CACHE.view(20, 3, 8), "v_cache": CACHE.view(20, 3, 8)},
    "too_few_slots": {"slots": torch.zeros(1, dtype=torch.int64)},
    "slots_of_int32": {"slots": torch.zeros(2, dtype=torch.int32)},
    "slots_of_float": {"slots": torch.zeros(2)},
    "a_cache_of_other_dtype": {"k_cache": CACHE.half(), "v_cache": CACHE.half()},
    "k_and_v_of_two_dtypes": {"k": ONE.half()},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_what_does_not_fit_is_refused(change, backend, device):
    inputs = {"k": ONE, "v": ONE, "k_cache": CACHE, "v_cache": CACHE.clone()}
    inputs |= {"slots": torch.zeros(2, dtype=torch.int64)} | change
    with kernels.use_backend(backend), pytest.raises(ValueError, match="write_kv needs k and v"):
        kernels.write_kv(**{name: x.to(device) for name, x in inputs.items()})


@pytest.mark.parametrize("which", ["k_cache", "v_cache"])
def test_a_cache_that_would_be_copied_is_refused(which, device):
    inputs = make_cache_write(device, torch.float32, 5, 2, 8, 4)
    inputs[which] = inputs[which].transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match="contiguous caches"):
        kernels.write_kv(**inputs)
