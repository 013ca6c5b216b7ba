"""Exercises of lesson 15: what launches and padding cost, and steps that can be replayed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from litellama.course.exercise import Case, Exercise, Maker, Mistake, Remark
from litellama.course.graphs import Use, counting_graphs

LESSON = "15_cuda_graphs"


# --- step_time -----------------------------------------------------------------------------------


def step_time(durations: tuple[int, ...], launch: int, graph_launch: int) -> tuple[int, int, int]:
    end = 0
    for i, duration in enumerate(durations, 1):
        end = max(end, i * launch) + duration
    return end, graph_launch + sum(durations), end - sum(durations)


def _misjudged(eager=None, graph=None, idle=None):
    """The three times with one of the rules replaced; the others follow from it."""

    def judge(durations, launch, graph_launch):
        one_by_one, replayed, _ = step_time(durations, launch, graph_launch)
        if eager:
            one_by_one = eager(durations, launch)
        if graph:
            replayed = graph(durations, launch, graph_launch)
        waits = idle(durations, launch) if idle else one_by_one - sum(durations)
        return one_by_one, replayed, waits

    return judge


def _late(durations, launch):
    """Ends if no kernel waits for the one before it."""
    return [(i + 1) * launch + duration for i, duration in enumerate(durations)]


def _first_free(durations, launch):
    end = 0
    for i, duration in enumerate(durations):
        end = max(end, i * launch) + duration
    return end


def _waiting_host(durations, launch):
    """Ends if the host launches a kernel only when the one before it has started."""
    host = end = 0
    for duration in durations:
        host = max(host + launch, end)
        end = host + duration
    return end


def _kernels(label: str, durations: tuple[int, ...], launch: int, graph_launch: int) -> Case:
    return Case(label, lambda m: (durations, launch, graph_launch))


STEP_TIME = Exercise(
    name="step_time",
    lesson=LESSON,
    title="Who waits for whom",
    difficulty=2,
    minutes=10,
    reference=step_time,
    outputs=("one_by_one", "graph", "idle"),
    cases=(
        _kernels("five short kernels", (2, 2, 2, 2, 2), 5, 8),
        _kernels("five long kernels", (9, 9, 9, 9, 9), 5, 8),
        _kernels("one kernel", (7,), 5, 8),
        _kernels("a long one first", (30, 2, 2, 2), 5, 9),
        _kernels("a long one last", (2, 2, 2, 30), 5, 9),
        _kernels("of all lengths", (1, 12, 3, 1, 1, 25, 2, 2, 4, 1, 1), 4, 10),
    ),
    mistakes=(
        Mistake(
            "launch and run added",
            _misjudged(eager=lambda d, launch: sum(d) + launch * len(d)),
            "each kernel is launched after the one before it has ended. The host does not wait: it "
            "goes on launching while the GPU computes.",
        ),
        Mistake(
            "totals compared",
            _misjudged(eager=lambda d, launch: max(sum(d), launch * len(d))),
            "the larger of two totals. A kernel can only start when it is launched, and so time "
            "lost at one kernel is not won back at another: go through them one by one.",
        ),
        Mistake(
            "larger of each",
            _misjudged(eager=lambda d, launch: sum(max(x, launch) for x in d)),
            "the larger of launch and run for each kernel, added up. That is the rule of thumb; a "
            "host that is ahead during a long kernel can stay ahead for several short ones.",
        ),
        Mistake(
            "kernels side by side",
            _misjudged(eager=lambda d, launch: max(_late(d, launch))),
            "a kernel starts as soon as it is launched, even while the one before it runs. The "
            "GPU takes them in order: it also has to have ended.",
        ),
        Mistake(
            "first launch for nothing",
            _misjudged(eager=_first_free),
            "kernel i, counted from 0, is ready after i launches. Its own launch has to be over "
            "as well: i + 1.",
        ),
        Mistake(
            "graph launched for nothing",
            _misjudged(graph=lambda d, launch, graph_launch: sum(d)),
            "the graph has no launch. It has one, of graph_launch.",
        ),
        Mistake(
            "graph launched kernel by kernel",
            _misjudged(graph=lambda d, launch, graph_launch: sum(d) + graph_launch * len(d)),
            "graph_launch is counted for every kernel. A graph is launched once.",
        ),
        Mistake(
            "idle of the host",
            _misjudged(idle=lambda d, launch: step_time(d, launch, 0)[0] - launch * len(d)),
            "idle is the time in which the host launches nothing. It is the GPU's that is asked "
            "for: the step, less the kernels.",
        ),
        Mistake(
            "graph launched meanwhile",
            _misjudged(graph=lambda d, launch, graph_launch: max(sum(d), graph_launch)),
            "the graph's kernels run while it is being launched. They can only start when its "
            "launch is over: add the two.",
        ),
        Mistake(
            "first wait not idle",
            _misjudged(
                idle=lambda d, launch: step_time(d, launch, 0)[2] - launch,
            ),
            "idle leaves out the first launch. The step begins with it, and the GPU has nothing "
            "to do until it is over.",
        ),
        Mistake(
            "host waits for the start",
            _misjudged(eager=_waiting_host),
            "the host waits until a kernel has started before it launches the next. It goes on: "
            "launch i is over at (i + 1) * launch, whatever the GPU does.",
        ),
    ),
    hints=(
        "Two clocks: when is kernel i launched, and when has the kernel before it ended?",
        "It starts at the larger of the two, and it ends its duration later.",
        "end = max(end, (i + 1) * launch) + duration, from end = 0 on.",
        "The graph: graph_launch + sum(durations). Idle: the end of the step launched one by one, "
        "less sum(durations).",
    ),
)


# --- padding -------------------------------------------------------------------------------------


def padding(counts: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, int]:
    used = [min(size for size in sizes if size >= count) for count in counts]
    return len(set(used)), sum(used) - sum(counts)


def _steps(label: str, counts: tuple[int, ...], sizes: tuple[int, ...]) -> Case:
    return Case(label, lambda m: (counts, sizes))


def _strictly_larger(counts, sizes):
    used = [min((size for size in sizes if size > count), default=sizes[-1]) for count in counts]
    return len(set(used)), sum(used) - sum(counts)


def _once_a_graph(counts, sizes):
    used = {count: min(size for size in sizes if size >= count) for count in counts}
    return len(set(used.values())), sum(size - count for count, size in used.items())


def _nearest(counts, sizes):
    used = [min(sizes, key=lambda size: abs(size - count)) for count in counts]
    return len(set(used)), sum(max(size - n, 0) for size, n in zip(used, counts, strict=True))


PADDING = Exercise(
    name="padding",
    lesson=LESSON,
    title="The price of few sizes",
    difficulty=2,
    minutes=10,
    reference=padding,
    outputs=("graphs", "rows"),
    cases=(
        _steps("three requests that end one by one", (3, 3, 2, 2, 1), (1, 2, 4)),
        _steps("every count is a size", (4, 2, 4, 1), (1, 2, 4, 8)),
        _steps("one size", (1, 5, 3, 8), (8,)),
        _steps("between two sizes", (5, 5, 7, 6, 12), (4, 6, 8, 16)),
        _steps("just above a size", (9, 9, 13, 2), (1, 2, 4, 6, 8, 12, 16)),
        _steps("a long trace", (1, 3, 5, 7, 9, 11, 10, 8, 6, 4, 4, 2, 1), (1, 2, 4, 8, 16)),
    ),
    mistakes=(
        Mistake(
            "strictly larger",
            _strictly_larger,
            "a batch that fills a graph exactly goes into the next larger one: size >= count.",
        ),
        Mistake(
            "nearest size",
            _nearest,
            "the size that is nearest. A smaller graph has no room for all requests.",
        ),
        Mistake(
            "largest size",
            lambda counts, sizes: (1, len(counts) * sizes[-1] - sum(counts)),
            "every step runs in the largest graph. Take the smallest that has room.",
        ),
        Mistake(
            "a graph for every count",
            lambda counts, sizes: (len(set(counts)), padding(counts, sizes)[1]),
            "a graph for each number of requests. Counts that are padded to one size share a "
            "graph: count the sizes.",
        ),
        Mistake(
            "every size captured",
            lambda counts, sizes: (len(sizes), padding(counts, sizes)[1]),
            "all sizes are counted. A graph is captured when a step first needs it.",
        ),
        Mistake(
            "a graph for every step",
            lambda counts, sizes: (len(counts), padding(counts, sizes)[1]),
            "each step captures anew. A graph is kept, and replayed when its size comes again.",
        ),
        Mistake(
            "padding counted once",
            _once_a_graph,
            "each number of requests pays its padding once. Padding runs in every step.",
        ),
        Mistake(
            "all rows",
            lambda counts, sizes: (
                padding(counts, sizes)[0],
                padding(counts, sizes)[1] + sum(counts),
            ),
            "rows counts the requests as well. Asked for are the rows of padding: size - count.",
        ),
    ),
    hints=(
        "For each step: which is the smallest size that has room?",
        "size = min(size for size in sizes if size >= count)",
        "Padding is size - count, in every step. A set of the sizes says how many graphs.",
        "return len(set(used)), sum(used) - sum(counts)",
    ),
)


# --- replay_all ----------------------------------------------------------------------------------


def replay_all(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.relu(inputs @ weight)


def _steps_of(steps: int, n: int, K: int, N: int):
    def make(m: Maker):
        return m.normal(steps, n, K), m.normal(K, N, scale=K**-0.5)

    return make


def _of_steps(order):
    """The results of other steps than those asked for: order(number of steps) -> their places."""
    return lambda inputs, weight: replay_all(inputs, weight)[order(len(inputs))]


def _judged(judge: Callable[..., Remark | None]):
    """A watch: it counts what is done with graphs, and gives the numbers to ``judge``."""

    @contextmanager
    def watch() -> Iterator[Callable[..., Remark | None]]:
        with counting_graphs() as use:
            yield lambda *args: judge(use, *args)

    return watch


def _use_of_steps(use: Use, inputs: torch.Tensor, weight: torch.Tensor) -> Remark | None:
    """What is wrong with the use of a graph for so many steps; the first that applies."""
    if not use.recordings:
        return Remark(
            "no graph",
            "no graph was recorded: each call of torch was a launch of its own. Record with the "
            "lesson's Graph: with Graph() as graph:",
        )
    name = text = ""
    if not use.calls:
        name = "empty graph"
        text = "the graph holds no call: compute what is to be replayed inside of the block."
    elif not use.replays:
        name = "never replayed"
        text = (
            "the graph was recorded and never replayed, so nothing was computed again; on a GPU "
            "recording alone computes nothing at all. Call graph.replay() for each step."
        )
    elif use.recordings > 1:
        name = "recorded again"
        text = (
            f"a graph was recorded {use.recordings} times. A recording costs more than a step: "
            "record once, before the loop, and replay that graph for every input."
        )
    elif use.replays < len(inputs):
        name = "too few replays"
        text = (
            f"{len(inputs)} steps had {use.replays} replay{'s' * (use.replays > 1)}. A graph is of "
            "one step, and each step is a replay, the first one too: on a GPU recording computes "
            "nothing."
        )
    return Remark(name, text, first=True) if name else None


REPLAY_ALL = Exercise(
    name="replay_all",
    lesson=LESSON,
    title="Record once, replay for each",
    difficulty=3,
    minutes=15,
    reference=replay_all,
    watch=_judged(_use_of_steps),
    cases=(
        Case("two steps", _steps_of(2, 2, 4, 3)),
        Case("five steps of one row", _steps_of(5, 1, 8, 8)),
        Case("seven steps", _steps_of(7, 3, 17, 5)),
    ),
    mistakes=(
        Mistake(
            "stale input",
            _of_steps(lambda n: [0] * n),
            "every result is that of the first step: the graph's input was never written to. A "
            "new tensor under the old name is not enough: buffer.copy_(...).",
        ),
        Mistake(
            "results overwritten",
            _of_steps(lambda n: [n - 1] * n),
            "every result is that of the last step: the same output tensor was kept each time. "
            "The next replay overwrites it, so keep a clone.",
        ),
        Mistake(
            "replayed before the copy",
            _of_steps(lambda n: [0, *range(n - 1)]),
            "each result is that of the step before: the graph is replayed before its input is "
            "written.",
        ),
        Mistake(
            "relu left out",
            lambda inputs, weight: inputs @ weight,
            "there is no relu.",
        ),
    ),
    hints=(
        "The graph needs an input of its own, at an address that stays: inputs[0].clone().",
        "Record with the block: with Graph() as graph: out = torch.relu(buffer @ weight).",
        "Then for each step: write into the buffer, replay, and keep what came out.",
        "buffer.copy_(x); graph.replay(); results.append(out.clone())",
    ),
)


# --- decode_attention ----------------------------------------------------------------------------


def decode_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    out = torch.zeros_like(q)
    for s, length in enumerate(lengths.tolist()):
        if length:
            weights = (k[s, :length] @ q[s] * q.shape[-1] ** -0.5).softmax(0)
            out[s] = weights @ v[s, :length]
    return out


def _texts(lengths: tuple[int, ...], M: int, D: int):
    """Queries and keys of S texts; behind each text's end lies what others left there."""

    def make(m: Maker):
        S = len(lengths)
        q, k = m.normal(S, D, scale=2.0), m.normal(S, M, D)
        return q, k, m.normal(S, M, D, mean=0.5), torch.tensor(lengths, dtype=torch.int32)

    return make


