"""The API pages: a page for each file of the package, made from its docstrings.

The files are read, not imported, so that a page shows what stands there: the signature as it was
written, and the source.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from litellama.course.lessons import LESSONS, heading
from litellama.course.package_map import ROOMS, TAUGHT

PART = re.compile(r"(?:^|(?<=[.\s]))(Shapes and bytes|Shapes|Bytes|Sources?):\s")
LESSON = re.compile(r"(?:(?<=\s)|^)(?:Kept for lesson|Lesson) \d\d\b[^.]*\.(?:\s|$)")
# The answers to the exercises are no reference.
LEFT_OUT = "litellama/course/exercises/"
Definition = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path) -> list[str]:
    """The files of the package that get a page, as paths within the repository."""
    found = sorted((root / "litellama").rglob("*.py"))
    paths = [path.relative_to(root).as_posix() for path in found]
    return [path for path in paths if not path.startswith(LEFT_OUT)]


def page_of(source: str) -> str:
    """``package/kernels/rope.md`` for ``litellama/kernels/rope.py``."""
    path = source.removeprefix("litellama/").removesuffix(".py")
    return f"package/{path.replace('__init__', 'index').replace('__main__', 'main')}.md"


def module_page(root: Path, source: str, pages: dict[str, str]) -> str:
    """The page of a file, in MyST markdown; of an ``__init__.py``, that of its folder.

    pages: the pages of the site, by file of the repository.
    """
    tree = ast.parse((root / source).read_text(encoding="utf-8"))
    folder = Path(source).name == "__init__.py"
    path = posixpath.dirname(source) if folder else source
    module = path.removesuffix(".py").replace("/", ".")
    title = path if path == "litellama" else posixpath.relpath(path, "litellama")
    lines = [f"# {_markdown(title)}", ""]
    lines += [f"```{{py:module}} {module}\n```", ""]
    lines += _about(ast.get_docstring(tree) or "", page_of(source), pages)
    if folder:
        lines += _contents(root, source)
    definitions = "\n".join(line for node in tree.body for line in _definition(node))
    if _room(source) not in ROOMS:
        # Outside the engine short names occur twice, as Case does: those are no targets of links.
        definitions = re.sub(r"^(:{5,6}\{py:.*)$", r"\1\n:no-index:", definitions, flags=re.M)
    lines.append(definitions)
    depth = "../" * page_of(source).count("/")
    lines += [
        "## Source",
        "",
        f'<details class="fold source"><summary><code>{source}</code></summary>',
        "",
        f"```{{literalinclude}} {depth}files/{source}\n:language: python\n:linenos:\n```",
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _room(source: str) -> str:
    """``kernels`` for ``litellama/kernels/rope.py``; nothing for ``litellama/llm.py``."""
    return posixpath.dirname(source).removeprefix("litellama").strip("/")


# --- what the file says about itself -------------------------------------------------------------


def _about(docstring: str, page: str, pages: dict[str, str]) -> list[str]:
    """The module's docstring: formula and idea, then a list of shapes, bytes, source, lesson."""
    told = sorted({int(n) for n in TAUGHT.findall(" ".join(docstring.split()))})
    ends = [found[0].strip() for found in LESSON.finditer(docstring)]
    text = LESSON.sub("", docstring)
    idea, parts = _take_apart(text)
    lines = _first_line(idea[0]) if idea else []
    lines += [_markdown(paragraph) + "\n" for paragraph in idea[1:]]
    for name, said in parts.items():
        lines += [f"{name}\n: {_markdown(said)}\n"]
    if told:
        links = [_lesson_link(number, page, pages) for number in told]
        said = f". {_markdown(' '.join(' '.join(ends).split()))}" if ends else ""
        lines += [f"Lesson\n: {', '.join(links)}{said}\n"]
    return lines


def _take_apart(docstring: str) -> tuple[list[str], dict[str, str]]:
    """The paragraphs of a docstring, and its labelled parts (each ends with its paragraph)."""
    idea: list[str] = []
    parts: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", docstring):
        pieces = PART.split(paragraph)
        if pieces[0].strip():
            idea.append(pieces[0].strip())
        for name, said in zip(pieces[1::2], pieces[2::2], strict=True):
            parts[name] = said.strip()
    return idea, parts


def _first_line(paragraph: str) -> list[str]:
    """The first paragraph; what is a formula after its colon stands on a line of its own."""
    title, colon, formula = paragraph.partition(": ")
    if colon and re.search(r"\s=\s|\(.*\)", formula) and "\n" not in paragraph:
        code = f"```{{code-block}} text\n:class: formula\n\n{formula.rstrip('.')}\n```\n"
        return [_markdown(title) + ":\n", code]
    return [_markdown(paragraph) + "\n"]


