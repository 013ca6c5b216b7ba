"""rope and write_kv against float64 and against what they must not touch."""

import pytest
import torch

from litellama import kernels
from tests.kernels.compare import DTYPES, close

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def angles(tokens: int, half: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.rand(tokens, half, dtype=torch.float64, device=device) * 6.28
    return theta.cos().float(), theta.sin().float()


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotation as complex multiplication, in float64: (a + ib)(cos + i sin)."""
    half = cos.shape[-1]
    wide = x.double()
    pairs = torch.complex(wide[..., :half], wide[..., half : 2 * half])
    turned = pairs * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat([turned.real, turned.imag, wide[..., 2 * half :]], dim=-1)


@dtypes
@pytest.mark.parametrize(
    ("tokens", "q_heads", "kv_heads", "head_dim"),
    [(1, 1, 1, 2), (5, 9, 3, 64), (3, 6, 3, 10), (2, 5, 1, 80), (4, 2, 2, 96), (0, 2, 1, 8)],
)
def test_rope(tokens, q_heads, kv_heads, head_dim, dtype, device):
    q = torch.randn(tokens, q_heads, head_dim, device=device).to(dtype)
    k = torch.randn(tokens, kv_heads, head_dim, device=device).to(dtype)
    cos, sin = angles(tokens, head_dim // 2, device)
    q_out, k_out = kernels.rope(q, k, cos, sin)
    close(q_out, rotated(q, cos, sin))
    close(k_out, rotated(k, cos, sin))


def test_rope_partial_rotation_passes_the_rest_through(device):
    q, k = torch.randn(4, 3, 20, device=device), torch.randn(4, 1, 20, device=device)
    cos, sin = angles(4, 6, device)
    q_out, k_out = kernels.rope(q, k, cos, sin)
    close(q_out, rotated(q, cos, sin))
    close(k_out, rotated(k, cos, sin))
    assert torch.equal(q_out[..., 12:], q[..., 12:])


def test_rope_takes_tables_with_repeated_halves(device):
    q, k = torch.randn(4, 3, 20, device=device), torch.randn(4, 1, 20, device=device)
    cos, sin = angles(4, 10, device)
    wide = kernels.rope(q, k, cos.repeat(1, 2), sin.repeat(1, 2))
    narrow = kernels.rope(q, k, cos, sin)
    assert torch.equal(wide[0], narrow[0])
    assert torch.equal(wide[1], narrow[1])


def test_rope_reads_slices_of_a_fused_matrix_and_leaves_it_alone(device):
    qkv = torch.randn(5, (4 + 2 + 2) * 16, device=device)
    before = qkv.clone()
    q, k = qkv[:, :64].view(5, 4, 16), qkv[:, 64:96].view(5, 2, 16)
    cos, sin = angles(5, 8, device)
    q_out, k_out = kernels.rope(q, k, cos, sin)
    close(q_out, rotated(q, cos, sin))
    close(k_out, rotated(k, cos, sin))
    assert torch.equal(qkv, before)


def test_rope_scores_depend_on_distance_alone(device):
    q, k = torch.randn(1, 1, 32, device=device), torch.randn(1, 1, 32, device=device)
    frequencies = 100.0 ** -(torch.arange(16, device=device) / 16)

    def score(q_position: int, k_position: int) -> torch.Tensor:
        q_turned, k_turned = (
            kernels.rope(x, x, (p * frequencies).cos()[None], (p * frequencies).sin()[None])[0]
            for x, p in ((q, q_position), (k, k_position))
        )
        return (q_turned * k_turned).sum()

    torch.testing.assert_close(score(3, 1), score(12, 10))
    assert (score(3, 1) - score(3, 2)).abs() > 1e-3


@pytest.mark.parametrize("shape", [(4, 2, 15), (3, 2, 16)], ids=["odd_head_dim", "other_tokens"])
def test_rope_refuses_shapes_that_do_not_fit(shape, device):
    q = torch.ones(4, 2, shape[-1], device=device)
    k = torch.ones(shape, device=device)
    table = torch.ones(4, 8, device=device)
    with pytest.raises(ValueError, match=r"q \(4, 2, .*k \("):
        kernels.rope(q, k, table, table)


@dtypes
@pytest.mark.parametrize(("heads", "head_dim", "block_size"), [(1, 2, 1), (3, 40, 4), (2, 96, 16)])
def test_write_kv(heads, head_dim, block_size, dtype, device):
    shape = (7, block_size, heads, head_dim)
    k_cache = torch.full(shape, torch.nan, dtype=dtype, device=device)
    v_cache = torch.full(shape, torch.nan, dtype=dtype, device=device)
    k, v = torch.randn(2, 5, heads, head_dim, device=device).to(dtype)
    slots = torch.randperm(7 * block_size, device=device)[:5]
    kernels.write_kv(k, v, k_cache, v_cache, slots)
    for cache, new in ((k_cache, k), (v_cache, v)):
        rows = cache.view(-1, heads, head_dim)
        assert torch.equal(rows[slots], new)
        untouched = torch.ones(len(rows), dtype=torch.bool, device=device)
        untouched[slots] = False
        assert rows[untouched].isnan().all()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_write_kv_skips_negative_slots(backend, device):
    cache = torch.zeros(2, 3, 4, 2, 8, device=device)
    k = torch.randn(3, 2, 8, device=device)
    slots = torch.tensor([-1, 5, -1], device=device)
    with kernels.use_backend(backend):
        kernels.write_kv(k, -k, cache[0], cache[1], slots)
    assert torch.equal(cache[0].view(-1, 2, 8)[5], k[1])
    assert torch.equal(cache[1].view(-1, 2, 8)[5], -k[1])
    assert cache.view(2, -1, 16).abs().sum(-1).count_nonzero() == 2


def test_write_kv_refuses_a_cache_it_would_copy(device):
    cache = torch.zeros(4, 3, 2, 8, device=device).transpose(0, 1)
    k = torch.zeros(1, 2, 8, device=device)
    slots = torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="contiguous caches"):
        kernels.write_kv(k, k, cache, cache, slots)
