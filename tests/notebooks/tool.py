"""Loads a script of tools/ (or benchmarks/) as a module, and makes small notebooks to try it on."""

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat

ROOT = Path(__file__).resolve().parents[2]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def load(name: str, folder: str = "tools") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stdout(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def code(source: str, *outputs, count: int | None = 1, **metadata) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(
        source, outputs=list(outputs), execution_count=count, metadata=metadata
    )


def prose(source: str, **metadata) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source, metadata=metadata)


def notebook(*cells) -> nbformat.NotebookNode:
    """A notebook as it is stored: numbered cells, and nothing of the machine in its metadata."""
    for number, cell in enumerate(cells, start=1):
        cell.id = f"cell-{number:02d}"
    return nbformat.v4.new_notebook(cells=list(cells), metadata=METADATA)


def write(made: nbformat.NotebookNode, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(made), encoding="utf-8")
    return path
