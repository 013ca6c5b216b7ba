"""What the engine runs beside the layers: keys and values into the cache, and the sampler."""

from collections.abc import Iterator
from typing import Any

import torch

from litellama import kernels
from litellama.bench.case import Case, Inputs, Peer, normal

BLOCK_SIZE, KV_HEADS, HEAD_DIM = 64, 8, 128
TOKENS = (16, 16384)
# (rows, vocabulary): one chat and a batch of Llama 3's
LOGITS = ((1, 128256), (64, 128256))
TOP_P = 0.9


def cases() -> Iterator[Case]:
    """The cache write for a decode step and for prompts; sampling with no filter and with top-p."""
    for tokens in TOKENS:
        yield write_case(tokens)
    for rows, vocab in LOGITS:
        yield sample_case(rows, vocab, 1.0)
        yield sample_case(rows, vocab, TOP_P)


def write_case(tokens: int) -> Case:
    """Keys and values [T, 8, 128] into blocks of the cache in random order."""
    shape = (tokens, KV_HEADS, HEAD_DIM)

    def caches(k: torch.Tensor, v: torch.Tensor) -> Inputs:
        blocks = -(-tokens // BLOCK_SIZE)
        order = torch.randperm(blocks, generator=torch.Generator().manual_seed(0))
        token = torch.arange(tokens)
        slots = order[token // BLOCK_SIZE] * BLOCK_SIZE + token % BLOCK_SIZE
        cache = k.new_zeros(2, blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
        return k, v, cache, slots.to(k.device)

    def ours(k: torch.Tensor, v: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> Any:
        k_cache, v_cache = cache
        kernels.write_kv(k, v, k_cache, v_cache, slots)
        return cache

    def by_torch(k: torch.Tensor, v: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> Any:
        for part, x in zip(cache, (k, v), strict=True):
            part.view(-1, KV_HEADS, HEAD_DIM).index_copy_(0, slots, x)
        return cache

    return Case(
        group="engine",
        kernel="write_kv",
        label="×".join(map(str, shape)),
        make=lambda device: normal(device, shape, shape),
        elements=lambda t: 4 * t[0].numel(),
        peers=(Peer("litellama", ours, caches), Peer("torch eager", by_torch, caches)),
    )


def sample_case(rows: int, vocab: int, top_p: float) -> Case:
    """One token for each row of logits, temperature 1; the bytes are those of the logits."""

    def parameters(logits: torch.Tensor) -> Inputs:
        values = (1.0, top_p, 0.0)
        T, p, m = (torch.full((rows,), value, device=logits.device) for value in values)
        zeros = torch.zeros(rows, dtype=torch.int64, device=logits.device)
        seeds = torch.arange(rows, device=logits.device)
        return logits, T, zeros, p, m, seeds, zeros, top_p < 1

    return Case(
        group="engine",
        kernel="sample",
        label=f"{rows}×{vocab}" + (f" top-p {top_p}" if top_p < 1 else ""),
        make=lambda device: (3 * normal(device, (rows, vocab))[0],),
        elements=lambda t: t[0].numel(),
        peers=(
            Peer("litellama", kernels.sample, parameters),
            Peer(
                "torch eager",
                lambda logits: sample_by_sorting(logits, top_p),
                same_work=False,  # it draws other numbers
                note="softmax and multinomial" + (" of what a sort leaves" if top_p < 1 else ""),
            ),
        ),
        writes=False,
    )


def sample_by_sorting(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The usual way: sort the probabilities, cut where their running sum passes top_p, draw."""
    probabilities = torch.softmax(logits.float(), dim=-1)
    if top_p == 1.0:
        return torch.multinomial(probabilities, 1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    drawn = torch.multinomial(ordered.masked_fill(before > top_p, 0.0), 1)
    return tokens.gather(-1, drawn)
