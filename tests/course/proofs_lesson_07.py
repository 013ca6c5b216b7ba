"""Proofs of lesson 07's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


def mask_by_triangle(scores):
    Tq, Tk = scores.shape[-2:]
    hidden = torch.full((Tq, Tk), -float("inf"), dtype=scores.dtype, device=scores.device)
    return scores + hidden.triu(Tk - Tq + 1)


def attention_of_torch(q, k, v):
    seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.float()[None] for x in (q, k, v)),
        attn_mask=seen.tril(k.shape[1] - q.shape[1]),
        enable_gqa=len(q) != len(k),
    )
    return out[0].to(q.dtype)


@triton.jit
def _one_query(
    q_ptr, k_ptr, v_ptr, y_ptr, Tq, Tk,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A program for each query, with sums in place of tl.dot."""
    h, t = tl.program_id(1), tl.program_id(0)
    n, d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    here = (n <= Tk - Tq + t)[:, None] & (d < D)[None, :]
    row = (h * Tq + t) * D + d
    at = (h // GROUP) * Tk * D + n[:, None] * D + d[None, :]
    q = tl.load(q_ptr + row, mask=d < D, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + at, mask=here, other=0.0).to(tl.float32)
    s = tl.sum(k * q[None, :], axis=1) / tl.sqrt(D + 0.0)
    s = tl.where(n <= Tk - Tq + t, s, -float("inf"))
    p = tl.exp(s - tl.max(s, axis=0))
    v = tl.load(v_ptr + at, mask=here, other=0.0).to(tl.float32)
    y = tl.sum(v * (p / tl.sum(p, axis=0))[:, None], axis=0)
    tl.store(y_ptr + row, y, mask=d < D)


def attention_by_query(q, k, v):
    (Hq, Tq, D), (Hkv, Tk, _) = q.shape, k.shape
    y = torch.empty_like(q)
    BLOCK_N, BLOCK_D = triton.next_power_of_2(Tk), triton.next_power_of_2(D)
    _one_query[(Tq, Hq)](q, k, v, y, Tq, Tk, GROUP=Hq // Hkv, D=D, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D)
    return y


def decode_by_query(q, k, v):
    return attention_by_query(q[:, None], k, v)[:, 0]


def decode_by_group(q, k, v):
    groups = q.float().unflatten(0, (len(k), -1))  # [Hkv, GROUP, D]
    weights = (groups @ k.float().mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v.float()).flatten(0, 1).to(q.dtype)


def cost_by_operation(T, Hq, Hkv, D, element_size):
    matrix = Hq * T**2 * element_size
    product = times_v = matrix
    scale = mask = softmax = 2 * matrix
    others = sum(heads * T * D * element_size for heads in (Hq, Hkv, Hkv, Hq))
    return product + scale + mask + softmax + times_v, others, 2 * Hq * D * T * (T + 1)


_LAST = "last_key = Tk - Tq + torch.arange(Tq, device=scores.device)"
_SEEN = "keys[None, :] <= last_key[:, None]"
_SCORES = 'tl.dot(q, tl.trans(k), input_precision="ieee") * scale'
_STORE = "weighted / total[:, None]"
_MAXIMUM = "scores - maximum[:, None]"
_VALUES = "v = tl.load(v_ptr + kv_places"

PROOFS = {
    "causal_mask": Proof(
        wrong=(
            wrong("first key", "aligned at the first key", ("Tk - Tq + torch", "torch")),
            wrong("itself", "a token does not see itself", ("> last_key", ">= last_key")),
            wrong(
                "one ahead",
                "one key of the future seen",
                (_LAST, f"{_LAST} + 1"),
            ),
            wrong("zero", "zero for the future", ('-float("inf")', "0.0")),
            wrong("past", "past hidden", ("> last_key", "< last_key")),
            wrong("inverted", "only the future left", ("> last_key", "<= last_key")),
            wrong("in place", "modified its inputs", ("scores.masked_fill", "scores.masked_fill_")),
        ),
        right=(mask_by_triangle,),
    ),
    "attention": Proof(
        wrong=(
            wrong("no scale", "scale forgotten", (f"{_SCORES}\n", f"{_SCORES[:-8]}\n")),
            wrong("scale twice", "scaled twice", (_SCORES, f"{_SCORES} * scale")),
            wrong(
                "in turns",
                "heads taken in turns",
                ("head // GROUP", "head % (tl.num_programs(1) // GROUP)"),
            ),
            wrong("head 0", "first key head only", ("head // GROUP", "head * 0")),
            wrong("no total", "not divided by the total", (_STORE, "weighted")),
            wrong("keys again", "keys for values", (_VALUES, "v = tl.load(k_ptr + kv_places")),
            wrong("naive", "maximum not subtracted", (_MAXIMUM, "scores")),
            wrong("no mask", "mask forgotten", (_SEEN, "keys[None, :] < Tk + 0 * rows[:, None]")),
            wrong("first key", "aligned at the first key", ("Tk - Tq + rows", "rows")),
            wrong(
                "itself",
                "a token does not see itself",
                (_SEEN, "keys[None, :] < last_key[:, None]"),
            ),
            wrong(
                "zero",
                "future scores zero",
                (
                    'scores, -float("inf"))',
                    'scores, tl.where((keys < Tk)[None, :], 0.0, -float("inf")))',
                ),
            ),
            wrong(
                "mask after",
                "masked after the softmax",
                (_SEEN, "keys[None, :] < Tk + 0 * rows[:, None]"),
                (
                    "    v = tl.load",
                    "    weights = tl.where(keys[None, :] <= last_key[:, None], weights, 0.0)\n"
                    "    v = tl.load",
                ),
            ),
            wrong(
                "rows of the next head",
                "store out of bounds",
                ("total[:, None], mask=inside", "total[:, None], mask=columns < D"),
            ),
        ),
        right=(attention_by_query, attention_of_torch),
    ),
    "grouped_decode": Proof(
        wrong=(
            wrong("no scale", "scale forgotten", (f"{_SCORES}\n", f"{_SCORES[:-8]}\n")),
            wrong("scale twice", "scaled twice", (_SCORES, f"{_SCORES} * scale")),
            wrong(
                "in turns",
                "heads taken in turns",
                ("kv_head * GROUP + rows", "rows * tl.num_programs(0) + kv_head"),
            ),
            wrong("head 0", "first key head only", ("kv_head * Tk * D", "0 * kv_head * Tk * D")),
            wrong("no total", "not divided by the total", (_STORE, "weighted")),
            wrong("keys again", "keys for values", (_VALUES, "v = tl.load(k_ptr + kv_places")),
            wrong("naive", "maximum not subtracted", (_MAXIMUM, "scores")),
            wrong(
                "zeros",
                "keys beyond the text",
                ("(keys < Tk)[None, :], scores", "keys[None, :] >= 0, scores"),
            ),
            wrong(
                "causal",
                "heads masked like tokens",
                (
                    "(keys < Tk)[None, :], scores",
                    "keys[None, :] <= Tk - GROUP + rows[:, None], scores",
                ),
            ),
            wrong(
                "one softmax",
                "one softmax for the group",
                ("tl.max(scores, axis=1)", "tl.max(scores)"),
                ("maximum[:, None]", "maximum"),
                ("tl.sum(weights, axis=1)", "tl.sum(weights)"),
                ("total[:, None]", "total"),
            ),
            wrong(
                "first tokens",
                "heads masked like the first tokens",
                (
                    "(keys < Tk)[None, :], scores",
                    "(keys < Tk)[None, :] & (keys[None, :] <= rows[:, None]), scores",
                ),
            ),
        ),
        right=(decode_by_query, decode_by_group),
    ),
    "attention_cost": Proof(
        wrong=(
            wrong("six", "six crossings", ("1 + 2 + 2 + 2 + 1", "1 + 2 + 2 + 1")),
            wrong("five", "one crossing each", ("1 + 2 + 2 + 2 + 1", "5")),
            wrong("half", "causal scores", ("Hq * T * T *", "Hq * (T * (T + 1) // 2) *")),
            wrong("key heads", "scores by key head", ("crossings * Hq", "crossings * Hkv")),
            wrong("repeated", "keys repeated", ("2 * Hq + 2 * Hkv", "4 * Hq")),
            wrong("no output", "output forgotten", ("2 * Hq + 2 * Hkv", "Hq + 2 * Hkv")),
            wrong("all pairs", "mask ignored in the pairs", ("T * (T + 1) // 2", "T * T")),
            wrong("no diagonal", "diagonal forgotten", ("(T + 1)", "(T - 1)")),
            wrong("halved", "multiply-add as one", ("4 * D * Hq", "2 * D * Hq")),
            wrong(
                "elements",
                "elements for bytes",
                ("T * T * element_size", "T * T"),
                ("T * D * element_size", "T * D"),
            ),
        ),
        right=(cost_by_operation,),
    ),
}
