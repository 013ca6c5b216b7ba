"""Attention against torch's: whole prompts, packed prompts of mixed lengths, and decoding.

torch's are the backends of ``scaled_dot_product_attention`` (SDPA), each asked for by name, and its
``varlen_attn``; all of them read keys that lie in one piece, while litellama's packed and decoding
kernels read theirs through a block table whose blocks are in random order.

FLOPs are those of the two products that attention needs, 4 D for each query and key that it sees;
a causal mask halves them.  Decoding reads each key and value once; that is its limit.
"""

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from litellama import kernels
from litellama.bench.case import Case, Inputs, Peer, normal
from litellama.kernels import AttentionBatch

Tensors = tuple[torch.Tensor, ...]
# Tokens in a block of the cache: of packed prompts both, of decoding the first.
BLOCK_SIZES = (64, 16)
BACKENDS = {
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# Tokens and width of a dense case: as the FlashAttention papers measure.
DENSE_TOKENS, DENSE_WIDTH = 16384, 2048
# (head_dim, tokens of a sequence, causal)
DENSE = [(d, t, True) for d in (64, 128) for t in (1024, 4096, 16384)] + [(128, 4096, False)]
# (query heads, key/value heads, head_dim): Llama-3.2-1B and Llama-3.1-8B
PACKED = ((32, 8, 64), (32, 8, 128))
PACKED_SEQUENCES, PACKED_LONGEST = 32, 8192
# (sequences, query heads, key/value heads, keys of each sequence, head_dim)
DECODE = (
    (1, 32, 8, 192, 64),
    (1, 24, 8, 192, 128),
    (1, 32, 8, 8192, 64),
    (12, 24, 8, 2048, 128),
    (64, 32, 8, 4096, 64),
    (1, 24, 8, 32768, 128),
    (32, 32, 8, 8192, 128),
)


def cases() -> Iterator[Case]:
    """Whole prompts, packed prompts, decoding."""
    for head_dim, tokens, causal in DENSE:
        yield dense_case("flash_attention", kernels.flash_attention, head_dim, tokens, causal)
    yield dense_case("flash_attention_v1", kernels.flash_attention_v1, 128, 4096, True)
    for heads, block_size in itertools.product(PACKED, BLOCK_SIZES):
        lengths = mixed_lengths(PACKED_SEQUENCES, PACKED_LONGEST)
        yield packed_case(*heads, lengths, block_size)
    for sizes in DECODE:
        yield decode_case(*sizes)


def sdpa(backend: SDPBackend, **settings: Any) -> Callable[..., torch.Tensor]:
    """scaled_dot_product_attention of that backend, or its error, and of no other."""

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, **settings)

    return call


def attention_flops(heads: int, head_dim: int, pairs: float) -> int:
    """FLOPs of attention for so many pairs of a query and a key that it sees, in each head."""
    return int(4 * heads * head_dim * pairs)


def dense_case(
    kernel: str, call: Callable[..., torch.Tensor], head_dim: int, tokens: int, causal: bool
) -> Case:
    """Equal sequences [B, H, T, D] with no grouped heads: 16,384 tokens, 2,048 wide, in all."""
    batch, heads = DENSE_TOKENS // tokens, DENSE_WIDTH // head_dim
    shape = (batch, heads, tokens, head_dim)
    return Case(
        group="attention",
        kernel=kernel,
        label=f"hd{head_dim} T{tokens}{'' if causal else ' full'}",
        make=lambda device: normal(device, shape, shape, shape),
        elements=lambda t: 4 * t[0].numel(),
        flops=attention_flops(heads, head_dim, batch * tokens**2 / (2 if causal else 1)),
        peers=(
            Peer("litellama", functools.partial(call, causal=causal)),
            *(Peer(name, sdpa(backend, is_causal=causal)) for name, backend in BACKENDS.items()),
        ),
    )


def mixed_lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    """Lengths of which as many are between 1 and 10 as between 10 and 100, and so on."""
    rng = random.Random(seed)
    drawn = [int(math.exp(rng.uniform(0, math.log(longest)))) for _ in range(count - 2)]
    return [*drawn, longest, 1]


