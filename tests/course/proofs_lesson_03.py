"""Proofs of lesson 03's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


@triton.jit
def _norm_looped(x_ptr, w_ptr, y_ptr, sx, N, eps, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Sums in steps, divides by a square root, and scales by the weight first."""
    x_ptr += tl.program_id(0) * sx
    y_ptr += tl.program_id(0) * N
    mean = 0.0
    for step in tl.static_range(STEPS):
        i = step * BLOCK + tl.arange(0, BLOCK)
        v = tl.load(x_ptr + i, i < N, 0.0).to(tl.float32)
        mean += tl.sum(v * v / N, axis=0)
    for step in tl.static_range(STEPS):
        i = step * BLOCK + tl.arange(0, BLOCK)
        v = tl.load(x_ptr + i, i < N, 0.0).to(tl.float32)
        w = tl.load(w_ptr + i, i < N, 0.0).to(tl.float32)
        tl.store(y_ptr + i, w * v / tl.sqrt(mean + eps), i < N)


def norm_looped(x, weight, eps=1e-6):
    (rows, N), out = x.shape, torch.empty(x.shape, dtype=x.dtype, device=x.device)
    STEPS = triton.cdiv(N, 128)
    _norm_looped[(rows,)](x, weight, out, x.stride(0), N, eps, BLOCK=128, STEPS=STEPS)
    return out


def norm_in_torch(x, weight, eps=1e-6):
    length = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
    return (x.float() / (length**2 / x.shape[-1] + eps) ** 0.5 * weight.float()).to(x.dtype)


def skip_in_two(x, residual, weight, eps=1e-6):
    new_residual = torch.add(residual, x)
    return norm_looped(new_residual, weight, eps), new_residual


def skip_unrounded(x, residual, weight, eps=1e-6):
    """Normalises the sum before it is rounded: as right, within the tolerance."""
    total = x.float() + residual.float()
    return norm_in_torch(total, weight, eps).to(x.dtype), total.to(x.dtype)


@triton.jit
def _norm_heads_of_token(
    x_ptr, w_ptr, y_ptr, st, sh, H, D, eps, BH: tl.constexpr, BD: tl.constexpr
):
    """One program for all heads of a token, as a two-dimensional block."""
    heads, i = tl.arange(0, BH)[:, None], tl.arange(0, BD)[None, :]
    inside = (heads < H) & (i < D)
    x = tl.load(x_ptr + tl.program_id(0) * st + heads * sh + i, mask=inside, other=0.0)
    x = x.to(tl.float32)
    w = tl.load(w_ptr + i, mask=i < D, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)[:, None] * w
    tl.store(y_ptr + tl.program_id(0) * H * D + heads * D + i, y, mask=inside)


def norm_heads_of_token(x, weight, eps=1e-6):
    (T, H, D), out = x.shape, torch.empty(x.shape, dtype=x.dtype, device=x.device)
    BH, BD = triton.next_power_of_2(H), triton.next_power_of_2(D)
    strides = x.stride(0), x.stride(1)
    _norm_heads_of_token[(T,)](x, weight, out, *strides, H, D, eps, BH=BH, BD=BD)
    return out


def cost_by_kernel(tokens, hidden, element_size):
    tensor, weight = tokens * hidden * element_size, hidden * element_size
    reads, writes = {"add": 2, "norm": 1, "fused": 2}, {"add": 1, "norm": 1, "fused": 2}
    moved = {kernel: (reads[kernel] + writes[kernel]) * tensor for kernel in reads}
    return moved["add"] + moved["norm"] + weight, moved["fused"] + weight


_ROOT = "tl.rsqrt(tl.sum(x * x, axis=0) / N + eps)"
_SKIP_ROOT = "tl.rsqrt(tl.sum(total * total, axis=0) / N + eps)"
_HEAD_ROOT = "tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)"
_LONG_ROOT = "tl.rsqrt(tl.sum(squares, axis=0) / N + eps)"
_LOAD_X = "x = tl.load(x_ptr + row * x_row_stride + columns, mask=inside, other=0.0).to(tl.float32)"
_HEAD_ROW = "x_ptr + token * x_token_stride + head * x_head_stride"

