"""What each kernel must compute: slow, obvious, in float64, and without the package's code.

Each takes what the kernel takes, in any layout and dtype, and gives float64.
"""

from itertools import pairwise

import torch


def mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.double() * b.double()


def softmax(x: torch.Tensor) -> torch.Tensor:
    """exp(x_i - max) / sum_j exp(x_j - max) along the last axis."""
    x = x.double()
    exponentials = torch.exp(x - x.amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    x = x.double()
    mean_square = (x * x).sum(-1, keepdim=True) / x.shape[-1]
    return x / torch.sqrt(mean_square + eps) * weight.double()


def skip_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm is of the sum as the tensor's dtype can hold it, for that is what is passed on."""
    total = x.double() + residual.double()
    return rms_norm(total.to(x.dtype), weight, eps), total


def rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotation as complex multiplication: (a + ib)(cos + i sin)."""
    half = min(cos.shape[-1], q.shape[-1] // 2)
    turn = torch.complex(cos[:, None, :half].double(), sin[:, None, :half].double())

    def rotate(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        pairs = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
        return torch.cat([pairs.real, pairs.imag, x[..., 2 * half :]], dim=-1)

    return rotate(q), rotate(k)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width].double(), gate_up[:, width:].double()
    return gate / (1 + torch.exp(-gate)) * up


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The caches as they must be afterwards, one token at a time."""
    k_cache, v_cache = k_cache.double(), v_cache.double()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            block, offset = divmod(slot, k_cache.shape[1])
            k_cache[block, offset], v_cache[block, offset] = k[token].double(), v[token].double()
    return k_cache, v_cache


def rope_write_kv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, ...]:
    """The rotated q, and the caches as they must be afterwards."""
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    q, k = rope(q, k, cos, sin)
    return q, *write_kv(k, v, k_cache, v_cache, slots)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None = None
) -> torch.Tensor:
    """softmax(q K^T scale) V of one head: q [n, D], k and v [m, D].

    When causal, query i sees the keys up to m - n + i.  With no keys at all the result is zero.
    """
    (n, D), m = q.shape, k.shape[0]
    q, k, v = q.double(), k.double(), v.double()
    if m == 0:
        return torch.zeros_like(q)
    scores = q @ k.T * (D**-0.5 if scale is None else scale)
    if causal:
        query, key = torch.arange(n)[:, None], torch.arange(m)[None, :]
        scores[(key > m - n + query).to(scores.device)] = -torch.inf
    return softmax(scores) @ v


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> torch.Tensor:
    """Head by head: q [B, Hq, n, D], k and v [B, Hkv, m, D]."""
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            out[b, h] = attend(q[b, h], k[b, h // group], v[b, h // group], causal, scale)
    return out


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_starts: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    """Sequence by sequence and head by head, each key fetched from its block."""
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    block_size, group = k_cache.shape[1], q.shape[1] // k_cache.shape[2]
    for s, (start, stop) in enumerate(pairwise(query_starts.tolist())):
        position = torch.arange(int(seq_lens[s]), device=q.device)
        place = block_table[s].long()[position // block_size], position % block_size
        k, v = k_cache[place], v_cache[place]  # [m, Hkv, D]
        for h in range(q.shape[1]):
            head = (x[:, h // group] for x in (k, v))
            out[start:stop, h] = attend(q[start:stop, h], *head, causal=True, scale=scale)
    return out


def matvec(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [T, K], normed, times the transpose of weight [N, K], plus bias, gated, plus residual.

    In half precision, 2 to 32 rows are the work of tensor cores, which take both sides in that
    dtype: there rounding the normed x to it belongs to the task.
    """
    rounded = 1 < len(x) <= 32 and x.shape[1] % 64 == 0
    dtype = x.dtype
    x = x.double() if norm is None else rms_norm(x, norm, eps)
    if norm is not None and rounded:
        x = x.to(dtype).double()
    out = torch.einsum("tk,nk->tn", x, weight.double())
    if bias is not None:
        out = out + bias.double()
    if swiglu:
        gate, up = out.chunk(2, dim=-1)
        out = gate / (1 + torch.exp(-gate)) * up
    return out if residual is None else out + residual.double()
