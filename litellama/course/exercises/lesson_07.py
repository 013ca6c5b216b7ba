"""Exercises of lesson 07: the causal mask, attention in one kernel, grouped decoding, the cost."""

import torch

from litellama.course.exercise import TOLERANCE, Case, Exercise, Maker, Mistake

LESSON = "07_attention"
INF = float("inf")
# Of a score of several hundred the rounding in float32 is 2e-5, and becomes a factor of the weight.
LARGE_SCORES = TOLERANCE | {torch.float32: 5e-5}


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


# --- causal_mask ---------------------------------------------------------------------------------


def _future(Tq: int, Tk: int, shift: int, device: torch.device) -> torch.Tensor:
    """bool [Tq, Tk]: keys after key i + shift, for query i."""
    return torch.ones(Tq, Tk, dtype=torch.bool, device=device).triu(shift + 1)


def causal_mask(scores: torch.Tensor) -> torch.Tensor:
    Tq, Tk = scores.shape[-2:]
    return scores.masked_fill(_future(Tq, Tk, Tk - Tq, scores.device), -INF)


def _masked(shift, fill=-INF):
    """Masks with the diagonal elsewhere, or with another number; shift: (Tq, Tk) -> int."""

    def mistaken(scores):
        Tq, Tk = scores.shape[-2:]
        return scores.masked_fill(_future(Tq, Tk, shift(Tq, Tk), scores.device), fill)

    return mistaken


def _past_hidden(scores):
    Tq, Tk = scores.shape[-2:]
    past = torch.ones(Tq, Tk, dtype=torch.bool, device=scores.device).tril(Tk - Tq - 1)
    return scores.masked_fill(past, -INF)


def _only_future(scores):
    Tq, Tk = scores.shape[-2:]
    return scores.masked_fill(~_future(Tq, Tk, Tk - Tq, scores.device), -INF)


def _scores(H: int, Tq: int, Tk: int, half: bool = False):
    return lambda m: (m.normal(H, Tq, Tk, scale=3.0, dtype=m.half if half else torch.float32),)


CAUSAL_MASK = Exercise(
    name="causal_mask",
    lesson=LESSON,
    title="Who may see what",
    difficulty=2,
    minutes=10,
    reference=causal_mask,
    cases=(
        Case("as many queries as keys", _scores(2, 5, 5)),
        Case("the last 3 queries of 7", _scores(2, 3, 7)),
        Case("one query", _scores(3, 1, 6)),
        Case("one token", _scores(2, 1, 1)),
        Case("float16, the last 6 queries of 7", _scores(1, 6, 7, half=True)),
    ),
    mistakes=(
        Mistake(
            "aligned at the first key",
            _masked(lambda Tq, Tk: 0),
            "the diagonal starts at the first key. The queries are those of the last tokens: "
            "query i sees keys 0 to Tk - Tq + i.",
        ),
        Mistake(
            "a token does not see itself",
            _masked(lambda Tq, Tk: Tk - Tq - 1),
            "each token is hidden from itself, and the first of all sees nothing. Key Tk - Tq + i "
            "is the query's own, and is seen.",
        ),
        Mistake(
            "one key of the future seen",
            _masked(lambda Tq, Tk: Tk - Tq + 1),
            "each query sees one key too many, the one right after it: the answer that the model "
            "should guess.",
        ),
        Mistake(
            "zero for the future",
            _masked(lambda Tq, Tk: Tk - Tq, 0.0),
            "the future's scores are 0. A score of 0 has the exponential 1 and takes its share of "
            "the weights; minus infinity has 0.",
        ),
        Mistake(
            "past hidden",
            _past_hidden,
            "the past is hidden, and the future seen: the comparison is the wrong way round.",
        ),
        Mistake(
            "only the future left",
            _only_future,
            "all that may be seen is hidden, and the future is left: the mask is inverted.",
        ),
    ),
    hints=(
        "Which token does query 0 belong to, if there are 7 tokens and 3 queries? Up to which key "
        "does it see?",
        "last_key = Tk - Tq + torch.arange(Tq) is the last key of each query. A key is hidden if "
        "its number is larger.",
        "future = torch.arange(Tk)[None, :] > last_key[:, None] is a [Tq, Tk] table of truth "
        "values.",
        "return scores.masked_fill(future, -float('inf')), with both aranges on scores.device.",
    ),
)


