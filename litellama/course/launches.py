"""Lesson 15's pictures: launches and kernels on two lines, predicted, recorded or measured."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from litellama.course.figures import BENCHMARKS, CARD, INK, PALETTE, SOFT, bars, canvas, show
from litellama.engine.graphs import BATCH_SIZES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRAPH_LAUNCH = 8.0  # µs, of the model: what the host needs to start a graph
KERNELS = 12  # in the widget's step
EAGER, GRAPH, NO_OVERLAP = "eager", "graph", "graph, no overlap"
WORDS = {EAGER: "launched one by one", GRAPH: "one graph"}
NOTHING = "No launches are recorded yet: run this lesson, or benchmarks/launches.py, on a GPU."

Spans = list[tuple[float, float]]  # (start, end), in microseconds
Case = dict[str, Any]


def schedule(durations: Sequence[float], launch: float) -> tuple[Spans, Spans]:
    """Launches and kernels of a step, if the host needs ``launch`` µs for each, one by one."""
    launches = [(i * launch, (i + 1) * launch) for i in range(len(durations))]
    return launches, _in_order([end for _, end in launches], durations)


def replay(durations: Sequence[float], launch: float = GRAPH_LAUNCH) -> tuple[Spans, Spans]:
    """The same kernels in a graph: one launch, then nobody waits for the host."""
    return [(0.0, launch)], _in_order([launch] * len(durations), durations)


def _in_order(ready: Sequence[float], durations: Sequence[float]) -> Spans:
    """Each kernel starts when it has been launched and the one before it has ended."""
    spans: Spans = []
    for start, duration in zip(ready, durations, strict=True):
        start = max(start, spans[-1][1] if spans else 0.0)
        spans.append((start, start + duration))
    return spans


# --- the widget ----------------------------------------------------------------------------------


def steps_of(kernel_us: float, launch_us: float) -> dict[str, tuple[Spans, Spans]]:
    """The widget's step, both ways."""
    durations = [kernel_us] * KERNELS
    return {
        WORDS[EAGER]: schedule(durations, launch_us),
        WORDS[GRAPH]: replay(durations),
    }


def size_for(requests: int) -> int:
    """The smallest size of a graph that has room for so many requests."""
    return next(size for size in BATCH_SIZES if size >= requests)


def describe(kernel_us: float, launch_us: float, requests: int) -> str:
    """What the widget shows, in words."""
    times = {name: kernels[-1][1] for name, (_, kernels) in steps_of(kernel_us, launch_us).items()}
    busy = KERNELS * kernel_us
    said = "; ".join(
        f"{name}: {time:.0f} µs, the GPU busy {busy / time:.0%}" for name, time in times.items()
    )
    size = size_for(requests)
    return (
        f"{KERNELS} kernels of {kernel_us:g} µs, {launch_us:g} µs to launch one. {said}. "
        f"{requests} requests run in the graph of size {size}, with {size - requests} rows padding."
    )


def draw(kernel_us: float, launch_us: float, requests: int) -> "Figure":
    """Both timelines on one axis; below, the sizes that graphs have and the one that is taken."""
    figure, (above, below) = canvas(7.5, 4.0, rows=2)
    steps = steps_of(kernel_us, launch_us)
    draw_lines(above, steps, max(kernels[-1][1] for _, kernels in steps.values()))
    draw_sizes(below, requests)
    return figure


