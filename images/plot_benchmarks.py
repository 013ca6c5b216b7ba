"""Draw the measured kernels: ``python images/plot_benchmarks.py [FOLDER]`` (or ``make figures``).

Each ``kernels_NAME.json`` in benchmarks/ becomes images/kernels_NAME.svg, from the record alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

from litellama.bench import report
from litellama.course.drawing import PALETTE, Drawing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LEFT, SCALE, ROW = 292, 380, 34  # where bars start, pixels of 100%, height of a line
MOST = 1.02  # a cache can lift a small case past the limit; its number says by how much
WIDTH = 894


def chart(record: dict[str, Any]) -> str:
    """Bars of the fraction of the limit: litellama's in blue, the quickest peer's in grey."""
    groups = report.grouped(report.headline(report.lines(record)))
    height = 66 + sum(44 + ROW * len(group) for group in groups.values())
    d = Drawing(WIDTH, height, report.in_words(record))
    d.text(24, 30, f"Kernels on one {record['gpu']}", 15, "", "start")
    d.box(LEFT, 38, 14, 11, style="lit")
    d.text(LEFT + 22, 48, "litellama", 11, "soft", "start")
    d.box(LEFT + 96, 38, 14, 11, style="plain")
    d.text(LEFT + 118, 48, "quickest peer", 11, "soft", "start")
    top = 66
    for name, group in groups.items():
        limit = report.limit_of(record, group[0].unit)
        words = report.limit_in_words(record, group[0].unit)
        d.text(24, top + 20, name, 13, "", "start")
        d.text(LEFT + SCALE, top + 20, f"100% is {words}", 11, "soft", "end")
        bottom = top + 30 + ROW * len(group)
        for line in group:
            bars(d, top + 30, line, group, limit)
            top += ROW
        d.parts.append(
            f'<path d="M{LEFT + SCALE} {bottom - ROW * len(group) - 4}V{bottom - 4}" fill="none"'
            f' stroke="{PALETTE["vermilion"]}" stroke-width="1.6" stroke-dasharray="5 4"/>'
        )
        top += 44
    return d.svg()


def bars(d: Drawing, top: float, line: report.Line, group: list[report.Line], limit: float) -> None:
    """One line: its name, litellama's bar, and the quickest peer's under it."""
    d.text(24, top + 17, report.label(line, group), 12, "", "start")
    values = LEFT + SCALE + 12
    if line.fraction is not None:
        d.box(LEFT, top, SCALE * min(line.fraction, MOST), 14, style="lit")
        words = f"{line.rates[report.OURS]:.0f} {line.unit}, {line.fraction:.0%}"
        d.text(values, top + 11, words, 12, "", "start")
    if line.best_peer:
        name, rate = line.best_peer
        d.box(LEFT, top + 15, SCALE * min(rate / limit, MOST), 10, style="plain")
        d.text(values, top + 24, f"{rate:.0f} {name}", 10.5, "soft", "start")


def main(folder: Path) -> None:
    """Write the chart of every record into ``folder``."""
    records = sorted(BENCHMARKS.glob("kernels_*.json"))
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        target = folder / path.with_suffix(".svg").name
        target.write_text(chart(record), encoding="utf-8", newline="\n")
    print(f"{len(records)} charts in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
