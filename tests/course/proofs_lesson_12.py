"""Proofs of lesson 12's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


def queries_by_complex_numbers(x, weight, bias, cos, sin):
    first, second = (x @ weight.T + bias).unflatten(-1, (-1, 2, cos.shape[-1])).unbind(-2)
    turned = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def norm_rope_in_torch(x, weight, cos, sin, eps=1e-6):
    y = torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps)
    a, b = y.tensor_split(2, dim=-1)
    rows = [a * cos[:, None] - b * sin[:, None], a * sin[:, None] + b * cos[:, None]]
    return torch.cat(rows, dim=2).to(x.dtype)


@triton.jit
def _norm_rope_of_token(
    x_ptr, w_ptr, cos_ptr, sin_ptr, y_ptr, stride, eps,
    H: tl.constexpr, D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program for all heads of a token; RoPE as x cos + partner sin on whole heads."""
    t = tl.program_id(0)
    h, d = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK)[None, :]
    here = (h < H) & (d < D)
    partner = tl.where(d < D // 2, d + D // 2, d - D // 2)
    rows = x_ptr + t * stride + h * D
    x = tl.load(rows + d, mask=here, other=0.0).to(tl.float32)
    p = tl.load(rows + partner, mask=here, other=0.0).to(tl.float32)
    rms = tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True) / D + eps)
    x = x / rms * tl.load(w_ptr + d, mask=d < D, other=0.0)
    p = p / rms * tl.load(w_ptr + partner, mask=d < D, other=0.0)
    cos = tl.load(cos_ptr + t * (D // 2) + d % (D // 2), mask=d < D, other=0.0)
    sin = tl.load(sin_ptr + t * (D // 2) + d % (D // 2), mask=d < D, other=0.0)
    y = x * cos + tl.where(d < D // 2, -p, p) * sin
    tl.store(y_ptr + (t * H + h) * D + d, y, mask=here)


def norm_rope_by_token(x, weight, cos, sin, eps=1e-6):
    T, H, D = x.shape
    y = torch.empty(T, H, D, dtype=x.dtype, device=x.device)
    BLOCK_H, BLOCK = triton.next_power_of_2(H), triton.next_power_of_2(D)
    _norm_rope_of_token[(T,)](
        x, weight, cos, sin, y, x.stride(0), eps, H=H, D=D, BLOCK_H=BLOCK_H, BLOCK=BLOCK
    )
    return y


def size_by_matrix(hidden, heads, kv_heads, head_dim, qkv_bias, qk_norm):
    q, k, v = ((n * head_dim, hidden) for n in (heads, kv_heads, kv_heads))
    shapes = [q, k, v, (hidden, heads * head_dim)]
    shapes += [(rows, 1) for rows, _ in (q, k, v)] if qkv_bias else []
    shapes += [(head_dim, 1)] * 2 if qk_norm else []
    return q[0] + k[0] + v[0], sum(a * b for a, b in shapes), k[0] + v[0]


def fold_by_head(o_weight, v_bias, num_heads):
    by_head = o_weight.unflatten(1, (num_heads, -1))  # [hidden, num_heads, head_dim]
    kv_heads = len(v_bias) // by_head.shape[2]
    grouped = by_head.unflatten(1, (kv_heads, -1)).sum(2)  # a group's columns added up
    return torch.einsum("okd,kd->o", grouped, v_bias.view(kv_heads, -1))


_LINEAR = "F.linear(x, weight, bias).view(len(x), -1, D)"
_TURNED = "torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)"
_SQUARES = "tl.sum(first * first + second * second, axis=0)"
_ROOT = "tl.rsqrt(squares / (2 * HALF) + eps)"
_STORE_FIRST = "tl.store(out_row + pairs, first * cos - second * sin, mask=inside)"
_STORE_SECOND = "tl.store(out_row + HALF + pairs, second * cos + first * sin, mask=inside)"
_WEIGH = "inverse_rms * tl.load(weight_ptr + pairs, mask=inside, other=0.0)"
_WEIGH_SECOND = "inverse_rms * tl.load(weight_ptr + HALF + pairs, mask=inside, other=0.0)"
_REPEAT = "by_head.repeat_interleave(GROUP, dim=0).flatten()"

PROOFS = {
    "biased_queries": Proof(
        wrong=(
            wrong(
                "after",
                "bias after RoPE",
                (_LINEAR, "F.linear(x, weight).view(len(x), -1, D)"),
                (_TURNED, f"{_TURNED} + bias.view(-1, D)"),
            ),
            wrong("no bias", "bias forgotten", ("weight, bias)", "weight)")),
            wrong("twice", "bias twice", ("weight, bias)", "weight, bias + bias)")),
            wrong(
                "before and after",
                "bias before and after RoPE",
                (_TURNED, f"{_TURNED} + bias.view(-1, D)"),
            ),
            wrong(
                "first head",
                "one head's bias for all",
                (_LINEAR, "F.linear(x, weight).view(len(x), -1, D) + bias[:D]"),
            ),
            wrong(
                "columns first",
                "heads and columns exchanged",
                (".view(len(x), -1, D)", ".view(len(x), D, -1).mT"),
            ),
            wrong("not turned", "not turned", (_TURNED, "q")),
            wrong(
                "backwards",
                "turned backwards",
                ("first * cos - second", "first * cos + second"),
                ("second * cos + first", "second * cos - first"),
            ),
            wrong(
                "neighbours",
                "neighbours paired",
                ("q.chunk(2, dim=-1)", "q[..., 0::2], q[..., 1::2]"),
                (_TURNED, _TURNED.replace("cat", "stack") + ".flatten(-2)"),
            ),
            wrong("flat", "wrong shape", (_TURNED, f"{_TURNED}.flatten(1)")),
        ),
        right=(queries_by_complex_numbers,),
    ),
    "norm_rope": Proof(
        wrong=(
            wrong(
                "rope first",
                "norm after RoPE",
                (f"    first *= {_WEIGH}\n", ""),
                (f"    second *= {_WEIGH_SECOND}\n", ""),
                (
                    _STORE_FIRST,
                    _STORE_FIRST.replace(
                        "first * cos - second * sin", f"(first * cos - second * sin) * {_WEIGH}"
                    ),
                ),
                (
                    _STORE_SECOND,
                    _STORE_SECOND.replace(
                        "second * cos + first * sin",
                        f"(second * cos + first * sin) * {_WEIGH_SECOND}",
                    ),
                ),
            ),
            wrong("mean over HALF", "mean over half", ("(2 * HALF) + eps", "HALF + eps")),
            wrong(
                "first half",
                "squares of the first half only",
                (_SQUARES, "tl.sum(first * first, axis=0)"),
            ),
            wrong(
                "halves alone",
                "each half normed alone",
                (
                    f"    second *= {_WEIGH_SECOND}",
                    "    other_rms = tl.rsqrt(tl.sum(second * second, axis=0) / HALF + eps)\n"
                    f"    second *= {_WEIGH_SECOND.replace('inverse_rms', 'other_rms')}",
                ),
                (_ROOT, "tl.rsqrt(tl.sum(first * first, axis=0) / HALF + eps)"),
            ),
            wrong(
                "first weights",
                "first weights for both halves",
                ("weight_ptr + HALF + pairs", "weight_ptr + pairs"),
            ),
            wrong(
                "no weight",
                "weight forgotten",
                (f"first *= {_WEIGH}", "first *= inverse_rms"),
                (f"second *= {_WEIGH_SECOND}", "second *= inverse_rms"),
            ),
            wrong(
                "eps outside",
                "epsilon outside the root",
                (_ROOT, "1 / (tl.sqrt(squares / (2 * HALF)) + eps)"),
            ),
            wrong("no norm", "not normed", (_ROOT, "1.0")),
            wrong(
                "whole row",
                "one norm over all heads",
                (
                    f"    inverse_rms = {_ROOT}",
                    "    columns = tl.arange(0, 2 * BLOCK)[None, :]\n"
                    "    heads = tl.arange(0, 8)[:, None]\n"
                    "    row = x_ptr + token * token_stride + heads * head_stride + columns\n"
                    "    here = (heads < H) & (columns < 2 * HALF)\n"
                    "    row = tl.load(row, mask=here, other=0.0).to(tl.float32)\n"
                    "    squares = tl.sum(tl.sum(row * row, axis=1), axis=0)\n"
                    "    inverse_rms = tl.rsqrt(squares / (2 * HALF * H) + eps)",
                ),
            ),
            wrong(
                "no rotation",
                "not turned",
                ("first * cos - second * sin", "first"),
                ("second * cos + first * sin", "second"),
            ),
            wrong(
                "backwards",
                "turned backwards",
                ("first * cos - second", "first * cos + second"),
                ("second * cos + first", "second * cos - first"),
            ),
            wrong(
                "first token",
                "every token turned as the first",
                ("cos_ptr + token * HALF", "cos_ptr"),
                ("sin_ptr + token * HALF", "sin_ptr"),
            ),
            wrong(
                "dense",
                "gap between tokens ignored",
                ("x_ptr + token * token_stride", "x_ptr + token * H * 2 * HALF"),
            ),
            wrong(
                "one store",
                "partly written",
                (f"    {_STORE_SECOND}", ""),
            ),
            wrong(
                "no mask",
                "store out of bounds",
                ("second * cos + first * sin, mask=inside)", "second * cos + first * sin)"),
            ),
            wrong(
                "overwritten",
                "first half overwritten",
                (
                    "    tl.store(out_row + pairs, first * cos - second * sin, mask=inside)",
                    "    first = first * cos - second * sin\n"
                    "    tl.store(out_row + pairs, first, mask=inside)",
                ),
            ),
            wrong("sum", "sum for mean", ("squares / (2 * HALF) + eps", "squares + eps")),
            wrong("no eps", "no epsilon", ("(2 * HALF) + eps", "(2 * HALF)")),
        ),
        right=(norm_rope_in_torch, norm_rope_by_token),
    ),
    "attention_size": Proof(
        wrong=(
            wrong(
                "hidden over heads",
                "head_dim from the hidden size",
                ("    q, kv =", "    head_dim = hidden // heads\n    q, kv ="),
            ),
            wrong("square", "square output linear", ("hidden * q", "hidden * hidden")),
            wrong("two matrices", "values forgotten", ("q + 2 * kv", "q + kv")),
            wrong("no groups", "key heads as many as query heads", ("q + 2 * kv", "3 * q")),
            wrong(
                "four biases",
                "bias on the output too",
                ("        parameters += qkv_rows", "        parameters += qkv_rows + hidden"),
            ),
            wrong(
                "each head",
                "a norm weight for each head",
                ("parameters += 2 * head_dim", "parameters += q + kv"),
            ),
            wrong("three norms", "values normed too", ("+= 2 * head_dim", "+= 3 * head_dim")),
            wrong("keys", "keys without values", ("parameters, 2 * kv", "parameters, kv")),
            wrong("queries", "query heads cached", ("parameters, 2 * kv", "parameters, 2 * q")),
            wrong("no biases", "biases forgotten", ("if qkv_bias:", "if False:")),
            wrong("no norms", "norms forgotten", ("if qk_norm:", "if False:")),
            wrong("two numbers", "wrong number of results", ("return qkv_rows, ", "return ")),
        ),
        right=(size_by_matrix,),
    ),
    "fold_value_bias": Proof(
        wrong=(
            wrong(
                "in turns", "heads taken in turns", (_REPEAT, "by_head.repeat(GROUP, 1).flatten()")
            ),
            wrong(
                "numbers",
                "numbers repeated for heads",
                (_REPEAT, "v_bias.repeat_interleave(GROUP)"),
            ),
            wrong(
                "one of a group",
                "one head of each group",
                (
                    _REPEAT,
                    f"({_REPEAT}.view(-1, GROUP, head_dim)"
                    " * (torch.arange(GROUP, device=v_bias.device)[:, None] == 0)).flatten()",
                ),
            ),
            wrong(
                "first columns",
                "first columns only",
                (f"o_weight @ {_REPEAT}", "o_weight[:, : len(v_bias)] @ v_bias"),
            ),
            wrong("mean of the group", "divided by the group", (_REPEAT, f"{_REPEAT} / GROUP")),
            wrong("mean of the heads", "divided by the heads", (_REPEAT, f"{_REPEAT} / num_heads")),
        ),
        right=(fold_by_head,),
    ),
}