def draw_sizes(axes: "Axes", requests: int) -> None:
    """Rows of the graphs up to 32: filled by requests, or outlined as padding."""
    from matplotlib.patches import Rectangle

    size, most = size_for(requests), 32
    for row in range(most):
        request, padding = row < requests, requests <= row < size
        axes.add_patch(
            Rectangle(
                (row + 0.1, 0.1), 0.8, 0.8,
                facecolor=PALETTE["blue"] if request else CARD,
                edgecolor=PALETTE["vermilion" if padding else "blue" if request else "grey"],
                linestyle="-" if request or padding else ":", linewidth=1.3 if padding else 0.8,
            )
        )  # fmt: skip
    for border in BATCH_SIZES:
        if border <= most:
            axes.plot([border, border], [-0.25, 1.15], color=INK, linewidth=0.8)
            axes.text(border, -0.75, str(border), ha="center", fontsize=8, color=SOFT)
    words = f"a graph of {size}: {requests} requests, {size - requests} rows of padding"
    axes.set_title(words, loc="left", fontsize=10)
    axes.set(xlim=(-0.3, most + 0.5), ylim=(-1.0, 1.4), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_lines(
    axes: "Axes", steps: dict[str, tuple[Spans, Spans]], stop: float, edge: float = 0.6
) -> None:
    """For each way one line of the host's launches and one of the GPU's kernels, up to ``stop``.

    edge: the width of the light line around each, in points.
    """
    labels = []
    for row, (launches, kernels) in enumerate(steps.values()):
        for line, (spans, colour) in enumerate(((launches, "orange"), (kernels, "blue"))):
            y = 2.6 * row + line
            wide = [(start, end - start) for start, end in spans if start < stop]
            axes.broken_barh(
                wide, (y - 0.38, 0.76), facecolor=PALETTE[colour], edgecolor=CARD, linewidth=edge
            )
            labels.append((y, "host launches" if line == 0 else "GPU computes"))
    for row, name in enumerate(steps):
        axes.text(0, 2.6 * row - 0.55, name, fontsize=9.5, va="bottom", color=INK)
    axes.set_yticks([y for y, _ in labels], [words for _, words in labels], fontsize=9)
    axes.set(xlim=(0, stop * 1.01), ylim=(2.6 * len(steps) - 1.0, -1.35))
    axes.set_xlabel("microseconds", fontsize=9)
    axes.tick_params(left=False)
    axes.grid(axis="x")


# --- recorded and measured -----------------------------------------------------------------------


def recorded(files: str = "launches_*.json") -> list[Case]:
    """The cases of these records beside the package; each knows its GPU and date.

    A case: model, batch, peer ("litellama" or "transformers"), kernels, step_us and host_us by way
    of launching (medians and quartiles), engine_us, and a timeline by way.
    """
    cases: list[Case] = []
    for path in sorted(BENCHMARKS.glob(files)):
        record = json.loads(path.read_text(encoding="utf-8"))
        where = {"gpu": record.get("gpu", "a GPU"), "date": record["date"]}
        cases += [where | case for case in record["cases"] if case["step_us"]]
    return cases


def find(cases: list[Case], model: str, batch: int, peer: str = "litellama") -> Case | None:
    """The case of a model, a batch size and a peer, if it is there."""
    wanted = (model, batch, peer)
    return next((c for c in cases if (c["model"], c["batch"], c["peer"]) == wanted), None)


def measure(model: str, graphs: Any, steps: int = 50) -> Case:
    """The last step that ``graphs`` (a DecodeGraphs on a GPU) captured, both ways, measured now."""
    import torch

    from litellama.course.tracing import timed, timeline

    shape, graph = list(graphs._graphs.items())[-1]
    case: Case = {
        "gpu": torch.cuda.get_device_name(), "date": "measured now", "model": model,
        "batch": shape.size, "peer": "litellama", "step_us": {}, "host_us": {}, "timeline": {},
    }  # fmt: skip
    ways: dict[str, Callable[[], None]] = {EAGER: lambda: graphs._step(shape), GRAPH: graph.replay}
    with torch.inference_mode():
        for name, step in ways.items():
            timed(step, 10)
            case["step_us"][name], case["host_us"][name] = timed(step, steps)
            case["timeline"][name] = timeline(step)
    case["kernels"] = len(case["timeline"][EAGER]["kernels"])
    return case


def show_timeline(case: Case | None) -> None:
    """A case's step as a graph, and as much of it as is launched one by one in the same time."""
    ways = [way for way in (EAGER, GRAPH) if case and "kernels" in case["timeline"].get(way, {})]
    if case is None or not ways:
        print(NOTHING)
        return
    lines = {way: case["timeline"][way] for way in ways}
    steps = {f"{WORDS[way]}: {_busy(line)}": spans_of(line) for way, line in lines.items()}
    figure, axes = canvas(7.5, 1.2 + 1.15 * len(steps))
    stop = lines[ways[-1]]["span_us"]
    draw_lines(axes, steps, stop, edge=0.1)
    title = f"the first {stop:,.0f} µs of a decode step: {_name(case)}"
    figure.suptitle(title, x=0.02, ha="left", fontsize=10.5)
    show(figure, f"{title}. {'; '.join(steps)}.")


def spans_of(line: dict[str, Any]) -> tuple[Spans, Spans]:
    """Launches and kernels of a recorded timeline."""
    launches = [(start, start + duration) for start, duration in line["launches"]]
    return launches, [(start, start + duration) for _, _, start, duration in line["kernels"]]


def _busy(line: dict[str, Any]) -> str:
    return f"the GPU computes for {line['busy_us']:,.0f} of {line['span_us']:,.0f} µs"


def _name(case: Case) -> str:
    return f"{case['model']}, batch {case['batch']}, {case['gpu']}, {case['date']}"


def show_account(case: Case | None) -> None:
    """Where a step's time goes: kernels, launches, and the medians without a profiler."""
    if case is None:
        print(NOTHING)
        return
    print(_name(case))
    for way in (EAGER, GRAPH):
        if way in case["step_us"]:
            host, step = case["host_us"][way]["median"], case["step_us"][way]["median"]
            print(f"{WORDS[way]:>19}: {step:7,.0f} µs a step, the host is at it for {host:7,.0f}")
    if EAGER in case["host_us"]:
        each = case["host_us"][EAGER]["median"] / case["kernels"]
        print(f"{case['kernels']} kernels, {each:.1f} µs of the host's time for each")


def show_steps(cases: list[Case], model: str) -> None:
    """Bars of the median step of one model, one by one and as a graph, at each batch size."""
    values: dict[str, float] = {}
    blue = []
    for case in cases:
        if case["model"] != model:
            continue
        for way, step in case["step_us"].items():
            if way not in WORDS:
                continue
            name = f"batch {case['batch']}, " + (
                WORDS[way] if case["peer"] == "litellama" else case["peer"]
            )
            values[name] = step["median"]
            blue += [name] if way == GRAPH else []
    if not values:
        print(NOTHING)
        return
    values = {name: values[name] for name in sorted(values, key=lambda n: int(n.split()[1][:-1]))}
    first = next(case for case in cases if case["model"] == model)
    title = f"one decode step of {model}, {first['gpu']}, {first['date']}"
    figure = bars(values, "µs", highlight=blue, title=title)
    said = "; ".join(f"{name} {value:,.0f}" for name, value in values.items())
    show(figure, f"{title}, in microseconds: {said}.")


def show_overlap(cases: list[Case]) -> None:
    """What a graph's step takes when each kernel waits for the end of the one before it."""
    rows = [case for case in cases if NO_OVERLAP in case["step_us"]]
    if not rows:
        print("Nothing is recorded about overlapping launches yet.")
        return
    print(f"µs a step on {rows[0]['gpu']}, {rows[0]['date']}")
    print(f"{'':24} overlapping     without")
    for case in rows:
        with_it, without = (case["step_us"][way]["median"] for way in (GRAPH, NO_OVERLAP))
        print(
            f"{case['model']:>14}, batch {case['batch']:2} {with_it:11,.0f} {without:11,.0f}"
            f"   {without / with_it - 1:+.1%}"
        )
