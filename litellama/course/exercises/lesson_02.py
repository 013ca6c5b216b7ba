"""Exercises of lesson 02: softmax in one pass, online, merged, masked, and what it costs."""

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "02_softmax"
INF = float("inf")


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _exponentials(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """exp(x - max), in float32 (float64 if x is)."""
    wide = _wide(x)
    return torch.exp(wide - wide.amax(dim, keepdim=True))


# --- softmax -------------------------------------------------------------------------------------


def softmax(x: torch.Tensor) -> torch.Tensor:
    exponentials = _exponentials(x)
    return (exponentials / exponentials.sum(-1, keepdim=True)).to(x.dtype)


def _scores(rows: int, columns: int, scale: float = 1.0, mean: float = 0.0, half: bool = False):
    def make(m: Maker):
        dtype = m.half if half else torch.float32
        return (m.normal(rows, columns, scale=scale, mean=mean, dtype=dtype),)

    return make


def _masked_scores(rows: int, columns: int, first: int, last: int):
    """Scores of which columns first..last - 1 are minus infinity, as after a causal mask."""

    def make(m: Maker):
        x = m.normal(rows, columns, scale=3.0)
        x[:, first:last] = -INF
        return (x,)

    return make


def _naive(x):
    exponentials = torch.exp(_wide(x))
    return (exponentials / exponentials.sum(-1, keepdim=True)).to(x.dtype)


def _with_lanes(x, lanes: int, value: float):
    """Softmax of rows with ``lanes`` more elements, which hold ``value``; these are then cut."""
    more = torch.full((*x.shape[:-1], lanes), value, dtype=x.dtype, device=x.device)
    return softmax(torch.cat([x, more], -1))[..., : x.shape[-1]]


def _lanes_of_zero(x):
    N = x.shape[-1]
    return _with_lanes(x, (1 << (N - 1).bit_length()) - N, 0.0)


def _lanes_of_the_online_loop(x, block=256):
    return _with_lanes(x, -x.shape[-1] % block, 0.0)


def _lanes_in_sum_only(x):
    """The maximum is right, and the lanes beyond the row add exp(0) each to the sum."""
    N = x.shape[-1]
    exponentials = _exponentials(x)
    lanes = (1 << (N - 1).bit_length()) - N
    return (exponentials / (exponentials.sum(-1, keepdim=True) + lanes)).to(x.dtype)


def _half_sum(x):
    exponentials = _exponentials(x).to(x.dtype)
    total = torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)
    for column in exponentials.unbind(-1):
        total = total + column
    return exponentials / total.unsqueeze(-1)


def _over_all(x):
    exponentials = torch.exp(_wide(x) - x.max())
    return (exponentials / exponentials.sum()).to(x.dtype)


def _over_columns(x):
    exponentials = _exponentials(x, -2)
    return (exponentials / exponentials.sum(-2, keepdim=True)).to(x.dtype)


_SOFTMAX_MISTAKES = (
    Mistake(
        "maximum not subtracted",
        _naive,
        "the exponentials are taken of the scores as they are: large scores overflow and give "
        "inf / inf, very negative ones underflow and give 0 / 0. Subtract the row's maximum first.",
    ),
    Mistake(
        "sum forgotten",
        lambda x: _exponentials(x).to(x.dtype),
        "the exponentials are not divided by their sum: a row of probabilities sums to 1.",
    ),
    Mistake(
        "logarithm returned",
        lambda x: torch.log_softmax(_wide(x), -1).to(x.dtype),
        "these are the logarithms of the probabilities: x - max - log(sum). Asked is "
        "exp(x - max) / sum.",
    ),
    Mistake(
        "sign exchanged",
        lambda x: softmax(-x),
        "the sign is exchanged: exp(max - x) gives the smallest score the largest probability.",
    ),
    Mistake(
        "scores normalised without exponentials",
        lambda x: (
            (_wide(x) - x.amax(-1, keepdim=True))
            / (_wide(x) - x.amax(-1, keepdim=True)).sum(-1, keepdim=True)
        ).to(x.dtype),
        "the exponential is missing: the shifted scores themselves are divided by their sum.",
    ),
    Mistake(
        "over the whole tensor",
        _over_all,
        "one sum is used for the whole tensor. Every row has its own and sums to 1.",
    ),
    Mistake(
        "over the columns",
        _over_columns,
        "the columns sum to 1. The rows should: maximum and sum run over the last axis.",
    ),
)
_HALF_SUM = Mistake(
    "accumulated in half precision",
    _half_sum,
    "the exponentials are summed in 16 bits, and a long sum loses its digits there. Convert x to "
    "float32 right after the load: .to(tl.float32).",
)

