"""What becomes of links, exercises and docstrings on their way to the site."""

import nbformat
import pytest

from book import modules, notebooks
from book.links import BookError, Site
from book.stage import survey
from litellama.course.lessons import ROOT


@pytest.fixture(scope="module")
def site() -> Site:
    return survey(ROOT)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../litellama/kernels/rope.py)", "[a](../package/kernels/rope.md)"),
        ("[a](../litellama/kernels)", "[a](../package/kernels/index.md)"),
        ("[`a`](../solutions/02_softmax.ipynb)", "[`a`](../exercises/02_softmax.ipynb)"),
        ("[D](#D)", "[D](#d)"),
        ("![x [1]](../images/map_02.svg)", "![x [1]](../images/map_02.svg)"),
        ("`kernel[(M,)](x)`", "`kernel[(M,)](x)`"),
        ("```\nkernel[(M,)](x)\n```", "```\nkernel[(M,)](x)\n```"),
        ("[paper](https://arxiv.org/abs/1)", "[paper](https://arxiv.org/abs/1)"),
        ("[tests](../tests)", "tests"),
    ],
)
def test_a_link_leads_to_the_page_of_its_file(site, link, expected):
    assert (
        site.rewrite(link, "notebooks/02_softmax.ipynb", "notebooks/02_softmax.ipynb") == expected
    )


def test_a_link_to_nothing_is_refused(site):
    with pytest.raises(BookError, match=r"links to nothing\.py.*mend the link"):
        site.rewrite("[a](nothing.py)", "notebooks/02_softmax.ipynb", "notebooks/02_softmax.ipynb")


def test_a_linked_page_that_the_site_has_not_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n")
    with pytest.raises(BookError, match=r"README\.md links to notes\.md, .* PAPERS"):
        Site(tmp_path, {}).rewrite("[notes](notes.md)", "README.md", "index.md")


def test_a_picture_is_shown_from_where_it_lies(tmp_path):
    site = Site(tmp_path, {})
    (tmp_path / "plot.png").write_bytes(b"")
    assert (
        site.rewrite("![a plot](plot.png)", "card.md", "pages/card.md") == "![a plot](../plot.png)"
    )
    assert site.pictures == {"plot.png"}


def test_a_planned_lesson_is_not_linked(tmp_path):
    site = Site(tmp_path, {}, frozenset({"notebooks/13_llava.ipynb"}))
    page = "notebooks/02_softmax.ipynb"
    assert site.rewrite("see [13](13_llava.ipynb)", page, page) == "see 13"


def test_an_exercise_page_folds_what_gives_the_answer_away(site):
    page = notebooks.exercise_page(site, "solutions/02_softmax.ipynb", None)
    shown, folded, depth = [], [], 0
    for cell in page.cells:
        opens = cell.source.count("<details class")
        (folded if depth or opens else shown).append(cell.source)
        depth += opens - cell.source.count("</details>") * bool(depth or opens)
    assert depth == 0
    answer = "exponentials = tl.exp(x - tl.max(x, axis=0))"
    assert any(answer in source for source in folded)
    assert not any(answer in source for source in shown)
    assert sum("Hint 1 of" in source for source in folded) == 5
    assert any("YOUR CODE HERE" in source for source in shown)


def test_alternative_texts_are_found_by_content():
    notebook = nbformat.read(ROOT / "notebooks" / "03_rmsnorm.ipynb", as_version=4)
    texts = list(notebooks.alternative_texts(notebook).values())
    assert len(texts) == 4
    assert all(texts)


def test_a_docstring_is_taken_apart():
    docstring = (
        "Twice: out = 2 x.\n\nShapes: ``x`` [N].  Bytes: 2 N.\n"
        "Source: A, 2020, arXiv:2001.00001.  Lesson 03 builds this file."
    )
    page = "\n".join(modules._about(docstring, "package/a.md", {}))
    for part in ("out = 2 x\n", "Shapes\n: `x` \\[N\\].", "Bytes\n: 2 N.", "Source\n: A, 2020"):
        assert part in page
    assert "https://arxiv.org/abs/2001.00001" in page
    assert "Lesson 03 builds this file." in page
