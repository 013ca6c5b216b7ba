"""Exercises of lesson 09: the merge, where to cut, into how many parts, the kernel of a part."""

import math

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "09_flash_decoding"
INF = float("inf")


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


# --- merge_parts ---------------------------------------------------------------------------------


def merge_parts(outs: torch.Tensor, log_sums: torch.Tensor) -> torch.Tensor:
    highest = log_sums.amax(0)
    shares = torch.exp(log_sums - torch.where(highest == -INF, 0.0, highest))
    total = shares.sum(0)
    return (shares[..., None] * outs).sum(0) / torch.where(total == 0, 1.0, total)[..., None]


def _mean(outs, log_sums):
    return outs.mean(0)


def _largest_part_only(outs, log_sums):
    best = log_sums.argmax(0)
    return outs.gather(0, best[None, :, None].expand(1, *outs.shape[1:]))[0]


def _not_subtracted(outs, log_sums):
    shares = torch.exp(log_sums)
    total = shares.sum(0)
    return (shares[..., None] * outs).sum(0) / torch.where(total == 0, 1.0, total)[..., None]


def _not_divided(outs, log_sums):
    highest = log_sums.amax(0)
    shares = torch.exp(log_sums - torch.where(highest == -INF, 0.0, highest))
    return (shares[..., None] * outs).sum(0)


def _log_sums_as_shares(outs, log_sums):
    return (log_sums[..., None] * outs).sum(0) / log_sums.sum(0)[..., None]


def _softmax_over_rows(outs, log_sums):
    return (log_sums.softmax(1)[..., None] * outs).sum(0)


def _nan_without_keys(outs, log_sums):
    return (log_sums.softmax(0)[..., None] * outs).sum(0)


def _powers_of_two(outs, log_sums):
    return merge_parts(outs, log_sums * math.log(2))


def _parts(P: int, R: int, D: int, scale: float = 2.0, mean: float = 0.0, empty: tuple = ()):
    """empty: (part, row) with no keys; a row of None: the part has none in any row."""

    def make(m: Maker):
        outs, log_sums = m.normal(P, R, D), m.normal(P, R, scale=scale, mean=mean)
        for part, row in empty:
            where = (part, slice(None) if row is None else row)
            log_sums[where], outs[where] = -INF, 0.0
        return outs, log_sums

    return make


MERGE_PARTS = Exercise(
    name="merge_parts",
    lesson=LESSON,
    title="Merge with log-sum-exp",
    difficulty=2,
    minutes=10,
    reference=merge_parts,
    cases=(
        Case("two parts, one row", _parts(2, 1, 4)),
        Case("five parts, three rows", _parts(5, 3, 7)),
        Case("one part", _parts(1, 4, 6)),
        Case("large log-sums", _parts(3, 2, 5, mean=500.0)),
        Case("an empty part", _parts(4, 3, 5, empty=((1, None), (3, 0)))),
        Case("a row with no keys", _parts(2, 3, 4, empty=((0, 1), (1, 1)))),
    ),
    mistakes=(
        Mistake(
            "plain mean",
            _mean,
            "every part has the same share. A part with larger scores, or with more keys, has more "
            "of the weight: e^l says how much.",
        ),
        Mistake(
            "largest part only",
            _largest_part_only,
            "the output is that of the part with the largest log-sum, and the others are dropped.",
        ),
        Mistake(
            "maximum not subtracted",
            _not_subtracted,
            "exponentials of the log-sums overflow. Subtract each row's largest log-sum first.",
        ),
        Mistake(
            "not divided by the total",
            _not_divided,
            "the shares do not sum to 1: divide by the sum of the exponentials.",
        ),
        Mistake(
            "log-sums as shares",
            _log_sums_as_shares,
            "the log-sums themselves are the weights. They are logarithms: take the exponential.",
        ),
        Mistake(
            "softmax over the rows",
            _softmax_over_rows,
            "the shares sum to 1 over the rows. Each row has its own parts, along axis 0.",
        ),
        Mistake(
            "NaN without keys",
            _nan_without_keys,
            "a row with no keys gives NaN, from minus infinity minus minus infinity. It has to be "
            "zeros.",
        ),
        Mistake(
            "powers of two",
            _powers_of_two,
            "the shares are powers of two, and these log-sums are natural logarithms.",
        ),
    ),
    hints=(
        "The shares of a row's parts are the softmax of its log-sums, along axis 0.",
        "highest = log_sums.amax(0); shares = torch.exp(log_sums - highest). What is this for a "
        "row whose log-sums are all minus infinity?",
        "Put 0 in the place of a highest of minus infinity: then all shares are 0. And a total of "
        "0 must not divide: put 1 in its place.",
        "(shares[..., None] * outs).sum(0) / total[..., None], with both replaced by torch.where.",
    ),
)


