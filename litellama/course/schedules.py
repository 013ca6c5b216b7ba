"""Lesson 16's timelines: requests served by a scheduler and an imaginary model, and their charts.

``serve`` plays a scheduler's steps one after the other; what a step takes is one unit of time, or
what a ``Machine`` predicts.  The charts are drawn from the steps alone, so those of the real engine
(``of_trace``) and of a scheduler built in a notebook look alike.
"""

import functools
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellama.course.figures import BENCHMARKS, CARD, INK, PALETTE, RULE, SOFT, canvas
from litellama.engine.block_manager import BlockManager, BlockState
from litellama.engine.request import Request
from litellama.engine.scheduler import Scheduled, Scheduler, Step
from litellama.sampling import SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFILL, DECODE = PALETTE["blue"], PALETTE["orange"]
TEXTS = ("blue", "orange", "green", "purple", "sky", "vermilion", "grey")


# --- what a step costs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A model on a GPU, as far as the time of a step can be predicted from it.

    name: of the GPU, and where its figures come from.  bandwidth: bytes/s.  flops: FLOP/s of matrix
    products.  parameters: weights that a step reads.  kv_bytes: of one token's keys and values.
    """

    name: str
    bandwidth: float
    flops: float
    parameters: float
    kv_bytes: float
    element_size: int = 2

    def predicted(self, tokens: int, keys: int) -> float:
        """The least milliseconds of a step of so many new tokens that look at so many keys.

        The weights are read and multiplied, whichever takes longer; then the keys are read.
        """
        read = self.parameters * self.element_size / self.bandwidth
        multiply = 2 * self.parameters * tokens / self.flops
        return 1e3 * (max(read, multiply) + self.kv_bytes * keys / self.bandwidth)

    def milliseconds(self, step: Step) -> float:
        """The least milliseconds of a step."""
        return self.predicted(step.num_tokens, sum(s.stop for s in step.scheduled))


# Where no measured rate of matrix products is recorded: dense bfloat16, by the maker's data sheet
# (NVIDIA, "H100 Tensor Core GPU", 2022; SXM).
DATA_SHEET_FLOPS = 989.4e12


def llama_on_recorded_gpu(folder: Path = BENCHMARKS) -> Machine:
    """Llama-3.1-8B in bfloat16 on the GPU of the newest ``kernels_*.json``; or on a round one."""
    import torch

    from litellama.models import empty_model, presets

    config = presets.preset_config("llama-3.1-8b")
    model = empty_model(config, torch.device("meta"), torch.bfloat16)
    # The embedding only looks rows up; everything else is read whole.
    parameters = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    size = (parameters, config.kv_bytes_per_token(2))
    records = [r for r in _records(folder, "kernels_*.json") if "copy_bytes_per_s" in r]
    if not records:
        return Machine("an imaginary GPU of 3 TB/s and 600 TFLOP/s", 3e12, 6e14, *size)
    record = max(records, key=lambda record: record["date"])
    copy, flops = record["copy_bytes_per_s"], record.get("matmul_flop_per_s", DATA_SHEET_FLOPS)
    source = "measured" if "matmul_flop_per_s" in record else "by its data sheet"
    rates = f"{copy / 1e12:.2f} TB/s measured {record['date']}, {flops / 1e12:.0f} TFLOP/s {source}"
    return Machine(f"{record['gpu']}: {rates}", copy, flops, *size)


def recorded_queues(folder: Path = BENCHMARKS) -> dict[str, tuple[dict[str, float], float]]:
    """Queues served on a GPU: what and where -> each engine's tokens/s, and the limit."""
    found = {}
    for record in _records(folder, "engine_*.json"):
        if record.get("kind") == "queue":
            name = (
                f"{record['model'].removeprefix('random:')}, {record['work']['requests']} requests"
            )
            peers = {peer: r["tokens_per_s"] for peer, r in record.get("peers", {}).items()}
            rates = {"litellama": record["tokens_per_s"]} | peers
            limit = record["tokens_per_s"] / record["fraction_of_limit"]
            found[f"{name}, {record['gpu']}, {record['date']}"] = (rates, limit)
    return found