def _attend(longer: int = 0, scale: bool = True, empty: str = "zero", late: bool = False):
    """decode_attention with a slip in it."""

    def mistaken(q, k, v, lengths):
        there = torch.arange(k.shape[1], device=q.device) < lengths[:, None] + longer
        scores = torch.einsum("sd,smd->sm", q, k) * (q.shape[-1] ** -0.5 if scale else 1.0)
        if late:
            weights = torch.where(there, scores.softmax(-1), 0.0)
        else:
            weights = torch.where(there, scores, -1e30).softmax(-1)
            if empty == "zero":
                weights = torch.where(there, weights, 0.0)
        return torch.einsum("sm,smd->sd", weights, v)

    return mistaken


def _scores_times_mask(q, k, v, lengths):
    """Scores behind the end are 0 in the softmax; their weights are dropped after it."""
    there = torch.arange(k.shape[1], device=q.device) < lengths[:, None]
    scores = torch.einsum("sd,smd->sm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("sm,smd->sd", (scores * there).softmax(-1) * there, v)


def _longest(q, k, v, lengths):
    return _attend()(q, k, v, lengths.max().expand_as(lengths))


def _minus_infinity(q, k, v, lengths):
    there = torch.arange(k.shape[1], device=q.device) < lengths[:, None]
    scores = torch.einsum("sd,smd->sm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("sm,smd->sd", scores.masked_fill(~there, -torch.inf).softmax(-1), v)


def _everything(q, k, v, lengths):
    return _attend()(q, k, v, torch.full_like(lengths, k.shape[1]))


NOT_REPLAYED = Remark(
    "no graph",
    "no graph was recorded and replayed: is @replayed still above the function?",
)

DECODE_ATTENTION = Exercise(
    name="decode_attention",
    lesson=LESSON,
    title="Lengths that only the GPU knows",
    difficulty=4,
    minutes=25,
    reference=decode_attention,
    watch=_judged(lambda use, *args: None if use.calls and use.replays else NOT_REPLAYED),
    cases=(
        Case("two full rows", _texts((4, 4), 4, 8)),
        Case("one text of 3 of 5 keys", _texts((3,), 5, 8)),
        Case("a row of padding", _texts((5, 0), 6, 16)),
        Case("all lengths", _texts((7, 1, 0, 3, 6), 7, 20)),
    ),
    mistakes=(
        Mistake(
            "lengths of the capture",
            lambda q, k, v, lengths: torch.zeros_like(q),
            "all is zero, as if every length were 0. It was, when the graph was recorded: the "
            "lengths went through Python (tolist, a loop), and were written down as they were "
            "then. Keep them in a tensor.",
        ),
        Mistake(
            "lengths not used",
            _everything,
            "each row attends to all M keys, also those behind its end.",
        ),
        Mistake(
            "one key too many",
            _attend(longer=1),
            "each row sees one key too many. Keys 0 to length - 1 are there: place < length.",
        ),
        Mistake(
            "one key too few",
            _attend(longer=-1),
            "each row misses its last key. Keys 0 to length - 1 are there: place < length.",
        ),
        Mistake(
            "scale forgotten",
            _attend(scale=False),
            "the scores are not scaled by D ** -0.5.",
        ),
        Mistake(
            "masked after the softmax",
            _attend(late=True),
            "the weights are masked after the softmax, and so they no longer sum to 1. Mask the "
            "scores before it.",
        ),
        Mistake(
            "padding is an average",
            _attend(empty="average"),
            "a row of length 0 gives the average of all its values: where all scores are equally "
            "hopeless, softmax gives each the same weight. Set the weights to 0 once more after "
            "it.",
        ),
        Mistake(
            "scores behind the end are 0",
            _scores_times_mask,
            "scores behind the end are multiplied by 0, and a score of 0 has a weight. Give them "
            "a large negative score before the softmax.",
        ),
        Mistake(
            "longest for all",
            _longest,
            "every row attends to as many keys as the longest has. Compare with lengths[:, None], "
            "one length a row.",
        ),
        Mistake(
            "minus infinity in a row of padding",
            _minus_infinity,
            "a row of length 0 is NaN: all of its scores are minus infinity, and the softmax of "
            "that is 0 / 0. Use a large negative number, and set the weights to 0 afterwards.",
        ),
    ),
    hints=(
        "No loop over rows: compute the scores of all M keys of all rows, [S, M].",
        "there = torch.arange(M, device=q.device) < lengths[:, None] says which count: a tensor, "
        "and no question.",
        "torch.where(there, scores, -1e30) before the softmax. (With -inf a row of length 0 "
        "becomes NaN.)",
        "weights = torch.where(there, scores.softmax(-1), 0.0), and then the sum over the keys: "
        "torch.einsum('sm,smd->sd', weights, v)",
    ),
)

EXERCISES = (STEP_TIME, PADDING, REPLAY_ALL, DECODE_ATTENTION)
