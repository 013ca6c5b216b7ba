"""Proofs of lesson 06's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


def traffic_by_tile(T, N, K, BLOCK_T, BLOCK_N):
    x_reads = weight_reads = 0
    for t in range(0, T, BLOCK_T):
        for n in range(0, N, BLOCK_N):
            x_reads += (min(t + BLOCK_T, T) - t) * K
            weight_reads += (min(n + BLOCK_N, N) - n) * K
    return x_reads, weight_reads


@triton.jit
def _one_result(x_ptr, w_ptr, y_ptr, N, K, x_stride, w_stride, BLOCK: tl.constexpr):
    """One program for one result, in blocks along K."""
    t, n = tl.program_id(0), tl.program_id(1)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + t * x_stride + k, mask=k < K, other=0.0).to(tl.float32)
        total += x * tl.load(w_ptr + n * w_stride + k, mask=k < K, other=0.0).to(tl.float32)
    tl.store(y_ptr + t * N + n, tl.sum(total, axis=0))


def product_by_result(x, weight):
    (T, K), N = x.shape, len(weight)
    out = torch.empty(T, N, dtype=x.dtype, device=x.device)
    strides = x.stride(0), weight.stride(0)
    _one_result[(T, N)](x, weight, out, N, K, *strides, BLOCK=64)
    return out


def product_in_torch(x, weight):
    return torch.einsum("tk,nk->tn", x.float(), weight.float()).to(x.dtype)


def gated_in_torch(x, weight):
    I = len(weight) // 2
    gate, up = x.float() @ weight[:I].float().T, x.float() @ weight[I:].float().T
    return (gate / (1 + torch.exp(-gate)) * up).to(x.dtype)


_X_READS, _W_READS = "output_blocks * T * K", "token_blocks * N * K"
_DOT = 'total = tl.dot(x, weight, total, input_precision="ieee")'
_LOOP = "range(0, K, BLOCK_K)"
_GATED = "gate * tl.sigmoid(gate) * up"

PROOFS = {
    "tile_traffic": Proof(
        wrong=(
            wrong("no tiles", "no tiles", (_X_READS, "N * T * K"), (_W_READS, "T * N * K")),
            wrong("once", "everything once", (_X_READS, "T * K"), (_W_READS, "N * K")),
            wrong(
                "crossed",
                "blocks exchanged",
                (_X_READS, "token_blocks * T * K"),
                (_W_READS, "output_blocks * N * K"),
            ),
            wrong(
                "rounded down",
                "whole tiles only",
                ("-(-T // BLOCK_T)", "T // BLOCK_T"),
                ("-(-N // BLOCK_N)", "N // BLOCK_N"),
            ),
            wrong(
                "masked lanes",
                "masked lanes read",
                (_X_READS, "output_blocks * token_blocks * BLOCK_T * K"),
                (_W_READS, "token_blocks * output_blocks * BLOCK_N * K"),
            ),
            wrong(
                "exchanged",
                "results exchanged",
                (f"{_X_READS}, {_W_READS}", f"{_W_READS}, {_X_READS}"),
            ),
            wrong(
                "fractions",
                "part of a block",
                (
                    "output_blocks * T * K, token_blocks * N * K",
                    "T * K * N // BLOCK_N, N * K * T // BLOCK_T",
                ),
            ),
        ),
        right=(traffic_by_tile,),
    ),
    "matmul": Proof(
        wrong=(
            wrong("overwritten", "last step only", ("weight, total, input", "weight, input")),
            wrong("one step", "first step only", (_LOOP, "range(0, BLOCK_K, BLOCK_K)")),
            wrong(
                "no last step", "whole steps only", (_LOOP, "range(0, K - BLOCK_K + 1, BLOCK_K)")
            ),
            wrong("added twice", "sums added twice", (_DOT, _DOT.replace("total =", "total +="))),
            wrong("no start", "first step again", ("ks = start + tl.arange", "ks = tl.arange")),
            wrong(
                "K by N",
                "weight read as [K, N]",
                ("columns[None, :] * K + ks[:, None]", "columns[None, :] + ks[:, None] * N"),
            ),
            wrong(
                "no mask of x",
                "load out of bounds",
                ("(rows < T)[:, None] & (ks < K)[None, :]", "(rows < T)[:, None]"),
            ),
            wrong(
                "one row of tiles",
                "partly written",
                ("grid = (triton.cdiv(T, BLOCK_T)", "grid = (1"),
            ),
        ),
        right=(product_by_result, product_in_torch),
    ),
    "matvec": Proof(
        wrong=(
            wrong("first token", "first token for all", ("token * x_stride + ", "")),
            wrong(
                "first rows",
                "first rows again",
                ("rows.to(tl.int64)[:, None]", "tl.arange(0, BLOCK_N).to(tl.int64)[:, None]"),
            ),
            wrong(
                "lanes beyond K",
                "masked lanes without other",
                ("mask=columns < K, other=0.0)", "mask=columns < K)"),
            ),
            wrong("mean", "mean for sum", ("x[None, :], axis=1)", "x[None, :], axis=1) / K")),
            wrong("no x", "x forgotten", ("weights * x[None, :]", "weights")),
            wrong("dense rows", "strides ignored", ("[:, None] * weight_stride", "[:, None] * K")),
            wrong("row 0", "partly written", ("out_ptr + token * N + rows", "out_ptr + rows")),
            wrong(
                "columns",
                "load out of bounds",
                ("(rows < N)[:, None] & (columns < K)[None, :]", "(rows < N)[:, None]"),
            ),
        ),
        right=(product_by_result, product_in_torch),
    ),
    "matvec_swiglu": Proof(
        wrong=(
            wrong("exchanged", "gate and up exchanged", (_GATED, "up * tl.sigmoid(up) * gate")),
            wrong("no up", "up forgotten", (_GATED, "gate * tl.sigmoid(gate)")),
            wrong("gate twice", "gate for up", ("tl.sum(ups * x", "tl.sum(gates * x")),
            wrong("no silu", "activation forgotten", (_GATED, "gate * up")),
            wrong("sigmoid", "sigmoid for silu", (_GATED, "tl.sigmoid(gate) * up")),
            wrong(
                "of the product",
                "silu of the product",
                (_GATED, "gate * up * tl.sigmoid(gate * up)"),
            ),
            wrong(
                "in turns",
                "rows in turns",
                ("rows.to(tl.int64)[:, None]", "2 * rows.to(tl.int64)[:, None]"),
                ("tl.cast(I, tl.int64) * weight_stride", "weight_stride"),
            ),
            wrong(
                "next row",
                "next row for up",
                ("tl.cast(I, tl.int64) * weight_stride", "weight_stride"),
            ),
            wrong("first token", "first token for all", ("token * x_stride + ", "")),
            wrong(
                "sums in 16 bits",
                "overflow in half precision",
                (
                    "gates = tl.load(gate_ptrs, mask=inside, other=0.0).to(tl.float32)",
                    "gates = tl.load(gate_ptrs, mask=inside, other=0.0)",
                ),
                (
                    "ups = tl.load(up_ptrs, mask=inside, other=0.0).to(tl.float32)",
                    "ups = tl.load(up_ptrs, mask=inside, other=0.0)",
                ),
                ("mask=columns < K, other=0.0).to(tl.float32)", "mask=columns < K, other=0.0)"),
                (
                    "tl.sum(gates * x[None, :], axis=1)",
                    "tl.sum(gates * x[None, :], axis=1).to(tl.float32)",
                ),
                (
                    "tl.sum(ups * x[None, :], axis=1)",
                    "tl.sum(ups * x[None, :], axis=1).to(tl.float32)",
                ),
            ),
        ),
        right=(gated_in_torch,),
    ),
}