# --- key_range -----------------------------------------------------------------------------------


def key_range(num_keys: int, split: int, num_splits: int, block: int) -> tuple[int, int]:
    num_blocks = -(-num_keys // block)
    first = num_blocks * split // num_splits * block
    return first, min(num_blocks * (split + 1) // num_splits * block, num_keys)


def _equal_but_last(num_keys, split, num_splits, block):
    num_blocks = -(-num_keys // block)
    size = -(-num_blocks // num_splits) * block
    return min(split * size, num_keys), min((split + 1) * size, num_keys)


def _rest_to_the_last(num_keys, split, num_splits, block):
    size = -(-num_keys // block) // num_splits * block
    return split * size, num_keys if split == num_splits - 1 else (split + 1) * size


def _keys_not_blocks(num_keys, split, num_splits, block):
    return num_keys * split // num_splits, num_keys * (split + 1) // num_splits


def _beyond_the_end(num_keys, split, num_splits, block):
    num_blocks = -(-num_keys // block)
    return tuple(num_blocks * n // num_splits * block for n in (split, split + 1))


def _last_block_lost(num_keys, split, num_splits, block):
    num_blocks = num_keys // block
    return tuple(num_blocks * n // num_splits * block for n in (split, split + 1))


def _in_blocks(num_keys, split, num_splits, block):
    num_blocks = -(-num_keys // block)
    return num_blocks * split // num_splits, num_blocks * (split + 1) // num_splits


def _last_key_included(num_keys, split, num_splits, block):
    first, stop = key_range(num_keys, split, num_splits, block)
    return first, stop - 1


def _sizes(label: str, *sizes: int) -> Case:
    return Case(label, lambda m: sizes)


KEY_RANGE = Exercise(
    name="key_range",
    lesson=LESSON,
    title="Where to cut",
    difficulty=2,
    minutes=10,
    reference=key_range,
    outputs=("first", "stop"),
    cases=(
        _sizes("640 keys, part 0 of 4", 640, 0, 4, 64),
        _sizes("640 keys, part 1 of 4", 640, 1, 4, 64),
        _sizes("640 keys, the last part", 640, 3, 4, 64),
        _sizes("a last block partly filled", 1000, 2, 3, 16),
        _sizes("in the middle of many", 8191, 7, 15, 64),
        _sizes("more parts than blocks, an empty one", 70, 1, 4, 64),
        _sizes("more parts than blocks, the last", 70, 3, 4, 64),
        _sizes("a single key", 1, 0, 1, 32),
    ),
    mistakes=(
        Mistake(
            "equal but the last",
            _equal_but_last,
            "all parts have the rounded up number of blocks, and the last has what is left, or "
            "nothing. Ten blocks in four parts are 2, 3, 2, 3 and not 3, 3, 3, 1.",
        ),
        Mistake(
            "rest to the last",
            _rest_to_the_last,
            "the last part takes all that is left over by rounding down, and everybody waits for "
            "it.",
        ),
        Mistake(
            "keys not blocks",
            _keys_not_blocks,
            "the cuts are between any two keys. They have to be at multiples of the block: a "
            "program takes whole blocks.",
        ),
        Mistake(
            "beyond the end",
            _beyond_the_end,
            "the last part ends with its block, which may have more places than there are keys: "
            "stop is at most num_keys.",
        ),
        Mistake(
            "last block lost",
            _last_block_lost,
            "the last, partly filled block belongs to nobody: the number of blocks is rounded up.",
        ),
        Mistake(
            "in blocks",
            _in_blocks,
            "the range is counted in blocks, and it should be in keys.",
        ),
        Mistake(
            "last key included",
            _last_key_included,
            "stop is the last key. As in Python's range it should be the one after.",
        ),
    ),
    hints=(
        "Count in blocks first: there are ceil(num_keys / block).",
        "Part p starts at block num_blocks * p // num_splits, and ends where part p + 1 starts.",
        "Times block these are keys; the end is at most num_keys.",
    ),
)


# --- choose_splits -------------------------------------------------------------------------------


def _choose(busy, least=0.9, first=1, extra=0, pick=min):
    """Rules of one form; busy: (programs, slots) -> the share of the places that work."""

    def choose(programs, most, slots):
        choices = range(first, max(most, 1) + 1 + extra)
        shares = {n: busy(programs * n, slots) for n in choices}
        return pick(n for n in choices if shares[n] >= least * max(shares.values()))

    return choose


def _busy(count: int, slots: int) -> float:
    return count / (-(-count // slots) * slots)


choose_splits = _choose(_busy)


def _first_round_only(count, slots):
    return min(count / slots, 1.0)


CHOOSE_SPLITS = Exercise(
    name="choose_splits",
    lesson=LESSON,
    title="Into how many parts",
    difficulty=3,
    minutes=15,
    reference=choose_splits,
    outputs=("splits",),
    cases=(
        _sizes("3 programs, 8 places", 3, 8, 8),
        _sizes("one chat of Llama on an H100", 8, 128, 528),
        _sizes("12 chats of Llama", 96, 32, 528),
        _sizes("70 programs, 132 places", 70, 64, 132),
        _sizes("short texts: at most 2 parts", 8, 2, 528),
        _sizes("a batch that fills the GPU", 528, 64, 528),
        _sizes("one program too many", 133, 64, 132),
        _sizes("5 programs, 8 places", 5, 64, 8),
        _sizes("3 programs, 8 places, at most 6 parts", 3, 6, 8),
        _sizes("no keys", 8, 0, 528),
    ),
    mistakes=(
        Mistake(
            "busiest at any price",
            _choose(_busy, least=1.0),
            "the busiest choice is taken. One within a tenth of it, with fewer parts, moves fewer "
            "bytes.",
        ),
        Mistake(
            "most parts",
            _choose(_busy, pick=max),
            "the largest number of parts that is good enough is taken, and the smallest should be.",
        ),
        Mistake(
            "rounds forgotten",
            _choose(_first_round_only),
            "the first round only is counted: as soon as there are more programs than places, all "
            "counts as busy. A second round may be nearly empty.",
        ),
        Mistake(
            "places over programs",
            lambda programs, most, slots: max(1, min(slots // programs, most)),
            "it is places // programs: one round, as full as it gets. A few full rounds can be "
            "better than one round half full.",
        ),
        Mistake(
            "always the most",
            lambda programs, most, slots: max(most, 1),
            "it is always the most parts that are possible, even for a batch that fills the GPU.",
        ),
        Mistake(
            "never cut",
            lambda programs, most, slots: 1,
            "there is always one part: the keys are never cut.",
        ),
    ),
    hints=(
        "For each number of parts: how many programs are there, how many rounds do they take, and "
        "how many places do these rounds have?",
        "count = programs * n; rounds = -(-count // slots); busy = count / (rounds * slots).",
        "Take the first n, from 1 to max(most, 1), whose busy is at least 0.9 * max(busy).",
    ),
)


# --- decode_parts --------------------------------------------------------------------------------


def _attend(q, k, v, splits, *, scale=None, ranges=None, kv_heads=None, base=math.e, values=None):
    """(outs [Hq, splits, D], log_sums [Hq, splits]), parts to choose; the defaults are right."""
    (Hq, D), (Hkv, Tk, _) = q.shape, k.shape
    if kv_heads is None:
        kv_heads = torch.arange(Hq, device=q.device) // (Hq // Hkv)
    scores = torch.einsum("hd,hkd->hk", _wide(q), _wide(k)[kv_heads])
    scores = scores * (D**-0.5 if scale is None else scale)
    v = _wide(v if values is None else values)[kv_heads]
    outs, log_sums = [], []
    for split in range(splits):
        first, stop = (ranges or _cut)(Tk, split, splits)
        mine = scores[:, first:stop]
        outs.append(torch.einsum("hk,hkd->hd", mine.softmax(1), v[:, first:stop]))
        log_sums.append(mine.logsumexp(1) / math.log(base))
    return torch.stack(outs, 1).to(q.dtype), torch.stack(log_sums, 1).to(q.dtype)


def _cut(Tk: int, split: int, splits: int) -> tuple[int, int]:
    return Tk * split // splits, Tk * (split + 1) // splits


def decode_parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, splits: int):
    return _attend(q, k, v, splits)


def _not_divided_parts(q, k, v, splits):
    outs, log_sums, totals = _with_totals(q, k, v, splits)
    return (outs * totals[..., None]).to(q.dtype), log_sums.to(q.dtype)


def _with_totals(q, k, v, splits):
    """Outputs, log-sums, and each part's sum under its own maximum."""
    kv_heads = torch.arange(len(q), device=q.device) // (len(q) // len(k))
    scores = torch.einsum("hd,hkd->hk", _wide(q), _wide(k)[kv_heads]) * q.shape[-1] ** -0.5
    highest = [scores[:, slice(*_cut(k.shape[1], s, splits))].amax(1) for s in range(splits)]
    outs, log_sums = _attend(_wide(q), _wide(k), _wide(v), splits)
    return outs, log_sums, torch.exp(log_sums - torch.stack(highest, 1))


def _maximum_missing(q, k, v, splits):
    outs, _, totals = _with_totals(q, k, v, splits)
    return outs.to(q.dtype), totals.log().to(q.dtype)


def _log_missing(q, k, v, splits):
    outs, log_sums, totals = _with_totals(q, k, v, splits)
    return outs.to(q.dtype), (log_sums - totals.log() + totals).to(q.dtype)


def _everything(Tk, split, splits):
    return 0, Tk


def _to_the_end(Tk, split, splits):
    return _cut(Tk, split, splits)[0], Tk


def _heads_in_turns(q, k, v, splits):
    return _attend(q, k, v, splits, kv_heads=torch.arange(len(q), device=q.device) % len(k))


def _decode(Hq: int, Hkv: int, Tk: int, D: int, splits: int, half: bool = False):
    def make(m: Maker):
        dtype = m.half if half else torch.float32
        shapes = (Hq, D), (Hkv, Tk, D), (Hkv, Tk, D)
        return *(m.normal(*shape, dtype=dtype) for shape in shapes), splits

    return make


DECODE_PARTS = Exercise(
    name="decode_parts",
    lesson=LESSON,
    title="The kernel of one part",
    difficulty=4,
    minutes=35,
    reference=decode_parts,
    outputs=("outs", "log_sums"),
    cases=(
        Case("one part of 32 keys", _decode(4, 2, 32, 16, 1)),
        Case("two parts of 16 keys", _decode(4, 2, 32, 16, 2)),
        Case("SmolLM2's heads, 100 keys in 3 parts", _decode(9, 3, 100, 64, 3), ragged=True),
        Case("one group of 7, 41 keys in 4 parts", _decode(7, 1, 41, 40, 4), ragged=True),
        Case("a key for each part", _decode(2, 2, 5, 8, 5), ragged=True),
        Case("float16, 150 keys in 4 parts", _decode(8, 2, 150, 64, 4, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "scale forgotten",
            lambda q, k, v, splits: _attend(q, k, v, splits, scale=1.0),
            "the scores are not scaled: multiply them by `scale`, 1 / sqrt(D).",
        ),
        Mistake(
            "every part sees all keys",
            lambda q, k, v, splits: _attend(q, k, v, splits, ranges=_everything),
            "every part has taken all keys: only those from first to stop - 1 are its own.",
        ),
        Mistake(
            "to the end",
            lambda q, k, v, splits: _attend(q, k, v, splits, ranges=_to_the_end),
            "a part goes on to the last key of the text: it has to end before `stop`.",
        ),
        Mistake(
            "not divided by the total",
            _not_divided_parts,
            "outs are the accumulators: divide each by its part's own sum.",
        ),
        Mistake(
            "maximum missing in the log-sum",
            _maximum_missing,
            "the log-sum is the logarithm of the sum under the part's own maximum. Parts have "
            "different maxima: add the maximum.",
        ),
        Mistake(
            "logarithm forgotten",
            _log_missing,
            "the log-sum is maximum + total, and it should be maximum + log(total).",
        ),
        Mistake(
            "log of base two",
            lambda q, k, v, splits: _attend(q, k, v, splits, base=2),
            "the log-sums are logarithms of base 2. Here they are natural ones: tl.log.",
        ),
        Mistake(
            "heads taken in turns",
            _heads_in_turns,
            "query head h reads key/value head h % Hkv. Heads of a group are neighbours: h // "
            "GROUP.",
        ),
        Mistake(
            "keys for values",
            lambda q, k, v, splits: _attend(q, k, v, splits, values=k),
            "the weights multiply the keys. Keys make the scores; the output is made of values.",
        ),
    ),
    hints=(
        "A program is attention of a small tile: GROUP query heads over the keys first to stop - "
        "1. Which lanes of `keys` are its own?",
        "kv_inside = (keys < stop)[:, None] & (columns < D); the scores of keys >= stop become "
        "minus infinity.",
        "maximum = tl.max(scores, axis=1); weights = tl.exp(scores - maximum[:, None]); total = "
        "tl.sum(weights, axis=1); log-sum = maximum + tl.log(total).",
        "Output row of head h and this part: (h * num_splits + split) * D + columns; its log-sum: "
        "h * num_splits + split. Mask both by rows < GROUP.",
    ),
)

EXERCISES = (MERGE_PARTS, KEY_RANGE, CHOOSE_SPLITS, DECODE_PARTS)
