"""Exercises of lesson 11: parameters, packed positions, the stream, a rank's rows, a fault."""

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake

LESSON = "11_llama"


# --- count_parameters ----------------------------------------------------------------------------


def count_parameters(
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    tied: bool,
) -> tuple[int, int]:
    attention = 2 * heads * head_dim * hidden + 2 * kv_heads * head_dim * hidden
    layer = attention + 3 * inner * hidden + 2 * hidden
    return layer, layers * layer + hidden + (1 if tied else 2) * vocab * hidden


def _miscounted(attention=None, matrices=3, norms=2, last=1, tables=None):
    """count_parameters with one of its parts replaced; the rest follows from it."""

    def count(hidden, inner, layers, heads, kv_heads, head_dim, vocab, tied):
        q, kv = heads * head_dim, kv_heads * head_dim
        given = attention(hidden, q, kv) if attention else 2 * q * hidden + 2 * kv * hidden
        layer = given + matrices * inner * hidden + norms * hidden
        count_of = tables(tied) if tables else (1 if tied else 2)
        return layer, layers * layer + last * hidden + count_of * vocab * hidden

    return count


def _model(label: str, *sizes) -> Case:
    return Case(label, lambda m: sizes)


COUNT_PARAMETERS = Exercise(
    name="count_parameters",
    lesson=LESSON,
    title="From sizes to parameters",
    difficulty=2,
    minutes=15,
    reference=count_parameters,
    outputs=("layer", "model"),
    cases=(
        _model("by hand", 4, 5, 2, 2, 1, 2, 10, True),
        _model("SmolLM2-135M", 576, 1536, 30, 9, 3, 64, 49152, True),
        _model("Llama-3.2-1B", 2048, 8192, 16, 32, 8, 64, 128256, True),
        _model("Llama-3.1-8B", 4096, 14336, 32, 32, 8, 128, 128256, False),
        _model("heads wider than the hidden state", 60, 97, 3, 6, 2, 16, 301, False),
    ),
    mistakes=(
        Mistake(
            "keys and values as wide as queries",
            _miscounted(attention=lambda hidden, q, kv: 4 * q * hidden),
            "all four matrices of attention are counted with the width of the queries. Those of "
            "keys and values have kv_heads * head_dim rows.",
        ),
        Mistake(
            "output linear forgotten",
            _miscounted(attention=lambda hidden, q, kv: (q + 2 * kv) * hidden),
            "attention has a fourth matrix: the output linear, from all query heads back to the "
            "hidden state.",
        ),
        Mistake(
            "square query matrices",
            _miscounted(attention=lambda hidden, q, kv: 2 * hidden**2 + 2 * kv * hidden),
            "the query and output matrices are counted as hidden x hidden. Their other side is "
            "heads * head_dim, which need not be the same.",
        ),
        Mistake(
            "two matrices in the feed-forward",
            _miscounted(matrices=2),
            "the feed-forward block has three matrices: gate, up and down.",
        ),
        Mistake(
            "norms forgotten",
            _miscounted(norms=0, last=0),
            "the norms are missing: two in a layer and one at the end, hidden numbers each.",
        ),
        Mistake(
            "one norm a layer",
            _miscounted(norms=1),
            "a layer has two norms: before attention, and before the feed-forward block.",
        ),
        Mistake(
            "last norm forgotten",
            _miscounted(last=0),
            "the layers are right; after the last one comes one more norm.",
        ),
        Mistake(
            "head counted though tied",
            _miscounted(tables=lambda tied: 2),
            "a tied head is the embedding itself, and counts once.",
        ),
        Mistake(
            "head never counted",
            _miscounted(tables=lambda tied: 1),
            "where the head is not tied it is a second matrix of the embedding's size.",
        ),
        Mistake(
            "tied the wrong way round",
            _miscounted(tables=lambda tied: 2 if tied else 1),
            "the two cases of tied are exchanged: tied means one matrix, for both ends.",
        ),
    ),
    hints=(
        "Go through the table of names in the lesson: nine tensors a layer, and two besides.",
        "Attention: the query and output matrices are heads * head_dim by hidden, those of keys "
        "and values kv_heads * head_dim by hidden.",
        "A layer: attention, 3 * inner * hidden, and 2 * hidden for its norms.",
        "The model: layers * layer + hidden + vocab * hidden, and vocab * hidden once more if it "
        "is not tied.",
    ),
)