SOFTMAX = Exercise(
    name="softmax",
    lesson=LESSON,
    title="One row for each program",
    difficulty=3,
    minutes=20,
    reference=softmax,
    cases=(
        Case("rows of a power of two", _scores(4, 64)),
        Case("rows of 37", _scores(5, 37), ragged=True),
        Case("one row of one score", _scores(1, 1), ragged=True),
        Case("576 columns", _scores(3, 576), ragged=True),
        Case("negative scores only", _scores(3, 50, mean=-8.0), ragged=True),
        Case("scores beyond 100", _scores(3, 48, scale=60.0, mean=100.0), ragged=True),
        Case("scores below -200", _scores(3, 48, mean=-200.0), ragged=True),
        Case("some scores minus infinity", _masked_scores(3, 40, 12, 25), ragged=True),
        Case("float16", _scores(4, 100, scale=3.0, half=True), ragged=True),
        Case("float16, 3,000 columns", _scores(2, 3000, scale=0.3, half=True), ragged=True),
    ),
    mistakes=(
        *_SOFTMAX_MISTAKES,
        Mistake(
            "masked lanes hold zero",
            _lanes_of_zero,
            "the lanes beyond the row take part as scores of 0: they add to the sum, and where all "
            "scores are negative they are the maximum. Load other=-float('inf').",
        ),
        Mistake(
            "masked lanes in the sum",
            _lanes_in_sum_only,
            "each lane beyond the row adds 1 to the sum, exp(0). It should add 0: "
            "other=-float('inf') on the load does that.",
        ),
        _HALF_SUM,
    ),
    hints=(
        "Give each program one row: row = tl.program_id(0). The row starts at row * N, its columns "
        "are tl.arange(0, BLOCK), and only those below N exist.",
        "tl.max(x, axis=0) and tl.sum(x, axis=0) make one number of all lanes, the masked ones "
        "too. Which number never is the maximum, and has an exponential of 0?",
        "x = tl.load(..., mask=inside, other=-float('inf')).to(tl.float32). Then subtract the "
        "maximum and take tl.exp.",
        "exponentials = tl.exp(x - tl.max(x, axis=0)), and store "
        "exponentials / tl.sum(exponentials, axis=0) at out_ptr + row + columns, with the mask.",
    ),
)


# --- softmax_online ------------------------------------------------------------------------------


def softmax_online(x: torch.Tensor) -> torch.Tensor:
    return softmax(x)


def _stale(x, block=256):
    """The online loop with one maximum and one sum a lane, and the rescale left out."""
    wide = _wide(x)
    pad = torch.nn.functional.pad(wide, (0, -wide.shape[-1] % block), value=-INF)
    maximum = torch.full((*x.shape[:-1], block), -INF, device=x.device)
    total = torch.zeros_like(maximum)
    for part in pad.split(block, -1):
        new = torch.maximum(maximum, part)
        shift = new.masked_fill(new == -INF, 0.0)
        total = total + torch.exp(part - shift)
        maximum = new
    row_maximum = maximum.amax(-1, keepdim=True)
    row_total = (total * torch.exp(maximum - row_maximum)).sum(-1, keepdim=True)
    return (torch.exp(wide - row_maximum) / row_total).to(x.dtype)


def _lanes_not_merged(x, block=256):
    """The sum of the lanes' sums, each still under its own maximum."""
    wide = _wide(x)
    pad = torch.nn.functional.pad(wide, (0, -wide.shape[-1] % block), value=-INF)
    lanes = pad.unflatten(-1, (-1, block))
    maximum = lanes.amax(-2)
    shift = maximum.masked_fill(maximum == -INF, 0.0)
    total = torch.exp(lanes - shift.unsqueeze(-2)).sum((-2, -1)).unsqueeze(-1)
    return (torch.exp(wide - wide.amax(-1, keepdim=True)) / total).to(x.dtype)


def _each_block_alone(x, block=256):
    return torch.cat([softmax(part) for part in x.split(block, -1)], -1)


def _one_block_of_the_sum(which: int):
    """The sum of one block's exponentials (the first or the last), under the row's maximum."""

    def mistaken(x, block=256):
        exponentials = _exponentials(x)
        part = exponentials.split(block, -1)[which]
        return (exponentials / part.sum(-1, keepdim=True)).to(x.dtype)

    return mistaken


