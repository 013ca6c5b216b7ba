"""Proofs of lesson 02's exercises: slips in the solutions, and other right answers."""

import torch
from proof import Proof, wrong

from litellama.kernels.backend import tl, triton


@triton.jit
def _softmax_by_block(x_ptr, y_ptr, N, scale, STEP: tl.constexpr, STEPS: tl.constexpr):
    """One maximum and one sum for the row, reduced block by block, with exponents of two."""
    x_ptr += tl.program_id(0) * N
    y_ptr += tl.program_id(0) * N
    m = -3.4e38  # finite, so that no shift is needed
    total = 0.0
    for step in tl.static_range(STEPS):
        i = step * STEP + tl.arange(0, STEP)
        v = tl.load(x_ptr + i, i < N, -float("inf")).to(tl.float32) * (scale * 1.4426950408889634)
        new_m = tl.maximum(m, tl.max(v, axis=0))
        total = total * tl.exp2(m - new_m) + tl.sum(tl.exp2(v - new_m), axis=0)
        m = new_m
    for step in tl.static_range(STEPS):
        i = step * STEP + tl.arange(0, STEP)
        v = tl.load(x_ptr + i, i < N, 0.0).to(tl.float32) * (scale * 1.4426950408889634)
        tl.store(y_ptr + i, tl.exp2(v - m) * (1 / total), i < N)


def softmax_by_block(x):
    (rows, N), out = x.shape, torch.empty_like(x)
    _softmax_by_block[(rows,)](x, out, N, 1.0, STEP=128, STEPS=triton.cdiv(N, 128))
    return out


def softmax_in_torch(x):
    wide = x.float()
    return torch.exp(wide - torch.logsumexp(wide, -1, keepdim=True)).to(x.dtype)


def merge_by_logarithm(maximum_a, total_a, maximum_b, total_b):
    """Through the log-sum-exp of the two, as two stacked rows."""
    maxima = torch.stack([maximum_a, maximum_b])
    maximum = maxima.amax(0)
    # nan_to_num makes the exponents of empty parts finite; their totals are 0
    factors = torch.exp((maxima - maximum).nan_to_num(nan=0.0))
    return maximum, (torch.stack([total_a, total_b]) * factors).sum(0)


def merge_larger_first(maximum_a, total_a, maximum_b, total_b):
    swap = maximum_b > maximum_a
    high, low = torch.where(swap, maximum_b, maximum_a), torch.where(swap, maximum_a, maximum_b)
    of_high, of_low = torch.where(swap, total_b, total_a), torch.where(swap, total_a, total_b)
    return high, torch.where(of_low == 0, of_high, of_high + of_low / torch.exp(high - low))


@triton.jit
def _causal_with_where(s_ptr, y_ptr, T, scale, BLOCK: tl.constexpr):
    """Loads the future and hides it afterwards, and the lanes without a score with it."""
    i, j = tl.program_id(0), tl.arange(0, BLOCK)
    s = tl.load(s_ptr + i * T + j, mask=j < T).to(tl.float32) * scale
    s = tl.where(j <= i, s, -1e30)
    e = tl.where(j <= i, tl.exp(s - tl.max(s, axis=0)), 0.0)
    tl.store(y_ptr + i * T + j, e / tl.sum(e, axis=0), mask=j < T)


def causal_with_where(scores, scale):
    T, out = scores.shape[0], torch.empty_like(scores)
    _causal_with_where[(T,)](scores, out, T, scale, BLOCK=triton.next_power_of_2(T))
    return out


def cost_by_operation(rows, columns, element_size):
    reads = {"max": 1, "subtract": 1, "exp": 1, "sum": 1, "divide": 1}
    writes = {"subtract": 1, "exp": 1, "divide": 1}
    row = columns * element_size
    return rows * row * (sum(reads.values()) + sum(writes.values())), rows * row * 3, rows * row * 2


_LOAD = 'x = tl.load(x_ptr + row + columns, mask=inside, other=-float("inf")).to(tl.float32)'
_SUM = "tl.sum(exponentials, axis=0)"
_ONLINE_SUM = "total = total * tl.exp(maximum - shift) + tl.exp(x - shift)"
_ONLINE_STORE = """y = tl.exp(x - row_maximum) / row_total
        tl.store(out_ptr + row + start + columns, y, mask=inside, eviction_policy="evict_first")"""
