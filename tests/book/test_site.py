"""The built site: its links, its search, its pages in a real browser."""

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from litellama.course.lessons import ROOT

LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:")
READ = ["index.html", "notebooks/02_softmax.html", "exercises/02_softmax.html"]
READ += ["package/kernels/rms_norm.html", "notebooks/glossary.html"]
KERNELS = ["softmax", "rms_norm", "rope", "swiglu", "flash_attention", "flash_decoding", "sample"]


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.alts: list[str | None] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.update(given[key] for key in ("id", "name") if given.get(key))
        if tag == "img":
            self.alts.append(given.get("alt"))
        for key in ("href", "src"):
            if tag != "a" or key == "href":
                self.links += [given[key]] if given.get(key) else []


@pytest.fixture(scope="module")
def pages(book) -> dict[Path, Page]:
    found = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    return {path: Page(path) for path in found}  # under _static lie templates of the theme


def test_every_link_within_the_site_works(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.is_file():
                broken.append(f"{path.name}: {link}")
            elif goal in pages and parts.fragment not in {"", *pages[goal].anchors}:
                broken.append(f"{path.name}: {link}, no such anchor")
    assert len(pages) > 100
    assert not broken, broken[:20]


def test_every_picture_is_described(pages):
    assert [path.name for path, page in pages.items() for alt in page.alts if not alt] == []


def test_every_notebook_has_a_page_and_is_a_download(book):
    downloads = {path.name for path in (book / "_downloads").rglob("*.ipynb")}
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("exercises/*.ipynb")]:
        assert (book / path.relative_to(ROOT).with_suffix(".html")).is_file(), path
        assert path.name in downloads


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernels_page_shows_what_its_docstring_says(book, name):
    text = (book / "package" / "kernels" / f"{name}.html").read_text(encoding="utf-8")
    for part in ("Shapes", "Source", "Lesson"):
        assert f"<dt>{part}" in text, part
    assert "ytes" in text
    assert 'href="../../notebooks/' in text
    assert f'id="litellama.kernels.{name}.{name}"' in text
    assert "<code>litellama/kernels/" in text


def test_pages_ask_for_nothing_remote_and_report_no_error(book, address, browser):
    """Read from the disk, as someone does who has been given the folder.

    The search works there too, but its excerpts are pages that it fetches, which a browser allows
    from a server only.
    """
    asked, errors = [], []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    for name in READ:
        page.goto(f"{book.as_uri()}/{name}", wait_until="networkidle")
    page.goto(f"{address}/search.html?q=softmax", wait_until="networkidle")
    page.close()
    assert len(asked) > len(READ)
    assert [url for url in asked if not url.startswith(LOCAL)] == []
    assert errors == []


def test_formulas_are_drawn(book, browser):
    page = browser.new_page()
    page.goto(f"{book.as_uri()}/notebooks/02_softmax.html", wait_until="networkidle")
    page.wait_for_selector("mjx-container svg")
    assert page.locator("mjx-container[display='true']").count() >= 3
    assert page.locator("mjx-merror").count() == 0
    page.close()


def test_search_finds_online_softmax(book, browser):
    page = browser.new_page()
    page.goto(f"{book.as_uri()}/search.html?q=online+softmax")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    assert any("notebooks/02_softmax.html" in href for href in found[:10]), found[:10]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", READ[:5])
def test_a_phone_shows_the_whole_width(book, browser, name, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(f"{book.as_uri()}/{name}", wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", READ[1:4])
def test_accessibility(address, browser, axe, name, scheme):
    """Without the theme's transitions: a colour on its way from light to dark has poor contrast."""
    page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")
    page.goto(f"{address}/{name}", wait_until="networkidle")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    page.close()
    bad = [v for v in found if v["impact"] in ("serious", "critical")]
    told = [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in bad]
    assert not bad, json.dumps(told, indent=1)