# --- rotate_packed -------------------------------------------------------------------------------


def _turn(x: torch.Tensor, positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    angles = positions[:, None, None].to(x.dtype) * frequencies
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotate_packed(
    x: torch.Tensor, query_starts: list[int], seq_lens: list[int], frequencies: torch.Tensor
) -> torch.Tensor:
    return _rotated(lambda new, length: range(length - new, length))(
        x, query_starts, seq_lens, frequencies
    )


def _rotated(positions_of):
    """rotate_packed with other positions; positions_of: (new tokens, length) -> positions."""

    def rotate(x, query_starts, seq_lens, frequencies):
        positions: list[int] = []
        for s, length in enumerate(seq_lens):
            positions += positions_of(query_starts[s + 1] - query_starts[s], length)
        return _turn(x, torch.tensor(positions, device=x.device), frequencies)

    return rotate


def _packed_row_for_position(x, query_starts, seq_lens, frequencies):
    return _turn(x, torch.arange(len(x), device=x.device), frequencies)


def _after_all_before(x, query_starts, seq_lens, frequencies):
    """The texts are laid end to end: each begins where the one before it ended."""
    positions: list[int] = []
    end = 0
    for s, length in enumerate(seq_lens):
        end += length
        positions += range(end - (query_starts[s + 1] - query_starts[s]), end)
    return _turn(x, torch.tensor(positions, device=x.device), frequencies)


def _step(new: list[int], lengths: list[int], H: int, D: int):
    """One step: how many new tokens each text brings, and how long it is with them."""

    def make(m: Maker):
        starts = [sum(new[:i]) for i in range(len(new) + 1)]
        frequencies = 30.0 ** (-torch.arange(0, D, 2) / D)
        return m.normal(starts[-1], H, D), starts, list(lengths), frequencies

    return make


ROTATE_PACKED = Exercise(
    name="rotate_packed",
    lesson=LESSON,
    title="The right positions",
    difficulty=2,
    minutes=15,
    reference=rotate_packed,
    cases=(
        Case("one prompt", _step([5], [5], 2, 8)),
        Case("two prompts", _step([3, 4], [3, 4], 3, 10)),
        Case("three texts that bring one token each", _step([1, 1, 1], [7, 2, 30], 1, 16)),
        Case("a word of one text and a prompt of another", _step([1, 5], [7, 5], 2, 8)),
        Case("a prompt of which 6 tokens were cached", _step([2, 3], [8, 12], 2, 6)),
    ),
    mistakes=(
        Mistake(
            "positions run on over the step",
            _packed_row_for_position,
            "each row's place in the step is taken for its position. Row 1 may be the first token "
            "of another text: positions start anew with each text.",
        ),
        Mistake(
            "every step begins at 0",
            _rotated(lambda new, length: range(new)),
            "each text's new tokens are placed from 0 on. That is right for prompts; a text that "
            "has tokens in the cache goes on after them.",
        ),
        Mistake(
            "one too far",
            _rotated(lambda new, length: range(length - new + 1, length + 1)),
            "every token stands one position too far: the last of a text of n tokens is at n - 1. "
            "Distances within the text are right, but not to the keys in the cache.",
        ),
        Mistake(
            "one too near",
            _rotated(lambda new, length: range(length - new - 1, length - 1)),
            "every token stands one position too early: the last of a text of n tokens is at "
            "n - 1.",
        ),
        Mistake(
            "all at the end",
            _rotated(lambda new, length: [length - 1] * new),
            "all new tokens of a text get the position of its last one.",
        ),
        Mistake(
            "texts laid end to end",
            _after_all_before,
            "each text begins where the one before it ended, as if they were one. Every text has "
            "its own position 0.",
        ),
        Mistake(
            "backwards",
            _rotated(lambda new, length: range(length - 1, length - new - 1, -1)),
            "the new tokens of a text are numbered from its end. The last packed row of a text is "
            "its last token.",
        ),
        Mistake(
            "not turned",
            lambda x, query_starts, seq_lens, frequencies: x.clone(),
            "nothing is turned.",
        ),
    ),
    hints=(
        "Sequence s owns rows query_starts[s] to query_starts[s + 1], and they are its last "
        "tokens: the ones before are in the cache.",
        "With n new tokens and a length of L, the cache holds L - n. Where does the first new one "
        "stand?",
        "new = query_starts[s + 1] - query_starts[s]; positions += range(seq_lens[s] - new, "
        "seq_lens[s])",
        "cos, sin = rotary_tables(torch.tensor(positions, device=x.device), frequencies), and then "
        "kernels.rope(x, x, cos, sin)[0]",
    ),
)


# --- layer_step ----------------------------------------------------------------------------------

EPS = 1e-5
Pair = tuple[torch.Tensor, torch.Tensor]


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight


def _running_mean(x: torch.Tensor) -> torch.Tensor:
    """What stands for attention: a row becomes the mean of itself and all rows before it."""
    count = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
    return x.cumsum(0) / count[:, None]


def layer_step(
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    norm_1: torch.Tensor,
    norm_2: torch.Tensor,
    attn: torch.Tensor,
    mlp: torch.Tensor,
) -> Pair:
    stream = hidden if residual is None else hidden + residual
    stream = stream + _running_mean(_norm(stream, norm_1)) @ attn.T
    return torch.nn.functional.silu(_norm(stream, norm_2) @ mlp.T), stream


def _layer(first=_norm, second=_norm, begin=None, after=None, returned=None):
    """layer_step with one of its steps replaced.

    begin: (hidden, residual) -> stream.  after: (stream, attention's result) -> stream.
    returned: (feed-forward's result, stream) -> the two results.
    """

    def step(hidden, residual, norm_1, norm_2, attn, mlp):
        whole = hidden if residual is None else hidden + residual
        stream = begin(hidden, residual) if begin else whole
        made = _running_mean(first(stream, norm_1)) @ attn.T
        stream = after(stream, made) if after else stream + made
        out = torch.nn.functional.silu(second(stream, norm_2) @ mlp.T)
        return returned(out, stream) if returned else (out, stream)

    return step


def _no_norm(x, weight):
    return x


def _exchanged(hidden, residual, norm_1, norm_2, attn, mlp):
    return layer_step(hidden, residual, norm_2, norm_1, attn, mlp)


def _normed_stream(hidden, residual, norm_1, norm_2, attn, mlp):
    stream = _norm(hidden if residual is None else hidden + residual, norm_1)
    stream = stream + _running_mean(stream) @ attn.T
    return torch.nn.functional.silu(_norm(stream, norm_2) @ mlp.T), stream


def _feed_forward_beside(hidden, residual, norm_1, norm_2, attn, mlp):
    stream = hidden if residual is None else hidden + residual
    out = torch.nn.functional.silu(_norm(stream, norm_2) @ mlp.T)
    return out, stream + _running_mean(_norm(stream, norm_1)) @ attn.T


def _streams(T: int, H: int, first: bool = False):
    def make(m: Maker):
        hidden = m.normal(T, H)
        residual = None if first else m.normal(T, H, scale=3.0)
        norms = [m.normal(H, mean=1.0, scale=0.4) for _ in range(2)]
        matrices = [m.normal(H, H, scale=2 * H**-0.5) for _ in range(2)]
        return hidden, residual, *norms, *matrices

    return make


LAYER_STEP = Exercise(
    name="layer_step",
    lesson=LESSON,
    title="A layer and its stream",
    difficulty=3,
    minutes=20,
    reference=layer_step,
    outputs=("hidden", "residual"),
    cases=(
        Case("the first layer: no residual yet", _streams(4, 8, first=True)),
        Case("a later layer", _streams(5, 12)),
        Case("one token", _streams(1, 10)),
        Case("a later layer, hidden 33", _streams(7, 33)),
    ),
    mistakes=(
        Mistake(
            "first norm missing",
            _layer(first=_no_norm),
            "attention reads the stream as it is. It must be normed first, with norm_1.",
        ),
        Mistake(
            "second norm missing",
            _layer(second=_no_norm),
            "the feed-forward block reads the stream as it is. It must be normed first, with "
            "norm_2.",
        ),
        Mistake(
            "norms exchanged",
            _exchanged,
            "the weights of the two norms are exchanged.",
        ),
        Mistake(
            "residual ignored",
            _layer(begin=lambda hidden, residual: hidden),
            "the residual is not added before the first norm: hidden is only what the last layer "
            "made.",
        ),
        Mistake(
            "stream without what was before",
            _layer(after=lambda stream, made: made),
            "attention's result replaces the stream. A layer only ever adds to it.",
        ),
        Mistake(
            "normed stream carried on",
            _normed_stream,
            "what attention adds to is the normed stream. The norm is for the branch only; the "
            "stream runs on as it was.",
        ),
        Mistake(
            "added already",
            _layer(returned=lambda out, stream: (out + stream, stream)),
            "the feed-forward result comes back with the stream added, and the next norm will add "
            "it again. Return the two apart.",
        ),
        Mistake(
            "residual after the add",
            _layer(returned=lambda out, stream: (out, out + stream)),
            "the residual that comes back holds the feed-forward result already, and the next norm "
            "will add it again.",
        ),
        Mistake(
            "feed-forward beside attention",
            _feed_forward_beside,
            "the feed-forward block reads the stream of before attention. It comes after, and sees "
            "what attention added.",
        ),
    ),
    hints=(
        "Follow the figure of the layer from left to right. The stream is hidden + residual, or "
        "hidden alone in the first layer.",
        "kernels.skip_rms_norm(hidden, residual, norm_1, EPS) gives (normed, stream) in one.",
        "hidden = running_mean(normed) @ attn.T, and the second norm adds that to the stream and "
        "norms.",
        "Return F.silu(normed @ mlp.T) and the stream of before it is added: the next layer's norm "
        "adds it.",
    ),
)


# --- qkv_of_rank ---------------------------------------------------------------------------------


def qkv_of_rank(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rank: int, ranks: int
) -> torch.Tensor:
    return torch.cat([x.chunk(ranks)[rank] for x in (q, k, v)])


def _block_of_whole(q, k, v, rank, ranks):
    return torch.cat([q, k, v]).chunk(ranks)[rank]


def _every_nth(q, k, v, rank, ranks):
    return torch.cat([x[rank::ranks] for x in (q, k, v)])


def _keys_of_first(q, k, v, rank, ranks):
    return torch.cat([q.chunk(ranks)[rank], k.chunk(ranks)[0], v.chunk(ranks)[0]])


def _order(*order: int):
    """The parts in another order."""

    def stacked(q, k, v, rank, ranks):
        return torch.cat([(q, k, v)[i].chunk(ranks)[rank] for i in order])

    return stacked


def _interleaved(q, k, v, rank, ranks):
    """By group: its query heads, then its key head, then its value head."""
    parts = [x.chunk(ranks)[rank] for x in (q, k, v)]
    heads = 2 if len(parts[1]) % 2 == 0 else 1
    groups = zip(*(part.chunk(heads) for part in parts), strict=True)
    return torch.cat([piece for group in groups for piece in group])


def _matrices(heads: int, kv_heads: int, D: int, H: int, rank: int, ranks: int):
    def make(m: Maker):
        q, k, v = (m.normal(n * D, H) for n in (heads, kv_heads, kv_heads))
        return q, k, v, rank, ranks

    return make


QKV_OF_RANK = Exercise(
    name="qkv_of_rank",
    lesson=LESSON,
    title="A fused weight, and one GPU's rows of it",
    difficulty=3,
    minutes=20,
    reference=qkv_of_rank,
    cases=(
        Case("one GPU", _matrices(4, 2, 6, 5, 0, 1)),
        Case("the first of two GPUs", _matrices(8, 4, 4, 7, 0, 2)),
        Case("the second of two GPUs", _matrices(8, 4, 4, 7, 1, 2)),
        Case("the last of four GPUs", _matrices(8, 8, 3, 8, 3, 4)),
        Case("three GPUs, hidden 11", _matrices(9, 3, 5, 11, 1, 3)),
    ),
    mistakes=(
        Mistake(
            "a block of the whole",
            _block_of_whole,
            "the three matrices are stacked first and then cut into equal blocks. Then the first "
            "GPU has queries only. Cut each of q, k and v, and stack the pieces.",
        ),
        Mistake(
            "every n-th row",
            _every_nth,
            "each GPU gets every n-th row. Heads are runs of neighbouring rows: cut into "
            "contiguous parts.",
        ),
        Mistake(
            "keys of the first GPU",
            _keys_of_first,
            "every GPU gets the first GPU's keys and values. Query head h reads key head "
            "h // GROUP: those of rank r have the keys of rank r.",
        ),
        Mistake(
            "keys and values exchanged",
            _order(0, 2, 1),
            "the order is q, v, k. `heads` in the lesson splits q, k, v.",
        ),
        Mistake(
            "keys first",
            _order(1, 0, 2),
            "the order is k, q, v. `heads` in the lesson splits q, k, v.",
        ),
        Mistake(
            "group by group",
            _interleaved,
            "the rows alternate: queries of a group, its key, its value. Some checkpoints are "
            "stored so; this engine has all queries, then all keys, then all values.",
        ),
    ),
    hints=(
        "With one GPU the answer is the fused matrix of lesson 05: torch.cat([q, k, v]).",
        "Which rows of q does rank 1 of 2 need? And which rows of k do these query heads read?",
        "Each of the three is cut into `ranks` equal runs of rows, and the GPU takes the run of "
        "its rank: x.chunk(ranks)[rank].",
        "torch.cat([x.chunk(ranks)[rank] for x in (q, k, v)])",
    ),
)


# --- find_fault ----------------------------------------------------------------------------------


def find_fault(mine: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> int:
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        if float((a - b).norm() / b.norm()) > tolerance:
            return i
    return -1


def _found(measure, pick=lambda wrong: wrong[0]):
    """find_fault with another measure of a difference, or another choice among what is wrong."""

    def find(mine, theirs, tolerance):
        wrong = [
            i
            for i, (a, b) in enumerate(zip(mine, theirs, strict=True))
            if float(measure(a, b)) > tolerance
        ]
        return pick(wrong) if wrong else -1

    return find


def _relative(a, b):
    return (a - b).norm() / b.norm()


def _largest(mine, theirs, tolerance):
    errors = [float(_relative(a, b)) for a, b in zip(mine, theirs, strict=True)]
    return errors.index(max(errors)) if max(errors) > tolerance else -1


def _never_none(mine, theirs, tolerance):
    found = find_fault(mine, theirs, tolerance)
    return max(found, 0)


def _stream(depth: int, fault: int | None, *, size: float = 0.1, loud: int = 0, kind: str = "all"):
    """Streams [depth, 4, 32] with roundings, a fault from a place on, and one loud number.

    loud: from there on, token 0 carries a number of 20,000.  kind: which numbers the fault moves;
    "sums": roundings are as large as those of sums, also where a sum is nearly 0.
    """

    def make(m: Maker):
        theirs = m.normal(depth, 4, 32).cumsum(0)
        if loud:
            theirs[loud:, 0, 3] += 20_000
        rounding = m.normal(depth, 4, 32, scale=1e-7)
        mine = theirs + rounding if kind == "sums" else theirs * (1 + rounding)
        if kind == "rolled":
            mine[fault:] = mine[fault:].roll(1, dims=-1)
        elif fault is not None:
            moved = m.normal(4, 32, scale=size)
            if kind == "cancels":
                moved[:, 1::2] = -moved[:, 0::2]
            elif kind == "last token":
                moved[:-1] = 0
            growing = torch.arange(1, depth - fault + 1).flip(0) if kind == "fades" else 1
            steps = torch.as_tensor(growing).float().reshape(-1, 1, 1)
            mine[fault:] += moved * steps
        return mine, theirs, 1e-5

    return make


FIND_FAULT = Exercise(
    name="find_fault",
    lesson=LESSON,
    title="Find the missing norm",
    difficulty=3,
    minutes=20,
    reference=find_fault,
    outputs=("index",),
    cases=(
        Case("a fault after 3 of 8", _stream(9, 3)),
        Case("no fault, only roundings", _stream(9, None)),
        Case("no fault, and sums that are nearly 0", _stream(9, None, kind="sums")),
        Case("a fault in the embedding", _stream(5, 0)),
        Case("a loud number from 2 on, a fault at 6", _stream(10, 6, size=3.0, loud=2)),
        Case("a loud number from 2 on, no fault", _stream(10, None, loud=2)),
        Case("a fault that sums to zero", _stream(7, 4, kind="cancels")),
        Case("a fault at the last token only", _stream(7, 4, kind="last token")),
        Case("a fault that keeps every length", _stream(6, 2, kind="rolled")),
        Case("a fault that fades", _stream(12, 5, kind="fades")),
        Case("a fault in the last branch", _stream(6, 5)),
    ),
    mistakes=(
        Mistake(
            "absolute error",
            _found(lambda a, b: (a - b).abs().max()),
            "the differences are not divided by the size of the stream. Where a number is 20,000, "
            "its rounding alone is larger than the tolerance.",
        ),
        Mistake(
            "each number by itself",
            _found(lambda a, b: ((a - b) / b).abs().max()),
            "each number's error is divided by that number. A sum's rounding is as large as that "
            "of its terms, also where the sum is nearly 0: divide the norms of the whole place.",
        ),
        Mistake(
            "last difference",
            _found(_relative, lambda wrong: wrong[-1]),
            "this is the last place that differs. All places after a mistake differ; the first "
            "one is where it is.",
        ),
        Mistake(
            "largest difference",
            _largest,
            "this is the place with the largest error. An error grows or fades on its way; the "
            "first place above the tolerance is where it comes from.",
        ),
        Mistake(
            "last place that agrees",
            _found(_relative, lambda wrong: wrong[0] - 1),
            "this is the last place that agrees, one before the fault.",
        ),
        Mistake(
            "signs cancel",
            _found(lambda a, b: (a - b).mean().abs() / b.norm()),
            "differences of both signs are averaged and cancel. Take squares or absolute values "
            "first.",
        ),
        Mistake(
            "lengths compared",
            _found(lambda a, b: (a.norm() - b.norm()).abs() / b.norm()),
            "the lengths of the two streams are compared. Two different vectors may be equally "
            "long: take the length of the difference.",
        ),
        Mistake(
            "first token only",
            _found(lambda a, b: (a[0] - b[0]).norm() / b[0].norm()),
            "only the first token is looked at.",
        ),
        Mistake(
            "0 where all agree",
            _never_none,
            "where nothing differs the answer is -1; 0 is the embedding.",
        ),
    ),
    hints=(
        "Go through the places in order, and return the first whose error is above the tolerance.",
        "The error of a place is relative: the norm of the difference over the norm of what is "
        "right.",
        "error = (a - b).norm() / b.norm(), over all tokens and columns of the place.",
        "for i, (a, b) in enumerate(zip(mine, theirs)): if (a - b).norm() > tolerance * b.norm(): "
        "return i; after the loop: return -1",
    ),
)

EXERCISES = (COUNT_PARAMETERS, ROTATE_PACKED, LAYER_STEP, QKV_OF_RANK, FIND_FAULT)
