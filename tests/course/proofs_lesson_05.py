"""Proofs of lesson 05's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


@triton.jit
def _gated_row(x_ptr, y_ptr, stride, I, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """One program for a whole row, with the gate's share as a quotient of exponentials."""
    t, i = tl.program_id(0), tl.arange(0, BLOCK)
    gate = tl.load(x_ptr + t * stride + i, mask=i < I, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + t * stride + I + i, mask=i < I, other=0.0).to(tl.float32)
    z = gate
    if GELU:
        z = 1.5957691216057308 * gate * (1 + 0.044715 * gate * gate)
    small = tl.exp(-tl.abs(z))
    share = tl.where(z < 0, small, 1.0) / (1 + small)
    tl.store(y_ptr + t * I + i, up * share * gate, mask=i < I)


def _gated(gate_up, GELU):
    T, I = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(T, I, dtype=gate_up.dtype, device=gate_up.device)
    BLOCK = triton.next_power_of_2(I)
    _gated_row[(T,)](gate_up, out, gate_up.stride(0), I, GELU=GELU, BLOCK=BLOCK)
    return out


def swiglu_by_row(gate_up):
    return _gated(gate_up, False)


def swiglu_in_torch(gate_up):
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (gate / (1 + torch.exp(-gate)) * up).to(gate_up.dtype)


def geglu_by_row(gate_up):
    return _gated(gate_up, True)


def split_by_slices(fused, heads, kv_heads, head_dim):
    heads_of_token = fused.reshape(len(fused), heads + 2 * kv_heads, head_dim)
    first_value = heads + kv_heads
    return (
        heads_of_token[:, :heads],
        heads_of_token[:, heads:first_value],
        heads_of_token[:, first_value:],
    )


def cost_by_tensor(tokens, hidden, inner, element_size):
    x = result = tokens * hidden * element_size
    gate_up, middle = 2 * tokens * inner * element_size, tokens * inner * element_size
    fused = (x + gate_up) + (gate_up + middle) + (middle + result)
    return 3 * hidden * inner * element_size, fused + 2 * middle, fused


_UP = "up = tl.load(gate_ptrs + I, mask=inside, other=0.0).to(tl.float32)"
_SWIGLU = "gate * tl.sigmoid(gate) * up"
_CUBE = "0.044715 * gate * gate * gate"
_SPLIT = "q, k, v = fused.split(sizes, dim=-1)"

