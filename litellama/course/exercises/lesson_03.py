"""Exercises of lesson 03: RMSNorm over rows, over heads, over long rows, and fused with an add."""

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "03_rmsnorm"


def _norm(x: torch.Tensor, eps: float, dim: int | tuple[int, ...] = -1) -> torch.Tensor:
    """x over its root mean square, in float32 (float64 if x is)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)


def _inputs(rows: int, columns: int, eps: float = 1e-6, scale: float = 1.0):
    """x [rows, columns], weight [columns], eps."""
    return lambda m: (m.normal(rows, columns, scale=scale), m.normal(columns, mean=1.0), eps)


def _half_inputs(rows: int, columns: int, scale: float = 1.0):
    """The same, in 16 bits."""
    return lambda m: (
        m.normal(rows, columns, dtype=m.half, scale=scale),
        m.normal(columns, dtype=m.half, mean=1.0),
        1e-6,
    )


# --- rms_norm ------------------------------------------------------------------------------------


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return (_norm(x, eps) * weight).to(x.dtype)


def _eps_outside(x, weight, eps):
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True).sqrt() + eps) * weight).to(x.dtype)


def _eps_missing(x, weight, eps):
    return rms_norm(x, weight, 0.0)


def _no_root(x, weight, eps):
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _sum_for_mean(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _mean_over_block(x, weight, eps):
    wide = x.float()
    block = 1 << (x.shape[-1] - 1).bit_length()
    mean = wide.square().sum(-1, keepdim=True) / block
    return (wide * torch.rsqrt(mean + eps) * weight).to(x.dtype)


def _layer_norm(x, weight, eps):
    wide = x.float()
    return rms_norm(wide - wide.mean(-1, keepdim=True), weight, eps).to(x.dtype)


def _half_sum(x, weight, eps):
    total = torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)
    for column in x.unbind(-1):
        total = total + column * column
    mean = total.float().unsqueeze(-1) / x.shape[-1]
    return (x.float() * torch.rsqrt(mean + eps) * weight).to(x.dtype)


def _own_scale(x, weight, eps):
    return (_norm(x, eps) * weight * weight).to(x.dtype)


_EPS_OUTSIDE = (
    "epsilon is outside the square root: x / (sqrt(mean(x * x)) + eps). Inside, it is added to the "
    "mean square: x / sqrt(mean(x * x) + eps). The two differ where x is small."
)
_NORM_MISTAKES = (
    Mistake("epsilon outside the root", _eps_outside, _EPS_OUTSIDE),
    Mistake(
        "epsilon forgotten",
        _eps_missing,
        "epsilon is missing: a row of small numbers is blown up, and a row of zeros becomes NaN. "
        "Add it to the mean square, under the root.",
    ),
    Mistake(
        "root forgotten",
        _no_root,
        "the square root is missing: x is divided by the mean square itself. tl.rsqrt(v) is "
        "1 / sqrt(v).",
    ),
    Mistake(
        "sum for mean",
        _sum_for_mean,
        "the squares are summed but not averaged: divide the sum by N before the root.",
    ),
    Mistake(
        "mean over the block",
        _mean_over_block,
        "the sum of squares is divided by BLOCK. The lanes beyond the row hold zeros and are not "
        "part of it: divide by the length of the row.",
    ),
    Mistake(
        "mean subtracted",
        _layer_norm,
        "the mean is subtracted first: that is LayerNorm. RMSNorm leaves the mean alone and "
        "divides by the root mean square.",
    ),
    Mistake(
        "weight forgotten",
        lambda x, weight, eps: _norm(x, eps).to(x.dtype),
        "the weight is missing: each column is scaled by weight[column] at the end.",
    ),
    Mistake(
        "one plus weight",
        lambda x, weight, eps: (_norm(x, eps) * (1 + weight)).to(x.dtype),
        "the scale is 1 + weight, as in Gemma's checkpoints. Llama's weight is the scale itself.",
    ),
    Mistake(
        "weight applied twice",
        _own_scale,
        "the weight is applied twice.",
    ),
    Mistake(
        "only divided by the mean of absolute values",
        lambda x, weight, eps: (
            x.float() / (x.float().abs().mean(-1, keepdim=True) + eps) * weight
        ).to(x.dtype),
        "the row is divided by the mean of its absolute values. Square first, average, then root.",
    ),
    Mistake(
        "normalised over the whole tensor",
        lambda x, weight, eps: (_norm(x, eps, tuple(range(x.ndim))) * weight).to(x.dtype),
        "one root mean square is used for the whole tensor. Every row has its own.",
    ),
)
_HALF_SUM = Mistake(
    "accumulated in half precision",
    _half_sum,
    "the squares are summed in 16 bits, which keeps only three digits of a long sum. Convert x to "
    "float32 right after the load: .to(tl.float32).",
)

RMS_NORM = Exercise(
    name="rms_norm",
    lesson=LESSON,
    title="RMSNorm, one row per program",
    difficulty=3,
    minutes=20,
    reference=rms_norm,
    cases=(
        Case("rows of a power of two", _inputs(4, 64)),
        Case("576 columns, as in SmolLM2", _inputs(3, 576), ragged=True),
        Case("one row of one element", _inputs(1, 1), ragged=True),
        Case("a prime number of columns", _inputs(5, 37), ragged=True),
        Case("numbers as small as epsilon's root", _inputs(3, 40, scale=1e-3), ragged=True),
        Case("a large epsilon", _inputs(3, 96, eps=0.1), ragged=True),
        Case(
            "a row of zeros among others",
            lambda m: (
                m.normal(3, 48) * torch.tensor([[1.0], [0.0], [2.0]]),
                m.normal(48, mean=1.0),
                1e-6,
            ),
            ragged=True,
        ),
        Case(
            "rows with a mean far from zero",
            lambda m: (m.normal(3, 80, mean=2.0), m.normal(80, mean=1.0), 1e-6),
            ragged=True,
        ),
        Case(
            "columns 10 to 59 of a wider matrix",
            lambda m: (m.normal(6, 100)[:, 10:60], m.normal(50, mean=1.0), 1e-6),
            ragged=True,
        ),
        Case("float16", _half_inputs(4, 100), ragged=True),
        Case("float16, 3,000 columns", _half_inputs(2, 3000), ragged=True),
        Case("float16, squares beyond 65504", _half_inputs(2, 200, scale=300.0), ragged=True),
    ),
    mistakes=(*_NORM_MISTAKES, _HALF_SUM),
    hints=(
        "Give each program one row: row = tl.program_id(0). The row starts at row * x_row_stride, "
        "and its columns are tl.arange(0, BLOCK), of which only those below N exist.",
        "In the lanes beyond the row, load zeros (other=0.0): a zero adds nothing to a sum of "
        "squares. Convert to float32 at once, .to(tl.float32), before squaring.",
        "The mean square is tl.sum(x * x, axis=0) / N: by N, the true length, not by BLOCK. "
        "Epsilon is added to it before the root is taken.",
        "inverse_rms = tl.rsqrt(tl.sum(x * x, axis=0) / N + eps), and then store "
        "x * inverse_rms * weight at out_ptr + row * N + columns, with the mask.",
    ),
)


# --- skip_rms_norm -------------------------------------------------------------------------------


def skip_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return rms_norm(total, weight, eps), total


def _skip_inputs(rows: int, columns: int, eps: float = 1e-6, scale: float = 1.0):
    return lambda m: (
        m.normal(rows, columns, scale=scale),
        m.normal(rows, columns, scale=scale),
        m.normal(columns, mean=1.0),
        eps,
    )


def _skip_with(norm):
    """A known mistake of the norm, made after a right addition."""
    return lambda x, residual, weight, eps: (norm(x + residual, weight, eps), x + residual)


SKIP_RMS_NORM = Exercise(
    name="skip_rms_norm",
    lesson=LESSON,
    title="The residual add, fused in",
    difficulty=3,
    minutes=20,
    reference=skip_rms_norm,
    outputs=("normed", "new_residual"),
    cases=(
        Case("rows of a power of two", _skip_inputs(4, 64)),
        Case("576 columns, as in SmolLM2", _skip_inputs(3, 576), ragged=True),
        Case("one row of one element", _skip_inputs(1, 1), ragged=True),
        Case("numbers as small as epsilon's root", _skip_inputs(3, 40, scale=1e-3), ragged=True),
        Case("a large epsilon", _skip_inputs(3, 96, eps=0.1), ragged=True),
        Case(
            "x a slice of a wider matrix",
            lambda m: (
                m.normal(5, 90)[:, 20:70],
                m.normal(5, 50),
                m.normal(50, mean=1.0),
                1e-6,
            ),
            ragged=True,
        ),
        Case(
            "float16",
            lambda m: (
                m.normal(4, 100, dtype=m.half),
                m.normal(4, 100, dtype=m.half),
                m.normal(100, dtype=m.half, mean=1.0),
                1e-6,
            ),
            ragged=True,
        ),
        Case(
            "float16, 3,000 columns",
            lambda m: (
                m.normal(2, 3000, dtype=m.half),
                m.normal(2, 3000, dtype=m.half),
                m.normal(3000, dtype=m.half, mean=1.0),
                1e-6,
            ),
            ragged=True,
        ),
    ),
    mistakes=(
        Mistake(
            "old residual returned",
            lambda x, residual, weight, eps: (rms_norm(x + residual, weight, eps), residual),
            "new_residual is the residual that came in. The stream that goes on to the next layer "
            "is the sum, x + residual.",
        ),
        Mistake(
            "x returned as the residual",
            lambda x, residual, weight, eps: (rms_norm(x + residual, weight, eps), x),
            "new_residual is x alone. The stream that goes on to the next layer is the sum, "
            "x + residual.",
        ),
        Mistake(
            "normed returned as the residual",
            lambda x, residual, weight, eps: (rms_norm(x + residual, weight, eps),) * 2,
            "new_residual is the normed row. What goes on to the next layer is the sum before the "
            "norm.",
        ),
        Mistake(
            "only x normalised",
            lambda x, residual, weight, eps: (rms_norm(x, weight, eps), x + residual),
            "x is normalised without the residual. The norm acts on the sum.",
        ),
        Mistake(
            "added after the norm",
            lambda x, residual, weight, eps: (rms_norm(x, weight, eps) + residual, x + residual),
            "the residual is added after the norm of x. First add, then normalise the sum.",
        ),
        Mistake(
            "root mean square of x for the sum",
            lambda x, residual, weight, eps: (
                (
                    (x + residual).float()
                    * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
                    * weight
                ).to(x.dtype),
                x + residual,
            ),
            "the sum is divided by the root mean square of x. It needs its own: square the sum.",
        ),
        *(
            Mistake(known.name, _skip_with(known.function), known.diagnosis)
            for known in (*_NORM_MISTAKES, _HALF_SUM)
        ),
    ),
    hints=(
        "Write down what an add followed by a norm reads and writes. Which of these tensors is "
        "written only to be read again at once? In one kernel it can stay in registers.",
        "Two loads, one sum, two stores. The first store is the sum itself, which the next layer "
        "needs; the second is its norm.",
        "Add in float32, then round to x's dtype, .to(x.dtype), before the store: the norm should "
        "see the very numbers that new_residual holds.",
        "total = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype); store it; then "
        "total = total.to(tl.float32) and the norm as ever: "
        "total * tl.rsqrt(tl.sum(total * total, axis=0) / N + eps) * weight.",
    ),
)


# --- rms_norm_heads ------------------------------------------------------------------------------


def rms_norm_heads(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return rms_norm(x, weight, eps)


def _queries(
    tokens: int, heads: int, other_heads: int, head_dim: int, half: bool = False, size: float = 1.0
):
    """The query heads of a fused q/k/v result, [tokens, heads + other_heads, head_dim]."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        fused = m.normal(tokens, heads + other_heads, head_dim, dtype=dtype)
        # Heads of different sizes, so that one root mean square for all of them shows.
        scale = torch.arange(1, heads + other_heads + 1).to(dtype)[:, None] * (size / 4)
        return (fused * scale)[:, :heads], m.normal(head_dim, dtype=dtype, mean=1.0), 1e-6

    return make


