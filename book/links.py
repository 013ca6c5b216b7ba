"""Links: what points to a file of the repository points to its page on the site."""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CODE = re.compile(r"(^```.*?^```|``[^`\n]+``|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
PICTURES = (".svg", ".png", ".jpg")


class BookError(ValueError):
    """Something in the repository cannot become a page; says what, where, and what to do."""


@dataclass
class Site:
    """What the site will hold.

    root: the repository.  pages: from a file or folder of the repository, as ``litellama/llm.py``,
    to its page, as ``package/llm.md``.  planned: files that may be linked before they exist, as the
    lessons still to be written; their links become plain text.  attached: files without a page that
    are linked; they come along as downloads.  pictures: those that are shown.
    """

    root: Path
    pages: dict[str, str]
    planned: frozenset[str] = frozenset()
    attached: set[str] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)

    def rewrite(self, text: str, source: str, page: str) -> str:
        """Markdown of the file ``source``, with its links as they must be on ``page``."""
        text = self._unlink(text, source)

        def link(found: re.Match[str]) -> str:
            return f"]({self.target(found[1], source, page)})"

        return _outside_code(text, lambda part: TARGET.sub(link, part))

    def target(self, target: str, source: str, page: str) -> str:
        """Where a link of ``source`` leads on ``page``, relative to it."""
        path, _, fragment = target.partition("#")
        fragment = f"#{slug(fragment)}" if fragment else ""
        if not path:
            return fragment
        found = self._resolve(path, source)
        if found in self.pages:
            goal = self.pages[found]
        elif found.endswith(PICTURES) and (self.root / found).is_file():
            self.pictures.add(found)
            goal = found  # pictures lie where they lie in the repository
        elif found.endswith(".md") and (self.root / found).is_file():
            raise BookError(
                f"{source} links to {found}, which has no page: add it to stage.py's PAPERS"
            )
        elif (self.root / found).is_file():
            self.attached.add(found)
            goal = f"files/{found}"
        else:
            raise BookError(f"{source} links to {target}, and there is no {found}: mend the link")
        return posixpath.relpath(goal, posixpath.dirname(page) or ".") + fragment

    def _resolve(self, path: str, source: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))

    def _unlink(self, text: str, source: str) -> str:
        """Links to what is planned, and to folders without a page, become their text."""

        def plain(found: re.Match[str]) -> str:
            path = self._resolve(found[2].partition("#")[0], source)
            folder = path not in self.pages and (self.root / path).is_dir()
            missing = path in self.planned and not (self.root / path).exists()
            return found[1] if folder or missing else found[0]

        return re.sub(r"(?<!!)\[([^\[\]]+)\]\((?![\w]+:|#)([^)\s]+)\)", plain, text)


def slug(heading: str) -> str:
    """The anchor that MyST makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts = CODE.split(text)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))
