"""Lesson 17's pictures: two roofs, a step taken apart, tokens against the batch, and the widget."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from litellama.course.figures import CARD, INK, PALETTE, bars, canvas, show
from litellama.course.speed import (
    GB,
    OURS,
    Machine,
    Part,
    Prediction,
    Record,
    knees,
    limit_of,
    occupied,
    predict,
)
from litellama.course.speed_tables import MEANING, where
from litellama.models.presets import preset_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"limit": "grey", "kernel": "blue", "stand-in": "sky", "rest": "orange"}
BATCHES = [2 ** (i / 4) for i in range(41)]  # 1 to 1,024, close enough for a curve
TICKS = [4**i for i in range(6)]
# What the widget offers: bits of a weight.
BITS = (4, 8, 16)


# --- roofs ---------------------------------------------------------------------------------------


def roofs(machines: Sequence[Machine], work: dict[str, int]) -> "Figure":
    """One roofline for each machine, and on each the work: name -> tokens that share the weights.

    A token does two FLOPs with each weight, and a weight has the machine's ``element_size`` bytes.
    Source: Williams, Waterman and Patterson, "Roofline", 2009.
    """
    import numpy as np

    figure, axes = canvas(7.5, 3.9)
    marks = [2 * rows / m.element_size for m in machines for rows in work.values()]
    marks += [m.flops / m.bandwidth for m in machines]
    x = np.geomspace(min(marks) / 2, max(marks) * 4, 200)
    for machine, colour in zip(machines, ("blue", "green"), strict=False):
        roof = np.minimum(x * machine.bandwidth, machine.flops) / GB
        axes.loglog(x, roof, color=PALETTE[colour], linewidth=2, label=machine.name)
        for name, rows in work.items():
            intensity = 2 * rows / machine.element_size
            rate = min(intensity * machine.bandwidth, machine.flops) / GB
            axes.plot(intensity, rate, "o", color=PALETTE[colour], markersize=7)
            axes.annotate(
                name, (intensity, rate), xytext=(6, -5), textcoords="offset points", va="top",
                fontsize=8.5, bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
    axes.set(xlabel="arithmetic intensity (FLOP per byte read)", ylabel="GFLOP/s at most")
    axes.set_ylim(top=max(m.flops for m in machines) / GB * 3)
    axes.grid(which="major")
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def roofs_alt(machines: Sequence[Machine], work: dict[str, int]) -> str:
    """Each machine's two numbers and ridge, and which work the memory limits."""
    said = []
    for m in machines:
        ridge = m.flops / m.bandwidth
        left = [name for name, rows in work.items() if 2 * rows / m.element_size < ridge]
        said.append(
            f"{m.name}, {m.source}: {m.bandwidth / GB:,.0f} GB/s and {m.flops / GB:,.0f} GFLOP/s "
            f"meet at {ridge:,.0f} FLOP per byte; memory limits {', '.join(left) or 'nothing'}"
        )
    return f"Rooflines. {'. '.join(said)}."


# --- recorded steps ------------------------------------------------------------------------------


def show_step(record: Record) -> None:
    """Bars of milliseconds per decode step, with the limit as a dashed line."""
    times = {name: peer["ms_per_token"] for name, peer in record["peers"].items()}
    least = 1e3 * limit_of(record)
    figure = bars(
        times, "ms a step", least, "bytes over bandwidth", [OURS], where(record),
        digits=2,
    )  # fmt: skip
    said = "; ".join(f"{name} {ms:.2f}" for name, ms in times.items())
    show(figure, f"{where(record)}. Milliseconds a step: limit {least:.2f}; {said}.")


# --- the waterfall -------------------------------------------------------------------------------


def show_account(parts: Sequence[Part], record: Record | None) -> None:
    """The waterfall from the limit to the measured step; says so when there is nothing to draw."""
    if not parts or record is None:
        print("No step can be taken apart: a record of an engine or of the kernels is missing.")
        return
    measured = record["peers"][OURS]["ms_per_token"] * 1e3
    said = "; ".join(f"{part.label} {part.seconds * 1e6:+,.0f}" for part in parts)
    show(
        waterfall(parts, measured, f"One step of {where(record)}"),
        f"Waterfall of one step of {where(record)}, in microseconds: {said}; measured "
        f"{measured:,.0f}.",
    )