# --- attention -----------------------------------------------------------------------------------


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    shift: int | None = None,
    kv_heads: torch.Tensor | None = None,
    hidden: float = -INF,
) -> torch.Tensor:
    """Attention [Hq, Tq, D] with its parts to choose; the defaults are right.

    shift: the last key of query 0 (Tk: no mask); kv_heads: the key/value head of each query head.
    """
    (Hq, Tq, D), (Hkv, Tk, _) = q.shape, k.shape
    if kv_heads is None:
        kv_heads = torch.arange(Hq, device=q.device) // (Hq // Hkv)
    scores = _wide(q) @ _wide(k)[kv_heads].mT * (D**-0.5 if scale is None else scale)
    future = _future(Tq, Tk, Tk - Tq if shift is None else shift, q.device)
    weights = scores.masked_fill(future, hidden).softmax(-1)
    return (weights @ _wide(v)[kv_heads]).to(q.dtype)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return _attend(q, k, v)


def _heads_in_turns(q, k, v):
    return _attend(q, k, v, kv_heads=torch.arange(len(q), device=q.device) % len(k))


def _first_head_only(q, k, v):
    return _attend(q, k, v, kv_heads=torch.zeros(len(q), dtype=torch.long, device=q.device))


def _exponentials(q, k, v, subtract=True):
    """exp(scores), under each row's maximum if asked, and the values of each query head."""
    kv_heads = torch.arange(len(q), device=q.device) // (len(q) // len(k))
    scores = _wide(q) @ _wide(k)[kv_heads].mT * q.shape[-1] ** -0.5
    scores = causal_mask(scores)
    if subtract:
        scores = scores - scores.amax(-1, keepdim=True)
    return torch.exp(scores), _wide(v)[kv_heads]


def _not_divided(q, k, v):
    weights, values = _exponentials(q, k, v)
    return (weights @ values).to(q.dtype)


def _maximum_not_subtracted(q, k, v):
    weights, values = _exponentials(q, k, v, subtract=False)
    return (weights @ values / weights.sum(-1, keepdim=True)).to(q.dtype)


def _masked_after_softmax(q, k, v):
    (Hq, Tq, D), (Hkv, Tk, _) = q.shape, k.shape
    kv_heads = torch.arange(Hq, device=q.device) // (Hq // Hkv)
    weights = (_wide(q) @ _wide(k)[kv_heads].mT * D**-0.5).softmax(-1)
    weights = weights.masked_fill(_future(Tq, Tk, Tk - Tq, q.device), 0.0)
    return (weights @ _wide(v)[kv_heads]).to(q.dtype)


_HEAD_MISTAKES = (
    Mistake(
        "scale forgotten",
        lambda q, k, v: _attend(q, k, v, scale=1.0),
        "the scores are not scaled: multiply them by `scale`, 1 / sqrt(D), before the softmax.",
    ),
    Mistake(
        "scaled twice",
        lambda q, k, v: _attend(q, k, v, scale=1 / q.shape[-1]),
        "the scores are divided by D and not by its root: the scale is applied twice, to the "
        "queries and to the scores perhaps.",
    ),
    Mistake(
        "heads taken in turns",
        _heads_in_turns,
        "query head h reads key/value head h % Hkv. Heads of a group are neighbours: h // GROUP.",
    ),
    Mistake(
        "first key head only",
        _first_head_only,
        "every query head reads key/value head 0: where a head's keys start depends on the head.",
    ),
    Mistake(
        "not divided by the total",
        _not_divided,
        "the weights do not sum to 1: divide by the total of the exponentials, row by row.",
    ),
    Mistake(
        "keys for values",
        lambda q, k, v: _attend(q, k, k),
        "the weights multiply the keys. Keys make the scores; the output is made of values.",
    ),
    Mistake(
        "maximum not subtracted",
        _maximum_not_subtracted,
        "exponentials are taken of the scores as they are, and large ones overflow. Subtract each "
        "row's maximum first, as in lesson 02.",
    ),
)