def packed_case(
    heads: int, kv_heads: int, head_dim: int, lengths: Sequence[int], block_size: int
) -> Case:
    """Whole prompts of mixed lengths, causal: packed q [T, Hq, D] and k, v [T, Hkv, D]."""
    total = sum(lengths)
    pairs = sum(length**2 for length in lengths) / 2
    # Equal sequences that hold as many tokens, and see about as many pairs.
    equal = max(round(2 * pairs / total / 128) * 128, 128)
    count = max(round(total / equal), 1)
    starts = list(itertools.accumulate(lengths, initial=0))

    def equal_lengths(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Inputs:
        shapes = [(count, h, equal, head_dim) for h in (heads, kv_heads, kv_heads)]
        return tuple(x.to(q.dtype) for x in normal(q.device, *shapes))

    def torch_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Inputs:
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        cumulative = torch.tensor(starts, dtype=torch.int32, device=q.device)
        return q, k, v, cumulative, max(lengths)

    return Case(
        group="packed attention",
        kernel="flash_attention_varlen",
        label=f"hd{head_dim} 1–{max(lengths)} blocks of {block_size}",
        make=lambda device: normal(
            device, *[(total, h, head_dim) for h in (heads, kv_heads, kv_heads)]
        ),
        elements=lambda t: 2 * t[0].numel() + t[1].numel() + t[2].numel(),
        flops=attention_flops(heads, head_dim, pairs),
        peers=(
            Peer(
                "litellama",
                kernels.flash_attention_varlen,
                lambda q, k, v: (q, *paged(k, v, lengths, lengths, block_size)),
                note=f"{total} tokens of {len(lengths)} sequences, {heads} heads on {kv_heads}; no "
                f"padding; blocks of {block_size} in random order",
            ),
            Peer(
                "dense, equal lengths",
                functools.partial(kernels.flash_attention, causal=True),
                equal_lengths,
                same_work=False,
                flops=attention_flops(heads, head_dim, count * equal**2 / 2),
                note=f"litellama's flash_attention on {count} sequences of {equal} tokens",
            ),
            Peer(
                "dense, padded",
                functools.partial(kernels.flash_attention, causal=True),
                lambda q, k, v: tuple(padded(x, lengths) for x in (q, k, v)),
                same_work=False,
                note=f"litellama's flash_attention on {len(lengths) * max(lengths)} tokens with "
                "the padding; the FLOPs are those of the real tokens",
            ),
            Peer("torch varlen_attn", _varlen_attn, torch_varlen, note="keys repeated beforehand"),
        ),
    )


def _varlen_attn(q: Any, k: Any, v: Any, starts: Any, longest: int) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    causal = (-1, 0)  # of the window: every key before, none after
    return varlen_attn(q, k, v, starts, starts, longest, longest, window_size=causal)


def decode_case(sequences: int, heads: int, kv_heads: int, keys: int, head_dim: int) -> Case:
    """One query a sequence, q [B, Hq, D], over its keys and values [B, Hkv, T, D]."""
    group, kv_shape = heads // kv_heads, (sequences, kv_heads, keys, head_dim)
    lengths = [keys] * sequences

    def one_query(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Inputs:
        return q[:, :, None], k, v

    def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Inputs:
        return q.view(sequences, kv_heads, group, head_dim), k, v

    def repeated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Inputs:
        return q[:, :, None], *(x.repeat_interleave(group, dim=1) for x in (k, v))

    peers = [
        Peer(
            "litellama",
            kernels.flash_decoding,
            lambda q, k, v: (
                q,
                *paged(packed(k), packed(v), lengths, [1] * sequences, BLOCK_SIZES[0]),
            ),
            note=f"blocks of {BLOCK_SIZES[0]} in random order",
        )
    ]
    for name, backend in BACKENDS.items():
        if backend == SDPBackend.EFFICIENT_ATTENTION:  # takes no grouped heads
            peers.append(Peer(name, sdpa(backend), repeated, note="keys repeated beforehand"))
        else:
            peers.append(Peer(name, sdpa(backend, enable_gqa=True), one_query, note="enable_gqa"))
        note = "the query heads of a group as queries of one head"
        peers.append(Peer(f"{name}, heads as rows", sdpa(backend), grouped, note=note))
    return Case(
        group="decode attention",
        kernel="flash_decoding",
        label=f"B{sequences} H{heads} KV{kv_heads} T{keys} hd{head_dim}",
        make=lambda device: normal(device, (sequences, heads, head_dim), kv_shape, kv_shape),
        elements=lambda t: t[1].numel() + t[2].numel(),
        peers=tuple(peers),
        writes=False,
    )


def packed(x: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D] -> [B * T, H, D]."""
    return x.transpose(1, 2).flatten(0, 1)


def padded(x: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Packed [total, H, D] -> [B, H, longest, D], zeros after each sequence's end."""
    rows = torch.nn.utils.rnn.pad_sequence(list(x.split(list(lengths))), batch_first=True)
    return rows.transpose(1, 2).contiguous()


def paged(
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: Sequence[int],
    queries: Sequence[int],
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
    """Caches [blocks, block_size, Hkv, D] that hold packed k, v [total, Hkv, D], and their batch.

    lengths: keys of each sequence; queries: how many of its last tokens ask.  The blocks of the
    sequences are in random order, as in an engine that has run for a while.
    """
    needed = [-(-length // block_size) for length in lengths]
    order = random.Random(0).sample(range(sum(needed)), sum(needed))
    table = torch.zeros(len(lengths), max(needed), dtype=torch.int32)
    taken, slots, asking = 0, [], []
    for s, (length, asks) in enumerate(zip(lengths, queries, strict=True)):
        mine = torch.tensor(order[taken : taken + needed[s]], dtype=torch.int64)
        taken += needed[s]
        table[s, : needed[s]] = mine
        position = torch.arange(length)
        slots.append(mine[position // block_size] * block_size + position % block_size)
        asking.append(slots[-1][length - asks :])
    where = torch.cat(slots).to(k.device)
    caches = []
    for x in (k, v):
        cache = x.new_zeros(sum(needed) * block_size, *x.shape[1:])
        cache[where] = x
        caches.append(cache.view(sum(needed), block_size, *x.shape[1:]))
    starts = torch.tensor(list(itertools.accumulate(queries, initial=0)), dtype=torch.int32)
    batch = AttentionBatch(
        starts.to(k.device), torch.tensor(lengths, dtype=torch.int32, device=k.device),
        table.to(k.device), torch.cat(asking).to(k.device),
        block_size, max(queries), max(lengths),
    )  # fmt: skip
    return caches[0], caches[1], batch
