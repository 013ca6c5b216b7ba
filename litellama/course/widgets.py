"""Pictures with sliders, for the notebooks.

``explore`` shows a chart and redraws it as its controls move.  Where there are no widgets (no
ipywidgets, a notebook read on GitHub) the chart of the starting values stands in its place: it is
in the same output, and ``tools/run_notebooks.py`` stores it alone.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from litellama.course.figures import PIXELS_PER_INCH, image_bundle, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = {"description_width": "initial"}  # else a long name is cut off


@dataclass(frozen=True)
class Slider:
    """A number from ``low`` to ``high``, both included; whole numbers when all four are."""

    low: float
    high: float
    start: float
    step: float = 1

    def widget(self, name: str) -> Any:
        """The ipywidgets slider, labelled ``name``."""
        import ipywidgets

        whole = all(isinstance(v, int) for v in (self.low, self.high, self.start, self.step))
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        return kind(
            value=self.start, min=self.low, max=self.high, step=self.step,
            description=name, style=LABEL,
        )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    options: tuple
    start: Any

    def widget(self, name: str) -> Any:
        """The ipywidgets slider over the options, labelled ``name``."""
        import ipywidgets

        return ipywidgets.SelectionSlider(
            options=self.options, value=self.start, description=name, style=LABEL
        )


def explore(
    draw: Callable[..., "Figure"], alt: Callable[..., str], **controls: Slider | Choice
) -> None:
    """Show ``draw(**values)`` and redraw it whenever one of the controls moves.

    draw: values -> figure; alt: the same values -> the sentence that says what the figure shows.
    """
    from IPython.display import display

    values = {name: control.start for name, control in controls.items()}
    bundle, metadata = image_bundle(draw(**values), alt(**values))
    if find_spec("ipywidgets"):
        box = live_box(draw, alt, controls)
        # The chart and its text stay in the bundle, for readers elsewhere.
        bundle = box._repr_mimebundle_() | bundle
    display(bundle, metadata=metadata, raw=True)


def live_box(
    draw: Callable[..., "Figure"], alt: Callable[..., str], controls: dict[str, Any]
) -> Any:
    """The controls above the picture, wired together."""
    import ipywidgets

    picture = ipywidgets.HTML()
    knobs = {name: control.widget(name) for name, control in controls.items()}

    def redraw(_: Any = None) -> None:
        values = {name: knob.value for name, knob in knobs.items()}
        picture.value = image_tag(draw(**values), alt(**values))

    for knob in knobs.values():
        knob.observe(redraw, "value")
    redraw()
    layout = ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 24px")  # or labels would touch
    row = ipywidgets.HBox(list(knobs.values()), layout=layout)
    return ipywidgets.VBox([row, picture])


def image_tag(figure: "Figure", alt: str) -> str:
    """An HTML image of the figure with its alt text."""
    width = round(figure.get_size_inches()[0] * PIXELS_PER_INCH)
    data = base64.b64encode(png(figure)).decode()
    source = f"data:image/png;base64,{data}"
    return f'<img src="{source}" width="{width}" alt="{escape(alt, quote=True)}">'