def waterfall(parts: Sequence[Part], measured: float, title: str) -> "Figure":
    """Each part's bar starts where the one above it ends; the last bar is what was measured, in µs.

    The axis does not start at zero, since the limit is most of it.
    """
    from matplotlib.patches import Patch

    figure, axes = canvas(7.5, 1.5 + 0.3 * (len(parts) + 1))
    end, ends = 0.0, []
    for row, part in enumerate(parts):
        start, end = end, end + part.seconds * 1e6
        ends.append(end)
        axes.barh(row, end - start, left=start, color=PALETTE[COLOURS[part.kind]], height=0.7)
    axes.barh(len(parts), measured, color=PALETTE["green"], height=0.7)
    high, low = max(*ends, measured), min(*ends, measured) * 0.9
    width = high - low
    for row, (part, stop) in enumerate(zip(parts, ends, strict=True)):
        value = part.seconds * 1e6
        words = f"{value:,.0f}" if part.kind == "limit" else f"{value:+,.0f}"
        place = max(stop, stop - value) + 0.01 * width
        axes.text(place, row, words, va="center", fontsize=9)
    axes.text(measured + 0.01 * width, len(parts), f"{measured:,.0f}", va="center", fontsize=9)
    axes.set_yticks(
        range(len(parts) + 1), [*(part.label for part in parts), "measured"], fontsize=9
    )
    axes.invert_yaxis()
    axes.set(xlim=(low, high + 0.09 * width), xlabel="µs (the axis does not start at zero)")
    axes.tick_params(left=False)
    axes.grid(axis="x")
    kinds = [kind for kind in COLOURS if any(part.kind == kind for part in parts)]
    patches = [Patch(color=PALETTE[COLOURS[kind]], label=MEANING[kind]) for kind in kinds]
    axes.legend(
        handles=patches, frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1, 1),
        ncols=2,
    )  # fmt: skip
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5)
    return figure


# --- tokens against the batch --------------------------------------------------------------------


def tokens_by_batch(
    c: Any, machine: Machine, context: float, measured: dict[int, float], **sizes: float
) -> "Figure":
    """Predicted tokens a second at each batch: weights alone, and all; dots where measured."""
    figure, axes = canvas(7.5, 3.6)
    draw_curves(axes, c, machine, context, **sizes)
    if measured:
        dots = list(measured), list(measured.values())
        axes.plot(*dots, "o", color=PALETTE["blue"], markersize=7, label="measured")
        axes.set_ylim(bottom=min(axes.get_ylim()[0], min(dots[1]) / 1.5))
    axes.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figure


def draw_curves(axes: "Axes", c: Any, machine: Machine, context: float, **sizes: float) -> None:
    """The line without keys, the roof of the arithmetic, and the least of all."""
    made = [predict(c, machine, b, context, **sizes) for b in BATCHES]
    alone = [p.batch / p.weights for p in made]
    roof = 1 / made[0].arithmetic
    axes.loglog(
        BATCHES, alone, color=PALETTE["grey"], linestyle="--", linewidth=1.4,
        label="if only weights were read",
    )  # fmt: skip
    axes.axhline(
        roof, color=PALETTE["vermilion"], linestyle=":", linewidth=1.6, label="arithmetic alone"
    )
    axes.loglog(
        BATCHES, [p.tokens_per_s for p in made], color=INK, linewidth=2, label="predicted limit"
    )
    axes.set_xticks(TICKS, [f"{b:,}" for b in TICKS])
    axes.set(xlabel="sequences in a step", ylabel="tokens/s, all together")
    axes.set_ylim(made[0].tokens_per_s / 2, max(roof, made[-1].tokens_per_s) * 2.2)
    axes.minorticks_off()
    axes.grid()


def tokens_by_batch_alt(
    c: Any, machine: Machine, context: float, measured: dict[int, float], **sizes: float
) -> str:
    """The curve's ends, its knees, and the measured dots."""
    ends = [predict(c, machine, b, context, **sizes).tokens_per_s for b in (1, BATCHES[-1])]
    dots = ", ".join(f"batch {b} {rate:,.0f}" for b, rate in measured.items())
    return (
        f"Tokens per second against the batch on {machine.name}, {context:,.0f} tokens of context: "
        f"at most {ends[0]:,.0f} for one sequence and {ends[1]:,.0f} for {BATCHES[-1]:,.0f}; "
        f"{knees_in_words(c, machine, context, **sizes)}." + (f" Measured: {dots}." if dots else "")
    )