def random_qkv(Hq: int, Hkv: int, Tq: int, Tk: int, D: int, scale: float = 1.0, half: bool = False):
    def make(m: Maker):
        dtype = m.half if half else torch.float32
        return (
            m.normal(Hq, Tq, D, scale=scale, dtype=dtype),
            m.normal(Hkv, Tk, D, dtype=dtype),
            m.normal(Hkv, Tk, D, dtype=dtype),
        )

    return make


ATTENTION = Exercise(
    name="attention",
    lesson=LESSON,
    title="Scores that never leave the chip",
    difficulty=4,
    minutes=35,
    reference=attention,
    tolerance=LARGE_SCORES,
    cases=(
        Case("two heads of 16 tokens", random_qkv(2, 2, 16, 16, 32)),
        Case("SmolLM2's heads, 37 tokens", random_qkv(9, 3, 37, 37, 64), ragged=True),
        Case("the last 5 tokens of 21", random_qkv(4, 2, 5, 21, 40), ragged=True),
        Case("one new token over 50 keys", random_qkv(4, 2, 1, 50, 16), ragged=True),
        Case("one token", random_qkv(2, 1, 1, 1, 8), ragged=True),
        Case("large scores", random_qkv(2, 1, 9, 30, 32, scale=60.0), ragged=True),
        Case("float16", random_qkv(6, 2, 19, 33, 64, half=True), ragged=True),
    ),
    mistakes=(
        *_HEAD_MISTAKES,
        Mistake(
            "mask forgotten",
            lambda q, k, v: _attend(q, k, v, shift=k.shape[1]),
            "the queries see the future: set the scores of keys beyond last_key to minus infinity.",
        ),
        Mistake(
            "aligned at the first key",
            lambda q, k, v: _attend(q, k, v, shift=0),
            "the mask's diagonal starts at the first key. The queries are those of the last "
            "tokens: last_key = Tk - Tq + rows.",
        ),
        Mistake(
            "a token does not see itself",
            lambda q, k, v: _attend(q, k, v, shift=k.shape[1] - q.shape[1] - 1),
            "a query does not see its own key (and the first one sees nothing, which gives NaN): "
            "keys <= last_key, not <.",
        ),
        Mistake(
            "future scores zero",
            lambda q, k, v: _attend(q, k, v, hidden=0.0),
            "the future's scores are 0 and take their share of the weights. They have to be minus "
            "infinity.",
        ),
        Mistake(
            "masked after the softmax",
            _masked_after_softmax,
            "the future's weights are zeroed after the softmax, when they have already taken their "
            "share: the rest sums to less than 1. Mask the scores.",
        ),
    ),
    hints=(
        "Rows of q and of the output lie at head * Tq * D + row * D + column. Keys and values lie "
        "likewise, at their own head, with Tk in place of Tq. Which head is theirs?",
        "kv_head = head // GROUP. Load q, and k as [BLOCK_N, BLOCK_D] with other=0.0; then "
        'scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale.',
        "last_key = Tk - Tq + rows, and scores = tl.where(keys[None, :] <= last_key[:, None], "
        "scores, -float('inf')).",
        "Softmax along axis 1: maximum = tl.max(scores, axis=1), weights = tl.exp(scores - "
        "maximum[:, None]), total = tl.sum(weights, axis=1).",
        'weighted = tl.dot(weights.to(v.dtype), v, input_precision="ieee"), and store '
        "weighted / total[:, None] at places, with mask=inside.",
    ),
)


# --- grouped_decode ------------------------------------------------------------------------------


def _single(function):
    """A function of [Hq, Tq, D] queries, for one query a head: [Hq, D]."""
    return lambda q, k, v: function(q[:, None], k, v)[:, 0]


def grouped_decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attention(q[:, None], k, v)[:, 0]


def _lanes_beyond_the_keys(q, k, v):
    """Keys of zeros up to the next power of two, which take part."""
    Tk = k.shape[1]
    more = max(1 << (Tk - 1).bit_length(), 16) - Tk
    return grouped_decode(q, *(torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (k, v)))


