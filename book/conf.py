"""Settings of Sphinx for the site; it reads what ``book/stage.py`` writes."""

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

project = "litellama"
author = "The litellama developers"
copyright = author
extensions = ["myst_nb"]
exclude_patterns = ["files"]

# Notebooks are shown as they are stored.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
# Links between pages are checked by MyST itself; a name in a signature, as torch.Tensor, is none.
nitpicky = False
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# From the site itself, in one file with its glyphs: pages work with no network, and from a disk.
mathjax_path = "mathjax/tex-svg.js"

html_theme = "sphinx_book_theme"
html_title = "litellama"
html_favicon = "static/favicon.svg"
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_theme_options = {
    "use_download_button": False,  # each page names what can be downloaded
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def describe(app: Sphinx, document: nodes.document) -> None:
    """Give the pictures among a notebook's outputs the alternative texts that are stored there."""
    texts = json.loads(Path(app.srcdir, "pictures.json").read_text(encoding="utf-8"))
    for image in document.findall(nodes.image):
        stem = Path(image["uri"]).stem
        if stem in texts:
            image["alt"] = texts[stem]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", describe)
