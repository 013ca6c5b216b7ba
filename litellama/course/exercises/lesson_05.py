"""Exercises of lesson 05: gated units, the fused q/k/v result, and what fusing saves."""

import torch
import torch.nn.functional as F

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "05_swiglu"


def _halves(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gate and up, in float32 (float64 if they are)."""
    wide = gate_up if gate_up.dtype == torch.float64 else gate_up.float()
    gate, up = wide.chunk(2, dim=-1)
    return gate, up


def _gated(function):
    """A gated unit: function(gate, up), rounded to the dtype of what came in."""
    return lambda gate_up: function(*_halves(gate_up)).to(gate_up.dtype)


def _gate_up(tokens: int, inner: int, scale: float = 2.0, half: bool = False, cut: int = 0):
    """[tokens, 2 * inner], columns ``cut`` and up of a wider matrix."""

    def make(m: Maker):
        dtype = m.half if half else torch.float32
        wide = m.normal(tokens, 2 * inner + 2 * cut, scale=scale, dtype=dtype)
        return (wide[:, cut : cut + 2 * inner],)

    return make


_CASES = (
    Case("one block of 1,024", _gate_up(3, 1024)),
    Case("1,536 columns each, as in SmolLM2", _gate_up(2, 1536), ragged=True),
    Case("one column each", _gate_up(4, 1), ragged=True),
    Case("37 columns each", _gate_up(5, 37), ragged=True),
    Case("large gates, open and shut", _gate_up(3, 50, scale=30.0), ragged=True),
    Case("a slice of a wider matrix", _gate_up(4, 45, cut=8), ragged=True),
    Case("float16", _gate_up(3, 1100, half=True), ragged=True),
)


# --- swiglu --------------------------------------------------------------------------------------


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    return _gated(lambda gate, up: F.silu(gate) * up)(gate_up)


def _neighbours(function):
    """The gates in even columns and the values in odd ones."""

    def mistaken(gate_up):
        wide = gate_up if gate_up.dtype == torch.float64 else gate_up.float()
        return function(wide[:, 0::2], wide[:, 1::2]).to(gate_up.dtype)

    return mistaken


def _common_mistakes(function, name: str):
    """What goes wrong with any gated unit; ``function`` acts on the gate."""
    return (
        Mistake(
            "gate and up exchanged",
            _gated(lambda gate, up: function(up) * gate),
            f"gate and up are exchanged: {name} acts on the first half of the columns.",
        ),
        Mistake(
            f"{name} of the product",
            _gated(lambda gate, up: function(gate * up)),
            f"{name} is applied to the product. Only the gate goes through it: {name}(gate) * up.",
        ),
        Mistake(
            f"{name} on both",
            _gated(lambda gate, up: function(gate) * function(up)),
            f"{name} is applied to both. Only the gate goes through it.",
        ),
        Mistake(
            "up forgotten",
            _gated(lambda gate, up: function(gate)),
            f"the result is {name}(gate): it is not yet multiplied with up.",
        ),
        Mistake(
            "gate for up",
            _gated(lambda gate, up: function(gate) * gate),
            "the gate is multiplied with itself: the values start I columns further on.",
        ),
        Mistake(
            "activation forgotten",
            _gated(lambda gate, up: gate * up),
            f"gate and up are multiplied as they are: {name} is missing.",
        ),
        Mistake(
            "columns taken in turns",
            _neighbours(lambda gate, up: function(gate) * up),
            "gates are read from the even columns and values from the odd ones. All gates come "
            "first, in columns 0 to I - 1, then all values.",
        ),
        Mistake(
            "relu for the gate",
            _gated(lambda gate, up: F.relu(gate) * up),
            f"the gate goes through a ReLU. Asked is {name}.",
        ),
    )


SWIGLU = Exercise(
    name="swiglu",
    lesson=LESSON,
    title="A gate and a value",
    difficulty=3,
    minutes=20,
    reference=swiglu,
    cases=_CASES,
    mistakes=(
        *_common_mistakes(F.silu, "silu"),
        Mistake(
            "sigmoid for silu",
            _gated(lambda gate, up: torch.sigmoid(gate) * up),
            "the gate is its sigmoid alone. silu(z) is z times the sigmoid of z.",
        ),
        Mistake(
            "sigmoid of the wrong sign",
            _gated(lambda gate, up: gate * torch.sigmoid(-gate) * up),
            "the sign in the exponent is wrong: silu(z) = z / (1 + exp(-z)).",
        ),
        Mistake(
            "gelu for silu",
            _gated(lambda gate, up: F.gelu(gate) * up),
            "the gate goes through a GELU. That is GeGLU; SwiGLU has silu.",
        ),
    ),
    hints=(
        "A row has blocks = tl.cdiv(I, BLOCK) programs, so program p works on row p // blocks, on "
        "the columns from p % blocks * BLOCK on. The values of the same columns are I further on.",
        "columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK), with the mask "
        "columns < I, since from I on there are values, no gates.",
        "gate is at gate_up_ptr + row * row_stride + columns, and up at the same plus I. Convert "
        "both to float32.",
        "tl.store(out_ptr + row * I + columns, gate * tl.sigmoid(gate) * up, mask=inside)",
    ),
)


# --- geglu ---------------------------------------------------------------------------------------


def _gelu_tanh(z):
    return F.gelu(z, approximate="tanh")


def geglu(gate_up: torch.Tensor) -> torch.Tensor:
    return _gated(lambda gate, up: _gelu_tanh(gate) * up)(gate_up)


def _gelu_with(inner):
    return _gated(lambda gate, up: 0.5 * gate * (1 + torch.tanh(inner(gate))) * up)


_C = (2 / torch.pi) ** 0.5

GEGLU = Exercise(
    name="geglu",
    lesson=LESSON,
    title="Another gate: GeGLU, as in Gemma",
    difficulty=3,
    minutes=25,
    reference=geglu,
    cases=_CASES,
    mistakes=(
        *_common_mistakes(_gelu_tanh, "gelu"),
        Mistake(
            "silu for gelu",
            swiglu,
            "the gate goes through silu. Asked is GELU, by its tanh formula.",
        ),
        Mistake(
            "the exact gelu",
            _gated(lambda gate, up: F.gelu(gate) * up),
            "this is the exact GELU, with erf. Gemma's checkpoints were trained with the tanh "
            "formula, which differs in the fourth digit.",
        ),
        Mistake(
            "cube forgotten",
            _gelu_with(lambda z: _C * z),
            "the cubic term is missing: z + 0.044715 z³.",
        ),
        Mistake(
            "square for cube",
            _gelu_with(lambda z: _C * (z + 0.044715 * z * z)),
            "the second term is a square. It is a cube: 0.044715 z³.",
        ),
        Mistake(
            "root forgotten",
            _gelu_with(lambda z: 2 / torch.pi * (z + 0.044715 * z**3)),
            "the root is missing: the factor is sqrt(2 / pi), 0.7979.",
        ),
        Mistake(
            "factor outside the bracket",
            _gelu_with(lambda z: _C * z + 0.044715 * z**3),
            "sqrt(2 / pi) multiplies both terms in the bracket, the cube too.",
        ),
        Mistake(
            "half forgotten",
            _gated(lambda gate, up: 2 * _gelu_tanh(gate) * up),
            "the factor 0.5 in front is missing.",
        ),
        Mistake(
            "tanh from a sigmoid of z",
            _gelu_with(lambda z: _C / 2 * (z + 0.044715 * z**3)),
            "tanh(y) = 2 sigmoid(2 y) - 1: the 2 inside the sigmoid is missing.",
        ),
    ),
    hints=(
        "Programs, offsets and mask are as for any gated unit: a block of columns of one row, and "
        "the values I columns further on. Only the function of the gate is new.",
        "Triton's language has no tanh, but a sigmoid: tanh(y) = 2 * sigmoid(2 y) - 1. Put that "
        "into 0.5 * (1 + tanh(y)). What is left?",
        "0.5 * (1 + tanh(y)) = sigmoid(2 y). So gelu(z) = z * sigmoid(2 y), with "
        "y = sqrt(2 / pi) * (z + 0.044715 z³).",
        "y = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate), and store "
        "gate * tl.sigmoid(2 * y) * up.",
    ),
)


# --- split_qkv -----------------------------------------------------------------------------------


def split_qkv(
    fused: torch.Tensor, heads: int, kv_heads: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = fused.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=-1)
    q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in parts)
    return q, k, v


def _fused(T: int, heads: int, kv_heads: int, head_dim: int):
    width = (heads + 2 * kv_heads) * head_dim
    return lambda m: (m.normal(T, width), heads, kv_heads, head_dim)


def _heads_last(fused, heads, kv_heads, head_dim):
    """[head_dim, heads] within a part, turned round: columns dealt out to the heads in turns."""
    parts = fused.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=-1)
    q, k, v = (part.unflatten(-1, (head_dim, -1)).mT for part in parts)
    return q, k, v


def _by_groups(fused, heads, kv_heads, head_dim):
    """Each key head after the query heads that it serves, and its values after that."""
    share = heads // kv_heads
    groups = fused.unflatten(-1, (kv_heads, share + 2, head_dim))
    return groups[:, :, :share].flatten(1, 2), groups[:, :, share], groups[:, :, share + 1]


def _reordered(order):
    """The three parts taken in another order: widths by part, results by name."""

    def mistaken(fused, heads, kv_heads, head_dim):
        sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
        parts = fused.split([sizes[name] * head_dim for name in order], dim=-1)
        found = dict(zip(order, parts, strict=True))
        q, k, v = (found[name].unflatten(-1, (-1, head_dim)) for name in "qkv")
        return q, k, v

    return mistaken


SPLIT_QKV = Exercise(
    name="split_qkv",
    lesson=LESSON,
    title="Taking q, k and v apart",
    difficulty=2,
    minutes=10,
    reference=split_qkv,
    outputs=("q", "k", "v"),
    cases=(
        Case("SmolLM2: 9 query heads, 3 key heads, of 64", _fused(2, 9, 3, 64)),
        Case("as many key heads as query heads", _fused(3, 4, 4, 6)),
        Case("one key head", _fused(5, 8, 1, 10)),
        Case("one token, two heads", _fused(1, 2, 2, 2)),
    ),
    mistakes=(
        Mistake(
            "order q, v, k",
            _reordered("qvk"),
            "k and v are exchanged: the order of the columns is q, k, v.",
        ),
        Mistake(
            "order k, v, q",
            _reordered("kvq"),
            "the queries are taken from the end. They come first: q, k, v.",
        ),
        Mistake(
            "keys for values",
            lambda fused, heads, kv_heads, head_dim: (
                *split_qkv(fused, heads, kv_heads, head_dim)[:2],
                split_qkv(fused, heads, kv_heads, head_dim)[1],
            ),
            "v is the same slice as k: the values start kv_heads * head_dim columns later.",
        ),
        Mistake(
            "head_dim before heads",
            _heads_last,
            "each part is cut into head_dim pieces in place of heads: the head_dim numbers of "
            "one head lie side by side, so the axes are [heads, head_dim].",
        ),
        Mistake(
            "grouped layout",
            _by_groups,
            "this reads each key head right after the query heads it serves, as some checkpoints "
            "have it. Here all queries come first, then all keys, then all values.",
        ),
    ),
    hints=(
        "How many columns belong to all query heads together? And to all key heads?",
        "fused.split([a, b, c], dim=-1) gives three views of these widths.",
        "q.view(-1, heads, head_dim) makes heads of the columns, without copying. It works on a "
        "slice, because only the last axis is cut up.",
        "q, k, v = fused.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], "
        "dim=-1), and then a view of each.",
    ),
)


# --- feed_forward_cost ---------------------------------------------------------------------------


def feed_forward_cost(
    tokens: int, hidden: int, inner: int, element_size: int
) -> tuple[int, int, int]:
    weights = 3 * hidden * inner
    linears = tokens * (2 * hidden + 3 * inner)
    unfused, fused = linears + 5 * tokens * inner, linears + 3 * tokens * inner
    return weights * element_size, unfused * element_size, fused * element_size


def _cost(label: str, tokens: int, hidden: int, inner: int, element_size: int) -> Case:
    return Case(label, lambda m: (tokens, hidden, inner, element_size))


def _miscount(weights=3, of_hidden=2, of_inner=3, unfused=5, fused=3):
    """The three numbers with other counts."""

    def count(tokens, hidden, inner, size):
        linears = tokens * (of_hidden * hidden + of_inner * inner)
        return (
            weights * hidden * inner * size,
            (linears + unfused * tokens * inner) * size,
            (linears + fused * tokens * inner) * size,
        )

    return count


FEED_FORWARD_COST = Exercise(
    name="feed_forward_cost",
    lesson=LESSON,
    title="Predict a whole block",
    difficulty=3,
    minutes=15,
    reference=feed_forward_cost,
    outputs=("weight_bytes", "unfused_bytes", "fused_bytes"),
    cases=(
        _cost("one token of SmolLM2, float32", 1, 576, 1536, 4),
        _cost("1,024 tokens of Llama-3.2-1B, bfloat16", 1024, 2048, 8192, 2),
        _cost("3 tokens, 5 wide, 7 inside", 3, 5, 7, 2),
    ),
    mistakes=(
        Mistake(
            "two matrices",
            _miscount(weights=2),
            "two matrices are counted. There are three: gate, up and down; the first two are "
            "stacked.",
        ),
        Mistake(
            "weights read by every token",
            lambda tokens, hidden, inner, size: (
                tokens * feed_forward_cost(tokens, hidden, inner, size)[0],
                *feed_forward_cost(tokens, hidden, inner, size)[1:],
            ),
            "the weights are counted once for each token. All tokens of a step share one read: "
            "that is why engines batch.",
        ),
        Mistake(
            "silu not counted",
            _miscount(unfused=3, fused=3),
            "silu as a kernel of its own is not counted: it reads the gate and writes silu(gate), "
            "which the multiplication reads again.",
        ),
        Mistake(
            "function alone",
            _miscount(of_hidden=0, of_inner=0),
            "what the two linears read and write besides the weights is missing.",
        ),
        Mistake(
            "linears write only",
            _miscount(of_hidden=1, of_inner=2),
            "the linears' results are counted, but not what they read: x, and the [tokens, inner] "
            "in front of the second.",
        ),
        Mistake(
            "linears read only",
            _miscount(of_hidden=1, of_inner=1),
            "the linears' inputs are counted, but not their results: [tokens, 2 * inner] and "
            "[tokens, hidden].",
        ),
        Mistake(
            "x read twice",
            _miscount(of_hidden=3),
            "x is counted twice. Gate and up are one linear here, and it reads x once.",
        ),
        Mistake(
            "elements for bytes",
            lambda tokens, hidden, inner, size: feed_forward_cost(tokens, hidden, inner, 1),
            "these are elements: each one has element_size bytes.",
        ),
    ),
    hints=(
        "Draw the block: x, a linear, [tokens, 2 * inner], the function, [tokens, inner], a "
        "linear, the result. Every arrow into a kernel is a read, every arrow out a write.",
        "The weights: 2 * inner rows of hidden numbers, and hidden rows of inner numbers.",
        "The linears read x and [tokens, inner], and write [tokens, 2 * inner] and the result: "
        "tokens * (2 * hidden + 3 * inner).",
        "The function moves 5 * tokens * inner as two kernels, and 3 * tokens * inner as one.",
    ),
)

EXERCISES = (SWIGLU, GEGLU, SPLIT_QKV, FEED_FORWARD_COST)
