"""The folder that Sphinx reads: every page of the site, made from what the repository holds."""

import json
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import nbformat

from book import modules, notebooks
from book.links import BookError, Site, slug
from litellama.course.lessons import LESSONS

# The sections of the README that the first page shows; the others make a page of their own.
FIRST = ("Start", "Lessons")
# Other Markdown files that are pages of their own.
PAPERS = {
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "measured.md",
    "litellama/shapes/MODEL_CARD.md": "shapes_llava.md",
}
MATHJAX = "sphinx-mathjax-offline"


def stage(root: Path, out: Path) -> Site:
    """Write into ``out`` everything that Sphinx reads; the site that it will be.

    What is there and has not changed is left alone, so that Sphinx builds only what is new.
    """
    site = survey(root)
    written: dict[str, str] = dict(_pages(site))
    texts = {}
    for source in _notebooks(root, "notebooks"):
        texts.update(notebooks.alternative_texts(nbformat.read(root / source, as_version=4)))
    written["pictures.json"] = json.dumps(texts, indent=1, ensure_ascii=False)
    copied = {f"files/{path}": root / path for path in sorted(_attached(site))}
    copied |= {path: root / path for path in sorted(site.pictures)}
    copied["_static/mathjax/tex-svg.js"] = _mathjax()
    for path in sorted((root / "book" / "static").iterdir()):
        copied[f"_static/{path.name}"] = path
    for name, text in written.items():
        _write(out / name, text.encode("utf-8"))
    for name, path in copied.items():
        _write(out / name, path.read_bytes())
    _clear(out, {*written, *copied})
    return site


def survey(root: Path) -> Site:
    """Every page of the site, by the file of the repository that it shows."""
    lessons = _notebooks(root, "notebooks")
    solutions = _notebooks(root, "solutions")
    pages = {source: source for source in lessons}
    for source in solutions:
        page = source.replace("solutions/", "exercises/")
        pages |= {source: page, page: page}
    for source in modules.sources(root):
        pages[source] = modules.page_of(source)
        if source.endswith("__init__.py"):
            pages[source.removesuffix("/__init__.py")] = modules.page_of(source)
    pages |= {"README.md": "index.md", "benchmarks": PAPERS["benchmarks/README.md"], **PAPERS}
    pages |= {"notebooks": "index.md", "exercises": "index.md", "solutions": "index.md"}
    planned = {
        f"{room}/{name}.ipynb"
        for room in ("notebooks", "exercises", "solutions")
        for name in LESSONS
    }
    return Site(root, pages, frozenset(planned))


def _notebooks(root: Path, room: str) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in (root / room).glob("*.ipynb"))


def _pages(site: Site) -> Iterator[tuple[str, str]]:
    """Every page: its place and its text."""
    for source in _notebooks(site.root, "notebooks"):
        exercises = site.pages.get(source.replace("notebooks/", "exercises/"))
        yield source, _dump(notebooks.lesson(site, source, exercises))
    for source in _notebooks(site.root, "solutions"):
        lesson = site.pages.get(source.replace("solutions/", "notebooks/"))
        yield site.pages[source], _dump(notebooks.exercise_page(site, source, lesson))
    for source in modules.sources(site.root):
        page = modules.page_of(source)
        yield page, modules.module_page(site.root, source, site.pages)
    for source, page in PAPERS.items():
        yield page, site.rewrite((site.root / source).read_text(encoding="utf-8"), source, page)
    yield from _readme(site)


def _dump(notebook: nbformat.NotebookNode) -> str:
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1, sort_keys=True) + "\n"


def _attached(site: Site) -> set[str]:
    """What comes along as it is: the notebooks, the sources that pages show, what is linked."""
    rooms = ("notebooks", "exercises", "solutions")
    found = {path for room in rooms for path in _notebooks(site.root, room)}
    return found | set(modules.sources(site.root)) | site.attached


# --- the first pages -----------------------------------------------------------------------------


def _readme(site: Site) -> Iterator[tuple[str, str]]:
    """The README as two pages: what it is and the lessons, before ``index.md``; then the engine."""
    text = (site.root / "README.md").read_text(encoding="utf-8")
    introduction, *sections = re.split(r"^## (?=\S)", text, flags=re.MULTILINE)
    titled = {section.partition("\n")[0]: f"## {section}" for section in sections}
    missing = [title for title in FIRST if title not in titled]
    if missing:
        raise BookError(f"README.md: no section {missing[0]!r}, which the book's first page shows")
    first = introduction + "".join(titled[title] for title in FIRST)
    rest = "# The engine\n\n" + "".join(
        text for title, text in titled.items() if title not in FIRST
    )
    here = {"index.md": first, "engine.md": rest}
    frame = (site.root / "book" / "index.md").read_text(encoding="utf-8")
    for page, text in here.items():
        other = "engine.md" if page == "index.md" else "index.md"
        text = _across(site.rewrite(text, "README.md", page), text, other)
        yield page, frame.replace("{readme}", text) if page == "index.md" else text


def _across(rewritten: str, text: str, other: str) -> str:
    """Links within the README whose heading stands on the ``other`` of its two pages."""
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}

    def link(found: re.Match[str]) -> str:
        return found[0] if found[1] in anchors else f"]({other}#{found[1]})"

    return re.sub(r"\]\(#([^)]+)\)", link, rewritten)


# --- files ---------------------------------------------------------------------------------------


def _mathjax() -> Path:
    """MathJax in one file, with the glyphs inside, from the package that carries it."""
    for path in files(MATHJAX) or []:
        if path.name == "tex-svg.js":
            return Path(str(path.locate()))
    raise BookError(f"{MATHJAX} holds no tex-svg.js: install the extra `book` of pyproject.toml")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def _clear(out: Path, wanted: set[str]) -> None:
    """Remove what an earlier build left and this one does not make."""
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(out).as_posix() not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