def _records(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The records of a GPU in the benchmarks folder."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(pattern))]
    return [record for record in records if isinstance(record, dict) and "gpu" in record]


# --- serving -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """A request to come: its prompt (token ids, or how many of its own), answer, and when."""

    prompt: int | Sequence[int]
    answer: int
    at: float = 0.0


@dataclass(frozen=True)
class Moment:
    """A step and when it ran; the waiting requests' ids and the blocks' states after scheduling."""

    start: float
    stop: float
    step: Step
    waiting: list[int] = field(default_factory=list)
    blocks: list[BlockState] = field(default_factory=list)


@dataclass
class Run:
    """All that happened: the requests by id, when each arrived and got its tokens, and the steps.

    unit: of the times, "step" or "ms".
    """

    unit: str = "step"
    requests: dict[int, Request] = field(default_factory=dict)
    arrivals: dict[int, float] = field(default_factory=dict)
    token_times: dict[int, list[float]] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)

    @property
    def steps(self) -> list[Step]:
        """The steps, in order."""
        return [moment.step for moment in self.moments]

    @property
    def end(self) -> float:
        """When the last step was done."""
        return self.moments[-1].stop

    @property
    def shares(self) -> list[list[tuple[str, int]]]:
        """Each step as (letter, tokens), for reading."""
        return [
            [(letter(s.request.request_id), s.num_tokens) for s in step.scheduled]
            for step in self.steps
        ]

    def first_token(self, number: int) -> float:
        """From a request's arrival to its first token."""
        return self.token_times[number][0] - self.arrivals[number]

    def gaps(self, number: int) -> list[float]:
        """The times between a request's tokens."""
        times = self.token_times[number]
        return [after - before for before, after in itertools.pairwise(times)]

    def total(self, number: int) -> float:
        """From a request's arrival to its last token."""
        return self.token_times[number][-1] - self.arrivals[number]


def letter(number: int) -> str:
    """A request's name."""
    return chr(ord("A") + number) if number < 26 else str(number)


def make_request(number: int, arrival: Arrival) -> Request:
    """A request of the engine's; where the prompt is a number, its tokens are like no other's."""
    prompt = arrival.prompt
    ids = [1000 * number + i for i in range(prompt)] if isinstance(prompt, int) else list(prompt)
    length = len(ids) + arrival.answer
    nobody: Any = None  # no text comes out of the imaginary model
    return Request(number, ids, SamplingParams(), 0, nobody, max_length=length)


def serve(
    scheduler: Any,
    arrivals: Iterable[Arrival],
    milliseconds: Callable[[Step], float] | None = None,
    watch_blocks: bool = False,
) -> Run:
    """Serve requests to their end with an imaginary model; a step takes 1, or ``milliseconds``.

    scheduler: has ``add``, ``schedule`` and ``remove``, as the engine's.  Requests are named in
    order of arrival.  watch_blocks: keep the pool's blocks after each step, for drawing.
    RuntimeError when requests are left and no step comes, and when a token is sampled too early.
    """
    coming = deque(sorted(arrivals, key=lambda arrival: arrival.at))
    run, now = Run("step" if milliseconds is None else "ms"), 0.0
    while coming or scheduler.running or scheduler.waiting:
        while coming and coming[0].at <= now:
            _arrive(run, scheduler, coming.popleft())
        step = scheduler.schedule()
        if step is not None:
            start, now = now, now + (milliseconds(step) if milliseconds else 1.0)
            waiting = [request.request_id for request in scheduler.waiting]
            blocks = _blocks(scheduler) if watch_blocks else []
            run.moments.append(Moment(start, now, step, waiting, blocks))
            _deliver(run, scheduler, step, now)
        elif coming:
            now = coming[0].at
        else:
            raise RuntimeError(
                f"requests are left, and nothing is scheduled: {len(scheduler.running)} running, "
                f"{len(scheduler.waiting)} waiting"
            )
    return run


def _arrive(run: Run, scheduler: Any, arrival: Arrival) -> None:
    number = len(run.requests)
    run.requests[number] = make_request(number, arrival)
    run.arrivals[number], run.token_times[number] = arrival.at, []
    scheduler.add(run.requests[number])


def _deliver(run: Run, scheduler: Any, step: Step, now: float) -> None:
    """The tokens of a step become known; who has enough of them leaves."""
    for s in step.sampling:
        request = s.request
        if s.stop != len(request.token_ids):
            raise RuntimeError(
                f"{letter(request.request_id)} gets a token when {s.stop} of its "
                f"{len(request.token_ids)} tokens are computed"
            )
        request.num_pending -= 1
        request.token_ids.append(-1 - request.request_id)  # like no other's, and like no prompt's
        run.token_times[request.request_id].append(now)
        if len(request.token_ids) == request.max_length:
            scheduler.remove(request)


def _blocks(scheduler: Any) -> list[BlockState]:
    tables = {request.request_id: request.blocks for request in scheduler.running}
    return scheduler.manager.snapshot(tables)


