"""Charts of the course: one style, bars, the roofline, and the figures recorded on named GPUs.

Every chart is a matplotlib figure on its own light card, so it reads the same in a light and in a
dark notebook; colours are ``PALETTE`` of ``litellama.course.drawing``.  ``show`` puts a chart into
the notebook together with its alt text.
"""

import base64
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from litellama.course.drawing import PALETTE, engine_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PALETTE",
    "Cost",
    "bars",
    "canvas",
    "engine_map",
    "measure",
    "png",
    "recorded",
    "roofline",
    "show",
    "show_costs",
]

INK, SOFT, CARD, RULE = "#1f2328", "#57606a", "#fcfcfa", "#d8dbdf"
# Benchmarks lie beside the package in the repository; an installed package has none.
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PIXELS_PER_INCH = 96  # of a browser; charts are stored at 1.75 times that, sharp on most screens


class Cost(TypedDict):
    """One measured kernel: times in microseconds, rates in 10^9 bytes a second."""

    kernel: str
    shape: list[int]
    dtype: str
    gpu: str
    peer: str  # "litellama", or whose kernel it is
    median_us: float
    gb_per_s: float
    fraction_of_copy: float  # of the copy bandwidth of the same GPU


def canvas(width: float = 7.5, height: float = 3.0, rows: int = 1, columns: int = 1) -> Any:
    """A figure and its axes in the course's style, not tied to any screen; sizes in inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "figure.facecolor": CARD, "axes.facecolor": CARD, "axes.edgecolor": SOFT,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": INK,
        "grid.color": RULE, "grid.linewidth": 0.8,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns)
    return figure, axes


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=1.75 * PIXELS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def show(figure: "Figure", alt: str) -> None:
    """Display a chart in the notebook.  ``alt`` says what it shows, for who cannot see it."""
    from IPython.display import display

    bundle, metadata = image_bundle(figure, alt)
    display(bundle, metadata=metadata, raw=True)


def image_bundle(figure: "Figure", alt: str) -> tuple[dict, dict]:
    """The MIME bundle of a chart, and its metadata with the alt text and the width on screen."""
    width = round(figure.get_size_inches()[0] * PIXELS_PER_INCH)
    data = base64.b64encode(png(figure)).decode()
    return {"image/png": data, "text/plain": alt}, {"image/png": {"width": width, "alt": alt}}


def bars(
    values: dict[str, float],
    unit: str,
    limit: float | None = None,
    limit_label: str = "limit",
    highlight: Sequence[str] = (),
    title: str = "",
    digits: int = 0,
) -> "Figure":
    """Horizontal bars, one a name, each with its value; a dashed line marks ``limit``."""
    figure, axes = canvas(7.5, 0.75 + 0.36 * len(values) + (0.3 if title else 0))
    names = list(values)
    colours = [PALETTE["blue"] if name in highlight else PALETTE["grey"] for name in names]
    axes.barh(names, list(values.values()), color=colours, height=0.68)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.grid(axis="x")
    axes.tick_params(left=False)
    right = max([*values.values(), limit or 0.0]) * 1.12
    axes.set_xlim(0, right)
    for i, value in enumerate(values.values()):
        label_bar(axes, i, value, right, f"{value:,.{digits}f}")
    if limit is not None:
        axes.axvline(limit, color=PALETTE["vermilion"], linestyle="--", linewidth=1.6)
        axes.set_title(f"dashed: {limit_label}, {limit:,.{digits}f} {unit}", fontsize=9, color=SOFT)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def label_bar(axes: "Axes", row: int, value: float, right: float, words: str) -> None:
    """The value of a bar: inside its end where there is room, else after it."""
    inside = value > 0.25 * right
    axes.annotate(
        words,
        (value, row),
        xytext=(-5 if inside else 5, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        color="white" if inside else INK,
        fontweight="bold" if inside else "normal",
    )


def roofline(
    bandwidth: float, flops: float, work: dict[str, float], title: str = "", machine: str = "limit"
) -> "Figure":
    """The roofline: the rate a machine allows against FLOPs per byte.

    bandwidth: bytes/s; flops: FLOP/s; work: name -> arithmetic intensity in FLOP/byte.  A name is
    drawn on the roof above its intensity: the best it can do on this machine.
    Source: Williams, Waterman and Patterson, "Roofline", 2009.
    """
    import numpy as np

    figure, axes = canvas(7.5, 3.6)
    ridge = flops / bandwidth
    x = np.geomspace(min([*work.values(), ridge]) / 4, max([*work.values(), ridge]) * 6, 200)
    axes.loglog(x, np.minimum(x * bandwidth, flops) / 1e9, color=INK, linewidth=2)
    axes.axvline(ridge, color=PALETTE["vermilion"], linestyle=":", linewidth=1.2)
    axes.annotate(
        f"ridge: {ridge:.3g} FLOP/byte", (ridge, flops / 1e9), xytext=(4, 8),
        textcoords="offset points", color=PALETTE["vermilion"], fontsize=9,
    )  # fmt: skip
    for name, intensity in work.items():
        rate = min(intensity * bandwidth, flops) / 1e9
        axes.plot(intensity, rate, "o", color=PALETTE["blue"], markersize=8)
        axes.annotate(
            f"{name}\n{rate:,.3g} GFLOP/s", (intensity, rate), xytext=(9, -4),
            textcoords="offset points", va="top", fontsize=9,
        )  # fmt: skip
    axes.set_ylim(top=flops / 1e9 * 4)
    axes.set_xlabel("arithmetic intensity (FLOP per byte moved)")
    axes.set_ylabel("GFLOP/s")
    axes.grid(which="major")
    axes.set_title(title or f"roofline: {machine}")
    return figure


def recorded(kernel: str, folder: Path = BENCHMARKS) -> list[Cost]:
    """The recorded costs of a kernel, from every ``kernels_*.json`` in the benchmarks folder."""
    rows: list[Cost] = []
    for path in sorted(folder.glob("kernels_*.json")):
        rows += json.loads(path.read_text())
    return [row for row in rows if row["kernel"] == kernel]


def measure(kernel: str, peers: dict[str, Callable[[], Any]], moved: int, like: Any) -> list[Cost]:
    """Time each peer on the GPU now, against a copy of the same size.

    peers: name -> a call with no arguments; moved: bytes that one call must read and write;
    like: a GPU tensor of the call, for its shape and dtype.  The L2 cache is flushed between calls.
    """
    import torch
    from triton.testing import do_bench

    source = torch.empty(moved // 2, dtype=torch.uint8, device=like.device)
    target = torch.empty_like(source)
    copy_ms = do_bench(lambda: target.copy_(source), return_mode="median")
    rows: list[Cost] = []
    for name, call in peers.items():
        ms = do_bench(call, return_mode="median")
        rows.append(
            {
                "kernel": kernel,
                "shape": list(like.shape),
                "dtype": str(like.dtype).removeprefix("torch."),
                "gpu": torch.cuda.get_device_name(like.device),
                "peer": name,
                "median_us": ms * 1e3,
                "gb_per_s": moved / ms / 1e6,
                "fraction_of_copy": copy_ms / ms,
            }
        )
    return rows


def show_costs(rows: list[Cost], when: str) -> None:
    """Bars of a kernel's bandwidth beside the copy's; says plainly when there is nothing to show.

    when: how the rows came to be, e.g. "measured now" or "recorded".
    """
    if not rows:
        print(
            "No figures are recorded for this kernel yet; run this lesson on a GPU to measure it."
        )
        return
    kernel, gpu = rows[0]["kernel"], rows[0]["gpu"]
    rows = [row for row in rows if row["gpu"] == gpu]
    values = {
        f"{r['peer']}  {'×'.join(map(str, r['shape']))} {r['dtype']}": r["gb_per_s"] for r in rows
    }
    copy = max(row["gb_per_s"] / row["fraction_of_copy"] for row in rows)
    ours = [name for name in values if name.startswith("litellama")]
    title = f"{kernel} on {gpu}, {when}"
    figure = bars(values, "GB/s", copy, "a copy", highlight=ours, title=title)
    sentence = "; ".join(f"{name} {value:,.0f}" for name, value in values.items())
    show(figure, textwrap.shorten(f"{title}, in GB/s: {sentence}; a copy {copy:,.0f}.", 600))
