"""Exercise copies: a chapter as it is, with room for answers where its solutions were."""

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from nclib.runtime import home, write

from .profiles import chapters, source

SOLUTION = re.compile(r"^`{3,}\{solution-(?:start|end)\}[^`]*`{3,}$", re.M)  # starts and ends take turns
EXERCISE = re.compile(r"^(`{3,})\{exercise\} (.+)\n(?::.*\n)*((?s:.*?))^\1$", re.M)
ANSWER = "# your answer"


def write_copies() -> list[Path]:
    """``_build/exercises/<chapter>.ipynb`` for every chapter with exercises, made anew from its source."""
    folder = home() / "_build" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chapter in chapters():
        notebook = nbformat.read(source(chapter), 4)
        if any(SOLUTION.search(cell.source) for cell in notebook.cells):
            files.append(folder / f"{chapter}.ipynb")
            write(files[-1], nbformat.writes(without_solutions(notebook)))
    return files


def without_solutions(notebook):
    """A copy: an empty code cell in place of each solution, exercises as plain headings, all else intact."""
    copy, hidden = notebook.copy(), False
    copy.cells = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            copy.cells += [] if hidden else [cell]
            continue
        first, *others = SOLUTION.split(cell.source)
        pieces = [] if hidden else [new_markdown_cell(_plain(first), metadata=cell.metadata)]
        for text in others:
            hidden = not hidden
            pieces.append(new_code_cell(ANSWER) if hidden else new_markdown_cell(_plain(text)))
        for number, piece in enumerate(pieces):
            piece.id = f"{cell.id}-{number}" if number else cell.id  # the same in every copy
        copy.cells += [piece for piece in pieces if piece.source]
    return copy


def _plain(text: str) -> str:
    """Exercise directives as headings, which Jupyter and Colab show."""
    return EXERCISE.sub(lambda found: f"### Exercise: {found[2]}\n\n{found[3]}", text).strip()