PROOFS = {
    "rms_norm": Proof(
        wrong=(
            wrong(
                "eps after the root",
                "epsilon outside the root",
                (_ROOT, "1 / (tl.sqrt(tl.sum(x * x, axis=0) / N) + eps)"),
            ),
            wrong("no eps", "epsilon forgotten", (" / N + eps", " / N")),
            wrong("no root", "root forgotten", (_ROOT, "1 / (tl.sum(x * x, axis=0) / N + eps)")),
            wrong("sum, not mean", "sum for mean", (" / N + eps", " + eps")),
            wrong("divides by BLOCK", "mean over the block", (" / N + eps", " / BLOCK + eps")),
            wrong(
                "layer norm",
                "mean subtracted",
                (
                    "    weight = tl.load",
                    "    x = tl.where(inside, x - tl.sum(x, axis=0) / N, 0.0)\n    weight = "
                    "tl.load",
                ),
            ),
            wrong("no weight", "weight forgotten", ("x * inverse_rms * weight", "x * inverse_rms")),
            wrong(
                "1 + weight",
                "one plus weight",
                ("x * inverse_rms * weight", "x * inverse_rms * (1 + weight)"),
            ),
            wrong(
                "weight twice",
                "weight applied twice",
                ("x * inverse_rms * weight", "x * weight * inverse_rms * weight"),
            ),
            wrong(
                "sum kept in float16",
                "accumulated in half precision",
                (_ROOT, "1 / tl.sqrt(half / N + eps)"),
                (
                    "    inverse_rms",
                    "    half = x.to(x_ptr.dtype.element_ty)\n    half = tl.cumsum(half * half, "
                    "axis=0)\n    half = tl.max(half, axis=0).to(tl.float32)\n    inverse_rms",
                ),
            ),
            wrong(
                "no mask on x",
                "load out of bounds",
                (
                    "+ columns, mask=inside, other=0.0).to(tl.float32)\n    weight",
                    "+ columns).to(tl.float32)\n    weight",
                ),
            ),
            wrong(
                "lanes beyond the row are undefined",
                "masked lanes without other",
                (", other=0.0).to(tl.float32)\n    weight", ").to(tl.float32)\n    weight"),
            ),
            wrong(
                "lanes beyond the row hold ones",
                "last block",
                ("other=0.0).to(tl.float32)\n    weight", "other=1.0).to(tl.float32)\n    weight"),
            ),
            wrong("stride taken to be N", "strides ignored", ("row * x_row_stride", "row * N")),
            wrong(
                "no mask on the store",
                "store out of bounds",
                ("inverse_rms * weight, mask=inside", "inverse_rms * weight"),
            ),
            wrong("one program", "partly written", ("[(M,)]", "[(1,)]")),
            wrong(
                "slightly off",
                "nearly",
                ("x * inverse_rms * weight", "x * inverse_rms * weight + 0.0001"),
            ),
            wrong("N as BLOCK", "raised", ("triton.next_power_of_2(N)", "N")),
            wrong("float32 out", "wrong dtype", ("dtype=x.dtype", "dtype=torch.float32")),
        ),
        right=(norm_looped, norm_in_torch),
    ),
    "skip_rms_norm": Proof(
        wrong=(
            wrong(
                "returns the old residual",
                "old residual returned",
                ("return out, total", "return out, residual.contiguous()"),
            ),
            wrong(
                "stores x",
                "x returned as the residual",
                ("columns, total, mask", "columns, x, mask"),
            ),
            wrong(
                "stores normed twice",
                "normed returned as the residual",
                ("return out, total", "return out, out"),
            ),
            wrong(
                "norm of x",
                "only x normalised",
                ("total = total.to(tl.float32)", "total = x.to(tl.float32)"),
            ),
            wrong(
                "adds afterwards",
                "added after the norm",
                ("total = total.to(tl.float32)", "total = x.to(tl.float32)"),
                ("total * inverse_rms * weight", "total * inverse_rms * weight + residual"),
            ),
            wrong(
                "root of x",
                "root mean square of x for the sum",
                (
                    "tl.sum(total * total, axis=0)",
                    "tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=0)",
                ),
            ),
            wrong(
                "eps after the root",
                "epsilon outside the root",
                (_SKIP_ROOT, "1 / (tl.sqrt(tl.sum(total * total, axis=0) / N) + eps)"),
            ),
            wrong("divides by BLOCK", "mean over the block", (" / N + eps", " / BLOCK + eps")),
            wrong("exchanged", "results exchanged", ("return out, total", "return total, out")),
            wrong(
                "in place",
                "modified its inputs",
                ("total = torch.empty_like(out)", "total = residual"),
            ),
            wrong(
                "only one result", "wrong number of results", ("return out, total", "return out")
            ),
            wrong(
                "no residual store",
                "partly written",
                ("tl.store(total_ptr + row * N + columns, total, mask=inside)", "pass"),
            ),
        ),
        right=(skip_in_two, skip_unrounded),
    ),
    "skip_rms_norm_cost": Proof(
        wrong=(
            wrong(
                "no weight",
                "weight not counted",
                ("2 * state + hidden", "2 * state"),
                ("4 * state + hidden", "4 * state"),
            ),
            wrong(
                "weight for each row",
                "weight counted for each token",
                ("2 * state + hidden", "3 * state"),
                ("4 * state + hidden", "5 * state"),
            ),
            wrong("one output", "new residual not counted", ("4 * state", "3 * state")),
            wrong("sum kept", "sum not read again", ("2 * state", "state")),
            wrong(
                "elements",
                "elements for bytes",
                ("(add + norm) * element_size, fused * element_size", "add + norm, fused"),
            ),
            wrong(
                "exchanged",
                "exchanged",
                (
                    "(add + norm) * element_size, fused * element_size",
                    "fused * element_size, (add + norm) * element_size",
                ),
            ),
            wrong("not returned", "returned None", ("    return (add", "    _ = (add")),
        ),
        right=(cost_by_kernel,),
    ),
    "rms_norm_heads": Proof(
        wrong=(
            wrong(
                "tokens packed",
                "gap between tokens ignored",
                ("token * x_token_stride", "token * H * D"),
            ),
            wrong(
                "weight of the head",
                "weight indexed by head",
                ("weight_ptr + columns", "weight_ptr + head + 0 * columns"),
            ),
            wrong(
                "eps after the root",
                "epsilon outside the root",
                (_HEAD_ROOT, "1 / (tl.sqrt(tl.sum(x * x, axis=0) / D) + eps)"),
            ),
            wrong("divides by BLOCK", "mean over the block", (" / D + eps", " / BLOCK + eps")),
            wrong("no weight", "weight forgotten", ("x * inverse_rms * weight", "x * inverse_rms")),
            wrong(
                "all heads together",
                "one norm over all heads",
                (_HEAD_ROOT, "tl.rsqrt(everything / (H * D) + eps)"),
                (
                    "    inverse_rms",
                    "    heads = tl.arange(0, 8)[:, None]\n"
                    "    y_ptr = x_ptr + token * x_token_stride + heads * x_head_stride\n"
                    "    y = tl.load(y_ptr + columns, mask=inside & (heads < H), other=0.0)\n"
                    "    everything = tl.sum(tl.sum(y.to(tl.float32) * y.to(tl.float32), 1), 0)\n"
                    "    inverse_rms",
                ),
            ),
            wrong("heads of one token only", "partly written", ("[(T, H)]", "[(1, H)]")),
            wrong("one head only", "partly written", ("[(T, H)]", "[(T,)]")),
            wrong(
                "output walked like the input",
                "store out of bounds",
                (
                    "out_ptr + (token * H + head) * D",
                    "out_ptr + token * x_token_stride + head * x_head_stride",
                ),
            ),
        ),
        right=(norm_heads_of_token, norm_in_torch),
    ),
    "rms_norm_long": Proof(
        wrong=(
            wrong(
                "replaces the sum",
                "only the last block counted",
                ("squares += x * x", "squares = x * x"),
            ),
            wrong(
                "one loop",
                "normalised while summing",
                (
                    "    inverse_rms = "
                    + _LONG_ROOT
                    + "\n    for start in range(0, N, BLOCK):"
                    + "\n        columns = start + lanes"
                    + "\n        inside = columns < N\n        "
                    + _LOAD_X
                    + "\n",
                    "        inverse_rms = " + _LONG_ROOT + "\n",
                ),
            ),
            wrong(
                "each block alone",
                "each block normalised alone, over N",
                ("squares += x * x", "pass"),
                (
                    "        weight = tl.load",
                    "        inverse_rms = tl.rsqrt(tl.sum(x * x, axis=0) / N + eps)\n        "
                    "weight = tl.load",
                ),
            ),
            wrong(
                "block means",
                "mean of the blocks' means",
                (
                    _LONG_ROOT,
                    "tl.rsqrt(tl.sum(squares, axis=0) / (tl.cdiv(N, BLOCK) * BLOCK) + eps)",
                ),
            ),
            wrong(
                "first weights",
                "weights of the first block for all",
                ("weight_ptr + columns, mask=inside", "weight_ptr + lanes, mask=inside"),
            ),
            wrong(
                "eps after the root",
                "epsilon outside the root",
                (_LONG_ROOT, "1 / (tl.sqrt(tl.sum(squares, axis=0) / N) + eps)"),
            ),
            wrong(
                "first block only summed",
                "only the first block counted",
                (
                    "        squares += x * x",
                    "        if start == 0:\n            squares += x * x",
                ),
            ),
            wrong(
                "first block only stored",
                "partly written",
                ("        tl.store", "        if start == 0:\n            tl.store"),
            ),
            wrong(
                "float16 totals",
                "nearly",
                ("tl.zeros([BLOCK], tl.float32)", "tl.zeros([BLOCK], tl.float16)"),
                ("squares += x * x", "squares += (x * x).to(tl.float16)"),
            ),
        ),
        right=(norm_looped, norm_in_torch),
    ),
}
