"""How the tests of the book read its notebooks."""

from pathlib import Path

import nbformat
from conftest import ROOT

SOURCES = sorted((ROOT / "book").glob("*.ipynb"))


def code_cells(notebook: Path, tag: str | None = None) -> list:
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    return cells if tag is None else [c for c in cells if tag in c.metadata.get("tags", [])]


def prose(notebook: Path) -> str:
    return "\n".join(c.source for c in nbformat.read(notebook, 4).cells if c.cell_type == "markdown")