def of_trace(trace: Iterable[Step]) -> Run:
    """The steps that an engine has made, one unit of time each; all requests there at the start."""
    run = Run()
    for i, step in enumerate(trace):
        run.moments.append(Moment(i, i + 1, step))
        for s in step.scheduled:
            number = s.request.request_id
            run.requests[number] = s.request
            run.arrivals.setdefault(number, 0)
            run.token_times.setdefault(number, []).extend([i + 1] if s.samples else [])
    return run


# --- the Gantt chart -----------------------------------------------------------------------------


def gantt(
    run: Run, title: str = "", batches: bool = False, mark: float | None = None, axes: Any = None
) -> "Figure | None":
    """A row a request: waiting is a thin line, a step with its prompt blue, a decode orange.

    batches: what ends early keeps its row, outlined, until all that started with it have ended.
    mark: a line at this time.  axes: draw there, and return None.
    """
    figure, rows = None, sorted(run.requests)
    if axes is None:
        figure, axes = canvas(7.5, 1.0 + 0.3 * len(rows))
    ends = {number: _times(run, number)[-1][1] for number in rows}
    starts = {number: _times(run, number)[0][0] for number in rows}
    for row, number in enumerate(rows):
        axes.plot([run.arrivals[number], ends[number]], [row, row], color=SOFT, linewidth=1)
        if batches:
            batch_end = max(ends[other] for other in rows if starts[other] == starts[number])
            _idle(axes, row, ends[number], batch_end)
    wide = run.end / len(run.moments) > run.end / 45  # room for numbers in the bars
    for moment in run.moments:
        for s in moment.step.scheduled:
            _bar(axes, rows.index(s.request.request_id), moment, s, wide)
        for number in moment.step.preempted:
            axes.plot(
                moment.start, rows.index(number), "X", color=PALETTE["vermilion"], markersize=9,
                markeredgecolor=CARD, zorder=4,
            )  # fmt: skip
    if mark is not None:
        axes.axvline(mark, color=INK, linewidth=1.4)
    axes.set_yticks(range(len(rows)), [letter(number) for number in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, run.end), xlabel=run.unit)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    return figure


def _times(run: Run, number: int) -> list[tuple[float, float]]:
    """(start, stop) of each step that a request was in."""
    return [
        (moment.start, moment.stop)
        for moment in run.moments
        if any(s.request.request_id == number for s in moment.step.scheduled)
    ]


def _bar(axes: Any, row: int, moment: Moment, s: Scheduled, wide: bool) -> None:
    colour = DECODE if s.kind == "decode" else PREFILL
    width = moment.stop - moment.start
    hatch = "////" if s.num_cached else None
    axes.barh(
        row, width, left=moment.start, height=0.74, color=colour, edgecolor=CARD, linewidth=0.6,
        hatch=hatch, zorder=2,
    )  # fmt: skip
    if wide and s.kind == "prefill":
        box = {"facecolor": PREFILL, "edgecolor": "none", "pad": 0.6}
        axes.text(
            moment.start + width / 2, row + 0.02, str(s.num_tokens), ha="center", va="center",
            fontsize=7.5, color="white", bbox=box if hatch else None, zorder=3,
        )  # fmt: skip


def _idle(axes: Any, row: int, start: float, stop: float) -> None:
    if stop > start:
        axes.barh(
            row, stop - start, left=start, height=0.74, facecolor="none", zorder=2,
            edgecolor=PALETTE["vermilion"], linewidth=1, linestyle="--",
        )  # fmt: skip


def gantt_alt(run: Run) -> str:
    """The chart in words: when each request waits, computes its prompt, and decodes."""
    said = []
    for number in sorted(run.requests):
        starts = [start for start, _ in _times(run, number)]
        words = f"{letter(number)} arrives at {run.arrivals[number]:.4g}, starts at {starts[0]:.4g}"
        lost = sum(number in step.preempted for step in run.steps)
        words += f", is preempted {lost} times" if lost else ""
        said.append(f"{words}, ends at {_times(run, number)[-1][1]:.4g}")
    return f"A row for each request, time in units of one {run.unit}. {'; '.join(said)}."


# --- the time between tokens ---------------------------------------------------------------------


def token_gaps(runs: dict[str, Run], number: int) -> "Figure":
    """The time between one request's tokens as time goes by, a line for each run."""
    figure, axes = canvas(7.5, 2.9)
    colours = [PALETTE["vermilion"], PALETTE["blue"], PALETTE["green"]]
    for (name, run), colour in zip(runs.items(), colours, strict=False):
        axes.step(
            run.token_times[number][1:], run.gaps(number), where="pre", label=name, color=colour,
            linewidth=1.8,
        )  # fmt: skip
    axes.set(xlabel="ms", ylabel=f"ms between {letter(number)}'s tokens", yscale="log")
    axes.grid(axis="y")
    axes.legend(frameon=False, fontsize=9)
    return figure