def _heads_as_tokens(q, k, v):
    """A causal mask over the rows of a group, as if they were the last GROUP tokens."""
    GROUP, Tk = len(q) // len(k), k.shape[1]
    rows = []
    for i in range(GROUP):
        seen = slice(0, Tk - GROUP + 1 + i)
        rows.append(_attend(q[i::GROUP, None], k[:, seen], v[:, seen]))
    return torch.cat(rows, 1).flatten(0, 1)


def _rows_as_first_tokens(q, k, v):
    """A causal mask over the rows of a group, as if they were the first GROUP tokens."""
    GROUP = len(q) // len(k)
    rows = [_attend(q[i::GROUP, None], k[:, : i + 1], v[:, : i + 1]) for i in range(GROUP)]
    return torch.cat(rows, 1).flatten(0, 1)


def _one_softmax(q, k, v):
    """One maximum and one total for all rows of the tile, of which 16 - GROUP are zeros."""
    GROUP, D = len(q) // len(k), q.shape[-1]
    tile = torch.nn.functional.pad(q.view(len(k), GROUP, D).float(), (0, 0, 0, 16 - GROUP))
    weights = (tile @ k.float().mT * D**-0.5).flatten(1).softmax(1).view(len(k), 16, -1)
    return (weights @ v.float())[:, :GROUP].reshape(q.shape).to(q.dtype)


_DECODE_MISTAKES = tuple(
    Mistake(mistake.name, _single(mistake.function), mistake.diagnosis)
    for mistake in _HEAD_MISTAKES
)


def _decode(Hq: int, Hkv: int, Tk: int, D: int, scale: float = 1.0, half: bool = False):
    def make(m: Maker):
        q, k, v = random_qkv(Hq, Hkv, 1, Tk, D, scale, half)(m)
        return q[:, 0], k, v

    return make


GROUPED_DECODE = Exercise(
    name="grouped_decode",
    lesson=LESSON,
    title="Each key read once for its group",
    difficulty=4,
    minutes=30,
    reference=grouped_decode,
    tolerance=LARGE_SCORES,
    cases=(
        Case("no groups, 64 keys", _decode(2, 2, 64, 32)),
        Case("groups of 4, 32 keys", _decode(8, 2, 32, 16)),
        Case("SmolLM2's heads, 37 keys", _decode(9, 3, 37, 64), ragged=True),
        Case("one group of 7, 21 keys", _decode(7, 1, 21, 40), ragged=True),
        Case("large scores", _decode(6, 2, 30, 32, scale=60.0), ragged=True),
        Case("float16, 200 keys", _decode(8, 2, 200, 64, half=True), ragged=True),
    ),
    mistakes=(
        *_DECODE_MISTAKES,
        Mistake(
            "keys beyond the text",
            _lanes_beyond_the_keys,
            "the lanes beyond the last key take part: their keys are zeros, their scores 0, and "
            "that is a share of the weights. Set their scores to minus infinity.",
        ),
        Mistake(
            "heads masked like tokens",
            _heads_as_tokens,
            "a causal mask runs over the rows. They are heads of one token here, and all of them "
            "see all keys.",
        ),
        Mistake(
            "heads masked like the first tokens",
            _rows_as_first_tokens,
            "a causal mask runs over the rows, and row r sees keys 0 to r. The rows are heads of "
            "one token here, the last one, and all of them see all keys.",
        ),
        Mistake(
            "one softmax for the group",
            _one_softmax,
            "there is one maximum and one total for the whole tile. Each head has a softmax of its "
            "own: take both along axis=1, one number a row.",
        ),
    ),
    hints=(
        "Row r of program g is query head g * GROUP + r, if r < GROUP. All rows share the keys and "
        "values of head g.",
        "q is at heads[:, None] * D + columns, with the mask (rows < GROUP)[:, None] & "
        "(columns < D). Keys are at kv_head * Tk * D + keys[:, None] * D + columns.",
        'scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale is [BLOCK_M, BLOCK_N]. '
        "Only keys < Tk exist: the others get minus infinity.",
        "Softmax along axis 1 and the product with v are as in any attention kernel; the output "
        "lies where q lay.",
    ),
)


# --- attention_cost ------------------------------------------------------------------------------


