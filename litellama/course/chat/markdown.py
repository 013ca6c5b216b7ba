"""What a model writes, as a tree of the few elements that a page may make of it.

The text never becomes markup: the page is given names of elements from ``ELEMENTS`` and strings,
and builds them one by one, so there is nothing that a script tag, an event handler or an image
could ride on.  HTML in the text is shown as the characters that it is, an image as a link, and a
link goes to a web page or an address of mail, or is no link.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# A string is text; an element is {"tag", "children"}, and "href" for a link, "start" for a list.
Node = str | dict[str, Any]

BLOCKS = ("p", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td")
ELEMENTS = frozenset(
    (*BLOCKS, "h4", "h5", "h6", "hr", "pre", "code", "strong", "em", "s", "a", "br")
)
SCHEMES = ("http", "https", "mailto")
# Beyond this Markdown is not worth the time: it is shown as plain text.
LONGEST = 50_000


def tree(text: str) -> list[Node]:
    """The elements of a Markdown text."""
    if len(text) > LONGEST:
        return [{"tag": "pre", "children": [text]}]
    return _nested(_parser().parse(text))


def html(nodes: Sequence[Node]) -> str:
    """The same as HTML, for readers who have no widgets."""
    return "".join(_html(node) for node in nodes)


def _html(node: Node) -> str:
    if isinstance(node, str):
        return escape(node)
    if node["tag"] in ("br", "hr"):
        return f"<{node['tag']}>"
    given = [(name, str(node[name])) for name in ("href", "start") if name in node]
    attributes = "".join(f' {name}="{escape(value, quote=True)}"' for name, value in given)
    return f"<{node['tag']}{attributes}>{html(node['children'])}</{node['tag']}>"


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    # commonmark, and what chat models like to write besides; a line break stays a line break.
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"]).disable("image")
    parser.validateLink = is_web_link  # type: ignore[method-assign]
    return parser


def is_web_link(url: str) -> bool:
    """Whether a link leads to the web or to an address of mail, and not to a program."""
    try:
        return urlsplit(url.strip()).scheme.lower() in SCHEMES
    except ValueError:
        return False


def _nested(tokens: Sequence["Token"]) -> list[Node]:
    """The parser's flat list, with an opening and a closing token for each element, as a tree."""
    levels: list[list[Node]] = [[]]
    for token in tokens:
        if token.nesting < 0:
            if _tag(token):
                levels.pop()
        elif token.nesting > 0:
            if tag := _tag(token):
                element: dict[str, Any] = {"tag": tag, "children": []}
                if tag == "a":
                    element["href"] = str(token.attrGet("href"))
                if start := token.attrGet("start"):
                    element["start"] = int(start)
                levels[-1].append(element)
                levels.append(element["children"])
        else:
            levels[-1].extend(_leaf(token))
    return levels[0]


def _tag(token: "Token") -> str:
    """The element of a token; "" for the paragraph of a tight list, which is not shown as one."""
    if token.hidden:
        return ""
    if token.type.startswith("heading"):  # below the headings of the page
        return f"h{min(int(token.tag[1]) + 3, 6)}"
    return token.tag if token.tag in ELEMENTS else "p"


def _leaf(token: "Token") -> Iterator[Node]:
    """What a token without an end stands for."""
    if token.type == "inline":
        yield from _nested(token.children or [])
    elif token.type in ("fence", "code_block"):
        yield {"tag": "pre", "children": [{"tag": "code", "children": [token.content]}]}
    elif token.type == "code_inline":
        yield {"tag": "code", "children": [token.content]}
    elif token.type in ("softbreak", "hardbreak"):
        yield {"tag": "br", "children": []}
    elif token.type == "hr":
        yield {"tag": "hr", "children": []}
    else:
        yield token.content
