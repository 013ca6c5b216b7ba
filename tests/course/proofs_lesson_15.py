"""Proofs of lesson 15's exercises: slips in the solutions, and other right answers."""

import textwrap

import torch
from proof import Proof, wrong

from litellama.course import launches
from litellama.course.graphs import Graph, replayed


def time_by_spans(durations, launch, graph_launch):
    _, one_by_one = launches.schedule(durations, launch)
    _, graph = launches.replay(durations, graph_launch)
    gaps = [0, *(end for _, end in one_by_one)]
    idle = sum(start - end for (start, _), end in zip(one_by_one, gaps, strict=False))
    return int(one_by_one[-1][1]), int(graph[-1][1]), int(idle)


def padding_by_bisection(counts, sizes):
    from bisect import bisect_left

    places = [bisect_left(sizes, count) for count in counts]
    rows = sum(sizes[place] - count for place, count in zip(places, counts, strict=True))
    return len(dict.fromkeys(places)), rows


def replay_into_the_result(inputs, weight):
    """Records on zeros, and replays the steps from the last to the first."""
    steps, n, K = inputs.shape
    x, y = inputs.new_zeros(n, K), inputs.new_empty(n, weight.shape[1])
    graph = Graph()
    with graph:
        torch.matmul(x, weight, out=y).clamp_(min=0)
    out = inputs.new_empty(steps, *y.shape)
    for step in reversed(range(steps)):
        x[:] = inputs[step]
        graph.replay()
        out[step] = y
    return out


@replayed
def attention_by_hand(q, k, v, lengths):
    scores = (k * q[:, None]).sum(-1) / q.shape[-1] ** 0.5
    there = (torch.arange(k.shape[1], device=q.device)[None] < lengths[:, None]).float()
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * there
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    return (weights[..., None] * v).sum(1)


_RECORDED = "    with Graph() as graph:\n        out = torch.relu(buffer @ weight)\n"
_REPLAYED = """    for x in inputs:
        buffer.copy_(x)
        graph.replay()
        results.append(out.clone())
"""
_END = "end = max(end, (i + 1) * launch) + duration"
_SIZE = "min(size for size in sizes if size >= count)"
_COUNTED = "len(set(used)), sum(used) - sum(counts)"
_MASK = "weights = torch.where(there, scores, -1e30).softmax(-1)"
_AGAIN = "    weights = torch.where(there, weights, 0.0)\n"
_THERE = "< lengths[:, None]"