def token_gaps_alt(runs: dict[str, Run], number: int) -> str:
    """The chart in words."""
    said = (
        f"{name}: at most {max(run.gaps(number)):.0f} ms, at least {min(run.gaps(number)):.1f}"
        for name, run in runs.items()
    )
    return f"Milliseconds between the tokens of {letter(number)}. {'; '.join(said)}."


# --- the moving picture --------------------------------------------------------------------------

BLOCK_SIZE, SEATS, LAST_STEP = 4, 4, 40
OPENING = tuple(range(500, 508))  # the system prompt that C, D and F have in common
CHATS = (
    Arrival(6, 20),
    Arrival(5, 18),
    Arrival((*OPENING, *range(100, 116)), 14, at=3),
    Arrival((*OPENING, *range(200, 206)), 12, at=4),
    Arrival(22, 10, at=5),
    Arrival((*OPENING, *range(300, 304)), 8, at=8),
)


@functools.cache
def played(budget: int, blocks: int) -> Run:
    """The six chats, served by the engine's own scheduler."""
    scheduler = Scheduler(BlockManager(blocks, BLOCK_SIZE), SEATS, budget)
    return serve(scheduler, CHATS, watch_blocks=True)


def moment_at(step: int, budget: int, blocks: int) -> Moment:
    """The step that is computed at this time, or the last one."""
    moments = played(budget, blocks).moments
    return next((m for m in moments if m.start <= step < m.stop), moments[-1])


def describe(step: int, budget: int, blocks: int) -> str:
    """What one step of the picture does, and what the queue and the pool hold."""
    moment = moment_at(step, budget, blocks)
    shares = (
        f"{letter(s.request.request_id)} {s.num_tokens} ({s.kind})" for s in moment.step.scheduled
    )
    waiting = ", ".join(map(letter, moment.waiting)) or "nobody"
    lost = ", ".join(map(letter, moment.step.preempted))
    states = [block.state for block in moment.blocks]
    return (
        f"Step {moment.start:.0f} computes {moment.step.num_tokens} of at most {budget} tokens: "
        f"{', '.join(shares)}. Waiting: {waiting}. {f'Preempted: {lost}. ' if lost else ''}"
        f"Blocks: {states.count('used')} used, {states.count('cached')} cached, "
        f"{states.count('free')} free."
    )


def draw(step: int, budget: int, blocks: int) -> "Figure":
    """The Gantt chart with a line at this step, and under it the pool, a stripe for each owner."""
    run, moment = played(budget, blocks), moment_at(step, budget, blocks)
    figure, (top, bottom) = canvas(7.5, 4.2, rows=2)
    top.get_gridspec().set_height_ratios([3.2, 1])
    gantt(run, axes=top, mark=moment.start + 0.5)
    top.set_xlim(0, max(LAST_STEP, run.end))
    queue = " ".join(map(letter, moment.waiting)) or "empty"
    shares = ", ".join(
        f"{letter(s.request.request_id)} {s.num_tokens}" for s in moment.step.scheduled
    )
    top.set_title(
        f"step {moment.start:.0f}: {shares}; {moment.step.num_tokens} of {budget} tokens    "
        f"queue: {queue}", loc="left", fontsize=10,
    )  # fmt: skip
    for i, block in enumerate(moment.blocks):
        _draw_block(bottom, i, block)
    bottom.set(xlim=(-0.1, blocks + 0.1), ylim=(1.05, -0.05), xticks=[], yticks=[])
    bottom.spines[:].set_visible(False)
    bottom.set_title(f"the pool: {blocks} blocks of {BLOCK_SIZE}", loc="left", fontsize=10)
    return figure


def _draw_block(axes: Any, x: int, block: BlockState) -> None:
    from matplotlib.patches import Rectangle

    face = RULE if block.state == "cached" else CARD
    axes.add_patch(Rectangle((x + 0.05, 0), 0.9, 1, facecolor=face, edgecolor=SOFT, linewidth=0.8))
    for i, owner in enumerate(block.owners):
        height = 1 / len(block.owners)
        colour = PALETTE[TEXTS[owner]]
        axes.add_patch(Rectangle((x + 0.05, i * height), 0.9, height, facecolor=colour))
        ink = "white" if owner == 0 else INK
        axes.text(
            x + 0.5, (i + 0.5) * height, letter(owner), ha="center", va="center", fontsize=8,
            color=ink,
        )  # fmt: skip
