"""Exercises of lesson 08: a block into the state, tiles counted, tiled attention, packed texts."""

from collections.abc import Callable
from itertools import pairwise

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake
from litellama.course.exercises.lesson_07 import (
    ATTENTION,
    LARGE_SCORES,
    attention,
    random_qkv,
)

LESSON = "08_flash_attention"
INF = float("inf")
BLOCK = 16  # rows and keys of a tile in the stubs


# --- take_block ----------------------------------------------------------------------------------


def take_block(q, k, v, maximum, total, weighted):
    return _take()(q, k, v, maximum, total, weighted)


def _take(
    scale: float | None = None,
    total_factor: Callable = lambda rescale: rescale,
    weighted_factor: Callable = lambda rescale: rescale,
    divided: bool = False,
    block_maximum: bool = False,
):
    """A block into the state, each part to choose; the defaults are right."""

    def take(q, k, v, maximum, total, weighted):
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        new_maximum = scores.amax(-1)
        if not block_maximum:
            new_maximum = torch.maximum(maximum, new_maximum)
        weights = torch.exp(scores - new_maximum[:, None])
        rescale = torch.exp(maximum - new_maximum)
        new_total = total * total_factor(rescale) + weights.sum(-1)
        new_weighted = weighted * weighted_factor(rescale)[:, None] + weights @ v
        if divided:
            new_weighted = new_weighted / new_total[:, None]
        return new_maximum, new_total, new_weighted

    return take


def _kept(rescale):
    return torch.ones_like(rescale)


def _state(M: int, N: int, D: int, seen: float, scale: float = 1.0):
    """Rows whose maximum so far is about ``seen``; minus infinity for rows that saw nothing."""

    def make(m: Maker):
        q, k, v = m.normal(M, D, scale=scale), m.normal(N, D), m.normal(N, D)
        if seen == -INF:
            return q, k, v, m.full(M, value=-INF), m.full(M, value=0.0), m.full(M, D, value=0.0)
        return q, k, v, m.normal(M, mean=seen), m.normal(M).abs() + 1, m.normal(M, D, scale=3.0)

    return make


TAKE_BLOCK = Exercise(
    name="take_block",
    lesson=LESSON,
    title="A block of keys into the state",
    difficulty=2,
    minutes=15,
    reference=take_block,
    outputs=("maximum", "total", "weighted"),
    tolerance=LARGE_SCORES,
    cases=(
        Case("rows whose maximum rises", _state(5, 7, 16, seen=-2.0)),
        Case("rows whose maximum stays", _state(6, 4, 8, seen=9.0)),
        Case("some of each", _state(16, 16, 32, seen=1.5)),
        Case("the first block", _state(4, 9, 16, seen=-INF)),
        Case("large scores", _state(3, 5, 16, seen=40.0, scale=60.0)),
        Case("one row, one key", _state(1, 1, 4, seen=0.0)),
    ),
    mistakes=(
        Mistake(
            "accumulator not rescaled",
            _take(weighted_factor=_kept),
            "weighted is not rescaled: its old part was summed under the old maximum, as total's "
            "was, and needs the same factor.",
        ),
        Mistake(
            "total not rescaled",
            _take(total_factor=_kept),
            "total is not rescaled: its old part was summed under the old maximum. Multiply it by "
            "exp(maximum - new_maximum).",
        ),
        Mistake(
            "nothing rescaled",
            _take(total_factor=_kept, weighted_factor=_kept),
            "neither total nor weighted is rescaled. What was summed under the old maximum has to "
            "be multiplied by exp(maximum - new_maximum) first.",
        ),
        Mistake(
            "rescaled the wrong way round",
            _take(total_factor=lambda r: 1 / r, weighted_factor=lambda r: 1 / r),
            "the rescale is the wrong way round: exp(old - new). The maximum only rises, so the "
            "factor is at most 1.",
        ),
        Mistake(
            "maximum of the block",
            _take(block_maximum=True),
            "the new maximum is that of the block alone. It is the larger of the old one and the "
            "block's, or a rescale above 1 may overflow.",
        ),
        Mistake(
            "old state dropped",
            lambda q, k, v, maximum, total, weighted: take_block(
                q, k, v, maximum, torch.zeros_like(total), torch.zeros_like(weighted)
            ),
            "the old total and the old weighted values are lost: the new ones are added to them, "
            "after the rescale.",
        ),
        Mistake(
            "divided already",
            _take(divided=True),
            "weighted is divided by the total. That comes once, after the last block; until then "
            "the two sums are kept apart.",
        ),
        Mistake(
            "scale forgotten",
            _take(scale=1.0),
            "the scores are not scaled: multiply q @ k.T by 1 / sqrt(D).",
        ),
    ),
    hints=(
        "The scores of the block are q @ k.T, [M, N], times D ** -0.5. Each row has a maximum of "
        "its own.",
        "new_maximum = torch.maximum(maximum, scores.amax(1)): it never falls.",
        "weights = torch.exp(scores - new_maximum[:, None]), and rescale = torch.exp(maximum - "
        "new_maximum), which is 0 for a row that has seen nothing.",
        "total * rescale + weights.sum(1), and weighted * rescale[:, None] + weights @ v.",
    ),
)


