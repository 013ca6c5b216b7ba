"""Draw what was measured: ``python images/plot_benchmarks.py [FOLDER]`` (or ``make figures``).

Each ``kernels_NAME.json`` in benchmarks/ becomes images/kernels_NAME.svg, and all the
``engine_NAME_*.json`` together images/engine_NAME.svg, from the records alone.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litellama.bench import report
from litellama.course.drawing import PALETTE, Drawing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WIDTH, LEFT, SCALE = 894, 292, 380  # of the picture; where bars start; pixels of 100%
OURS, OTHER, GAP = 14, 11, 9  # heights of bars, and the space after a row
MOST = 1.02  # a cache can lift a small case past the limit; its number says by how much


@dataclass(frozen=True)
class Bar:
    """A fraction of the limit, and the words beside it."""

    fraction: float
    words: str


@dataclass(frozen=True)
class Row:
    """litellama's bar, if there is one, and those of others under it."""

    label: str
    ours: Bar | None
    others: tuple[Bar, ...]

    @property
    def height(self) -> int:
        return OURS + OTHER * len(self.others) + GAP


@dataclass(frozen=True)
class Group:
    """Rows that share a limit."""

    name: str
    limit: str
    rows: list[Row]


def chart(title: str, alt: str, other: str, groups: list[Group]) -> str:
    """Bars of the fraction of the limit: litellama's in blue, those of ``other`` in grey."""
    height = 66 + sum(44 + sum(row.height for row in group.rows) for group in groups)
    d = Drawing(WIDTH, height, alt)
    d.text(24, 30, title, 15, "", "start")
    for x, style, words in ((LEFT, "lit", "litellama"), (LEFT + 96, "plain", other)):
        d.box(x, 40, 14, 11, style=style)
        d.text(x + 22, 50, words, 11, "soft", "start")
    top = 66
    for group in groups:
        d.text(24, top + 20, group.name, 13, "", "start")
        d.text(LEFT + SCALE, top + 20, f"100% is {group.limit}", 11, "soft", "end")
        top += 30
        bottom = top + sum(row.height for row in group.rows)
        for row in group.rows:
            draw_row(d, top, row)
            top += row.height
        d.parts.append(
            f'<path d="M{LEFT + SCALE} {bottom - sum(r.height for r in group.rows) - 4}'
            f'V{bottom - 4}" fill="none" stroke="{PALETTE["vermilion"]}" stroke-width="1.6"'
            ' stroke-dasharray="5 4"/>'
        )
        top += 14
    return d.svg()


def draw_row(d: Drawing, top: float, row: Row) -> None:
    """Its name, its bars one under the other, and what they are worth."""
    d.text(24, top + 17, row.label, 12, "", "start")
    right = LEFT + SCALE + 12
    if row.ours:
        d.box(LEFT, top, SCALE * min(row.ours.fraction, MOST), OURS, style="lit")
        d.text(right, top + 11, row.ours.words, 12, "", "start")
    for i, bar in enumerate(row.others):
        y = top + OURS + 1 + i * OTHER
        d.box(LEFT, y, SCALE * min(bar.fraction, MOST), OTHER - 1, style="plain")
        d.text(right, y + 9, bar.words, 10.5, "soft", "start")


def kernels_chart(record: dict[str, Any]) -> str:
    """The large cases of every kernel beside the quickest peer."""
    groups = []
    for name, lines in report.grouped(report.headline(report.lines(record))).items():
        unit = lines[0].unit
        limit = report.limit_of(record, unit)
        rows = []
        for line in lines:
            ours, others = None, []
            if line.fraction is not None:
                words = f"{line.rates[report.OURS]:.0f} {unit}, {line.fraction:.0%}"
                ours = Bar(line.fraction, words)
            if line.best_peer:
                peer, rate = line.best_peer
                others.append(Bar(rate / limit, f"{rate:.0f} {peer}"))
            rows.append(Row(report.label(line, lines), ours, tuple(others)))
        groups.append(Group(name, report.limit_in_words(record, unit), rows))
    alt = report.in_words(record)
    return chart(f"Kernels on one {record['gpu']}", alt, "quickest peer", groups)


def engine_chart(records: list[dict[str, Any]]) -> str:
    """The engine's decoding in every record, beside its peers."""
    rows, said = [], []
    for record in records:
        measured = report.engine_rates(record)
        bars = [
            Bar(fraction, f"{rate:,.0f} tokens/s{f', {fraction:.0%}' if not i else ' ' + name}")
            for i, (name, rate, fraction) in enumerate(measured)
        ]
        rows.append(Row(report.engine_label(record), bars[0], tuple(bars[1:])))
        numbers = ", ".join(f"{name} {rate:,.0f} ({share:.0%})" for name, rate, share in measured)
        said.append(f"{report.engine_label(record)}: {numbers}")
    where = report.machine_of(records[0])
    alt = f"Tokens/s of decoding on {where}, and of the limit. {'; '.join(said)}."
    groups = [Group("tokens/s of decoding", "weights and keys read at the memory's speed", rows)]
    return chart(f"The engine on {where}", alt, "the engines beside it", groups)


def charts() -> dict[str, str]:
    """File name -> SVG, for every record."""
    made = {}
    for path in sorted(BENCHMARKS.glob("kernels_*.json")):
        made[path.with_suffix(".svg").name] = kernels_chart(read(path))
    machines: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(BENCHMARKS.glob("engine_*.json")):
        record = read(path)
        if record["kind"] in report.DECODING:
            machines.setdefault(path.stem.split("_")[1], []).append(record)
    for name, records in machines.items():
        made[f"engine_{name}.svg"] = engine_chart(records)
    return made


def read(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def main(folder: Path) -> None:
    """Write the charts of all records into ``folder``."""
    made = charts()
    for name, svg in made.items():
        (folder / name).write_text(svg, encoding="utf-8", newline="\n")
    print(f"{len(made)} charts in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