PROOFS = {
    "swiglu": Proof(
        wrong=(
            wrong("exchanged", "gate and up exchanged", (_SWIGLU, "up * tl.sigmoid(up) * gate")),
            wrong("sigmoid", "sigmoid for silu", (_SWIGLU, "tl.sigmoid(gate) * up")),
            wrong("sign", "sigmoid of the wrong sign", ("tl.sigmoid(gate)", "tl.sigmoid(-gate)")),
            wrong(
                "of the product",
                "silu of the product",
                (_SWIGLU, "gate * up * tl.sigmoid(gate * up)"),
            ),
            wrong("both", "silu on both", (_SWIGLU, f"{_SWIGLU} * tl.sigmoid(up)")),
            wrong("no up", "up forgotten", (_SWIGLU, "gate * tl.sigmoid(gate)")),
            wrong("gate twice", "gate for up", ("gate_ptrs + I", "gate_ptrs")),
            wrong("no silu", "activation forgotten", (_SWIGLU, "gate * up")),
            wrong("relu", "relu for the gate", (_SWIGLU, "tl.maximum(gate, 0.0) * up")),
            wrong(
                "in turns",
                "columns taken in turns",
                ("row * row_stride + columns", "row * row_stride + 2 * columns"),
                ("gate_ptrs + I", "gate_ptrs + 1"),
            ),
            wrong("dense rows", "strides ignored", ("row * row_stride", "row * 2 * I")),
            wrong("mask of the input", "load out of bounds", ("columns < I", "columns < 2 * I")),
            wrong(
                "first block", "partly written", ("tl.program_id(0) % blocks * BLOCK + tl", "tl")
            ),
            wrong(
                "one program a row",
                "out of bounds",
                ("tl.program_id(0) // blocks", "tl.program_id(0)"),
            ),
            wrong(
                "down the columns",
                "partly written",
                ("tl.program_id(0) // blocks", "tl.program_id(0) % blocks"),
                ("tl.program_id(0) % blocks * BLOCK", "tl.program_id(0) // blocks * BLOCK"),
            ),
        ),
        right=(swiglu_by_row, swiglu_in_torch),
    ),
    "geglu": Proof(
        wrong=(
            wrong("silu", "silu for gelu", ("tl.sigmoid(2 * y)", "tl.sigmoid(gate)")),
            wrong(
                "erf",
                "the exact gelu",
                (
                    "gate * tl.sigmoid(2 * y)",
                    "0.5 * gate * (1 + tl.erf(gate * 0.7071067811865476))",
                ),
            ),
            wrong("no cube", "cube forgotten", (f" + {_CUBE}", "")),
            wrong("square", "square for cube", (_CUBE, "0.044715 * gate * gate")),
            wrong("no root", "root forgotten", ("0.7978845608028654", "0.6366197723675814")),
            wrong(
                "bracket", "factor outside the bracket", (f"(gate + {_CUBE})", f"gate + {_CUBE}")
            ),
            wrong(
                "no half",
                "half forgotten",
                ("gate * tl.sigmoid(2 * y)", "2 * gate * tl.sigmoid(2 * y)"),
            ),
            wrong("half of y", "tanh from a sigmoid of z", ("tl.sigmoid(2 * y)", "tl.sigmoid(y)")),
            wrong("exchanged", "gate and up exchanged", (_UP, f"{_UP}\n    gate, up = up, gate")),
            wrong("no up", "up forgotten", ("gelu * up", "gelu")),
            wrong("one block", "partly written", ("triton.cdiv(I, BLOCK)", "1")),
        ),
        right=(geglu_by_row,),
    ),
    "split_qkv": Proof(
        wrong=(
            wrong("q, v, k", "order q, v, k", (_SPLIT, "q, v, k = fused.split(sizes, dim=-1)")),
            wrong(
                "queries last",
                "order k, v, q",
                (_SPLIT, "k, v, q = fused.split(sizes[1:] + sizes[:1], dim=-1)"),
            ),
            wrong("v is k", "keys for values", ("v.view(-1, kv_heads", "k.view(-1, kv_heads")),
            wrong(
                "head_dim first",
                "head_dim before heads",
                ("q.view(-1, heads, head_dim)", "q.view(-1, head_dim, heads).mT"),
                ("k.view(-1, kv_heads, head_dim)", "k.view(-1, head_dim, kv_heads).mT"),
                ("v.view(-1, kv_heads, head_dim)", "v.view(-1, head_dim, kv_heads).mT"),
            ),
            wrong("thirds", "raised", (_SPLIT, "q, k, v = fused.chunk(3, dim=-1)")),
            wrong("no heads", "wrong shape", ("q.view(-1, heads, head_dim)", "q")),
        ),
        right=(split_by_slices,),
    ),
    "feed_forward_cost": Proof(
        wrong=(
            wrong(
                "two matrices",
                "two matrices",
                ("2 * inner * hidden + hidden", "inner * hidden + hidden"),
            ),
            wrong(
                "every token",
                "weights read by every token",
                ("weights * element_size", "tokens * weights * element_size"),
            ),
            wrong(
                "silu",
                "silu not counted",
                ("silu, multiply = 2 * tokens * inner", "silu, multiply = 0"),
            ),
            wrong(
                "function alone",
                "function alone",
                ("tokens * (hidden + 2 * inner)", "0"),
                ("tokens * (inner + hidden)", "0"),
            ),
            wrong(
                "writes",
                "linears write only",
                ("(hidden + 2 * inner)", "(2 * inner)"),
                ("(inner + hidden)", "hidden"),
            ),
            wrong(
                "reads",
                "linears read only",
                ("(hidden + 2 * inner)", "hidden"),
                ("(inner + hidden)", "inner"),
            ),
            wrong("x twice", "x read twice", ("(hidden + 2 * inner)", "(2 * hidden + 2 * inner)")),
            wrong(
                "elements",
                "elements for bytes",
                ("weights * element_size", "weights"),
                (
                    "second) * element_size,\n        (first + fused + second) * element_size",
                    "second),\n        (first + fused + second)",
                ),
            ),
        ),
        right=(cost_by_tensor,),
    ),
}
