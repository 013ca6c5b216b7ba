"""Build the site: ``python -m book [OUT]``, by default in ``build/book``.  Warnings are errors."""

import argparse
import shutil
import sys
from pathlib import Path

from book.links import BookError
from book.stage import stage

ROOT = Path(__file__).resolve().parents[1]


def build(out: Path, root: Path = ROOT) -> int:
    """Stage and build the site in ``out``; Sphinx's exit status, which is 1 after a warning."""
    from sphinx.cmd.build import build_main

    source = out.with_name(f"{out.name}-source")
    stage(root, source)
    shutil.rmtree(out, ignore_errors=True)
    options = ["--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    options += ["-c", str(root / "book")]
    options += ["-D", f"html_static_path={source / '_static'}"]
    options += ["-d", str(out.with_name(f"{out.name}-doctrees"))]
    return build_main([*options, str(source), str(out)])


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 1 if a page cannot be made or Sphinx warns."""
    parser = argparse.ArgumentParser(prog="python -m book", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "build" / "book")
    out = parser.parse_args(arguments).out.resolve()
    try:
        status = build(out)
    except BookError as error:
        print(error, file=sys.stderr)
        return 1
    if status == 0:
        print(f"the book is in {out}: open {out / 'index.html'} in a browser")
    return status


if __name__ == "__main__":
    sys.exit(main())
