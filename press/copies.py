"""Copies that leave the book: chapters to run, without their solutions, to retype, to launch elsewhere, to download."""

import re
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from nclib.runtime import home, write

from .plain import labels_elsewhere, without_myst
from .profiles import chapters, source

SOLUTION = re.compile(r"^`{3,}\{solution-(?:start|end)\}[^`]*`{3,}$", re.M)  # starts and ends take turns
ANSWER = "# your answer"
GIVEN = {"parameters", "setup", "remove-cell", "prose", "install"}  # tags of cells that nobody need retype


def write_copies(kind: str) -> list[Path]:
    """``_build/<kind>/<chapter>.ipynb``, plain Markdown, for every chapter of which there is such a copy.

    A copy that somebody has changed since it was written is left alone.
    """
    (folder := home() / "_build" / kind).mkdir(parents=True, exist_ok=True)
    elsewhere, files = labels_elsewhere(), []
    for chapter in chapters():
        if made := KINDS[kind](nbformat.read(source(chapter), 4)):
            file, copy = folder / f"{chapter}.ipynb", without_myst(made, elsewhere)
            copy.metadata["nclib"] = {"written": _digest(copy)}
            there = nbformat.read(file, 4) if file.exists() else copy
            if there.metadata.get("nclib", {}).get("written") == _digest(there):
                write(file, nbformat.writes(copy))
            files.append(file)
    return files


def _digest(notebook) -> str:
    return sha256("\0".join(cell.source for cell in notebook.cells).encode()).hexdigest()


def without_solutions(notebook):
    """A copy: an empty code cell in place of each solution, all else intact. None where there is no exercise."""
    if not any(SOLUTION.search(cell.source) for cell in notebook.cells):
        return None
    copy, hidden = nbformat.from_dict(notebook | {"cells": []}), False
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            copy.cells += [] if hidden else [cell]
            continue
        first, *others = SOLUTION.split(cell.source)
        pieces = [] if hidden else [new_markdown_cell(first.strip(), metadata=cell.metadata)]
        for text in others:
            hidden = not hidden
            pieces.append(new_code_cell(ANSWER) if hidden else new_markdown_cell(text.strip()))
        for number, piece in enumerate(pieces):
            piece.id = f"{cell.id}-{number}" if number else cell.id  # the same in every copy
        copy.cells += [piece for piece in pieces if piece.source]
    return copy


def to_retype(notebook):
    """A copy whose code cells are empty but for what they need of nclib: the reader writes them, text before them."""
    copy = nbformat.from_dict(notebook)
    first = next((c for c in copy.cells if "import nclib" in c.source and c.cell_type == "code"), None)
    for cell in copy.cells:
        if cell.cell_type == "code" and cell is not first and not GIVEN & set(cell.metadata.get("tags", [])):
            used, lines = dict.fromkeys(re.findall(r"\bnc(?:\.\w+)+", cell.source)), len(cell.source.splitlines())
            cell.source = f"# {lines} line{'s' * (lines > 1)}{': ' * bool(used)}{', '.join(used)}"
    return copy


KINDS = {"notebooks": lambda it: it, "exercises": without_solutions, "retype": to_retype}


def launchable(chapter: str, url: str, head: str):
    """A chapter, plain, with a first cell that installs nclib from a commit, where what it needs is missing."""
    notebook = without_myst(nbformat.read(source(chapter), 4), labels_elsewhere())
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    extra, needed = ("[attacks]", ["nclib", "advertorch"]) if "nc.attack(" in code else ("", ["nclib"])
    first = "# Where it is missing, as on Colab, nclib is installed from the commit of this page.\n"
    first += f"from importlib.util import find_spec\n\nif not all(map(find_spec, {needed})):\n"
    first += f'    %pip install -q "nclib{extra} @ git+{url}@{head}"'
    notebook.cells.insert(0, new_code_cell(first, id="install", metadata={"tags": ["install"]}))
    return notebook


def write_downloads(site: Path, pages: Path) -> None:
    """What a rendered site's download buttons give: the executed pages, plain, those recorded at other scales too."""
    elsewhere, sources = labels_elsewhere(), site / "_sources"
    for file in sources.rglob("*.ipynb"):
        recorded = home() / "results" / file.parent.name / "pages"
        page = (pages if file.parent == sources else recorded) / file.name
        nbformat.write(without_myst(nbformat.read(page, 4), elsewhere), file)
