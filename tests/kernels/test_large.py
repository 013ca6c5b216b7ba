"""Tensors of more than 2^31 elements, whose offsets no int32 can hold: the far end must be right.

One at a time, because each takes up to 20 GB of the GPU (see conftest.py).
"""

import pytest
import torch

from litellama import kernels
from litellama.kernels import AttentionBatch
from tests.kernels import references
from tests.kernels.cases import KERNELS, Inputs, normal
from tests.kernels.compare import all_close, close
from tests.kernels.paged import make_step

pytestmark = [pytest.mark.gpu, pytest.mark.large]

COUNT = 2**31
EDGE = [0, 1, -2, -1]  # the rows that are compared; all others are zeros


def mostly_zeros(*shape: int) -> torch.Tensor:
    x = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    x[EDGE] = normal(len(EDGE), *shape[1:], dtype=x.dtype, device="cuda")
    return x


def rows(*shape: int) -> int:
    """Rows of that shape in more than 2^31 elements."""
    elements = torch.Size(shape).numel()
    return COUNT // elements + 3


def make_large(name: str, width: int) -> Inputs:
    """Inputs of which each tensor with a row a token has more than 2^31 elements, or half of it."""
    weight = normal(width, dtype=torch.bfloat16, device="cuda")
    shapes = {
        "mul": {"a": (width,), "b": (width,)},
        "softmax": {"x": (width,)},
        "rms_norm": {"x": (width,)},
        "skip_rms_norm": {"x": (width,), "residual": (width,)},
        "swiglu": {"gate_up": (2 * width,)},
        "rope": {"q": (width // 128, 128), "k": (1, 128), "cos": (64,), "sin": (64,)},
    }[name]
    T = rows(width)
    inputs: Inputs = {argument: mostly_zeros(T, *shape) for argument, shape in shapes.items()}
    return inputs | ({"weight": weight} if "norm" in name else {})


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("mul", 4096), ("softmax", 4096), ("softmax", 32768), ("rms_norm", 4096),
        ("rms_norm", 128), ("skip_rms_norm", 4096), ("swiglu", 4096), ("rope", 4096),
    ],
)  # fmt: skip
def test_rows_at_the_far_end(name, width):
    inputs = make_large(name, width)
    out = KERNELS[name].run(**inputs)
    outs = (out,) if isinstance(out, torch.Tensor) else out
    edge = {key: x if key == "weight" else x[EDGE].contiguous() for key, x in inputs.items()}
    all_close(tuple(x[EDGE] for x in outs), KERNELS[name].reference(**edge))
    for x in outs:
        assert not any(part.isnan().any() for part in x.split(2**16)), "rows were not written"


def heads_far_apart(tokens: int, heads: int, D: int) -> torch.Tensor:
    """[tokens, heads, D] with each head 2^30 elements after the one before."""
    whole = torch.empty(heads, 2**30 // D, D, dtype=torch.bfloat16, device="cuda")
    x = whole[:, :tokens].transpose(0, 1)
    return x.copy_(torch.randn(x.shape))


def test_rope_of_heads_far_apart():
    q, k = heads_far_apart(3, 4, 128), normal(3, 1, 128, dtype=torch.bfloat16, device="cuda")
    cos, sin = normal(2, 3, 64, dtype=torch.float32, device="cuda")
    all_close(kernels.rope(q, k, cos, sin), references.rope(q, k, cos, sin))


def test_write_kv_from_heads_far_apart():
    k = heads_far_apart(3, 4, 128)
    k_cache, v_cache = torch.zeros(2, 1, 16, 4, 128, dtype=torch.bfloat16, device="cuda")
    slots = torch.tensor([3, 0, 15], device="cuda")
    kernels.write_kv(k, k, k_cache, v_cache, slots)
    assert torch.equal(k_cache[0, slots], k)
    assert torch.equal(v_cache[0, slots], k)


def test_write_kv_at_the_end_of_a_large_cache():
    k, v = normal(2, 4, 8, 128, dtype=torch.bfloat16, device="cuda")
    shape = (rows(16, 8, 128), 16, 8, 128)
    caches = [torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    slots = torch.tensor([0, 1, shape[0] * 16 - 2, shape[0] * 16 - 1], device="cuda")
    kernels.write_kv(k, v, *caches, slots)
    for cache, new in zip(caches, (k, v), strict=True):
        assert torch.equal(cache.flatten(0, 1)[slots], new)
        assert sum(part.count_nonzero() for part in cache.split(2**12)) == new.count_nonzero()


def test_attention_over_the_end_of_a_large_cache():
    """The last blocks of a cache, by both kernels."""
    step = make_step([(70, 70)], 2, 1, 128, 16, "cuda", torch.bfloat16)
    used = step.k_cache.shape[0]
    blocks = rows(16, 1, 128) + used
    caches = []
    for part in (step.k_cache, step.v_cache):
        caches.append(torch.empty(blocks, *part.shape[1:], dtype=part.dtype, device="cuda"))
        caches[-1][-used:] = part
    whole = step.batch
    shifted = whole.block_table + (blocks - used)
    batch = AttentionBatch(whole.query_starts, whole.seq_lens, shifted, whole.slots, 16, 70, 70)
    expected = step.expected()
    close(kernels.flash_attention_varlen(step.q, *caches, batch), expected)
    starts = whole.query_starts.clamp(max=1)
    last = AttentionBatch(starts, whole.seq_lens, shifted, whole.slots[-1:], 16, 1, 70)
    close(kernels.flash_decoding(step.q[-1:], *caches, last), expected[-1:])


def test_attention_of_many_queries():
    """1025 sequences of 512 tokens that share one prompt's keys: the last of them."""
    lone = make_step([(512, 512)], 32, 4, 128, 16, "cuda", torch.bfloat16)
    S = rows(512, 32, 128)
    q = torch.zeros(S * 512, 32, 128, dtype=torch.bfloat16, device="cuda")
    q[-512:] = lone.q
    batch = AttentionBatch(
        query_starts=torch.arange(0, S * 512 + 1, 512, dtype=torch.int32, device="cuda"),
        seq_lens=lone.batch.seq_lens.repeat(S),
        block_table=lone.batch.block_table.repeat(S, 1),
        slots=lone.batch.slots.repeat(S),
        block_size=16,
        max_query_len=512,
        max_seq_len=512,
    )
    out = kernels.flash_attention_varlen(q, lone.k_cache, lone.v_cache, batch)
    close(out[-512:], lone.expected())
    assert not any(part.isnan().any() for part in out.split(2**16)), "rows were not written"


@pytest.mark.parametrize("kernel", [kernels.flash_attention_varlen, kernels.flash_decoding])
def test_more_sequences_than_an_axis_of_the_grid_has_programs(kernel):
    """65535 on the second and the third axis: a batch may be larger."""
    S = 65536 + 5
    step = make_step([(1, 3)] * 5, 2, 1, 16, 16, "cuda", torch.bfloat16)
    small = step.batch
    batch = AttentionBatch(
        query_starts=torch.arange(S + 1, dtype=torch.int32, device="cuda"),
        seq_lens=small.seq_lens.repeat(S // 5 + 1)[:S].contiguous(),
        block_table=small.block_table.repeat(S // 5 + 1, 1)[:S],
        slots=small.slots.repeat(S // 5 + 1)[:S],
        block_size=16,
        max_query_len=1,
        max_seq_len=3,
    )
    q = step.q.repeat(S // 5 + 1, 1, 1)[:S]
    out = kernel(q, step.k_cache, step.v_cache, batch)
    expected = step.expected().repeat(S // 5 + 1, 1, 1)[:S]
    close(out, expected)
