"""Proofs of lesson 08's exercises: slips in the solutions, and other right answers."""

from itertools import pairwise

import torch
from proof import Proof, wrong

from litellama.kernels import flash_attention
from litellama.kernels.backend import tl, triton, use_backend


def block_by_key(q, k, v, maximum, total, weighted):
    """One key after the other."""
    for key, value in zip(k, v, strict=True):
        score = (q * key).sum(1) / q.shape[1] ** 0.5
        new = torch.where(score > maximum, score, maximum)
        shrink, weight = (maximum - new).exp(), (score - new).exp()
        total = total * shrink + weight
        weighted = torch.addcmul(weighted * shrink[:, None], weight[:, None], value[None, :])
        maximum = new
    return maximum, total, weighted


def block_by_merging(q, k, v, maximum, total, weighted):
    """The block's own state first, then two states into one."""
    scores = q @ k.T / q.shape[1] ** 0.5
    mine = scores.max(dim=1).values
    p = (scores - mine[:, None]).exp()
    both = torch.maximum(maximum, mine)
    a, b = (maximum - both).exp(), (mine - both).exp()
    return both, a * total + b * p.sum(1), a[:, None] * weighted + b[:, None] * (p @ v)


def counts_by_mask(Tq, Tk, BLOCK_M, BLOCK_N):
    """From the mask itself, with lanes beyond the keys as keys that nobody sees."""
    columns = -(-Tk // BLOCK_N) * BLOCK_N
    seen = torch.arange(columns)[None, :] <= (Tk - Tq + torch.arange(Tq))[:, None]
    kinds = [
        (bool(tile.any()), bool(tile.all()))
        for rows in seen.split(BLOCK_M)
        for tile in rows.split(BLOCK_N, dim=1)
    ]
    return tuple(kinds.count(kind) for kind in ((False, False), (True, True), (True, False)))


def attention_of_package(q, k, v):
    with use_backend("triton"):
        return flash_attention(q[None], k[None], v[None])[0]


@triton.jit
def _backwards(
    q_ptr, k_ptr, v_ptr, y_ptr, Tq, Tk,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A program for each query; blocks of keys from the last to the first; no tl.dot."""
    h, t = tl.program_id(1), tl.program_id(0)
    n, d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    last, row = Tk - Tq + t, (h * Tq + t) * D + d
    q = tl.load(q_ptr + row, mask=d < D, other=0.0).to(tl.float32)
    m, total, y = -float("inf"), 0.0, tl.zeros([BLOCK_D], tl.float32)
    for turn in range(0, last // BLOCK_N + 1):
        j = (last // BLOCK_N - turn) * BLOCK_N + n
        here = (j <= last)[:, None] & (d < D)[None, :]
        at = (h // GROUP) * Tk * D + j[:, None] * D + d[None, :]
        k = tl.load(k_ptr + at, mask=here, other=0.0).to(tl.float32)
        s = tl.sum(k * q[None, :], axis=1) / tl.sqrt(D + 0.0)
        s = tl.where(j <= last, s, -float("inf"))
        new = tl.maximum(m, tl.max(s, axis=0))
        p, r = tl.exp(s - new), tl.exp(m - new)
        v = tl.load(v_ptr + at, mask=here, other=0.0).to(tl.float32)
        y = y * r + tl.sum(v * p[:, None], axis=0)
        total = total * r + tl.sum(p, axis=0)
        m = new
    tl.store(y_ptr + row, y / total, mask=d < D)


def attention_backwards(q, k, v):
    (Hq, Tq, D), (Hkv, Tk, _) = q.shape, k.shape
    y = torch.empty_like(q)
    meta = {"GROUP": Hq // Hkv, "D": D, "BLOCK_N": 8, "BLOCK_D": triton.next_power_of_2(D)}
    _backwards[(Tq, Hq)](q, k, v, y, Tq, Tk, **meta)
    return y


def packed_text_by_text(q, k, v, starts):
    out = torch.empty_like(q)
    for first, stop in pairwise(starts.tolist()):
        if first < stop:
            parts = (x[first:stop].transpose(0, 1).contiguous() for x in (q, k, v))
            out[first:stop] = attention_backwards(*parts).transpose(0, 1)
    return out


def packed_by_one_mask(q, k, v, starts):
    """All scores of the whole axis, with a mask that keeps texts apart."""
    row = torch.arange(len(q), device=q.device)
    text = (row[:, None] >= starts[None, 1:]).sum(1)
    seen = (text[:, None] == text[None, :]) & (row[None, :] <= row[:, None])
    heads = (x.float().transpose(0, 1) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen)
    return out.transpose(0, 1).to(q.dtype)


_TOTAL = "total * rescale"
_WEIGHTED = "weighted * rescale[:, None]"
_WAY = "exp(maximum - new_maximum)"
_SCORES = 'tl.dot(q, tl.trans(k), input_precision="ieee") * scale'
_STORE = "weighted / total[:, None]"
_VALUES = "v = tl.load(v_ptr + kv_places"
_END = "        maximum = new_maximum\n"


def slips_of_the_state():
    """What both kernels can get wrong."""
    return (
        wrong("stale weighted", "accumulator not rescaled", (_WEIGHTED, "weighted")),
        wrong("stale total", "total not rescaled", (_TOTAL, "total")),
        wrong("stale both", "nothing rescaled", (_WEIGHTED, "weighted"), (_TOTAL, "total")),
        wrong("inverse", "rescaled the wrong way round", (_WAY, "exp(new_maximum - maximum)")),
        wrong(
            "divided in the loop",
            "divided in every block",
            (_END, f"{_END}        weighted = {_STORE}\n"),
        ),
        wrong("no scale", "scale forgotten", (f"{_SCORES}\n", f"{_SCORES[:-8]}\n")),
        wrong("scale twice", "scaled twice", (_SCORES, f"{_SCORES} * scale")),
        wrong("no total", "not divided by the total", (_STORE, "weighted")),
        wrong("keys again", "keys for values", (_VALUES, "v = tl.load(k_ptr + kv_places")),
    )


_SEEN = "keys[None, :] <= last_key[:, None]"
_STOP = "stop = tl.minimum(Tk - Tq + (tl.program_id(0) + 1) * BLOCK_M, Tk)"

PROOFS = {
    "take_block": Proof(
        wrong=(
            wrong("stale weighted", "accumulator not rescaled", (_WEIGHTED, "weighted")),
            wrong("stale total", "total not rescaled", (_TOTAL, "total")),
            wrong("stale both", "nothing rescaled", (_WEIGHTED, "weighted"), (_TOTAL, "total")),
            wrong("inverse", "rescaled the wrong way round", (_WAY, "exp(new_maximum - maximum)")),
            wrong(
                "block's maximum",
                "maximum of the block",
                ("torch.maximum(maximum, scores.amax(1))", "scores.amax(1)"),
            ),
            wrong("dropped", "old state dropped", (f"{_TOTAL} + ", ""), (f"{_WEIGHTED} + ", "")),
            wrong(
                "divided",
                "divided already",
                ("new_total, new_weighted\n", "new_total, new_weighted / new_total[:, None]\n"),
            ),
            wrong("no scale", "scale forgotten", (" * q.shape[1] ** -0.5", "")),
        ),
        right=(block_by_key, block_by_merging),
    ),
    "tile_counts": Proof(
        wrong=(
            wrong(
                "first key",
                "aligned at the first key",
                ("first = Tk - Tq + row", "first = row"),
                ("last = Tk - Tq + min", "last = min"),
            ),
            wrong(
                "floor",
                "last tiles forgotten",
                ("range(0, Tq, BLOCK_M)", "range(0, Tq // BLOCK_M * BLOCK_M, BLOCK_M)"),
                ("range(0, Tk, BLOCK_N)", "range(0, Tk // BLOCK_N * BLOCK_N, BLOCK_N)"),
            ),
            wrong(
                "one less",
                "a token does not see itself",
                ("first = Tk - Tq + row", "first = Tk - Tq + row - 1"),
                ("Tq) - 1  #", "Tq) - 2  #"),
            ),
            wrong(
                "lanes beyond",
                "keys beyond the text",
                ("key + BLOCK_N - 1 <= first", "min(key + BLOCK_N, Tk) - 1 <= first"),
            ),
            wrong(
                "last query",
                "seen by the last query",
                ("BLOCK_N - 1 <= first", "BLOCK_N - 1 <= last"),
            ),
            wrong("no whole", "all masked", ("whole += 1", "masked += 1")),
            wrong("no skip", "none skipped", ("skipped += 1", "masked += 1")),
            wrong("equal skipped", "last key skipped", ("if key > last", "if key >= last")),
            wrong(
                "whole late",
                "whole one key late",
                ("key + BLOCK_N - 1 <= first", "key + BLOCK_N <= first"),
            ),
        ),
        right=(counts_by_mask,),
    ),
    "tiled_attention": Proof(
        wrong=(
            *slips_of_the_state(),
            wrong(
                "in turns",
                "heads taken in turns",
                ("head // GROUP", "head % (tl.num_programs(1) // GROUP)"),
            ),
            wrong(
                "no mask",
                "mask forgotten",
                (_SEEN, "keys[None, :] < Tk + 0 * rows[:, None]"),
                (_STOP, "stop = Tk"),
            ),
            wrong(
                "first key",
                "aligned at the first key",
                ("last_key = Tk - Tq + rows", "last_key = rows"),
            ),
            wrong(
                "itself",
                "a token does not see itself",
                (_SEEN, "keys[None, :] < last_key[:, None]"),
            ),
            wrong(
                "floor",
                "last block left out",
                ("range(0, stop, BLOCK_N)", "range(0, stop - BLOCK_N + 1, BLOCK_N)"),
            ),
            wrong(
                "own number",
                "loop ends too early",
                (_STOP, "stop = tl.minimum((tl.program_id(0) + 1) * BLOCK_M, Tk)"),
            ),
            wrong(
                "last tile",
                "only the last tile masked",
                (_SEEN, f"({_SEEN}) | (first + BLOCK_N < stop)"),
            ),
            wrong(
                "rows of the next head",
                "store out of bounds",
                ("total[:, None], mask=inside", "total[:, None], mask=columns < D"),
            ),
        ),
        right=(attention_of_package, attention_backwards),
    ),
    "packed_attention": Proof(
        wrong=(
            *slips_of_the_state(),
            wrong("neighbours", "one long text", ("range(first, tl", "range(0, tl")),
            wrong(
                "keys from 0",
                "keys of the first text",
                (
                    "range(first, tl.minimum(start + BLOCK_M, stop), BLOCK_N)",
                    "range(0, tl.minimum(start + BLOCK_M, stop) - first, BLOCK_N)",
                ),
                ("(keys < stop)[:, None]", "(keys < stop - first)[:, None]"),
                ("<= rows[:, None], scores", "<= rows[:, None] - first, scores"),
            ),
            wrong(
                "heads first",
                "heads before tokens",
                (
                    "(rows[:, None] * H + head) * D",
                    "(head * tl.load(starts_ptr + S) + rows[:, None]) * D",
                ),
                (
                    "(keys[:, None] * H + head) * D",
                    "(head * tl.load(starts_ptr + S) + keys[:, None]) * D",
                ),
            ),
            wrong(
                "no mask",
                "mask forgotten",
                ("tl.minimum(start + BLOCK_M, stop)", "stop"),
                ("keys[None, :] <= rows[:, None]", "keys[None, :] < stop + 0 * rows[:, None]"),
            ),
            wrong(
                "first tiles",
                "partly written",
                (
                    "start = first + (program - (first // BLOCK_M + text)) * BLOCK_M",
                    "start = first",
                ),
            ),
            wrong(
                "past the end",
                "store out of bounds",
                ("total[:, None], mask=inside", "total[:, None], mask=columns < D"),
            ),
            wrong(
                "no mask in the tile",
                "loop ends, but no mask",
                (
                    "keys[None, :] <= rows[:, None], scores",
                    "keys[None, :] < tl.minimum(start + BLOCK_M, stop) + 0 * rows[:, None], scores",
                ),
            ),
        ),
        right=(packed_text_by_text, packed_by_one_mask),
    ),
}