def _written_while_summing(x, block=256):
    """Each block is divided by the sum so far, under the maximum so far."""
    wide, out = _wide(x), []
    for end in range(block, wide.shape[-1] + block, block):
        seen = wide[..., :end]
        out.append(softmax(seen)[..., end - block :])
    return torch.cat(out, -1).to(x.dtype)


def _rising(rows: int, columns: int):
    """Scores that rise along the row, so that the maximum moves in every block."""
    return lambda m: (m.normal(rows, columns) + torch.arange(columns) / 100,)


SOFTMAX_ONLINE = Exercise(
    name="softmax_online",
    lesson=LESSON,
    title="Rows longer than a block",
    difficulty=4,
    minutes=35,
    reference=softmax_online,
    cases=(
        Case("one full block", _scores(2, 256)),
        Case("four full blocks", _scores(3, 1024, scale=3.0)),
        Case("less than one block", _scores(2, 100), ragged=True),
        Case("one element more than a block", _scores(2, 257), ragged=True),
        Case("negative scores only", _scores(2, 700, mean=-8.0), ragged=True),
        Case("scores that rise along the row", _rising(2, 900), ragged=True),
        Case(
            "scores that fall along the row",
            lambda m: (m.normal(2, 900) - torch.arange(900) / 100,),
            ragged=True,
        ),
        Case("scores beyond 100", _scores(2, 600, scale=60.0, mean=100.0), ragged=True),
        Case("scores below -200", _scores(2, 600, mean=-200.0), ragged=True),
        Case("a whole block minus infinity", _masked_scores(2, 800, 0, 300), ragged=True),
        Case("float16, 3,000 columns", _scores(2, 3000, scale=2.0, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "old sum not rescaled",
            _stale,
            "the old sum is kept as it was when the maximum rose. What was summed under the old "
            "maximum is worth exp(old - new) of that now: total * tl.exp(maximum - new_maximum).",
        ),
        Mistake(
            "lanes merged without rescale",
            _lanes_not_merged,
            "the lanes' sums are added as they are, and each was taken under its own maximum. "
            "Bring them under the row's first: total * tl.exp(maximum - row_maximum).",
        ),
        Mistake(
            "each block alone",
            _each_block_alone,
            "every block sums to 1 by itself. Maximum and sum belong to the whole row: finish the "
            "loop over it before the first store.",
        ),
        Mistake(
            "written while summing",
            _written_while_summing,
            "a block is divided by the sum as it stood when the block was read. The sum is known "
            "only after the last block: write in a second loop.",
        ),
        Mistake(
            "only the last block summed",
            _one_block_of_the_sum(-1),
            "only the last block's exponentials are in the sum: the loop replaces the total where "
            "it should add to the rescaled one.",
        ),
        Mistake(
            "only the first block summed",
            _one_block_of_the_sum(0),
            "only the first block's exponentials are in the sum: does the loop over the row use "
            "`start` in its offsets?",
        ),
        Mistake(
            "masked lanes hold zero",
            _lanes_of_the_online_loop,
            "the lanes beyond the row take part as scores of 0. Load other=-float('inf'), in both "
            "loops.",
        ),
        *_SOFTMAX_MISTAKES,
    ),
    hints=(
        "The row is read twice: once for its maximum and sum, both in one loop, and once to write. "
        "Give every lane a maximum and a sum of its own, and merge them after the first loop.",
        "In the loop: new_maximum = tl.maximum(maximum, x). The old sum was taken under the old "
        "maximum; under the new one it is worth total * tl.exp(maximum - new_maximum).",
        "A lane that has seen only -inf computes (-inf) - (-inf), which is NaN. Shift by 0 there: "
        "shift = tl.where(new_maximum == -float('inf'), 0.0, new_maximum), and subtract shift.",
        "After the loop: row_maximum = tl.max(maximum, axis=0) and row_total = "
        "tl.sum(total * tl.exp(maximum - row_maximum), axis=0).",
        "The second loop has the same offsets and mask, and stores "
        "tl.exp(x - row_maximum) / row_total.",
    ),
)


# --- softmax_merge -------------------------------------------------------------------------------


def softmax_merge(
    maximum_a: torch.Tensor, total_a: torch.Tensor, maximum_b: torch.Tensor, total_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    maximum = torch.maximum(maximum_a, maximum_b)
    shift = maximum.masked_fill(maximum == -INF, 0.0)
    total = total_a * torch.exp(maximum_a - shift) + total_b * torch.exp(maximum_b - shift)
    return maximum, total


def _pairs(n: int, scale_a: float = 2.0, scale_b: float = 2.0, gap: float = 0.0):
    """Maxima of two parts for n rows, the second ``gap`` higher, and sums between 1 and 9."""
    return lambda m: (
        m.normal(n, scale=scale_a),
        1 + m.normal(n).abs() * 3,
        m.normal(n, scale=scale_b, mean=gap),
        1 + m.normal(n).abs() * 3,
    )


def _empty(m: Maker):
    """Some rows where a has seen nothing, some where b has not, and one where neither has."""
    maximum_a, total_a, maximum_b, total_b = _pairs(8)(m)
    for maximum, total, rows in ((maximum_a, total_a, [0, 1, 5]), (maximum_b, total_b, [3, 4, 5])):
        maximum[rows], total[rows] = -INF, 0.0
    return maximum_a, total_a, maximum_b, total_b


def _merge_rescaling(a: bool, b: bool, sign: int = 1):
    """Merges with the rescale of a, or of b, left out or upside down."""

    def mistaken(maximum_a, total_a, maximum_b, total_b):
        maximum = torch.maximum(maximum_a, maximum_b)
        shift = maximum.masked_fill(maximum == -INF, 0.0)
        factor_a = torch.exp(sign * (maximum_a - shift)) if a else 1.0
        factor_b = torch.exp(sign * (maximum_b - shift)) if b else 1.0
        return maximum, total_a * factor_a + total_b * factor_b

    return mistaken


def _merge_with_nan(maximum_a, total_a, maximum_b, total_b):
    maximum = torch.maximum(maximum_a, maximum_b)
    return maximum, total_a * torch.exp(maximum_a - maximum) + total_b * torch.exp(
        maximum_b - maximum
    )


def _one_choice(maximum_a, total_a, maximum_b, total_b):
    """Asks once, for all rows together, which part has the larger maximum."""
    if (maximum_a > maximum_b).all():
        return maximum_a, total_a + total_b * torch.exp(maximum_b - maximum_a)
    return maximum_b, total_b + total_a * torch.exp(maximum_a - maximum_b)


SOFTMAX_MERGE = Exercise(
    name="softmax_merge",
    lesson=LESSON,
    title="Two parts of a row, merged",
    difficulty=3,
    minutes=15,
    reference=softmax_merge,
    outputs=("maximum", "total"),
    cases=(
        Case("one row", _pairs(1)),
        Case("37 rows", _pairs(37)),
        Case("b far above a", _pairs(6, gap=30.0)),
        Case("a far above b", _pairs(6, gap=-30.0)),
        Case("maxima of hundreds", _pairs(9, scale_a=300.0, scale_b=300.0)),
        Case("parts that have seen nothing: maximum -inf, total 0", _empty),
    ),
    mistakes=(
        Mistake(
            "nothing rescaled",
            _merge_rescaling(False, False),
            "the two sums are added as they are. Each was taken under its own maximum; both have "
            "to be brought under the new one first.",
        ),
        Mistake(
            "only a rescaled",
            _merge_rescaling(True, False),
            "b's sum is not rescaled. Either of the two may have the smaller maximum.",
        ),
        Mistake(
            "only b rescaled",
            _merge_rescaling(False, True),
            "a's sum is not rescaled. Either of the two may have the smaller maximum.",
        ),
        Mistake(
            "rescaled upside down",
            _merge_rescaling(True, True, sign=-1),
            "the rescale is upside down: a sum under a lower maximum shrinks, so the factor is "
            "exp(its maximum - the new one), never above 1.",
        ),
        Mistake(
            "minus infinity from minus infinity",
            _merge_with_nan,
            "where neither part has seen anything, (-inf) - (-inf) is NaN. The sum there is 0: "
            "shift by 0 where the new maximum is -inf.",
        ),
        Mistake(
            "maxima added",
            lambda a, la, b, lb: (a + b, softmax_merge(a, la, b, lb)[1]),
            "the new maximum is the sum of the two. It is the larger of them.",
        ),
        Mistake(
            "a shift in place of the maximum",
            lambda a, la, b, lb: (
                torch.maximum(a, b).masked_fill(torch.maximum(a, b) == -INF, 0.0),
                softmax_merge(a, la, b, lb)[1],
            ),
            "the maximum returned for two empty parts is 0. The shift is only for the exponents: "
            "the maximum stays -inf, or the next score below 0 goes wrong.",
        ),
        Mistake(
            "one choice for all rows",
            _one_choice,
            "which part has the larger maximum is decided once, for all rows together. It differs "
            "from row to row: torch.maximum, and a factor for each part, need no `if`.",
        ),
    ),
    hints=(
        "What is the maximum of both parts together? And by which factor does exp(x - 3) change "
        "when the maximum goes from 3 to 5?",
        "exp(x - m) * exp(m - m') = exp(x - m'): multiply each sum by exp(its own maximum - the "
        "new maximum). For the part with the larger maximum that factor is 1.",
        "-inf - (-inf) is NaN. Use shift = torch.where(maximum == -inf, 0, maximum) in the "
        "exponents, and return the maximum itself.",
        "total = total_a * torch.exp(maximum_a - shift) + total_b * torch.exp(maximum_b - shift)",
    ),
)


# --- softmax_causal ------------------------------------------------------------------------------


def softmax_causal(scores: torch.Tensor, scale: float) -> torch.Tensor:
    T = scores.shape[-1]
    future = torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(1)
    return softmax((_wide(scores) * scale).masked_fill(future, -INF)).to(scores.dtype)


def _square(T: int, scale: float, size: float = 4.0, mean: float = 0.0, half: bool = False):
    def make(m: Maker):
        dtype = m.half if half else torch.float32
        return m.normal(T, T, scale=size, mean=mean, dtype=dtype), scale

    return make


def _masked(scores, scale, hidden, value=-INF):
    return softmax((_wide(scores) * scale).masked_fill(hidden, value)).to(scores.dtype)


def _triangle(scores, diagonal: int):
    T = scores.shape[-1]
    return torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(diagonal)


def _masked_after(scores, scale):
    return softmax(_wide(scores) * scale).masked_fill(_triangle(scores, 1), 0.0).to(scores.dtype)


def _maximum_before_scale(scores, scale):
    seen = _wide(scores).masked_fill(_triangle(scores, 1), -INF)
    exponentials = torch.exp(seen * scale - seen.amax(-1, keepdim=True))
    return (exponentials / exponentials.sum(-1, keepdim=True)).to(scores.dtype)


SOFTMAX_CAUSAL = Exercise(
    name="softmax_causal",
    lesson=LESSON,
    title="The softmax of attention: scaled and causal",
    difficulty=3,
    minutes=25,
    reference=softmax_causal,
    cases=(
        Case("16 tokens", _square(16, 0.25)),
        Case("37 tokens", _square(37, 0.125), ragged=True),
        Case("one token", _square(1, 0.5), ragged=True),
        Case("negative scores only", _square(21, 0.5, mean=-20.0), ragged=True),
        Case("scores of hundreds", _square(30, 0.5, size=300.0), ragged=True),
        Case("float16", _square(45, 0.125, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "scale forgotten",
            lambda scores, scale: softmax_causal(scores, 1.0),
            "the scale is missing: scores * scale, before the maximum is taken.",
        ),
        Mistake(
            "scale applied twice",
            lambda scores, scale: softmax_causal(scores, scale * scale),
            "the scale is applied twice.",
        ),
        Mistake(
            "scale after the softmax",
            lambda scores, scale: softmax_causal(scores, 1.0) * scale,
            "the probabilities are scaled, and no longer sum to 1. The scores are: multiply before "
            "the exponential.",
        ),
        Mistake(
            "divided by the scale",
            lambda scores, scale: softmax_causal(scores, 1 / scale),
            "the scores are divided by scale. They are multiplied with it: scale is 1 / sqrt(D) "
            "already.",
        ),
        Mistake(
            "no mask",
            lambda scores, scale: _masked(scores, scale, _triangle(scores, 10**6)),
            "row i sees all columns. It may see columns 0 to i: tokens cannot look ahead.",
        ),
        Mistake(
            "diagonal masked",
            lambda scores, scale: _masked(scores, scale, _triangle(scores, 0)),
            "row i does not see column i. A token sees itself: columns <= row.",
        ),
        Mistake(
            "one token ahead",
            lambda scores, scale: _masked(scores, scale, _triangle(scores, 2)),
            "row i sees column i + 1 as well. A token sees columns 0 to i: columns <= row.",
        ),
        Mistake(
            "mask transposed",
            lambda scores, scale: _masked(scores, scale, _triangle(scores, 1).T),
            "the mask is the other triangle: row i sees columns i and up. It sees the past, "
            "columns <= row.",
        ),
        Mistake(
            "future scores set to zero",
            lambda scores, scale: _masked(scores, scale, _triangle(scores, 1), 0.0),
            "scores of the future are set to 0, and a score of 0 has a probability. Minus infinity "
            "has none.",
        ),
        Mistake(
            "masked after the softmax",
            _masked_after,
            "the mask comes after the sum: the future is in the denominator, and what is left of a "
            "row sums to less than 1. Mask the scores.",
        ),
        Mistake(
            "maximum before the scale",
            _maximum_before_scale,
            "the maximum is that of the scores before they were scaled. The factor cancels, until "
            "it is so large that every exponential rounds to 0. Scale first, then take the "
            "maximum.",
        ),
    ),
    hints=(
        "It is the fused softmax with one row for each program, and two changes: the scores are "
        "multiplied by scale, and row i has only i + 1 columns.",
        "The row's number is at hand: row = tl.program_id(0). Which columns may it see? Write "
        "that as a mask, in place of columns < N.",
        "Two masks are at work. A masked load, mask=columns <= row with other=-float('inf'), does "
        "not even read the future. The store covers all columns < T: the future gets exp(-inf), 0.",
        "x = tl.load(scores_ptr + row * T + columns, mask=columns <= row, other=-float('inf')) "
        ".to(tl.float32) * scale, then the softmax of a row, and a store with mask=columns < T.",
    ),
)


# --- softmax_cost --------------------------------------------------------------------------------


def softmax_cost(rows: int, columns: int, element_size: int) -> tuple[int, int, int]:
    row = rows * columns * element_size
    return 8 * row, 3 * row, 2 * row


def _cost(label: str, rows: int, columns: int, element_size: int) -> Case:
    return Case(label, lambda m: (rows, columns, element_size))


def _count(unfused: int, online: int, fused: int):
    def count(rows, columns, element_size):
        row = rows * columns * element_size
        return unfused * row, online * row, fused * row

    return count


SOFTMAX_COST = Exercise(
    name="softmax_cost",
    lesson=LESSON,
    title="Predict the cost",
    difficulty=2,
    minutes=10,
    reference=softmax_cost,
    outputs=("unfused_bytes", "online_bytes", "fused_bytes"),
    cases=(
        _cost("one row of SmolLM2's vocabulary, float32", 1, 49152, 4),
        _cost("32 rows of Llama 3's vocabulary, bfloat16", 32, 128256, 2),
        _cost("3 rows of 5", 3, 5, 4),
    ),
    mistakes=(
        Mistake(
            "reads only",
            _count(5, 2, 1),
            "only reads are counted: each kernel writes its result too.",
        ),
        Mistake(
            "online reads once",
            _count(8, 2, 2),
            "the online kernel is counted with one read. Its loop finds maximum and sum in one "
            "pass, but the row is gone by then: to write, it is read again.",
        ),
        Mistake(
            "online reads three times",
            _count(8, 4, 2),
            "the online kernel is counted with a pass for the maximum and one for the sum. Finding "
            "both in one pass is the point of it.",
        ),
        Mistake(
            "maximum and sum not counted",
            _count(6, 3, 2),
            "in the five operations, the maximum and the sum each read the row too.",
        ),
        Mistake(
            "elements for bytes",
            lambda rows, columns, size: softmax_cost(rows, columns, 1),
            "these are elements: each one has element_size bytes.",
        ),
        Mistake(
            "one row",
            lambda rows, columns, size: softmax_cost(1, columns, size),
            "these are the bytes of one row: there are `rows` of them.",
        ),
        Mistake(
            "online and fused exchanged",
            _count(8, 2, 3),
            "online and fused are exchanged: the order is unfused, online, fused.",
        ),
    ),
    hints=(
        "Count whole tensors first. For each of the five operations write down: which "
        "[rows, columns] tensor does it read, which does it write?",
        "The maximum and the sum read one tensor each, and write next to nothing. Subtract, exp "
        "and divide read one and write one.",
        "The fused kernel has the row in registers when it writes. The online one has seen it and "
        "let it go: it reads it again.",
        "8, 3 and 2 times rows * columns * element_size.",
    ),
)

EXERCISES = (SOFTMAX, SOFTMAX_ONLINE, SOFTMAX_MERGE, SOFTMAX_CAUSAL, SOFTMAX_COST)