PROOFS = {
    "step_time": Proof(
        wrong=(
            wrong("waits", "launch and run added", (_END, "end += launch + duration")),
            wrong(
                "totals",
                "totals compared",
                (_END, "end = max(sum(durations), len(durations) * launch)"),
            ),
            wrong("each", "larger of each", (_END, "end += max(launch, duration)")),
            wrong(
                "no order",
                "kernels side by side",
                (_END, "end = max(end, (i + 1) * launch + duration)"),
            ),
            wrong("first", "first launch for nothing", ("(i + 1) * launch", "i * launch")),
            wrong("free", "graph launched for nothing", ("graph_launch + work", "work")),
            wrong(
                "often",
                "graph launched kernel by kernel",
                ("graph_launch + work", "graph_launch * len(durations) + work"),
            ),
            wrong("host", "idle of the host", ("end - work", "end - launch * len(durations)")),
            wrong(
                "meanwhile",
                "graph launched meanwhile",
                ("graph_launch + work", "max(graph_launch, work)"),
            ),
            wrong("first wait", "first wait not idle", ("end - work", "end - work - launch")),
            wrong(
                "host",
                "host waits for the start",
                (
                    "end = max(end, (i + 1) * launch) + duration",
                    "end = max(end, end - (durations[i - 1] if i else 0) + launch) + duration",
                ),
            ),
        ),
        right=(time_by_spans,),
    ),
    "padding": Proof(
        wrong=(
            wrong(
                "strict",
                "strictly larger",
                (_SIZE, "min([s for s in sizes if s > count] or sizes[-1:])"),
            ),
            wrong("largest", "largest size", (_SIZE, "max(sizes)")),
            wrong("counts", "a graph for every count", ("set(used)", "set(counts)")),
            wrong("all sizes", "every size captured", ("len(set(used))", "len(sizes)")),
            wrong("each step", "a graph for every step", ("set(used)", "used")),
            wrong("rows", "all rows", ("sum(used) - sum(counts)", "sum(used)")),
            wrong(
                "once",
                "padding counted once",
                (_COUNTED, "len(set(used)), sum(s - n for n, s in set(zip(counts, used)))"),
            ),
        ),
        right=(padding_by_bisection,),
    ),
    "replay_all": Proof(
        wrong=(
            wrong("renamed", "stale input", ("buffer.copy_(x)", "buffer = x")),
            wrong("kept", "results overwritten", ("out.clone()", "out")),
            wrong(
                "order",
                "replayed before the copy",
                (
                    "buffer.copy_(x)\n        graph.replay()",
                    "graph.replay()\n        buffer.copy_(x)",
                ),
            ),
            wrong("view", "modified its inputs", ("inputs[0].clone()", "inputs[0]")),
            wrong("linear", "relu left out", ("torch.relu(buffer @ weight)", "buffer @ weight")),
            wrong("forgotten", "never replayed", ("        graph.replay()\n", "")),
            wrong(
                "eager",
                "no graph",
                (_RECORDED, ""),
                ("buffer.copy_(x)\n        graph.replay()", "out = torch.relu(x @ weight)"),
            ),
            wrong(
                "beside the graph",
                "empty graph",
                (_RECORDED, "    with Graph() as graph:\n        pass\n"),
                ("        graph.replay()\n", "        out = torch.relu(buffer @ weight)\n"),
            ),
            wrong(
                "each its own",
                "recorded again",
                (_RECORDED, ""),
                (
                    "        graph.replay()\n",
                    f"{textwrap.indent(_RECORDED, '    ')}        graph.replay()\n",
                ),
            ),
            wrong(
                "first from the recording",
                "too few replays",
                ("buffer, results = inputs[0].clone(), []", "buffer = inputs[0].clone()"),
                ("    for x in inputs:", "    results = [out.clone()]\n    for x in inputs[1:]:"),
            ),
            wrong(
                "all in one",
                "too few replays",
                (
                    _RECORDED,
                    "    with Graph() as graph:\n        out = torch.relu(inputs @ weight)\n",
                ),
                (_REPLAYED, "    graph.replay()\n"),
                ("torch.stack(results)", "out"),
            ),
        ),
        right=(replay_into_the_result,),
    ),
    "decode_attention": Proof(
        wrong=(
            wrong(
                "tolist",
                "lengths of the capture",
                (_THERE, "< torch.tensor(lengths.tolist(), device=q.device)[:, None]"),
            ),
            wrong("eager", "no graph", ("@replayed\n", "")),
            wrong("longest", "raised", ("k.shape[1], device", "int(lengths.max()), device")),
            wrong(
                "by index",
                "raised",
                (_MASK, "scores[~there] = -1e30\n    weights = scores.softmax(-1)"),
            ),
            wrong("all keys", "lengths not used", (_THERE, "< k.shape[1] + 0 * lengths[:, None]")),
            wrong("more", "one key too many", (_THERE, "<= lengths[:, None]")),
            wrong("less", "one key too few", (_THERE, "< lengths[:, None] - 1")),
            wrong("scale", "scale forgotten", (" * q.shape[-1] ** -0.5", "")),
            wrong("late", "masked after the softmax", (_MASK, "weights = scores.softmax(-1)")),
            wrong("average", "padding is an average", (_AGAIN, "")),
            wrong(
                "infinite",
                "minus infinity in a row of padding",
                ("-1e30", "-torch.inf"),
                (_AGAIN, ""),
            ),
            wrong(
                "zeros",
                "scores behind the end are 0",
                ("torch.where(there, scores, -1e30)", "torch.where(there, scores, 0.0)"),
            ),
            wrong(
                "the longest",
                "longest for all",
                ("< lengths[:, None]", "< lengths.max() + 0 * lengths[:, None]"),
            ),
        ),
        right=(attention_by_hand,),
    ),
}
