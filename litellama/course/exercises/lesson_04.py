"""Exercises of lesson 04: rotary tables, RoPE in both layouts, and longer contexts."""

import math

import torch

from litellama.course.exercise import TOLERANCE, Case, Exercise, Maker, Mistake

LESSON = "04_rope"


# --- rope_tables ---------------------------------------------------------------------------------


def rope_tables(
    positions: torch.Tensor, head_dim: int, base: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _tables(positions, head_dim, lambda i: base ** (-2 * i / head_dim))


def _tables(positions, head_dim, frequency):
    """cos and sin for pairs that turn by ``frequency(i)`` radians a position."""
    pairs = torch.arange(head_dim // 2, dtype=positions.dtype, device=positions.device)
    angles = positions[:, None] * frequency(pairs)
    return angles.cos(), angles.sin()


def _tables_with(frequency):
    return lambda positions, head_dim, base: _tables(
        positions, head_dim, lambda i: frequency(i, head_dim, base)
    )


def _positions(first: int, last: int, head_dim: int, base: float):
    return lambda m: (torch.arange(first, last, dtype=torch.float32), head_dim, base)


ROPE_TABLES = Exercise(
    name="rope_tables",
    lesson=LESSON,
    title="The angles of a position",
    difficulty=2,
    minutes=10,
    reference=rope_tables,
    outputs=("cos", "sin"),
    # An angle of 200 radians is itself rounded by 1e-5 in float32.
    tolerance=TOLERANCE | {torch.float32: 1e-4},
    cases=(
        Case("SmolLM2: head_dim 64, base 100,000", _positions(0, 50, 64, 100_000.0)),
        Case("Llama 3: head_dim 128, base 500,000", _positions(0, 20, 128, 500_000.0)),
        Case("head_dim 6", _positions(0, 9, 6, 10_000.0)),
        Case("one pair", _positions(0, 5, 2, 10_000.0)),
        Case("one token, far along", _positions(199, 200, 20, 10_000.0)),
        Case(
            "positions in no order",
            lambda m: (torch.tensor([7.0, 0.0, 30.0, 7.0]), 16, 10_000.0),
        ),
    ),
    mistakes=(
        Mistake(
            "exponent halved",
            _tables_with(lambda i, D, base: base ** (-i / D)),
            "the exponent is i / head_dim, and it runs from 0 to one half only. It is "
            "2 i / head_dim, so that it runs nearly to 1.",
        ),
        Mistake(
            "exponent doubled",
            _tables_with(lambda i, D, base: base ** (-4 * i / D)),
            "the exponent is twice too large: 2 i over head_dim, not over head_dim / 2.",
        ),
        Mistake(
            "exponent positive",
            _tables_with(lambda i, D, base: base ** (2 * i / D)),
            "the frequencies grow with the pair. They shrink: base to the power of MINUS "
            "2 i / head_dim.",
        ),
        Mistake(
            "degrees",
            _tables_with(lambda i, D, base: base ** (-2 * i / D) * math.pi / 180),
            "the angles are taken for degrees. They are radians already.",
        ),
        Mistake(
            "full turns",
            _tables_with(lambda i, D, base: base ** (-2 * i / D) * 2 * math.pi),
            "the angles are multiplied by 2 pi. Position times frequency is in radians already.",
        ),
        Mistake(
            "position counted from one",
            lambda positions, D, base: rope_tables(positions + 1, D, base),
            "every position is one too large: the first token is at position 0, where all angles "
            "are 0.",
        ),
        Mistake(
            "the place in the list for the position",
            lambda positions, D, base: rope_tables(
                torch.arange(len(positions), dtype=positions.dtype, device=positions.device),
                D,
                base,
            ),
            "rows are numbered 0, 1, 2, ... whatever `positions` says. A step may hold tokens from "
            "anywhere.",
        ),
        Mistake(
            "first and last pair exchanged",
            _tables_with(lambda i, D, base: base ** (-2 * (D // 2 - 1 - i) / D)),
            "the pairs run backwards: pair 0 is the fast one, 1 radian for each position.",
        ),
    ),
    hints=(
        "Start with the frequencies, one for each of the head_dim / 2 pairs: what is pair 0's, "
        "and what is the last one's?",
        "torch.arange(0, head_dim, 2) / head_dim is 2 i / head_dim for all pairs at once.",
        "angles = positions[:, None] * frequencies has the shape [T, head_dim / 2].",
        "frequencies = base ** (-torch.arange(0, head_dim, 2, device=positions.device) / "
        "head_dim); return angles.cos(), angles.sin()",
    ),
)


# --- rope ----------------------------------------------------------------------------------------


def _turn(x, cos, sin, first_sign=-1, second_sign=1):
    """x [T, H, D] with half-split pairs turned; the signs are those of the sine terms."""
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = (first * cos + first_sign * second * sin, second * cos + second_sign * first * sin)
    return torch.cat(turned, dim=-1).to(x.dtype)


def rope(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return _turn(q, cos, sin), _turn(k, cos, sin)


def _interleave(x, cos, sin):
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide[..., 0::2], wide[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _overwritten(x, cos, sin):
    """The new first half is used to make the second."""
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    first = first * cos - second * sin
    return torch.cat([first, second * cos + first * sin], dim=-1).to(x.dtype)


def _both(turn):
    return lambda q, k, cos, sin: (turn(q, cos, sin), turn(k, cos, sin))


def _first_tables(q, k, cos, sin):
    return rope(q, k, cos[:1].expand_as(cos), sin[:1].expand_as(sin))


def _heads(
    T: int, HQ: int, HKV: int, D: int, half: bool = False, fused: bool = False, start: int = 3
):
    """q, k and tables of positions from ``start`` on; q and k from one matrix if ``fused``."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        if fused:
            qkv = m.normal(T, HQ + 2 * HKV, D, dtype=dtype)
            q, k = qkv[:, :HQ], qkv[:, HQ : HQ + HKV]
        else:
            q, k = m.normal(T, HQ, D, dtype=dtype), m.normal(T, HKV, D, dtype=dtype)
        positions = torch.arange(start, start + T, dtype=torch.float32)
        return q, k, *rope_tables(positions, D, 100.0)

    return make


_TURN_MISTAKES = (
    (
        "turned backwards",
        lambda x, cos, sin: _turn(x, cos, sin, 1, -1),
        "the signs of both sine terms are exchanged: everything turns backwards. "
        "first * cos - second * sin, and second * cos + first * sin.",
    ),
    (
        "two minus signs",
        lambda x, cos, sin: _turn(x, cos, sin, -1, -1),
        "both sine terms are subtracted. That is no rotation: the second one is added, "
        "second * cos + first * sin.",
    ),
    (
        "two plus signs",
        lambda x, cos, sin: _turn(x, cos, sin, 1, 1),
        "both sine terms are added. That is no rotation: the first one is subtracted, "
        "first * cos - second * sin.",
    ),
    (
        "first used after it was changed",
        _overwritten,
        "the second result is made from the new first number. Both need the old ones: keep them "
        "apart.",
    ),
    (
        "cos and sin exchanged",
        lambda x, cos, sin: _turn(x, sin, cos),
        "cos and sin are exchanged.",
    ),
    (
        "sine terms missing",
        lambda x, cos, sin: _turn(x, cos, 0 * sin),
        "the sine terms are missing: the numbers of a pair are scaled, and not yet mixed.",
    ),
)

ROPE = Exercise(
    name="rope",
    lesson=LESSON,
    title="Queries and keys in one kernel",
    difficulty=4,
    minutes=30,
    reference=rope,
    outputs=("q_out", "k_out"),
    cases=(
        Case("powers of two", _heads(4, 4, 2, 32)),
        Case("SmolLM2: 9 and 3 heads of 64", _heads(3, 9, 3, 64), ragged=True),
        Case("heads of 20", _heads(5, 3, 3, 20), ragged=True),
        Case("one token, one head, one pair", _heads(1, 1, 1, 2)),
        Case("slices of a fused q/k/v", _heads(4, 8, 4, 32, fused=True)),
        Case("slices of a fused q/k/v, heads of 80", _heads(3, 6, 2, 80, fused=True), ragged=True),
        Case("float16", _heads(3, 5, 1, 24, half=True, fused=True), ragged=True),
    ),
    mistakes=(
        *(Mistake(name, _both(turn), words) for name, turn, words in _TURN_MISTAKES),
        Mistake(
            "neighbours paired",
            _both(_interleave),
            "neighbours are turned together, x[0] with x[1]: the interleaved layout of the paper. "
            "Here number i of the first half belongs to number i of the second.",
        ),
        Mistake(
            "keys not turned",
            lambda q, k, cos, sin: (_turn(q, cos, sin), k.clone()),
            "the keys come out as they went in. Both are turned: only then the angle between them "
            "is the distance.",
        ),
        Mistake(
            "every token turned as the first",
            _first_tables,
            "all tokens are turned by the angles of the first. Token t has its own row of the "
            "tables, cos_ptr + token * cos_stride.",
        ),
    ),
    hints=(
        "heads is a column [BLOCK_H, 1] and pairs a row [1, BLOCK_HALF]: x_rows + pairs is a whole "
        "tile of pointers, the first halves of all heads. Where are the second halves?",
        "HALF numbers further on: x_rows + HALF + pairs. The mask needs both limits, "
        "(heads < H) & (pairs < HALF).",
        "Load both tiles before you store anything, and convert them to float32. cos and sin have "
        "the shape [1, BLOCK_HALF] and broadcast over the heads.",
        "tl.store(out_rows + pairs, first * cos - second * sin, mask=inside) and "
        "tl.store(out_rows + HALF + pairs, second * cos + first * sin, mask=inside)",
    ),
)


# --- rope_interleaved ----------------------------------------------------------------------------


def rope_interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return _interleave(x, cos, sin)


def _one(T: int, H: int, D: int, half: bool = False, cut: int = 0):
    """x [T, H, D] (the first heads of H + cut) and its tables."""

    def make(m: Maker):
        x, _, cos, sin = _heads(T, H + cut, 1, D, half)(m)
        return x[:, :H], cos, sin

    return make


def _interleave_with(turn):
    """A mistake of the half-split rotation, made on the interleaved layout."""

    def mistaken(x, cos, sin):
        half = torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)
        first, second = turn(half, cos, sin).chunk(2, dim=-1)
        return torch.stack([first, second], dim=-1).flatten(-2)

    return mistaken


def _read_pairs_write_halves(x, cos, sin):
    turned = _interleave(x, cos, sin)
    return torch.cat([turned[..., 0::2], turned[..., 1::2]], dim=-1)


ROPE_INTERLEAVED = Exercise(
    name="rope_interleaved",
    lesson=LESSON,
    title="The other layout",
    difficulty=3,
    minutes=20,
    reference=rope_interleaved,
    cases=(
        Case("powers of two", _one(4, 4, 32)),
        Case("9 heads of 64", _one(3, 9, 64), ragged=True),
        Case("heads of 20", _one(5, 3, 20), ragged=True),
        Case("one pair", _one(2, 1, 2)),
        Case("the first heads of a wider tensor", _one(4, 4, 32, cut=3)),
        Case("float16", _one(3, 5, 24, half=True, cut=2), ragged=True),
    ),
    mistakes=(
        Mistake(
            "halves paired",
            _turn,
            "number i of the first half is turned with number i of the second. In this layout the "
            "pairs are neighbours: x[2 i] and x[2 i + 1].",
        ),
        Mistake(
            "read in pairs, written in halves",
            _read_pairs_write_halves,
            "the pairs are read from 2 i and 2 i + 1 and written to i and i + D/2. The result has "
            "the layout of the input.",
        ),
        *(Mistake(name, _interleave_with(turn), words) for name, turn, words in _TURN_MISTAKES),
        Mistake(
            "every token turned as the first",
            lambda x, cos, sin: _interleave(x, cos[:1].expand_as(cos), sin[:1].expand_as(sin)),
            "all tokens are turned by the angles of the first. Token t has its own row of the "
            "tables.",
        ),
    ),
    hints=(
        "One program for each head of each token, on a grid (T, H), makes this a row of pairs: "
        "pairs = tl.arange(0, BLOCK), of which those below HALF exist.",
        "The first number of pair i is at 2 * i, the second right after it. Their angle is at i.",
        "The output is new and contiguous: head h of token t starts at (t * H + h) * D there, and "
        "at t * x.stride(0) + h * x.stride(1) in x.",
        "first = tl.load(x_row + 2 * pairs, mask=inside).to(tl.float32), second = the same with "
        "2 * pairs + 1; store first * cos - second * sin and second * cos + first * sin there.",
    ),
)


# --- split_halves -----------------------------------------------------------------------------


def split_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    rows, hidden = weight.shape
    return weight.view(heads, rows // heads // 2, 2, hidden).transpose(1, 2).reshape(rows, hidden)


def _rows(heads: int, head_dim: int, hidden: int):
    return lambda m: (m.normal(heads * head_dim, hidden), heads)


def _interleaved_rows(weight, heads):
    rows, hidden = weight.shape
    return weight.view(heads, 2, rows // heads // 2, hidden).transpose(1, 2).reshape(rows, hidden)


SPLIT_HALVES = Exercise(
    name="split_halves",
    lesson=LESSON,
    title="A checkpoint in the other layout",
    difficulty=3,
    minutes=20,
    reference=split_halves,
    outputs=("weight",),
    cases=(
        Case("one head of 6", _rows(1, 6, 5)),
        Case("two heads of 4", _rows(2, 4, 3)),
        Case("9 heads of 64", _rows(9, 64, 7)),
        Case("3 heads of 10", _rows(3, 10, 30)),
        Case("heads of one pair", _rows(4, 2, 8)),
    ),
    mistakes=(
        Mistake(
            "the way back",
            _interleaved_rows,
            "this is the opposite conversion, from half-split to interleaved. Row 2 i goes to i, "
            "row 2 i + 1 to i + D/2.",
        ),
        Mistake(
            "heads not kept apart",
            lambda weight, heads: split_halves(weight, 1),
            "the whole matrix is taken for one head. Each head's D rows are sorted by themselves.",
        ),
        Mistake(
            "columns sorted",
            lambda weight, heads: torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1),
            "the columns are sorted, and they are the inputs. A row of the matrix makes one number "
            "of a query: the rows have to move.",
        ),
        Mistake(
            "halves exchanged",
            lambda weight, heads: split_halves(
                weight.view(-1, 2, weight.shape[1]).flip(1).reshape(weight.shape), heads
            ),
            "the odd rows come first. The first number of each pair, row 2 i, belongs in the first "
            "half.",
        ),
        Mistake(
            "left as it was",
            lambda weight, heads: weight.clone(),
            "the matrix comes back in the order in which it went in.",
        ),
        Mistake(
            "heads innermost",
            lambda weight, heads: (
                weight.view(-1, 2, heads, weight.shape[1]).transpose(0, 1).reshape(weight.shape)
            ),
            "the rows are taken apart as if a pair's row of every head stood together. The D rows "
            "of head 0 come first: heads are the outermost axis, view(heads, D / 2, 2, hidden).",
        ),
    ),
    hints=(
        "Write down the six rows of one head with D = 6 in interleaved order: pairs (0, 1), "
        "(2, 3), (4, 5). Which row has to be the first, the second, the third?",
        "0, 2, 4 and then 1, 3, 5: the first numbers of all pairs, then the second ones. For one "
        "head that is torch.cat([w[0::2], w[1::2]]).",
        "For all heads at once: view the rows as [heads, D/2, 2, hidden]. Which two axes have to "
        "change places?",
        "weight.view(heads, D // 2, 2, hidden).transpose(1, 2).reshape(heads * D, hidden)",
    ),
)


# --- llama3_frequencies --------------------------------------------------------------------------


def llama3_frequencies(
    frequencies: torch.Tensor, factor: float, low: float, high: float, original_context: int
) -> torch.Tensor:
    turns = original_context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor


def _scaling(head_dim: int, base: float, factor: float, low: float, high: float, context: int):
    frequencies = base ** (-torch.arange(0, head_dim, 2) / head_dim)
    return lambda m: (frequencies.clone(), factor, low, high, context)


def _kept_instead(frequencies, factor, low, high, context):
    """Blends the wrong way round between the limits only."""
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    between = (kept > 0) & (kept < 1)
    kept = torch.where(between, 1 - kept, kept)
    return kept * frequencies + (1 - kept) * frequencies / factor


def _no_blend(frequencies, factor, low, high, context):
    turns = context * frequencies / (2 * math.pi)
    return torch.where(turns < low, frequencies / factor, frequencies)


def _no_blend_high(frequencies, factor, low, high, context):
    turns = context * frequencies / (2 * math.pi)
    return torch.where(turns < high, frequencies / factor, frequencies)


def _no_clamp(frequencies, factor, low, high, context):
    turns = context * frequencies / (2 * math.pi)
    kept = (turns - low) / (high - low)
    return kept * frequencies + (1 - kept) * frequencies / factor


def _linear_in_wavelength(frequencies, factor, low, high, context):
    """Blends by wavelength, not by turns."""
    wavelength = 2 * math.pi / frequencies
    longest, shortest = context / low, context / high
    kept = ((longest - wavelength) / (longest - shortest)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor


def _blended_divisor(frequencies, factor, low, high, context):
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept + (1 - kept) * factor


LLAMA3_FREQUENCIES = Exercise(
    name="llama3_frequencies",
    lesson=LESSON,
    title="Longer than it was trained",
    difficulty=3,
    minutes=20,
    reference=llama3_frequencies,
    outputs=("frequencies",),
    cases=(
        Case("Llama-3.2-1B", _scaling(64, 500_000.0, 32.0, 1.0, 4.0, 8192)),
        Case("Llama-3.1-8B", _scaling(128, 500_000.0, 8.0, 1.0, 4.0, 8192)),
        Case("a low limit of 2, a high one of 9", _scaling(48, 10_000.0, 4.0, 2.0, 9.0, 1000)),
        Case("a short context: nearly all is stretched", _scaling(32, 10_000.0, 2.0, 1.0, 4.0, 16)),
    ),
    mistakes=(
        Mistake(
            "fast and slow exchanged",
            lambda f, factor, low, high, context: (
                f + f / factor - llama3_frequencies(f, factor, low, high, context)
            ),
            "the fast pairs are stretched and the slow ones kept. It is the slow ones, with few "
            "turns in the old context, that have not seen all their angles.",
        ),
        Mistake(
            "blended the wrong way round",
            _kept_instead,
            "the blend runs the wrong way: near `high` a pair should be nearly kept, near `low` "
            "nearly stretched.",
        ),
        Mistake(
            "no blend, cut at low",
            _no_blend,
            "between `low` and `high` turns nothing is blended: these pairs are kept whole.",
        ),
        Mistake(
            "no blend, cut at high",
            _no_blend_high,
            "between `low` and `high` turns nothing is blended: these pairs are stretched whole.",
        ),
        Mistake(
            "blend not limited",
            _no_clamp,
            "the share that is kept leaves 0 to 1: outside of the two limits it has to stop there "
            "(clamp).",
        ),
        Mistake(
            "blended by wavelength",
            _linear_in_wavelength,
            "the blend is linear in the wavelength. It is linear in the number of turns.",
        ),
        Mistake(
            "2 pi missing",
            lambda f, factor, low, high, context: llama3_frequencies(
                f, factor, low / (2 * math.pi), high / (2 * math.pi), context
            ),
            "turns are counted in radians: a full turn is 2 pi of them.",
        ),
        Mistake(
            "all stretched",
            lambda f, factor, low, high, context: f / factor,
            "every pair is divided by the factor: that is linear scaling, which blurs neighbours. "
            "The fast pairs are kept.",
        ),
        Mistake(
            "multiplied by the factor",
            lambda f, factor, low, high, context: llama3_frequencies(
                f, 1 / factor, low, high, context
            ),
            "the slow pairs are multiplied by the factor. To reach further they have to turn more "
            "slowly: divide.",
        ),
        Mistake(
            "pi for 2 pi",
            lambda f, factor, low, high, context: llama3_frequencies(
                f, factor, low / 2, high / 2, context
            ),
            "every turn is counted twice: a full turn is 2 pi radians, not pi.",
        ),
        Mistake(
            "divisor blended",
            lambda f, factor, low, high, context: (
                f / _blended_divisor(f, factor, low, high, context)
            ),
            "the blend is one of divisors, between 1 and `factor`. It is one of frequencies: a "
            "share of the kept one, and the rest of the divided one.",
        ),
        Mistake(
            "all kept",
            lambda f, factor, low, high, context: f.clone(),
            "every pair is kept. Are the turns context * frequency / (2 pi)? Divided by the "
            "frequency, all of them come out large.",
        ),
    ),
    hints=(
        "How often does a pair turn while the position goes from 0 to original_context? The "
        "frequency is in radians, and a full turn is 2 pi.",
        "Let kept be the share that stays: 1 from `high` turns on, 0 up to `low`, and a straight "
        "line in between.",
        "((turns - low) / (high - low)).clamp(0, 1) is that share.",
        "return kept * frequencies + (1 - kept) * frequencies / factor",
    ),
)

EXERCISES = (ROPE_TABLES, ROPE, ROPE_INTERLEAVED, SPLIT_HALVES, LLAMA3_FREQUENCIES)
