"""What the engine runs beside the layers: keys and values into the cache, and the sampler."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from litellama import kernels
from litellama.bench.case import Case, Inputs, Peer, normal
from litellama.bench.elementwise import torch_rope

BLOCK_SIZE, KV_HEADS, HEAD_DIM = 64, 8, 128
TOKENS = (16, 16384)
# (rows, vocabulary): one chat and a batch of Llama 3's
LOGITS = ((1, 128256), (64, 128256))
TOP_P = 0.9


def cases() -> Iterator[Case]:
    """The cache write, alone and with what comes before it; sampling, with no filter and top-p."""
    for tokens in TOKENS:
        yield write_case(tokens)
    for tokens in (1, *TOKENS):
        for norms in (False, True):
            yield attention_inputs_case(tokens, norms)
    for rows, vocab in LOGITS:
        yield sample_case(rows, vocab, 1.0)
        yield sample_case(rows, vocab, TOP_P)


def empty_cache(k: torch.Tensor) -> Inputs:
    """A cache [2, blocks, block_size, Hkv, D] for the tokens of k, and slots in random blocks."""
    blocks = -(-len(k) // BLOCK_SIZE)
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(0))
    token = torch.arange(len(k))
    slots = order[token // BLOCK_SIZE] * BLOCK_SIZE + token % BLOCK_SIZE
    return k.new_zeros(2, blocks, BLOCK_SIZE, *k.shape[1:]), slots.to(k.device)


def write_by_torch(
    k: torch.Tensor, v: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    """The cache after the plain torch version of ``write_kv``."""
    for part, x in zip(cache, (k, v), strict=True):
        part.view(-1, KV_HEADS, HEAD_DIM).index_copy_(0, slots, x)
    return cache


def write_case(tokens: int) -> Case:
    """Keys and values [T, 8, 128] into blocks of the cache in random order."""
    shape = (tokens, KV_HEADS, HEAD_DIM)

    def prepare(k: torch.Tensor, v: torch.Tensor) -> Inputs:
        return k, v, *empty_cache(k)

    def ours(k: torch.Tensor, v: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> Any:
        k_cache, v_cache = cache
        kernels.write_kv(k, v, k_cache, v_cache, slots)
        return cache

    return Case(
        group="engine",
        kernel="write_kv",
        label="×".join(map(str, shape)),
        make=lambda device: normal(device, shape, shape),
        elements=lambda t: 4 * t[0].numel(),
        peers=(Peer("litellama", ours, prepare), Peer("torch eager", write_by_torch, prepare)),
    )


def attention_inputs_case(tokens: int, norms: bool) -> Case:
    """From q, k and v to attention: norms of the heads as in Qwen3, rotation, cache write."""
    query, key = (tokens, 2 * KV_HEADS, HEAD_DIM), (tokens, KV_HEADS, HEAD_DIM)
    angles = torch.arange(tokens)[:, None] * 500000.0 ** (-torch.linspace(0, 1, HEAD_DIM // 2))

    def make(device: torch.device) -> tuple[torch.Tensor, ...]:
        tables = (angles.cos().to(device), angles.sin().to(device))
        return *normal(device, query, key, key, (HEAD_DIM,), (HEAD_DIM,)), *tables

    def prepare(q: torch.Tensor, k: torch.Tensor, *others: torch.Tensor) -> Inputs:
        return q, k, *others, *empty_cache(k)

    def one_launch(*inputs: torch.Tensor) -> Any:
        q, k, v, q_norm, k_norm, cos, sin, cache, slots = inputs
        k_cache, v_cache = cache
        place, weights = (k_cache, v_cache, slots), (q_norm, k_norm) if norms else (None, None)
        q = kernels.rope_write_kv(q, k, v, cos, sin, *place, q_norm=weights[0], k_norm=weights[1])
        return q, cache

    def apart(*inputs: torch.Tensor) -> Any:
        q, k, v, q_norm, k_norm, cos, sin, cache, slots = inputs
        if norms:
            q, k = kernels.rms_norm(q, q_norm), kernels.rms_norm(k, k_norm)
        q, k = kernels.rope(q, k, cos, sin)
        k_cache, v_cache = cache
        kernels.write_kv(k, v, k_cache, v_cache, slots)
        return q, cache

    def by_torch(*inputs: torch.Tensor) -> Any:
        q, k, v, q_norm, k_norm, cos, sin, cache, slots = inputs
        if norms:
            q, k = (F.rms_norm(x, w.shape, w, 1e-6) for x, w in ((q, q_norm), (k, k_norm)))
        q, k = torch_rope(q, k, cos, sin)
        return q, write_by_torch(k, v, cache, slots)

    return Case(
        group="engine",
        kernel="rope_write_kv",
        label="×".join(map(str, query)) + (" normed" if norms else ""),
        make=make,
        elements=lambda t: 2 * (t[0].numel() + t[1].numel() + t[2].numel()),
        peers=(
            Peer("litellama", one_launch, prepare),
            Peer(
                "litellama, apart", apart, prepare, note="rms_norm, rope, write_kv: a launch each"
            ),
            Peer("torch eager", by_torch, prepare),
            Peer("torch.compile", by_torch, prepare, compile={}),
        ),
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