def _lesson_link(number: int, page: str, pages: dict[str, str]) -> str:
    known = [name for name in LESSONS if int(name[:2]) == number]
    if not known:
        return f"{number:02d}"
    goal = pages.get(f"notebooks/{known[0]}.ipynb")
    text = heading(known[0])
    return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(page))})" if goal else text


def _contents(root: Path, source: str) -> Iterator[str]:
    """The files and folders beside an ``__init__.py``, with their first lines."""
    room = posixpath.dirname(source)
    inside = [path for path in sources(root) if posixpath.dirname(path) == room and path != source]
    folders = [
        path
        for path in sources(root)
        if Path(path).name == "__init__.py" and posixpath.dirname(posixpath.dirname(path)) == room
    ]
    entries = [posixpath.relpath(page_of(p), posixpath.dirname(page_of(source))) for p in inside]
    nested = [posixpath.relpath(page_of(p), posixpath.dirname(page_of(source))) for p in folders]
    if not entries and not nested:
        return
    for path, entry in zip([*inside, *folders], [*entries, *nested], strict=True):
        said = ast.get_docstring(ast.parse((root / path).read_text(encoding="utf-8"))) or ""
        first = re.sub(r"  Lesson \d\d .*", "", said.split("\n")[0])
        folder = posixpath.basename(posixpath.dirname(path))
        name = Path(path).name if path in inside else f"{folder}/"
        yield f"[`{name}`]({entry})\n: {_markdown(first)}\n"
    yield "```{toctree}\n:hidden:\n"
    yield from (entry.removesuffix(".md") for entry in [*entries, *nested])
    yield "```\n"


# --- functions and classes -----------------------------------------------------------------------


def _definition(node: ast.stmt) -> Iterator[str]:
    """A public function or class of a module, as the Python domain of Sphinx wants it."""
    if isinstance(node, Definition) and not node.name.startswith("_"):
        yield from _function(node, "function")
    elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        yield from _class(node)


def _function(node: Definition, kind: str) -> Iterator[str]:
    flags = _flags(node)
    triton = "triton.jit" in flags
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = _arguments(node, kind in ("method", "property"))
    signature = f"{node.name}({arguments}){result}"
    if kind == "property":
        signature, kind = node.name, "property"
    elif "classmethod" in flags or "staticmethod" in flags:
        kind = "classmethod" if "classmethod" in flags else "staticmethod"
    yield f":::::{{py:{kind}}} {signature}\n"
    if triton:
        yield "*A Triton kernel.*\n"
    yield from _paragraphs(ast.get_docstring(node) or "")
    yield ":::::\n"


def _flags(node: Definition) -> set[str]:
    return {ast.unparse(d).split("(")[0] for d in node.decorator_list}


def _arguments(node: Definition, bound: bool) -> str:
    """The arguments as written, without ``self``."""
    text = ast.unparse(node.args)
    return re.sub(r"^(self|cls)(, |$)", "", text) if bound else text


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"::::::{{py:class}} {node.name}{f'({bases})' if bases else ''}\n"
    yield from _paragraphs(ast.get_docstring(node) or "")
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if field.target.id.startswith("_"):
                continue
            value = f"\n:value: {ast.unparse(field.value)}" if field.value else ""
            kind = ast.unparse(field.annotation)
            yield f":::::{{py:attribute}} {field.target.id}\n:type: {kind}{value}\n:::::\n"
    for method in node.body:
        if isinstance(method, Definition) and not method.name.startswith("_"):
            yield from _function(method, "property" if "property" in _flags(method) else "method")
    yield "::::::\n"


def _paragraphs(docstring: str) -> Iterator[str]:
    """A docstring's paragraphs; indented ones are code."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        if paragraph.startswith("    "):
            yield f"```python\n{paragraph}\n```\n"
        elif paragraph:
            yield _markdown(paragraph) + "\n"


def _markdown(text: str) -> str:
    """Text of a docstring: code marked as there, papers linked, and no other mark has a meaning."""
    parts = text.replace("  ", " ").split("``")
    for i, part in enumerate(parts):
        if i % 2 == 0:
            part = re.sub(r"([\\*_<>|\[\]`$#{}~])", r"\\\1", part)
            part = re.sub(r"^(\s*)([-+]|\d+\.)(\s)", r"\1\\\2\3", part, flags=re.MULTILINE)
            part = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", part)
        parts[i] = part
    return "`".join(parts)