_LOOP = """    for back in range(0, N, BLOCK):
        start = (N - 1) // BLOCK * BLOCK - back
        inside = start + columns < N
        x = tl.load(x_ptr + row + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
"""
_COST = "return unfused * matrix, online * matrix, fused * matrix"

PROOFS = {
    "softmax": Proof(
        wrong=(
            wrong(
                "no maximum",
                "maximum not subtracted",
                ("tl.exp(x - tl.max(x, axis=0))", "tl.exp(x)"),
            ),
            wrong("no other", "masked lanes without other", (', other=-float("inf"))', ")")),
            wrong("lanes of zero", "masked lanes hold zero", ('other=-float("inf")', "other=0.0")),
            wrong("not divided", "sum forgotten", (f"exponentials / {_SUM}", "exponentials")),
            wrong(
                "lanes in the sum",
                "masked lanes in the sum",
                (
                    "exponentials = tl.exp(x - tl.max(x, axis=0))",
                    "x = tl.where(inside, x, tl.max(x, axis=0))\n    "
                    "exponentials = tl.exp(x - tl.max(x, axis=0))",
                ),
            ),
            wrong(
                "logarithm",
                "logarithm returned",
                (f"exponentials / {_SUM}", f"x - tl.max(x, axis=0) - tl.log({_SUM})"),
            ),
            wrong(
                "upside down",
                "sign exchanged",
                (_LOAD, f"{_LOAD}\n    x = tl.where(inside, -x, -float('inf'))"),
            ),
            wrong(
                "no mask on the load",
                "load out of bounds",
                (_LOAD, _LOAD.replace('mask=inside, other=-float("inf")', "")),
            ),
            wrong("one program", "partly written", ("[(M,)]", "[(1,)]")),
            wrong(
                "the kernel's rows overlap",
                "partly written",
                (".to(tl.int64) * N", ".to(tl.int64)"),
            ),
            wrong(
                "returns the input",
                "nothing written",
                ("    softmax_kernel[", "    0 and softmax_kernel["),
            ),
        ),
        right=(softmax_by_block, softmax_in_torch),
    ),
    "softmax_online": Proof(
        wrong=(
            wrong(
                "stale maximum",
                "old sum not rescaled",
                (_ONLINE_SUM, "total = total + tl.exp(x - shift)"),
            ),
            wrong(
                "lanes added",
                "lanes merged without rescale",
                ("tl.sum(total * tl.exp(maximum - row_maximum), axis=0)", "tl.sum(total, axis=0)"),
            ),
            wrong(
                "replaced",
                "only the last block summed",
                (_ONLINE_SUM, "total = tl.exp(x - shift)"),
                ("tl.exp(maximum - row_maximum)", "tl.exp(shift - row_maximum)"),
            ),
            wrong(
                "written at once",
                "written while summing",
                ("    row_maximum = tl.max", "        row_maximum = tl.max"),
                ("    row_total = tl.sum", "        row_total = tl.sum"),
                (_LOOP + "        " + _ONLINE_STORE, "        " + _ONLINE_STORE),
            ),
            wrong(
                "no shift",
                "not finite",
                ('tl.where(new_maximum == -float("inf"), 0.0, new_maximum)', "new_maximum"),
            ),
            wrong(
                "first block only",
                "partly written",
                ("        tl.store", "        if start == 0:\n            tl.store"),
            ),
        ),
        right=(softmax_by_block, softmax_in_torch),
    ),
    "softmax_merge": Proof(
        wrong=(
            wrong(
                "added",
                "nothing rescaled",
                ("total_a * torch.exp(maximum_a - shift)", "total_a"),
                ("total_b * torch.exp(maximum_b - shift)", "total_b"),
            ),
            wrong(
                "a only", "only a rescaled", ("total_b * torch.exp(maximum_b - shift)", "total_b")
            ),
            wrong(
                "b only", "only b rescaled", ("total_a * torch.exp(maximum_a - shift)", "total_a")
            ),
            wrong(
                "upside down",
                "rescaled upside down",
                ("maximum_a - shift", "shift - maximum_a"),
                ("maximum_b - shift", "shift - maximum_b"),
            ),
            wrong(
                "empty parts",
                "minus infinity from minus infinity",
                ('torch.where(maximum == -float("inf"), 0.0, maximum)', "maximum"),
            ),
            wrong(
                "added maxima",
                "maxima added",
                ("return maximum, total", "return maximum_a + maximum_b, total"),
            ),
            wrong(
                "shift returned",
                "a shift in place of the maximum",
                ("return maximum, total", "return shift, total"),
            ),
            wrong(
                "exchanged", "results exchanged", ("return maximum, total", "return total, maximum")
            ),
            wrong(
                "one if",
                "one choice for all rows",
                (
                    "    maximum = torch.maximum(maximum_a, maximum_b)\n",
                    "    if (maximum_a > maximum_b).all():\n"
                    "        rescale = torch.exp(maximum_b - maximum_a)\n"
                    "        return maximum_a, total_a + total_b * rescale\n"
                    "    return maximum_b, total_b + total_a * torch.exp(maximum_a - maximum_b)\n"
                    "    maximum = torch.maximum(maximum_a, maximum_b)\n",
                ),
            ),
        ),
        right=(merge_by_logarithm, merge_larger_first),
    ),
    "softmax_causal": Proof(
        wrong=(
            wrong("no scale", "scale forgotten", (" * scale", "")),
            wrong("scale twice", "scale applied twice", (" * scale", " * scale * scale")),
            wrong(
                "scale last",
                "scale after the softmax",
                (" * scale", ""),
                ("tl.sum(exponentials, axis=0)", "tl.sum(exponentials, axis=0) * scale"),
            ),
            wrong("not masked", "no mask", ("mask=columns <= row", "mask=columns < T")),
            wrong(
                "one ahead",
                "one token ahead",
                ("columns <= row", "(columns <= row + 1) & (columns < T)"),
            ),
            wrong(
                "the other triangle",
                "mask transposed",
                ("columns <= row", "(columns >= row) & (columns < T)"),
            ),
            wrong("diagonal", "diagonal masked", ("columns <= row", "columns < row")),
            wrong(
                "zeros",
                "future scores set to zero",
                (
                    'other=-float("inf"))',
                    'other=-float("inf"))\n'
                    "    x = tl.where((columns > row) & (columns < T), 0.0, x)",
                ),
            ),
            wrong(
                "masked afterwards",
                "masked after the softmax",
                ("mask=columns <= row", "mask=columns < T"),
                (
                    "row * T + columns, probabilities",
                    "row * T + columns, tl.where(columns <= row, probabilities, 0.0)",
                ),
            ),
            wrong(
                "store masked too",
                "partly written",
                ("probabilities, mask=columns < T", "probabilities, mask=columns <= row"),
            ),
            wrong(
                "maximum first",
                "maximum before the scale",
                ("x.to(tl.float32) * scale", "x.to(tl.float32)"),
                ("tl.exp(x - tl.max(x, axis=0))", "tl.exp(x * scale - tl.max(x, axis=0))"),
            ),
        ),
        right=(causal_with_where,),
    ),
    "softmax_cost": Proof(
        wrong=(
            wrong(
                "reads",
                "reads only",
                ("divide = 2", "divide = 1"),
                ("online = 1 + 1 + 1", "online = 1 + 1"),
                ("fused = 1 + 1", "fused = 1"),
            ),
            wrong("one pass", "online reads once", ("online = 1 + 1 + 1", "online = 1 + 1")),
            wrong("three passes", "online reads three times", ("online = 1 + 1 + 1", "online = 4")),
            wrong(
                "no reductions",
                "maximum and sum not counted",
                ("maximum = total = 1", "maximum = total = 0"),
            ),
            wrong(
                "elements",
                "elements for bytes",
                ("rows * columns * element_size", "rows * columns"),
            ),
            wrong("a row", "one row", ("rows * columns * element_size", "columns * element_size")),
            wrong(
                "exchanged",
                "online and fused exchanged",
                (_COST, "return unfused * matrix, fused * matrix, online * matrix"),
            ),
        ),
        right=(cost_by_operation,),
    ),
}
