"""Charts of the course: one style, bars, the roofline, and the figures recorded on named GPUs.

Every chart is a matplotlib figure on its own light card, so it reads the same in a light and in a
dark notebook; colours are ``PALETTE`` of ``litellama.course.drawing``.  ``show`` puts a chart into
the notebook together with its alt text.
"""

import base64
import io
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

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
    date: NotRequired[str]  # of the record


def canvas(width: float = 7.5, height: float = 3.0, rows: int = 1, columns: int = 1) -> Any:
    """A figure and its axes in the course's style, not tied to any screen; sizes in inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: Any = {
        "font.size": 10, "axes.titlesize": 11,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "figure.facecolor": CARD, "axes.facecolor": CARD, "axes.edgecolor": SOFT,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": INK,
        "grid.color": RULE, "grid.linewidth": 0.8,
    }  # fmt: skip
    with rc_context(style):
        margins = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12)
        figure = Figure(figsize=(width, height), layout=margins)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns)
    return figure, axes


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file of few colours, small; the same figure gives the same bytes."""
    from PIL import Image  # matplotlib needs it too

    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=1.75 * PIXELS_PER_INCH)
    Image.open(raw).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()


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
        on_blue = list(values)[i] in highlight
        label_bar(axes, i, value, right, f"{value:,.{digits}f}", "white" if on_blue else INK)
    if limit is not None:
        axes.axvline(limit, color=PALETTE["vermilion"], linestyle="--", linewidth=1.6)
        axes.set_title(
            f"dashed: {limit_label}, {limit:,.{digits}f} {unit}", fontsize=9, color=SOFT, loc="left"
        )
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def label_bar(axes: "Axes", row: int, value: float, right: float, words: str, ink: str) -> None:
    """The value of a bar: inside its end, in ``ink``, where there is room, else after it."""
    inside = value > 0.25 * right
    axes.annotate(
        words,
        (value, row),
        xytext=(-5 if inside else 5, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        color=ink if inside else INK,
        fontweight="bold" if inside else "normal",
        # A dashed limit that runs through the words would strike them out.
        bbox=None if inside else {"facecolor": CARD, "edgecolor": "none", "pad": 0.6},
    )


def roofline(bandwidth: float, flops: float, work: dict[str, float], title: str) -> "Figure":
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
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_ylim(top=flops / 1e9 * 4)
    axes.set_xlabel("arithmetic intensity (FLOP per byte moved)")
    axes.set_ylabel("GFLOP/s")
    axes.grid(which="major")
    axes.set_title(title, loc="left")
    return figure


def recorded(
    kernel: str, folder: Path = BENCHMARKS, shape: Sequence[int] | None = None
) -> list[Cost]:
    """The costs of a kernel recorded in the benchmarks folder's ``kernels_*.json`` files.

    shape: of the first input; without it, costs at every shape.  A file is a list of costs, or what
    ``litellama bench`` writes: an object with them as "results".
    """
    rows: list[Cost] = []
    for path in sorted(folder.glob("kernels_*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            when = {"date": record["date"]} if "date" in record else {}
            record = [when | row for row in record["results"]]
        rows += record
    rows = [row for row in rows if row["kernel"] == kernel]
    return [row for row in rows if shape is None or first_shape(row) == list(shape)]


def measure(kernel: str, peers: dict[str, Callable[[], Any]], moved: int, like: Any) -> list[Cost]:
    """Time each peer on the GPU now, as ``litellama bench`` does (median of 30, cold L2 cache).

    peers: name -> a call with no arguments; moved: bytes that one call must read and write;
    like: a GPU tensor of the call, for its shape and dtype.
    """
    import torch

    from litellama.bench.machine import copy_bandwidth
    from litellama.bench.timing import time_on_gpu

    rows: list[Cost] = []
    for name, call in peers.items():
        seconds = statistics.median(time_on_gpu(call, repeats=30))
        rows.append(
            {
                "kernel": kernel,
                "shape": list(like.shape),
                "dtype": str(like.dtype).removeprefix("torch."),
                "gpu": torch.cuda.get_device_name(like.device),
                "peer": name,
                "median_us": seconds * 1e6,
                "gb_per_s": moved / seconds / 1e9,
                "fraction_of_copy": moved / seconds / copy_bandwidth(like.device),
            }
        )
    return rows


def largest(rows: list[Cost]) -> list[Cost]:
    """The rows of one GPU and one dtype, the first named, at one shape: the first largest."""
    rows = [r for r in rows if (r["gpu"], r["dtype"]) == (rows[0]["gpu"], rows[0]["dtype"])]
    biggest = max(rows, key=lambda row: math.prod(first_shape(row)))
    return [row for row in rows if row["shape"] == biggest["shape"]]


def first_shape(row: Cost) -> list[int]:
    """The shape of the first input."""
    shape: Any = row["shape"]
    return shape[0] if isinstance(shape[0], list) else shape


def show_costs(rows: list[Cost], when: str) -> None:
    """Bars of a kernel's bandwidth beside the copy's; says plainly when there is nothing to show.

    when: how the rows came to be: "measured now" or "recorded".  Of several recorded shapes the
    largest is shown, where neither launches nor caches blur the picture.
    """
    if not rows:
        print(
            "No figures are recorded for this kernel yet; run this lesson on a GPU to measure it."
        )
        return
    rows = largest(rows)
    kernel, gpu, dtype = rows[0]["kernel"], rows[0]["gpu"], rows[0]["dtype"]
    values = {row["peer"]: row["gb_per_s"] for row in rows}
    copy = max(row["gb_per_s"] / row["fraction_of_copy"] for row in rows)
    shape = "×".join(map(str, first_shape(rows[0])))
    title = f"{kernel} of {shape} {dtype} on {gpu}, {when}"
    figure = bars(values, "GB/s", copy, "a copy", highlight=["litellama"], title=title)
    sentence = "; ".join(f"{name} {value:,.0f}" for name, value in values.items())
    show(figure, f"{title}, in GB/s: {sentence}; a copy {copy:,.0f}.")
