"""Exercises of lesson 12: biases before RoPE, norm and RoPE in one kernel, sizes, value biases."""

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "12_qwen"


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int = 1) -> torch.Tensor:
    """x [T, H, D] with half-split pairs turned; sign -1 turns backwards."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sign * sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _turn_neighbours(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(turned, dim=-1).flatten(-2)


def _tables(T: int, D: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [T, D / 2] of positions from ``start`` on."""
    angles = torch.arange(start, start + T)[:, None] * 100.0 ** (-torch.arange(0, D, 2) / D)
    return angles.cos(), angles.sin()


# --- biased_queries ------------------------------------------------------------------------------


def biased_queries(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    return _turn(_heads(x @ weight.T + bias, cos), cos, sin)


def _heads(q: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    """[T, H * D] -> [T, H, D], with D from the tables."""
    return q.unflatten(-1, (-1, 2 * cos.shape[-1]))


def _bias_after(x, weight, bias, cos, sin):
    return _turn(_heads(x @ weight.T, cos), cos, sin) + _heads(bias, cos)


def _columns_first(x, weight, bias, cos, sin):
    q = (x @ weight.T + bias).unflatten(-1, (2 * cos.shape[-1], -1))  # [T, D, H]
    return _turn(q.mT, cos, sin)


def _first_bias(x, weight, bias, cos, sin):
    D = 2 * cos.shape[-1]
    return biased_queries(x, weight, bias[:D].repeat(len(bias) // D), cos, sin)


def _projection(T: int, hidden: int, H: int, D: int, start: int = 5):
    def make(m: Maker):
        weight = m.normal(H * D, hidden, scale=hidden**-0.5)
        return m.normal(T, hidden), weight, m.normal(H * D), *_tables(T, D, start)

    return make


BIASED_QUERIES = Exercise(
    name="biased_queries",
    lesson=LESSON,
    title="A bias, then the rotation",
    difficulty=2,
    minutes=15,
    reference=biased_queries,
    cases=(
        Case("one head", _projection(3, 8, 1, 8)),
        Case("3 heads of 10, hidden 20", _projection(7, 20, 3, 10)),
        Case("wider than the hidden state", _projection(4, 12, 4, 6)),
        Case("one token, far along", _projection(1, 9, 2, 16, start=90)),
        Case("positions from 0", _projection(5, 33, 3, 20, start=0)),
    ),
    mistakes=(
        Mistake(
            "bias after RoPE",
            _bias_after,
            "the bias is added after the rotation. It belongs to the linear: add it first, and "
            "then turn, so that it is turned as well.",
        ),
        Mistake(
            "bias forgotten",
            lambda x, weight, bias, cos, sin: _turn(_heads(x @ weight.T, cos), cos, sin),
            "there is no bias in it: x @ weight.T + bias.",
        ),
        Mistake(
            "bias twice",
            lambda x, weight, bias, cos, sin: biased_queries(x, weight, 2 * bias, cos, sin),
            "the bias is added twice.",
        ),
        Mistake(
            "bias before and after RoPE",
            lambda x, weight, bias, cos, sin: (
                biased_queries(x, weight, bias, cos, sin) + _heads(bias, cos)
            ),
            "the bias is added before the rotation, which is right, and once more after it.",
        ),
        Mistake(
            "one head's bias for all",
            _first_bias,
            "every head gets the bias of the first one. The bias has H * D numbers, D for each "
            "head, in the order of the heads.",
        ),
        Mistake(
            "heads and columns exchanged",
            _columns_first,
            "the H * D outputs are cut into D groups of H. The head comes first: view(T, H, D).",
        ),
        Mistake(
            "not turned",
            lambda x, weight, bias, cos, sin: _heads(x @ weight.T + bias, cos),
            "the queries are right, and not turned yet.",
        ),
        Mistake(
            "neighbours paired",
            lambda x, weight, bias, cos, sin: _turn_neighbours(
                _heads(x @ weight.T + bias, cos), cos, sin
            ),
            "columns 0 and 1, 2 and 3, ... are turned as pairs. Qwen, as Llama, pairs column i "
            "with column i + D / 2.",
        ),
        Mistake(
            "turned backwards",
            lambda x, weight, bias, cos, sin: _turn(_heads(x @ weight.T + bias, cos), cos, -sin),
            "the signs of both sine terms are exchanged: first * cos - second * sin, and "
            "second * cos + first * sin.",
        ),
    ),
    hints=(
        "Three steps, in the order of the figure in the lesson: linear with its bias, cut into "
        "heads, turn.",
        "F.linear(x, weight, bias) is [T, H * D]; D is twice the width of cos.",
        "All heads of a token turn by the same angles: cos[:, None] is [T, 1, D / 2].",
        "q = F.linear(x, weight, bias).view(len(x), -1, D); first, second = q.chunk(2, dim=-1); "
        "then torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)",
    ),
)


# --- norm_rope -----------------------------------------------------------------------------------


def _normed(x, eps, dims=-1, outside=False):
    mean_square = x.square().mean(dims, keepdim=True)
    return x / (mean_square.sqrt() + eps) if outside else x / (mean_square + eps).sqrt()


def norm_rope(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    return _turn(_normed(_wide(x), eps) * weight, cos, sin).to(x.dtype)


def _norm_rope_with(norm=_normed, turn=_turn, weigh=lambda y, weight: y * weight):
    """norm_rope with one of its steps replaced."""
    return lambda x, weight, cos, sin, eps=1e-6: turn(
        weigh(norm(_wide(x), eps), weight), cos, sin
    ).to(x.dtype)


def _rope_norm(x, weight, cos, sin, eps=1e-6):
    return (_normed(_turn(_wide(x), cos, sin), eps) * weight).to(x.dtype)


def _mean_over_half(x, eps):
    return x / (2 * x.square().mean(-1, keepdim=True) + eps).sqrt()


def _halves_alone(x, eps):
    return torch.cat([_normed(half, eps) for half in x.chunk(2, dim=-1)], dim=-1)


def _first_half_only(x, eps):
    first, _ = x.chunk(2, dim=-1)
    return x / (first.square().sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()


def _packed(x, weight, cos, sin, eps=1e-6):
    """Token t is looked for at t * H * D, as if nothing lay between the tokens."""
    _, H, D = x.shape
    packed = x.as_strided(x.shape, (H * D, D, 1), x.storage_offset())
    return norm_rope(packed, weight, cos, sin, eps)


def _same_weights(y, weight):
    return y * weight[: len(weight) // 2].repeat(2)


def _slice(T: int, H: int, others: int, D: int, half: bool = False, size: float = 1.0):
    """Query heads in a fused q/k/v result, each louder than the one before, and their tables."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        fused = m.normal(T, H + others, D, dtype=dtype)
        scale = torch.arange(1, H + others + 1).to(dtype)[:, None] * (size / 4)
        weight = m.normal(D, mean=1.0, scale=0.5)
        return (fused * scale)[:, :H], weight, *_tables(T, D, 3), 1e-6

    return make


def _turn_overwriting(y, cos, sin):
    """The second half is made from a first half that has been turned already."""
    first, second = y.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    first = first * cos - second * sin
    return torch.cat([first, second * cos + first * sin], dim=-1)


NORM_ROPE = Exercise(
    name="norm_rope",
    lesson=LESSON,
    title="Norm and RoPE in one kernel",
    difficulty=4,
    minutes=30,
    reference=norm_rope,
    cases=(
        Case("contiguous", _slice(3, 2, 0, 16)),
        Case("contiguous, head_dim 20", _slice(4, 3, 0, 20), ragged=True),
        Case("queries within a fused q/k/v", _slice(3, 4, 4, 16)),
        Case("queries within a fused q/k/v, head_dim 22", _slice(4, 3, 2, 22), ragged=True),
        Case("numbers as small as epsilon's root", _slice(3, 3, 2, 24, size=1e-3), ragged=True),
        Case("one token", _slice(1, 3, 2, 10), ragged=True),
        Case("one head", _slice(4, 1, 2, 36), ragged=True),
        Case("float16", _slice(3, 3, 2, 20, half=True), ragged=True),
    ),
    mistakes=(
        Mistake(
            "norm after RoPE",
            _rope_norm,
            "the norm, or its weight, comes after the rotation. The root mean square is the same "
            "there, but the weight scales other columns than those it was learned for: norm, "
            "weight, then RoPE.",
        ),
        Mistake(
            "one norm over all heads",
            _norm_rope_with(norm=lambda x, eps: _normed(x, eps, (-2, -1))),
            "one root mean square is used for the whole row of heads. Each head has its own, over "
            "its D numbers.",
        ),
        Mistake(
            "mean over half",
            _norm_rope_with(norm=_mean_over_half),
            "the squares of both halves are divided by HALF. They are 2 * HALF numbers.",
        ),
        Mistake(
            "each half normed alone",
            _norm_rope_with(norm=_halves_alone),
            "the two halves are normed each by itself. They are one head, with one root mean "
            "square: add their squares.",
        ),
        Mistake(
            "squares of the first half only",
            _norm_rope_with(norm=_first_half_only),
            "only the first half is in the sum of squares.",
        ),
        Mistake(
            "first weights for both halves",
            _norm_rope_with(weigh=_same_weights),
            "the second half is multiplied by the weights of the first: its own begin at HALF.",
        ),
        Mistake(
            "weight forgotten",
            _norm_rope_with(weigh=lambda y, weight: y),
            "the norm is without its weight.",
        ),
        Mistake(
            "epsilon outside the root",
            _norm_rope_with(norm=lambda x, eps: _normed(x, eps, outside=True)),
            "epsilon is added after the root. It belongs to the mean square: "
            "tl.rsqrt(squares / (2 * HALF) + eps).",
        ),
        Mistake(
            "not normed",
            _norm_rope_with(norm=lambda x, eps: x),
            "the heads are weighted and turned, but not divided by their root mean square.",
        ),
        Mistake(
            "not turned",
            _norm_rope_with(turn=lambda y, cos, sin: y),
            "the norm is right; RoPE is missing.",
        ),
        Mistake(
            "turned backwards",
            _norm_rope_with(turn=lambda y, cos, sin: _turn(y, cos, sin, -1)),
            "the signs of both sine terms are exchanged: first * cos - second * sin, and "
            "second * cos + first * sin.",
        ),
        Mistake(
            "neighbours paired",
            _norm_rope_with(turn=_turn_neighbours),
            "columns 0 and 1, 2 and 3, ... are turned as pairs: column i belongs to i + HALF.",
        ),
        Mistake(
            "every token turned as the first",
            _norm_rope_with(turn=lambda y, cos, sin: _turn(y, cos[:1], sin[:1])),
            "all tokens are turned by the first one's angles: row `token` of cos begins at "
            "token * HALF.",
        ),
        Mistake(
            "gap between tokens ignored",
            _packed,
            "the tokens are taken to lie one right after the other, and x is a view into a wider "
            "q/k/v row. Token t starts at t * token_stride.",
        ),
        Mistake(
            "first half overwritten",
            _norm_rope_with(turn=_turn_overwriting),
            "the second half is computed from a first half that has been turned already. Both "
            "lines need the numbers from before the turn: give the results names of their own.",
        ),
        Mistake(
            "sum for mean",
            _norm_rope_with(
                norm=lambda x, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt()
            ),
            "the squares are summed and not divided by their number, 2 * HALF: the root mean "
            "square is of the mean.",
        ),
        Mistake(
            "no epsilon",
            _norm_rope_with(norm=lambda x, eps: _normed(x, 0.0)),
            "epsilon is missing from the mean square, or is added to the reciprocal of the root. "
            "It only shows where the numbers are small: tl.rsqrt(squares / (2 * HALF) + eps).",
        ),
    ),
    hints=(
        "Load the head as two halves, HALF numbers each: RoPE needs them apart, and the norm only "
        "needs their squares' sum.",
        "squares = tl.sum(first * first + second * second, axis=0), and the mean is over "
        "2 * HALF. Mask the loads with other=0.0.",
        "After the norm, first and second are multiplied by their own weights, at weight_ptr + "
        "pairs and weight_ptr + HALF + pairs.",
        "Then as in rope: store first * cos - second * sin at out_row + pairs, and "
        "second * cos + first * sin at out_row + HALF + pairs.",
    ),
)


# --- attention_size ------------------------------------------------------------------------------


def attention_size(
    hidden: int, heads: int, kv_heads: int, head_dim: int, qkv_bias: bool, qk_norm: bool
) -> tuple[int, int, int]:
    rows = (heads + 2 * kv_heads) * head_dim
    parameters = rows * hidden + hidden * heads * head_dim
    parameters += rows * qkv_bias + 2 * head_dim * qk_norm
    return rows, parameters, 2 * kv_heads * head_dim


def _miscounted(rows=None, extra=None, o_inputs=None, cached=None):
    """attention_size with one of its formulas replaced; the others follow from it."""

    def count(hidden, heads, kv_heads, head_dim, qkv_bias, qk_norm):
        sizes = heads, kv_heads, head_dim
        n = rows(*sizes) if rows else (heads + 2 * kv_heads) * head_dim
        wide = hidden if o_inputs else heads * head_dim
        given = n * qkv_bias + 2 * head_dim * qk_norm
        if extra:
            given = extra(hidden, n, *sizes, qkv_bias, qk_norm)
        numbers = cached(*sizes) if cached else 2 * kv_heads * head_dim
        return n, n * hidden + hidden * wide + given, numbers

    return count


def _usual_width(hidden, heads, kv_heads, head_dim, qkv_bias, qk_norm):
    return attention_size(hidden, heads, kv_heads, hidden // heads, qkv_bias, qk_norm)


def _config(label: str, *sizes) -> Case:
    return Case(label, lambda m: sizes)


ATTENTION_SIZE = Exercise(
    name="attention_size",
    lesson=LESSON,
    title="From config.json to sizes",
    difficulty=2,
    minutes=15,
    reference=attention_size,
    outputs=("qkv_rows", "parameters", "cached_numbers"),
    cases=(
        _config("Llama 3.2 1B", 2048, 32, 8, 64, False, False),
        _config("Qwen2.5 0.5B", 896, 14, 2, 64, True, False),
        _config("Qwen3 0.6B", 1024, 16, 8, 128, False, True),
        _config("Qwen3 8B", 4096, 32, 8, 128, False, True),
        _config("biases and norms, odd sizes", 60, 6, 3, 16, True, True),
        _config("as many key heads as query heads", 40, 5, 5, 8, True, False),
    ),
    mistakes=(
        Mistake(
            "head_dim from the hidden size",
            _usual_width,
            "head_dim is taken to be hidden / heads. Qwen3 gives it in its config: use the "
            "argument.",
        ),
        Mistake(
            "square output linear",
            _miscounted(o_inputs=True),
            "the output linear is counted as hidden x hidden. It reads all query heads: "
            "heads * head_dim inputs.",
        ),
        Mistake(
            "values forgotten",
            _miscounted(rows=lambda h, kv, d: (h + kv) * d),
            "the fused matrix has rows for q and k only; v has as many as k.",
        ),
        Mistake(
            "key heads as many as query heads",
            _miscounted(rows=lambda h, kv, d: 3 * h * d),
            "q, k and v have the same number of rows. With grouped queries k and v have "
            "kv_heads * head_dim each.",
        ),
        Mistake(
            "bias on the output too",
            _miscounted(
                extra=lambda hidden, n, h, kv, d, bias, norm: (n + hidden) * bias + 2 * d * norm
            ),
            "the output linear has a bias, too. Qwen2 has three, on q, k and v, and no other.",
        ),
        Mistake(
            "biases forgotten",
            _miscounted(extra=lambda hidden, n, h, kv, d, bias, norm: 2 * d * norm),
            "the biases are not counted: one number for each row of the fused matrix.",
        ),
        Mistake(
            "a norm weight for each head",
            _miscounted(
                extra=lambda hidden, n, h, kv, d, bias, norm: n * bias + (h + kv) * d * norm
            ),
            "every head has a norm weight of its own. All query heads share one vector of "
            "head_dim, and all key heads another.",
        ),
        Mistake(
            "values normed too",
            _miscounted(extra=lambda hidden, n, h, kv, d, bias, norm: n * bias + 3 * d * norm),
            "there are three norm weights. Queries and keys are normed; values are not compared "
            "with anything.",
        ),
        Mistake(
            "norms forgotten",
            _miscounted(extra=lambda hidden, n, h, kv, d, bias, norm: n * bias),
            "the two norm weights are not counted.",
        ),
        Mistake(
            "keys without values",
            _miscounted(cached=lambda h, kv, d: kv * d),
            "cached_numbers has the keys only: the values are kept as well.",
        ),
        Mistake(
            "query heads cached",
            _miscounted(cached=lambda h, kv, d: 2 * h * d),
            "cached_numbers counts query heads. Only the kv_heads are kept.",
        ),
    ),
    hints=(
        "q has heads * head_dim rows; k and v have kv_heads * head_dim each. Do not divide "
        "anything.",
        "The fused matrix is [qkv_rows, hidden], the output matrix [hidden, heads * head_dim].",
        "A bias has one number a row. A norm weight has head_dim numbers, and there are two.",
        "parameters = qkv_rows * hidden + hidden * heads * head_dim + (qkv_rows if qkv_bias else "
        "0) + (2 * head_dim if qk_norm else 0)",
    ),
)


# --- fold_value_bias -----------------------------------------------------------------------------


def fold_value_bias(o_weight: torch.Tensor, v_bias: torch.Tensor, num_heads: int) -> torch.Tensor:
    return o_weight @ _spread(v_bias, o_weight, num_heads)


def _spread(v_bias, o_weight, num_heads, how="each"):
    """The bias of every query head's output, [num_heads * head_dim]."""
    by_head = v_bias.view(-1, o_weight.shape[1] // num_heads)
    group = num_heads // len(by_head)
    if how == "in turns":
        return by_head.repeat(group, 1).flatten()
    return by_head.repeat_interleave(group, dim=0).flatten()


def _numbers_repeated(o_weight, v_bias, num_heads):
    return o_weight @ v_bias.repeat_interleave(o_weight.shape[1] // len(v_bias))


def _one_of_a_group(o_weight, v_bias, num_heads):
    by_head = v_bias.view(-1, o_weight.shape[1] // num_heads)
    spread = o_weight.new_zeros(num_heads, by_head.shape[1])
    spread[:: num_heads // len(by_head)] = by_head
    return o_weight @ spread.flatten()


def _first_columns(o_weight, v_bias, num_heads):
    return o_weight[:, : len(v_bias)] @ v_bias


def _matrices(hidden: int, heads: int, kv_heads: int, D: int):
    def make(m: Maker):
        wide = heads * D
        return m.normal(hidden, wide, scale=wide**-0.5), m.normal(kv_heads * D), heads

    return make


FOLD_VALUE_BIAS = Exercise(
    name="fold_value_bias",
    lesson=LESSON,
    title="A value bias moves out",
    difficulty=3,
    minutes=20,
    reference=fold_value_bias,
    outputs=("o_bias",),
    cases=(
        Case("as many value heads as query heads", _matrices(10, 3, 3, 4)),
        Case("6 query heads, 3 value heads", _matrices(20, 6, 3, 4)),
        Case("14 query heads, 2 value heads", _matrices(33, 14, 2, 6)),
        Case("one value head for all", _matrices(12, 4, 1, 5)),
        Case("query heads as wide as the hidden state", _matrices(24, 6, 2, 4)),
    ),
    mistakes=(
        Mistake(
            "heads taken in turns",
            lambda o_weight, v_bias, num_heads: (
                o_weight @ _spread(v_bias, o_weight, num_heads, "in turns")
            ),
            "the value heads are repeated in turns, 0 1 2 0 1 2. Query heads of a group are "
            "neighbours: 0 0 1 1 2 2, repeat_interleave along the heads.",
        ),
        Mistake(
            "numbers repeated for heads",
            _numbers_repeated,
            "every number of the bias is repeated by itself. A head is repeated as a whole: give "
            "the bias the shape [kv_heads, head_dim] first.",
        ),
        Mistake(
            "one head of each group",
            _one_of_a_group,
            "only the first query head of each group gets its bias. All of them average the same "
            "values.",
        ),
        Mistake(
            "first columns only",
            _first_columns,
            "the bias meets the first columns of o_weight only. There are num_heads heads in its "
            "columns, and each has a value bias.",
        ),
        Mistake(
            "divided by the group",
            lambda o_weight, v_bias, num_heads: (
                fold_value_bias(o_weight, v_bias, num_heads) * (len(v_bias) / o_weight.shape[1])
            ),
            "the result is divided by the size of a group. Each query head's weights sum to 1 by "
            "themselves, so each hands on the whole bias.",
        ),
        Mistake(
            "divided by the heads",
            lambda o_weight, v_bias, num_heads: (
                fold_value_bias(o_weight, v_bias, num_heads) / num_heads
            ),
            "the result is an average over the heads. The output linear adds them up.",
        ),
    ),
    hints=(
        "What is the output of one query head if its values are all the same vector?",
        "Each query head puts out the bias of its value head, whatever the weights. So what does "
        "the output linear make of all of them?",
        "o_bias = o_weight @ b, where b has num_heads * head_dim numbers: the bias of query head "
        "h's value head, h // GROUP, for each h.",
        "v_bias.view(-1, head_dim).repeat_interleave(GROUP, dim=0).flatten()",
    ),
)

EXERCISES = (BIASED_QUERIES, NORM_ROPE, ATTENTION_SIZE, FOLD_VALUE_BIAS)