def _weight_per_head(x, weight, eps):
    heads = x.shape[1]
    index = torch.arange(heads, device=x.device) % weight.shape[0]
    return (_norm(x, eps) * weight[index][:, None]).to(x.dtype)


def _packed_heads(x, weight, eps):
    """Token t is looked for at t * heads * head_dim, as if nothing lay between the tokens."""
    _, heads, head_dim = x.shape
    packed = x.as_strided(x.shape, (heads * head_dim, head_dim, 1), x.storage_offset())
    return rms_norm(packed, weight, eps)


RMS_NORM_HEADS = Exercise(
    name="rms_norm_heads",
    lesson=LESSON,
    title="One norm per head, as in Qwen3",
    difficulty=3,
    minutes=20,
    reference=rms_norm_heads,
    cases=(
        Case("contiguous", _queries(3, 4, 0, 32)),
        Case("contiguous, head_dim 40", _queries(3, 5, 0, 40), ragged=True),
        Case("queries within a fused q/k/v", _queries(4, 4, 4, 32)),
        Case("queries within a fused q/k/v, head_dim 80", _queries(3, 6, 4, 80), ragged=True),
        Case("numbers as small as epsilon's root", _queries(3, 4, 2, 24, size=1e-3), ragged=True),
        Case("one token", _queries(1, 3, 2, 24), ragged=True),
        Case("one head", _queries(4, 1, 2, 24), ragged=True),
        Case("float16", _queries(3, 3, 2, 40, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "gap between tokens ignored",
            _packed_heads,
            "the tokens are taken to lie one right after the other, and x is a view into a wider "
            "q/k/v row. Token t starts at t * x.stride(0), head h at h * x.stride(1) after it.",
        ),
        Mistake(
            "one norm over all heads",
            lambda x, weight, eps: (_norm(x, eps, (-2, -1)) * weight).to(x.dtype),
            "one root mean square is used for all heads of a token. Every head has its own, over "
            "its head_dim elements.",
        ),
        Mistake(
            "normalised across heads",
            lambda x, weight, eps: (_norm(x, eps, -2) * weight).to(x.dtype),
            "the mean runs over the heads. It runs over the last axis, the elements of one head.",
        ),
        Mistake(
            "weight indexed by head",
            _weight_per_head,
            "the weight is read at the head's number. It has one entry for each of the head_dim "
            "elements, and all heads share it.",
        ),
        *(m for m in _NORM_MISTAKES if m.name != "normalised over the whole tensor"),
    ),
    hints=(
        "There are T * H little rows to normalise. A two-dimensional grid, (T, H), gives each one "
        "a program: token = tl.program_id(0), head = tl.program_id(1).",
        "The row of a program starts at token * x.stride(0) + head * x.stride(1). In a view of a "
        "fused q/k/v result, x.stride(0) is larger than H * D.",
        "The output is new and contiguous: its row starts at (token * H + head) * D. The weight is "
        "indexed by the column alone.",
        "x = tl.load(x_ptr + token * x_token_stride + head * x_head_stride + columns, mask=inside, "
        "other=0.0).to(tl.float32); then the norm of a row; then tl.store(out_ptr + "
        "(token * H + head) * D + columns, ..., mask=inside).",
    ),
)


# --- rms_norm_long -------------------------------------------------------------------------------


def rms_norm_long(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return rms_norm(x, weight, eps)


def _last_block_only(x, weight, eps, block=256):
    start = (x.shape[-1] - 1) // block * block
    mean = x.float()[..., start:].square().sum(-1, keepdim=True) / x.shape[-1]
    return (x.float() * torch.rsqrt(mean + eps) * weight).to(x.dtype)


def _first_block_only(x, weight, eps, block=256):
    mean = x.float()[..., :block].square().sum(-1, keepdim=True) / x.shape[-1]
    return (x.float() * torch.rsqrt(mean + eps) * weight).to(x.dtype)


def _each_block_alone(x, weight, eps, block=256):
    return torch.cat([_norm(part, eps) for part in x.split(block, -1)], -1).mul(weight).to(x.dtype)


def _each_block_over_n(x, weight, eps, block=256):
    N = x.shape[-1]
    parts = [
        part.float() * torch.rsqrt(part.float().square().sum(-1, keepdim=True) / N + eps)
        for part in x.split(block, -1)
    ]
    return torch.cat(parts, -1).mul(weight).to(x.dtype)


def _running_prefix(x, weight, eps, block=256):
    """Normalises in the loop that sums, with the sum so far."""
    squares = x.float().square()
    sums = torch.cat(
        [
            squares[..., : i + block].sum(-1, keepdim=True).expand_as(part)
            for i, part in zip(range(0, x.shape[-1], block), x.split(block, -1), strict=True)
        ],
        -1,
    )
    return (x.float() * torch.rsqrt(sums / x.shape[-1] + eps) * weight).to(x.dtype)


def _means_of_blocks(x, weight, eps, block=256):
    parts = [part.float().square().sum(-1, keepdim=True) / block for part in x.split(block, -1)]
    mean = sum(parts) / len(parts)
    return (x.float() * torch.rsqrt(mean + eps) * weight).to(x.dtype)


def _first_weights_again(x, weight, eps, block=256):
    columns = torch.arange(x.shape[-1], device=x.device) % block
    return (_norm(x, eps) * weight[columns]).to(x.dtype)


RMS_NORM_LONG = Exercise(
    name="rms_norm_long",
    lesson=LESSON,
    title="Rows longer than a block",
    difficulty=4,
    minutes=30,
    reference=rms_norm_long,
    cases=(
        Case("one full block", _inputs(2, 256)),
        Case("four full blocks", _inputs(3, 1024)),
        Case("less than one block", _inputs(2, 100), ragged=True),
        Case("one element more than a block", _inputs(2, 257), ragged=True),
        Case(
            "a large first block, small ones after it",
            lambda m: (
                torch.cat([m.normal(2, 256, scale=10.0), m.normal(2, 700, scale=0.5)], 1),
                m.normal(956, mean=1.0),
                1e-6,
            ),
            ragged=True,
        ),
        Case("a large epsilon", _inputs(2, 600, eps=0.1), ragged=True),
        Case("float16, 3,000 columns", _half_inputs(2, 3000), ragged=True),
    ),
    mistakes=(
        Mistake(
            "only the last block counted",
            _last_block_only,
            "only the last block's squares are in the sum: the loop replaces the total where it "
            "should add to it (total += x * x).",
        ),
        Mistake(
            "only the first block counted",
            _first_block_only,
            "only the first block's squares are in the sum: does the loop over the row use "
            "`start` in its offsets?",
        ),
        Mistake(
            "each block normalised alone",
            _each_block_alone,
            "every block is divided by its own root mean square. The row has one: finish the sum "
            "over the whole row first, then go through the row again.",
        ),
        Mistake(
            "each block normalised alone, over N",
            _each_block_over_n,
            "every block is divided by the root of its own sum of squares. The row has one: finish "
            "the sum over the whole row first, then go through the row again.",
        ),
        Mistake(
            "normalised while summing",
            _running_prefix,
            "the row is normalised in the loop that still sums: a block sees only the squares up "
            "to itself. Two loops are needed.",
        ),
        Mistake(
            "mean of the blocks' means",
            _means_of_blocks,
            "the mean is taken block by block, each divided by BLOCK, and the last block may be "
            "shorter. Sum the squares over the row, and divide by N once.",
        ),
        Mistake(
            "weights of the first block for all",
            _first_weights_again,
            "every block is scaled with the weights of the first one: the weight's offsets need "
            "`start` too.",
        ),
        *_NORM_MISTAKES,
        _HALF_SUM,
    ),
    hints=(
        "You need to know the row's mean square before you can write its first element. So the "
        "row is read twice: once to sum, once to scale.",
        "Keep BLOCK running totals, one for each lane: total = tl.zeros([BLOCK], tl.float32), and "
        "in the loop total += x * x. One tl.sum at the end makes them one number.",
        "for start in range(0, N, BLOCK): columns = start + tl.arange(0, BLOCK); inside = columns "
        "< N. Load with other=0.0, so that the lanes beyond the row add nothing.",
        "After the first loop inverse_rms = tl.rsqrt(tl.sum(total, axis=0) / N + eps). The second "
        "loop has the same offsets and mask; it loads x and weight and stores "
        "x * inverse_rms * weight.",
    ),
)


# --- skip_rms_norm_cost --------------------------------------------------------------------------


def skip_rms_norm_cost(tokens: int, hidden: int, element_size: int) -> tuple[int, int]:
    state = tokens * hidden
    return (5 * state + hidden) * element_size, (4 * state + hidden) * element_size


def _cost(label: str, tokens: int, hidden: int, element_size: int) -> Case:
    return Case(label, lambda m: (tokens, hidden, element_size))


def _miscount(unfused: int, fused: int, weights: int = 1):
    """Counts of hidden states moved, and of times the weight is read."""

    def count(tokens, hidden, element_size):
        state, weight = tokens * hidden * element_size, weights * hidden * element_size
        return unfused * state + weight, fused * state + weight

    return count


def _weight_each_token(tokens, hidden, element_size):
    state = tokens * hidden * element_size
    return 6 * state, 5 * state


SKIP_RMS_NORM_COST = Exercise(
    name="skip_rms_norm_cost",
    lesson=LESSON,
    title="Predict what fusing saves",
    difficulty=2,
    minutes=10,
    reference=skip_rms_norm_cost,
    outputs=("unfused_bytes", "fused_bytes"),
    cases=(
        _cost("one token of SmolLM2, float32", 1, 576, 4),
        _cost("512 tokens of SmolLM2, float32", 512, 576, 4),
        _cost("4,096 tokens of Llama-3.2-1B, bfloat16", 4096, 2048, 2),
        _cost("3 tokens of 5 elements", 3, 5, 2),
    ),
    mistakes=(
        Mistake(
            "weight not counted",
            _miscount(5, 4, weights=0),
            "the weight is not counted: hidden elements, read once.",
        ),
        Mistake(
            "weight counted for each token",
            _weight_each_token,
            "the weight is counted once for each token. All rows share it: after the first read it "
            "comes from the cache.",
        ),
        Mistake(
            "new residual not counted",
            _miscount(5, 3),
            "the fused kernel's second output is not counted: it writes normed and new_residual.",
        ),
        Mistake(
            "sum not read again",
            _miscount(4, 4),
            "in the unfused version the norm reads the sum back from memory: the add reads two and "
            "writes one, the norm reads one and writes one.",
        ),
        Mistake(
            "elements for bytes",
            lambda tokens, hidden, size: skip_rms_norm_cost(tokens, hidden, 1),
            "these are elements: each one has element_size bytes.",
        ),
        Mistake(
            "exchanged",
            lambda tokens, hidden, size: skip_rms_norm_cost(tokens, hidden, size)[::-1],
            "the two numbers are exchanged: unfused_bytes comes first.",
        ),
    ),
    hints=(
        "Count whole tensors first, not bytes. For each kernel write down: which [tokens, hidden] "
        "tensors does it read, which does it write?",
        "Unfused: the add reads x and residual and writes the sum; the norm reads the sum and "
        "writes normed. What of this does the fused kernel no longer do?",
        "It no longer reads the sum back. The weight, hidden elements, is read once in both "
        "versions.",
        "unfused: (5 * tokens * hidden + hidden) * element_size; fused: 4 in place of 5.",
    ),
)

EXERCISES = (RMS_NORM, SKIP_RMS_NORM, RMS_NORM_HEADS, RMS_NORM_LONG, SKIP_RMS_NORM_COST)