def attention_cost(T: int, Hq: int, Hkv: int, D: int, element_size: int) -> tuple[int, int, int]:
    return _count()(T, Hq, Hkv, D, element_size)


def _count(
    crossings=8,
    score_heads=lambda Hq, Hkv: Hq,
    other_heads=lambda Hq, Hkv: 2 * Hq + 2 * Hkv,
    pairs=lambda T: T * (T + 1) // 2,
    flops=4,
    sized=True,
):
    """The three numbers, each part to choose; the defaults are right."""

    def count(T, Hq, Hkv, D, element_size):
        size = element_size if sized else 1
        return (
            crossings * score_heads(Hq, Hkv) * T * T * size,
            other_heads(Hq, Hkv) * T * D * size,
            flops * D * Hq * pairs(T),
        )

    return count


def _cost(label: str, *sizes: int) -> Case:
    return Case(label, lambda m: sizes)


ATTENTION_COST = Exercise(
    name="attention_cost",
    lesson=LESSON,
    title="Predict bytes and FLOPs",
    difficulty=3,
    minutes=15,
    reference=attention_cost,
    outputs=("score_bytes", "other_bytes", "flops"),
    cases=(
        _cost("1,024 tokens of SmolLM2, float32", 1024, 9, 3, 64, 4),
        _cost("4,096 tokens of Llama-3.1-8B, bfloat16", 4096, 32, 8, 128, 2),
        _cost("3 tokens, 5 query heads, 1 key head of 7", 3, 5, 1, 7, 2),
    ),
    mistakes=(
        Mistake(
            "six crossings",
            _count(6),
            "the score matrix crosses six times here, and it is eight: scale, mask and softmax "
            "each read it and write it.",
        ),
        Mistake(
            "one crossing each",
            _count(5),
            "one crossing is counted for each operation. Scale, mask and softmax each read the "
            "matrix and write it.",
        ),
        Mistake(
            "causal scores",
            lambda T, Hq, Hkv, D, element_size: (
                8 * Hq * (T * (T + 1) // 2) * element_size,
                *attention_cost(T, Hq, Hkv, D, element_size)[1:],
            ),
            "only half of the scores is counted in the bytes. The five operations work on whole "
            "matrices: the mask changes what is in them, not how large they are.",
        ),
        Mistake(
            "scores by key head",
            _count(score_heads=lambda Hq, Hkv: Hkv),
            "score matrices are counted for the key/value heads. Every query head has its own.",
        ),
        Mistake(
            "keys repeated",
            _count(other_heads=lambda Hq, Hkv: 4 * Hq),
            "keys and values are counted for every query head. There are Hkv heads of them, and "
            "none has to be repeated.",
        ),
        Mistake(
            "output forgotten",
            _count(other_heads=lambda Hq, Hkv: Hq + 2 * Hkv),
            "q, k and v are counted, but the output is not.",
        ),
        Mistake(
            "mask ignored in the pairs",
            _count(pairs=lambda T: T * T),
            "FLOPs are counted for all T² pairs. Query i sees i + 1 keys, and T (T + 1) / 2 pairs "
            "are left.",
        ),
        Mistake(
            "diagonal forgotten",
            _count(pairs=lambda T: T * (T - 1) // 2),
            "the pairs on the diagonal are missing: a token sees itself.",
        ),
        Mistake(
            "multiply-add as one",
            _count(flops=2),
            "the FLOPs are half of what they should be: a multiplication and an addition are two, "
            "and there are two products.",
        ),
        Mistake(
            "elements for bytes",
            _count(sized=False),
            "the first two are elements: each one has element_size bytes.",
        ),
    ),
    hints=(
        "Go through the five operations: which of them reads a [T, T] matrix of each query head, "
        "and which writes one?",
        "QKᵀ writes it, scale, mask and softmax read and write it, times V reads it: 8 Hq T² "
        "numbers.",
        "q and the output are Hq T D numbers each, k and v Hkv T D each.",
        "1 + 2 + ... + T = T (T + 1) / 2 pairs in each query head; for each, 2 D operations for "
        "the score and 2 D for the value.",
    ),
)

EXERCISES = (CAUSAL_MASK, ATTENTION, GROUPED_DECODE, ATTENTION_COST)
