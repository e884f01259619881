"""Copies that leave the book: chapters to run, without their solutions, to retype, to launch elsewhere, to download."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from nclib.runtime import home, write

from .plain import labels, plain
from .profiles import chapters, source

SOLUTION = re.compile(r"^`{3,}\{solution-(?:start|end)\}[^`]*`{3,}$", re.M)  # starts and ends take turns
ANSWER = "# your answer"
GIVEN = {"parameters", "setup", "remove-cell", "prose", "install"}  # tags of cells that nobody need retype


def write_copies(kind: str) -> list[Path]:
    """``_build/<kind>/<chapter>.ipynb``, plain Markdown, for every chapter of which there is such a copy.

    A copy that somebody has changed since it was written is left alone.
    """
    folder, elsewhere, files = home() / "_build" / kind, labels(), []
    folder.mkdir(parents=True, exist_ok=True)
    for chapter in chapters():
        if made := KINDS[kind](nbformat.read(source(chapter), 4)):
            file, copy = folder / f"{chapter}.ipynb", plain(made, elsewhere)
            copy.metadata["nclib"] = {"written": _digest(copy)}
            if not _is_changed(file):
                write(file, nbformat.writes(copy))
            files.append(file)
    return files


def _digest(notebook) -> str:
    return sha256("\0".join(cell.source for cell in notebook.cells).encode()).hexdigest()


def _is_changed(file: Path) -> bool:
    if not file.exists():
        return False
    there = nbformat.read(file, 4)
    return there.metadata.get("nclib", {}).get("written") != _digest(there)


def without_solutions(notebook):
    """A copy: an empty code cell in place of each solution, all else intact. None where there is no exercise."""
    if not any(SOLUTION.search(cell.source) for cell in notebook.cells):
        return None
    copy, hidden = notebook.copy(), False
    copy.cells = []
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
            used = dict.fromkeys(re.findall(r"\bnc(?:\.[a-z_]+)+", cell.source))
            lines = len(cell.source.splitlines())
            cell.source = f"# {lines} line{'s' * (lines > 1)}{': ' * bool(used)}{', '.join(used)}"
    return copy


KINDS: dict[str, Callable] = {"notebooks": lambda it: it, "exercises": without_solutions, "retype": to_retype}


def launchable(notebook, url: str, head: str):
    """A source with a first cell that installs nclib from a commit, where what the chapter needs is missing."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    extra, needed = ("[attacks]", ["nclib", "advertorch"]) if "nc.attack(" in code else ("", ["nclib"])
    first = "# Where it is missing, as on Colab, nclib is installed from the commit of this page.\n"
    first += f"from importlib.util import find_spec\n\nif not all(map(find_spec, {needed})):\n"
    first += f'    %pip install -q "nclib{extra} @ git+{url}@{head}"'
    copy = nbformat.from_dict(notebook)
    copy.cells.insert(0, new_code_cell(first, id="install", metadata={"tags": ["install"]}))
    return copy


def launch(site: Path, url: str, head: str) -> None:
    """``launch/`` of a rendered site: what Colab opens, plain, each with its first cell that installs."""
    (site / "launch").mkdir(exist_ok=True)
    elsewhere = labels()
    for chapter in chapters():
        notebook = launchable(plain(nbformat.read(source(chapter), 4), elsewhere), url, head)
        nbformat.write(notebook, site / "launch" / f"{chapter}.ipynb")


def downloads(site: Path, pages: Path) -> None:
    """What a rendered site's download buttons give: the executed pages, plain, those recorded at other scales too."""
    elsewhere, sources = labels(), site / "_sources"
    for file in sources.rglob("*.ipynb"):
        recorded = home() / "results" / file.parent.name / "pages"
        page = (pages if file.parent == sources else recorded) / file.name
        nbformat.write(plain(nbformat.read(page, 4), elsewhere), file)