def knees_in_words(c: Any, machine: Machine, context: float, **sizes: float) -> str:
    """From which batch on the keys, or the arithmetic, take longer."""
    found = knees(c, machine, context, **sizes)
    keys, arithmetic = found["keys"], found["arithmetic"]
    words = f"keys outweigh weights from batch {keys:,.0f} on"
    if math.isinf(arithmetic):
        return f"{words}; computing is never the limit"
    return f"{words}; computing outlasts reading from batch {arithmetic:,.0f} on"


# --- the widget ----------------------------------------------------------------------------------


def _predicted(
    machines: dict[str, Machine], model: str, machine: str, batch: int, context: int, bits: int
) -> tuple[Any, Machine, Prediction]:
    c, m = preset_config(model), machines[machine]
    return c, m, predict(c, m, batch, context, weight_bytes=bits / 8)


def describe(
    machines: dict[str, Machine], model: str, machine: str, batch: int, context: int, bits: int
) -> str:
    """The widget in words: tokens per second, the three times, what limits, and whether it fits."""
    c, m, p = _predicted(machines, model, machine, batch, context, bits)
    needed = occupied(c, batch, context, bits / 8)
    fits = f"{needed / GB:,.1f} GB of weights and keys"
    if m.memory is not None and needed > m.memory:
        fits += f": more than the {m.memory / GB:,.0f} GB that are there"
    return (
        f"{model} with {bits} bits a weight on {m.name} ({m.source}), batch {batch}, context "
        f"{context:,}: at most {p.tokens_per_s:,.0f} tokens/s, {p.tokens_per_s / batch:,.0f} for "
        f"each. A step reads weights for {1e3 * p.weights:.3g} ms and keys for {1e3 * p.keys:.3g} "
        f"ms, and computes for {1e3 * p.arithmetic:.3g} ms: the limit is {p.limited_by}. {fits}."
    )


def draw(
    machines: dict[str, Machine], model: str, machine: str, batch: int, context: int, bits: int
) -> "Figure":
    """Above, the step: reading in one bar, computing in another.  Below, tokens by batch."""
    c, m, p = _predicted(machines, model, machine, batch, context, bits)
    figure, (above, below) = canvas(7.5, 5.0, rows=2)
    above.get_gridspec().set_height_ratios([1, 2.6])
    parts = [(1, 0.0, p.weights, "blue", "weights"), (1, p.weights, p.keys, "sky", "keys, values")]
    for row, start, length, colour, words in [*parts, (0, 0.0, p.arithmetic, "orange", "")]:
        above.barh(row, 1e3 * length, left=1e3 * start, color=PALETTE[colour], height=0.66)
        if words and length > 0.14 * p.step:
            ink = "white" if colour == "blue" else "black"
            middle = 1e3 * (start + length / 2)
            above.text(middle, row, words, ha="center", va="center", fontsize=9, color=ink)
    above.set_yticks([1, 0], ["read", "compute"])
    above.set(xlabel="ms of one step", xlim=(0, 1e3 * p.step * 1.05))
    above.tick_params(left=False)
    above.set_title(
        f"at most {p.tokens_per_s:,.0f} tokens/s; the limit is {p.limited_by}", loc="left"
    )
    draw_curves(below, c, m, context, weight_bytes=bits / 8)
    below.plot(batch, p.tokens_per_s, "o", color=PALETTE["blue"], markersize=9)
    _mark_full(below, c, m, context, bits)
    below.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def _mark_full(axes: "Axes", c: Any, m: Machine, context: int, bits: int) -> None:
    """Grey from the batch on that no longer fits in the machine's memory, where that is known."""
    if m.memory is None:
        return
    weights = occupied(c, 0, context, bits / 8)
    most = (m.memory - weights) / (context * c.kv_bytes_per_token(2))
    left, right = axes.get_xlim()
    if most < right:
        axes.axvspan(max(most, left), right, color=PALETTE["grey"], alpha=0.25, linewidth=0)
        axes.text(
            right, 0.03, f"does not fit in {m.memory / GB:,.0f} GB ", fontsize=8.5, color=INK,
            transform=axes.get_xaxis_transform(), ha="right", va="bottom",
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1, "alpha": 0.7},
        )  # fmt: skip
        axes.set_xlim(left, right)