# --- tile_counts ---------------------------------------------------------------------------------


def tile_counts(Tq: int, Tk: int, BLOCK_M: int, BLOCK_N: int) -> tuple[int, int, int]:
    return _count()(Tq, Tk, BLOCK_M, BLOCK_N)


def _count(
    offset: Callable = lambda Tq, Tk: Tk - Tq,
    whole_tiles_only: bool = False,
    sees_itself: int = 0,
    beyond_is_masked: bool = True,
    by_last_query: bool = False,
    skips_equal: int = 0,
    whole_needs: int = 0,
):
    """Skipped, whole and masked tiles, each part to choose; the defaults are right."""

    def count(Tq, Tk, BLOCK_M, BLOCK_N):
        skipped = whole = masked = 0
        up = 0 if whole_tiles_only else 1
        for row in range(0, (Tq + up * (BLOCK_M - 1)) // BLOCK_M * BLOCK_M, BLOCK_M):
            end = min(row + BLOCK_M, Tq)
            first = offset(Tq, Tk) + row - sees_itself
            last = offset(Tq, Tk) + end - 1 - sees_itself
            for key in range(0, (Tk + up * (BLOCK_N - 1)) // BLOCK_N * BLOCK_N, BLOCK_N):
                stop = key + BLOCK_N if beyond_is_masked else min(key + BLOCK_N, Tk)
                seen_by_all = stop - 1 + whole_needs <= (last if by_last_query else first)
                if key > last - skips_equal:
                    skipped += 1
                elif seen_by_all and (not beyond_is_masked or stop <= Tk):
                    whole += 1
                else:
                    masked += 1
        return skipped, whole, masked

    return count


def _all_masked(*sizes):
    skipped, whole, masked = tile_counts(*sizes)
    return skipped, 0, whole + masked


def _none_skipped(*sizes):
    skipped, whole, masked = tile_counts(*sizes)
    return 0, whole, masked + skipped


def _tiles(label: str, *sizes: int) -> Case:
    return Case(label, lambda m: sizes)


TILE_COUNTS = Exercise(
    name="tile_counts",
    lesson=LESSON,
    title="Skipped, whole, masked",
    difficulty=3,
    minutes=20,
    reference=tile_counts,
    outputs=("skipped", "whole", "masked"),
    cases=(
        _tiles("four by four tiles", 128, 128, 32, 32),
        _tiles("100 tokens, tiles of 32 × 16", 100, 100, 32, 16),
        _tiles("the last 20 tokens of 170", 20, 170, 16, 64),
        _tiles("one new token over 100 keys", 1, 100, 16, 32),
        _tiles("tall tiles, 5 of 45 tokens", 30, 45, 8, 4),
    ),
    mistakes=(
        Mistake(
            "aligned at the first key",
            _count(offset=lambda Tq, Tk: 0),
            "the diagonal starts at the first key. The queries are those of the last tokens: query "
            "i sees keys 0 to Tk - Tq + i.",
        ),
        Mistake(
            "last tiles forgotten",
            _count(whole_tiles_only=True),
            "the tiles at the edges, which are not full, are left out: divide rounding up.",
        ),
        Mistake(
            "a token does not see itself",
            _count(sees_itself=1),
            "each query is taken to see one key less than it does. Its last key is Tk - Tq + i, "
            "its own.",
        ),
        Mistake(
            "keys beyond the text",
            _count(beyond_is_masked=False),
            "a tile that holds lanes beyond the last key is counted as whole. Those lanes hold no "
            "keys, and without a mask they would take part.",
        ),
        Mistake(
            "seen by the last query",
            _count(by_last_query=True),
            "a tile is counted as whole if its last query sees all of it. The first one sees the "
            "least: it decides.",
        ),
        Mistake(
            "all masked",
            _all_masked,
            "every tile that is not skipped is counted as masked. Where the first query of the "
            "block sees all keys of the tile, no mask is needed.",
        ),
        Mistake(
            "none skipped",
            _none_skipped,
            "tiles in which nobody sees anything are counted as masked. They need not be computed "
            "at all.",
        ),
        Mistake(
            "last key skipped",
            _count(skips_equal=1),
            "a tile is skipped whose first key is the last that its last query sees. One pair is "
            "seen there: skip if the first key comes *after* that one.",
        ),
        Mistake(
            "whole one key late",
            _count(whole_needs=1),
            "a tile is counted as masked although its first query sees all of it, up to the last "
            "key. That key is number key + BLOCK_N - 1, and may be equal to the last one that is "
            "seen.",
        ),
    ),
    hints=(
        "Two numbers decide about a tile: the last key that its first query sees, and the last key "
        "that its last query sees.",
        "There are ceil(Tq / BLOCK_M) × ceil(Tk / BLOCK_N) tiles. Two loops over them are fine.",
        "With rows row to min(row + BLOCK_M, Tq) - 1: first = Tk - Tq + row, and last = Tk - Tq + "
        "min(row + BLOCK_M, Tq) - 1.",
        "Skipped if its first key is after `last`. Whole if its last lane, key + BLOCK_N - 1, is "
        "not after `first` (which is below Tk, so all of its keys exist). Else masked.",
    ),
)


# --- tiled_attention -----------------------------------------------------------------------------


def tiled_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attention(q, k, v)


def _tiled(
    total_factor: Callable = lambda rescale: rescale,
    weighted_factor: Callable = lambda rescale: rescale,
    divided: bool = False,
    seen: Callable = lambda rows, keys, Tq, Tk: keys <= Tk - Tq + rows,
):
    """Attention in blocks of 16 keys, each part to choose; the defaults are right.

    seen: (rows [Tq, 1], keys [1, Tk], Tq, Tk) -> bool [Tq, Tk].
    """

    def tiled(q, k, v):
        (Hq, Tq, D), (Hkv, Tk, _) = q.shape, k.shape
        kv_heads = torch.arange(Hq, device=q.device) // (Hq // Hkv)
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        q_wide, k_wide, v_wide = q.to(wide), k.to(wide)[kv_heads], v.to(wide)[kv_heads]
        rows = torch.arange(Tq, device=q.device)[:, None]
        keys = torch.arange(Tk, device=q.device)[None, :]
        scores = (q_wide @ k_wide.mT * D**-0.5).masked_fill(~seen(rows, keys, Tq, Tk), -INF)
        maximum = torch.full((Hq, Tq), -INF, dtype=wide, device=q.device)
        total, weighted = torch.zeros_like(maximum), torch.zeros_like(q_wide)
        for first in range(0, Tk, BLOCK):
            block = scores[..., first : first + BLOCK]
            new_maximum = torch.maximum(maximum, block.amax(-1))
            weights = torch.exp(block - new_maximum[..., None])
            rescale = torch.exp(maximum - new_maximum)
            total = total * total_factor(rescale) + weights.sum(-1)
            weighted = weighted * weighted_factor(rescale)[..., None]
            weighted = weighted + weights @ v_wide[:, first : first + BLOCK]
            if divided:
                # Programs stop at the last key of their own rows: later blocks change nothing.
                end = Tk - Tq + (rows[:, 0] // BLOCK + 1) * BLOCK
                weighted = torch.where(
                    (first < end)[None, :, None], weighted / total[..., None], weighted
                )
            maximum = new_maximum
        return (weighted / total[..., None]).to(q.dtype)

    return tiled


def _ends(rows, Tq, Tk):
    """One behind the last key that a row's program looks at."""
    return torch.clamp(Tk - Tq + (rows // BLOCK + 1) * BLOCK, max=Tk)


def _last_block_left_out(rows, keys, Tq, Tk):
    return (keys <= Tk - Tq + rows) & (keys < _ends(rows, Tq, Tk) // BLOCK * BLOCK)


def _offset_forgotten(rows, keys, Tq, Tk):
    return (keys <= Tk - Tq + rows) & (keys < (rows // BLOCK + 1) * BLOCK)


def _last_tile_masked(rows, keys, Tq, Tk):
    last = (_ends(rows, Tq, Tk) - 1) // BLOCK
    return (keys <= Tk - Tq + rows) | (keys // BLOCK < last)


def _tiles_unmasked(rows, keys, Tq, Tk):
    return keys < _ends(rows, Tq, Tk)


STATE_MISTAKES = (
    Mistake(
        "accumulator not rescaled",
        _tiled(weighted_factor=_kept),
        "weighted is not rescaled when a block raises the maximum: its old part was summed under "
        "the old one, as total's was.",
    ),
    Mistake(
        "total not rescaled",
        _tiled(total_factor=_kept),
        "total is not rescaled when a block raises the maximum: multiply it by tl.exp(maximum - "
        "new_maximum) before the block's weights are added.",
    ),
    Mistake(
        "nothing rescaled",
        _tiled(total_factor=_kept, weighted_factor=_kept),
        "neither total nor weighted is rescaled when a block raises the maximum. What was summed "
        "under the old one needs the factor tl.exp(maximum - new_maximum).",
    ),
    Mistake(
        "rescaled the wrong way round",
        _tiled(total_factor=lambda r: 1 / r, weighted_factor=lambda r: 1 / r),
        "the rescale is the wrong way round: exp(old - new), which is at most 1, and 0 for the "
        "first block.",
    ),
    Mistake(
        "divided in every block",
        _tiled(divided=True),
        "weighted is divided by the total in every block, and what was divided is then added to "
        "as if it were not. Divide once, after the loop.",
    ),
)
_DENSE = {mistake.name: mistake for mistake in ATTENTION.mistakes}
# Of a whole row; those that do not depend on how it is cut.
ROW_MISTAKES = tuple(
    _DENSE[name] for name in ("scale forgotten", "scaled twice", "not divided by the total",
                              "keys for values", "mask forgotten")
)  # fmt: skip

UNMASKED_TILE = Mistake(
    "loop ends, but no mask",
    _tiled(seen=_tiles_unmasked),
    "the loop ends at the last key of the tile, and within the tile nothing is masked: the upper "
    "rows see keys that come after them. Hide keys > rows in the scores as well.",
)
TILED_ATTENTION = Exercise(
    name="tiled_attention",
    lesson=LESSON,
    title="FlashAttention 2, causal",
    difficulty=4,
    minutes=40,
    reference=tiled_attention,
    tolerance=LARGE_SCORES,
    cases=(
        Case("two heads of 32 tokens", random_qkv(2, 2, 32, 32, 32)),
        Case("SmolLM2's heads, 53 tokens", random_qkv(9, 3, 53, 53, 64), ragged=True),
        Case("the last 21 tokens of 59", random_qkv(4, 2, 21, 59, 40), ragged=True),
        Case("one new token over 50 keys", random_qkv(4, 2, 1, 50, 16), ragged=True),
        Case("one token", random_qkv(2, 1, 1, 1, 8), ragged=True),
        Case("large scores", random_qkv(2, 1, 19, 70, 32, scale=60.0), ragged=True),
        Case("float16", random_qkv(6, 2, 35, 67, 64, half=True), ragged=True),
    ),
    mistakes=(
        *STATE_MISTAKES,
        *ROW_MISTAKES,
        UNMASKED_TILE,
        _DENSE["heads taken in turns"],
        _DENSE["aligned at the first key"],
        _DENSE["a token does not see itself"],
        Mistake(
            "last block left out",
            _tiled(seen=_last_block_left_out),
            "the keys of the last block, where it is not full, are left out. range(0, stop, "
            "BLOCK_N) with stop one behind the last key takes them, and the mask does the rest.",
        ),
        Mistake(
            "loop ends too early",
            _tiled(seen=_offset_forgotten),
            "the loop over keys ends at the number of the query. With fewer queries than keys the "
            "last query of the block sees up to Tk - Tq keys more.",
        ),
        Mistake(
            "only the last tile masked",
            _tiled(seen=_last_tile_masked),
            "only the last tile of a row is masked. Where Tk - Tq is no multiple of the block, the "
            "diagonal crosses two tiles.",
        ),
    ),
    hints=(
        "A loop over blocks of keys: for first in range(0, stop, BLOCK_N), with keys = first + "
        "tl.arange(0, BLOCK_N). Everything before and after it is in the stub or is one line.",
        "Keys and values are at head // GROUP * Tk * D + keys[:, None] * D + columns, with the "
        "mask (keys < Tk)[:, None] & (columns < D) and other=0.0. Scores as in lesson 07.",
        "new_maximum = tl.maximum(maximum, tl.max(scores, axis=1)); weights = tl.exp(scores - "
        "new_maximum[:, None]); rescale = tl.exp(maximum - new_maximum).",
        "total = total * rescale + tl.sum(weights, axis=1); weighted = weighted * rescale[:, None] "
        '+ tl.dot(weights.to(v.dtype), v, input_precision="ieee"); maximum = new_maximum.',
        "stop = tl.minimum(Tk - Tq + (tl.program_id(0) + 1) * BLOCK_M, Tk). After the loop store "
        "weighted / total[:, None] at places, with mask=inside.",
    ),
)


# --- packed_attention ----------------------------------------------------------------------------


def _each_text(function):
    """A function of one text's q, k, v [H, n, D], for packed texts [T, H, D]."""

    def packed(q, k, v, starts):
        out = torch.empty_like(q)
        edges = starts.tolist()
        for first, stop in pairwise(edges):
            if first < stop:
                parts = (x[first:stop].transpose(0, 1) for x in (q, k, v))
                out[first:stop] = function(*parts).transpose(0, 1)
        return out

    return packed


packed_attention = _each_text(attention)


def _one_long_text(q, k, v, starts):
    return attention(*(x.transpose(0, 1) for x in (q, k, v))).transpose(0, 1).contiguous()


def _keys_of_the_first(q, k, v, starts):
    """Each text sees as many keys as it should, but from the beginning of the packed axis."""
    out, edges = torch.empty_like(q), starts.tolist()
    for first, stop in pairwise(edges):
        if first < stop:
            mine = q[first:stop].transpose(0, 1)
            others = (x[: stop - first].transpose(0, 1) for x in (k, v))
            out[first:stop] = attention(mine, *others).transpose(0, 1)
    return out


def _heads_before_tokens(q, k, v, starts):
    """[T, H, D] read as if it were [H, T, D]."""
    T, H, D = q.shape
    q, k, v = (x.reshape(H, T, D).transpose(0, 1) for x in (q, k, v))
    return packed_attention(q, k, v, starts).transpose(0, 1).reshape(T, H, D)


def _reference_packed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor
) -> torch.Tensor:
    return packed_attention(q, k, v, starts)


def _texts(*lengths: int, H: int = 2, D: int = 32, scale: float = 1.0, half: bool = False):
    def make(m: Maker):
        T, dtype = sum(lengths), m.half if half else torch.float32
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32)
        q = m.normal(T, H, D, scale=scale, dtype=dtype)
        return q, m.normal(T, H, D, dtype=dtype), m.normal(T, H, D, dtype=dtype), starts

    return make


PACKED_ATTENTION = Exercise(
    name="packed_attention",
    lesson=LESSON,
    title="Texts of any length, no padding",
    difficulty=5,
    minutes=40,
    reference=_reference_packed,
    tolerance=LARGE_SCORES,
    cases=(
        Case("two texts of 16 and 32 tokens", _texts(16, 32)),
        Case("one text of 37", _texts(37, D=40), ragged=True),
        Case("texts of 5, 2 and 40", _texts(5, 2, 40, H=3, D=16), ragged=True),
        Case("texts of 1, 1, 21, 0 and 3", _texts(1, 1, 21, 0, 3), ragged=True),
        Case("large scores", _texts(33, 18, scale=60.0), ragged=True),
        Case("float16", _texts(19, 1, 35, D=64, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "one long text",
            _one_long_text,
            "a text sees the texts that are packed before it: its keys begin at its own start.",
        ),
        Mistake(
            "keys of the first text",
            _keys_of_the_first,
            "every text reads keys and values from the beginning of the packed axis. Its own begin "
            "at starts[text].",
        ),
        Mistake(
            "heads before tokens",
            _heads_before_tokens,
            "the tensors are read as [H, T, D]. They are [T, H, D]: the row of token t and head h "
            "begins at (t * H + h) * D.",
        ),
        *(
            Mistake(mistake.name, _each_text(mistake.function), mistake.diagnosis)
            for mistake in (*STATE_MISTAKES, *ROW_MISTAKES, UNMASKED_TILE)
        ),
    ),
    hints=(
        "Which text is it? Text s begins at tile starts[s] // BLOCK_M + s. Load the starts of all "
        "texts, and count the beginnings that are at most `program`.",
        "text = tl.sum(((begin <= program) & (texts < S)).to(tl.int32)) - 1; first and stop are "
        "starts_ptr + text and the one after. Its tile is program - (first // BLOCK_M + text).",
        "rows = first + tile * BLOCK_M + tl.arange(0, BLOCK_M), numbers on the packed axis. A row "
        "is at (rows[:, None] * H + head) * D + columns, and is inside while rows < stop.",
        "The keys go from `first` to the last row of the tile, and keys are numbers on the packed "
        "axis too, so the causal mask is keys[None, :] <= rows[:, None].",
        "The loop is FlashAttention's: scores, new maximum, weights, rescale, total, weighted. "
        "After it store weighted / total[:, None], mask=inside.",
    ),
)

EXERCISES = (TAKE_BLOCK, TILE_COUNTS, TILED_ATTENTION, PACKED_ATTENTION)
