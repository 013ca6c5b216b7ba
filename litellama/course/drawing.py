"""Diagrams of the course as SVG text: boxes, arrows, words, and the map of the engine.

An SVG file made here carries its own card and follows the reader's light or dark setting, so it is
readable on GitHub, in JupyterLab and in the book.  The text is a pure function of the arguments:
the same drawing gives the same bytes.  ``images/make_figures.py`` draws every file in ``images/``.
"""

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

# Okabe and Ito's colour-blind safe palette; the names say what a colour means in this course.
PALETTE = {
    "blue": "#0072B2",  # this lesson's subject; a read
    "orange": "#E69F00",  # a write
    "green": "#009E73",  # a measured value
    "vermilion": "#D55E00",  # a limit, a mistake
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "grey": "#8C959F",  # everything that is only context
}

# One rule set for all drawings.  White on the blue and black on the others pass WCAG AA (4.5:1).
STYLE = """
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}
.card{fill:#fcfcfa;stroke:#d8dbdf}.plain{fill:#eef0f2;stroke:#8c959f}
.panel{fill:none;stroke:#8c959f;stroke-dasharray:4 3}.lit{fill:#0072b2;stroke:#0072b2}
.orange{fill:#e69f00;stroke:#a87400}.sky{fill:#56b4e9;stroke:#2f7fae}
.green{fill:#3dbb95;stroke:#009e73}.masked{fill:none;stroke:#8c959f;stroke-dasharray:3 3}
.line{fill:none;stroke:#57606a;stroke-width:1.6}.tip{fill:#57606a}
.soft{fill:#57606a}.onlit{fill:#fff}.ondark{fill:#111}
.mono{font-family:ui-monospace,'DejaVu Sans Mono',monospace}
@media (prefers-color-scheme:dark){text{fill:#e6e9ec}.card{fill:#16191d;stroke:#30363d}
.plain{fill:#262c33;stroke:#6e7681}.line{stroke:#9aa4af}.tip,.soft{fill:#a8b1bb}.onlit{fill:#fff}
.ondark{fill:#111}}
""".strip().replace("\n", "")

# The colour of the words on a filled box.
INK = {"lit": "onlit", "orange": "ondark", "sky": "ondark", "green": "ondark"}


@dataclass
class Drawing:
    """An SVG under construction.  Sizes are in pixels; ``title`` is what a screen reader says."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        cls: str = "",
        anchor: str = "middle",
    ) -> None:
        """Words with their baseline at (x, y); anchor: start, middle or end."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"'
            f' class="{cls}">{escape(words)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        words: str = "",
        style: str = "plain",
        note: str = "",
        size: float = 13,
    ) -> None:
        """A rectangle with centred words (split at newlines) and a smaller note under them."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" class="{style}"/>'
        )
        lines = words.split("\n") if words else []
        step = size * 1.2
        note_size = size - 2
        total = step * len(lines) + (note_size * 1.35 if note else 0)
        baseline = y + (h - total) / 2 + size * 0.95
        ink = INK.get(style, "")
        for i, line in enumerate(lines):
            self.text(x + w / 2, baseline + i * step, line, size, ink)
        if note:
            y_note = baseline + len(lines) * step
            self.text(x + w / 2, y_note, note, note_size, ink or "soft")

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points, with a head at the last one."""
        d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="{d}" class="line" marker-end="url(#tip)"/>')

    def svg(self) -> str:
        """The whole file."""
        title = escape(self.title, quote=True)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}"'
            f' width="{self.width}" height="{self.height}" role="img" aria-label="{title}">'
            f"<title>{title}</title><style>{STYLE}</style>"
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
            f'<rect x=".5" y=".5" width="{self.width - 1}" height="{self.height - 1}" rx="8"'
            ' class="card"/>'
        )
        return "\n".join([head, *self.parts, "</svg>"]) + "\n"


# The engine, piece by piece: (x, y, width, words, lessons that build it).  A row is 54 high.
LOOP = [
    (24, 40, 112, "text in,\ntokenizer", (0,)),
    (166, 40, 112, "scheduler", (16,)),
    (308, 40, 112, "pack,\nCUDA graph", (15,)),
    (450, 40, 136, "decoder:\nLlama, Qwen", (11, 12)),
    (616, 40, 112, "sampler", (14,)),
    (758, 40, 112, "text out,\nstreamed", (14, 18)),
]
LAYER = [
    (36, 168, 78, "RMSNorm", (3,)),
    (128, 168, 78, "q, k, v\nlinear", (5, 6)),
    (220, 168, 78, "RoPE", (4,)),
    (312, 168, 94, "attention", (7, 8, 9)),
    (420, 168, 78, "output\nlinear", (6,)),
    (512, 168, 78, "add +\nRMSNorm", (3,)),
    (604, 168, 78, "gate, up\nlinear", (5, 6)),
    (696, 168, 78, "SwiGLU", (5,)),
    (788, 168, 70, "down\nlinear", (6,)),
]
GROUND = [
    (24, 278, 170, "Triton kernels:\nprograms, masks", (1,)),
    (206, 278, 90, "softmax", (2,)),
    (308, 278, 136, "KV cache", (10,)),
    (456, 278, 190, "pictures: LLaVA", (13,)),
    (658, 278, 212, "how fast is it", (17,)),
]


def engine_map(lit: int | None = None) -> str:
    """The engine as one SVG picture, with the pieces of lesson ``lit`` filled (None: no piece)."""
    d = Drawing(894, 350, map_title(lit))
    d.text(24, 26, "one step of the loop", 12, "soft", "start")
    d.box(24, 134, 846, 106, style="panel")
    d.text(36, 152, "inside one decoder layer (SmolLM2 has 30)", 12, "soft", "start")
    d.text(24, 268, "underneath and around", 12, "soft", "start")
    for x, y, w, words, lessons in [*LOOP, *LAYER, *GROUND]:
        numbers = "lesson " if w >= 90 and len(lessons) == 1 else ""
        numbers += " · ".join(f"{n:02d}" for n in lessons)
        d.box(x, y, w, 60, words, "lit" if lit in lessons else "plain", numbers, 12.5)
    for row in (LOOP, LAYER):
        for (x, y, w, *_), (x_next, *_) in pairwise(row):
            d.arrow((x + w + 1, y + 30), (x_next - 1, y + 30))
    d.arrow((518, 100), (518, 133))  # the decoder opens into its layers
    d.arrow((376, 229), (376, 277))  # attention reads the cache
    d.arrow((672, 39), (672, 20), (222, 20), (222, 39))  # the new token goes round again
    d.text(447, 15, "append the new token, go round again", 12, "soft")
    return d.svg()


def map_title(lit: int | None) -> str:
    """The alt text of the map: what it shows, and which pieces are lit."""
    pieces = [w.replace("\n", " ") for *_, w, lessons in [*LOOP, *LAYER, *GROUND] if lit in lessons]
    here = f" Lit, built in lesson {lit:02d}: {'; '.join(dict.fromkeys(pieces))}." if pieces else ""
    return (
        "Map of the engine. Top row, a loop: text in, scheduler, packing, decoder, sampler, text "
        "out, and back to the scheduler. Middle row: the parts of one decoder layer. Bottom row: "
        "kernels, softmax, KV cache, images and measurement." + here
    )
