"""The two pages beside the lessons: the glossary, and the map of the package."""

import functools
import importlib.util
import re
import warnings
from pathlib import Path

import nbformat
import pytest

from litellama.course import package_map
from litellama.course.lessons import LESSONS, ROOT

NOTEBOOKS = ROOT / "notebooks"
PIECES = package_map.pieces()
WRITTEN = [name for name in LESSONS if (NOTEBOOKS / f"{name}.ipynb").exists()]
LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


@functools.cache
def cells(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells


def prose(name: str) -> str:
    return "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")


def everything(name: str) -> str:
    return "\n\n".join(cell.source for cell in cells(name))


@pytest.mark.parametrize("page", ["glossary", "package_map"])
def test_every_link_works(page):
    """A lesson that is not written yet may be linked, if it is on the list of lessons."""
    targets = LINK.findall(prose(page))
    assert targets
    for target in targets:
        if target.startswith("#"):
            assert f"\n## {target[1:]}\n" in prose(page), target
        elif Path(target).stem not in LESSONS:
            assert (NOTEBOOKS / target).is_file(), target


@pytest.mark.parametrize("name", LESSONS)
def test_the_lists_of_lessons_agree(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| {name[:2]} | [{LESSONS[name]}](notebooks/{name}.ipynb) |" in readme or (
        f"| {name[:2]} | {LESSONS[name]} |" in readme
    )


# --- the glossary --------------------------------------------------------------------------------

ENTRY = re.compile(
    r"^\*\*(?P<term>[^*]+)\*\*(?: \((?P<more>[^)]+)\))?: (?P<text>.+?) "
    r"\[Lesson (?P<number>\d\d)\]\((?P<lesson>\w+)\.ipynb\), "
    r"\[(?P<name>[\w.]+)\]\(\.\./(?P<file>litellama/[\w./]+)\)$"
)
PARAGRAPHS = [
    paragraph
    for cell in prose("glossary").split("\n\n## ")[1:]
    for paragraph in cell.split("\n\n")[1:]
]
ENTRIES = [entry.groupdict() for entry in map(ENTRY.match, PARAGRAPHS) if entry]
# Lessons whose terms are not all in yet. Whoever adds a lesson's terms takes it from here.
UNSEEN: set[str] = set()
# In bold for emphasis, or as the first words of a paragraph: no term of the field.
EMPHASIS = set(
    """top row, middle row, bottom row, every bit must agree, only the bytes cost, three,
    distance, pairs, bits, float64, one, last, one word back, first, stepping stone, predict,
    predicted, output, start, same tokens, levels, bytes, overlap, the kernel, the way back,
    then count, measure, in triton, biases, norms, the cache, one step behind, shape,
    predictions, layer, feed-forward block""".replace("\n   ", "").split(", ")
)


def words(text: str) -> str:
    """Lower case, one space between words, no endings: two ways to write a term become one."""
    text = " ".join(re.sub("[-_]", " ", text).lower().split()).removeprefix("the ")
    return re.sub(r"(?<=ch)es\b|(?<=[a-z]{3})ed\b|(?<=[a-z]{2})s\b", "", text.replace("ies", "y"))


def forms(entry: dict[str, str]) -> set[str]:
    """The term, and the other words for it that stand in brackets."""
    others = re.split(r"; |, ", entry["more"] or "")
    others = [re.sub("^(also )?(to )?", "", other) for other in others]
    return set(map(words, [entry["term"], *others])) - {""}


KNOWN = {form for entry in ENTRIES for form in forms(entry)}


def marked(lesson: str) -> dict[str, str]:
    """The terms that a lesson sets in bold where it explains them: no headings, no sentences."""
    found = re.findall(r"\*\*([^*]+?)\*\*", prose(lesson))
    emphasis = {words(word) for word in EMPHASIS}
    return {
        words(term): " ".join(term.split())
        for term in found
        if not re.search(r"[.:?,`]$|^Rung|^`", term)
        and len(term.split()) < 5
        and words(term) not in emphasis - KNOWN
    }


def test_every_paragraph_is_an_entry():
    assert [text for text in PARAGRAPHS if not ENTRY.match(text)] == []
    assert len(ENTRIES) > 100


def test_the_terms_are_sorted_and_each_is_there_once():
    keys = [(entry["term"].casefold(), entry["more"] or "") for entry in ENTRIES]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    names = [form for entry in ENTRIES for form in forms(entry)]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"block"}, "two entries for one term need (in ...) and (of ...)"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['term']}-{entry['more']}")
def test_an_entry_is_short_and_its_lesson_has_the_term(entry):
    assert 1 <= len(re.findall(r"[.!?](?: |$)", entry["text"])) <= 3
    assert entry["lesson"][:2] == entry["number"]
    assert entry["lesson"] in LESSONS
    assert Path(entry["file"]).name == entry["name"]
    if entry["lesson"] in WRITTEN and entry["lesson"] not in UNSEEN:
        text = words(everything(entry["lesson"]).replace("*", ""))
        assert any(form in text for form in forms(entry)), f"{entry['lesson']} does not have it"


@pytest.mark.parametrize("lesson", [name for name in WRITTEN if name not in UNSEEN])
def test_the_terms_that_a_lesson_marks_are_in_the_glossary(lesson):
    missing = {term for key, term in marked(lesson).items() if key not in KNOWN}
    assert missing == set(), "add them to notebooks/glossary.ipynb, or use italics for emphasis"


def test_lessons_that_are_still_to_be_gone_through_are_named():
    """No failure, but a line in the summary: somebody else's lesson may come first."""
    for lesson in sorted(UNSEEN & set(WRITTEN)):
        missing = sorted(term for key, term in marked(lesson).items() if key not in KNOWN)
        if missing:
            warnings.warn(f"glossary: {lesson} also marks {missing}", stacklevel=1)


# --- the map of the package ----------------------------------------------------------------------


def test_the_page_is_what_the_docstrings_give():
    path = ROOT / "tools" / "make_package_map.py"
    spec = importlib.util.spec_from_file_location("make_package_map", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--check"]) == 0, "run python tools/make_package_map.py and make figures"


def test_a_change_of_a_docstring_is_noticed(tmp_path, monkeypatch):
    before = "".join(package_map.page())
    real = package_map.piece
    monkeypatch.setattr(
        package_map, "piece", lambda path: real(path) if path.stem != "mul" else
        package_map.Piece("litellama/kernels/mul.py", "Another line.", (2,)),
    )  # fmt: skip
    after = "".join(package_map.page())
    assert "Another line." in after
    assert before != after


def test_every_lesson_leads_to_a_file_and_every_number_is_a_lessons():
    taught = {number for piece in PIECES for number in piece.lessons}
    assert taught == {int(name[:2]) for name in LESSONS}


def test_every_file_says_in_its_first_line_what_it_is():
    for piece in PIECES:
        assert piece.about.endswith("."), piece.path
        assert len(piece.about) > 15, piece.path


@pytest.mark.parametrize("lesson", WRITTEN)
def test_a_lesson_has_the_files_that_name_it(lesson):
    """A docstring that says "Lesson 03 builds this file" is believed when lesson 03 names it."""
    text = everything(lesson).lower()
    for piece in PIECES:
        if int(lesson[:2]) in piece.lessons:
            name = piece.name.rstrip("/").replace("_", "[_ ]?")
            assert re.search(rf"(?<![a-z]){name}(?![a-z])", text), f"{lesson} has no {piece.path}"
