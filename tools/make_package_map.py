#!/usr/bin/env python
"""Make notebooks/package_map.ipynb, the map of the package, from the docstrings of its files.

    python tools/make_package_map.py            write it
    python tools/make_package_map.py --check    fail if it is not what would be written

Its picture is drawn by ``make figures``.
"""

import argparse
import sys
from pathlib import Path

import nbformat

from litellama.course.package_map import page

PATH = Path(__file__).resolve().parents[1] / "notebooks" / "package_map.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def made() -> str:
    """The notebook, as text."""
    cells = [
        nbformat.v4.new_markdown_cell(source, id=f"cell-{number:02d}")
        for number, source in enumerate(page(), start=1)
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    return nbformat.writes(notebook, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or compare the page; 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    if not options.check:
        PATH.write_text(made(), encoding="utf-8")
        return 0
    if PATH.exists() and PATH.read_text(encoding="utf-8") == made():
        return 0
    print(f"{PATH.name}: not what the docstrings give; run python tools/make_package_map.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
