"""Exercise copies: nothing of a solution in them, nothing else lost, and they run."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import ROOT, command

from press import exercises

SOURCES = {p.stem: nbformat.read(p, 4) for p in sorted((ROOT / "book").glob("*.ipynb"))}
CHAPTERS = [name for name, notebook in SOURCES.items() if "{exercise}" in str(notebook)]


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("chapter", CHAPTERS)
class TestCopy:
    def test_it_has_every_exercise_and_room_for_each_answer_but_no_solution(self, chapter):
        book, copy = SOURCES[chapter], exercises.without_solutions(SOURCES[chapter])
        nbformat.validate(copy)
        titles = re.findall(r"\{exercise\} (.+)", prose(book))
        assert titles and re.findall(r"^### Exercise: (.+)", prose(copy), re.M) == titles
        assert code(copy).count(exercises.ANSWER) == len(titles)
        assert not re.search(r"\{solution|\{exercise|:label: ex-|:class: dropdown", prose(copy))
        after = re.findall(r"\{solution-start\}.*\n.*\n`+\n+(.{20,})", prose(book))  # each solution's first words
        assert after and not [words for words in after if words in prose(copy)]

    def test_all_else_is_there_in_order(self, chapter):
        book, copy = SOURCES[chapter], exercises.without_solutions(SOURCES[chapter])
        hidden, kept = False, []
        for cell in book.cells:
            if cell.cell_type == "code" and not hidden:
                kept.append(cell.source)
            hidden = (cell.source.count("{solution-start}") - cell.source.count("{solution-end}") + hidden) == 1
        assert [source for source in code(copy) if source != exercises.ANSWER] == kept != code(book)
        headings = re.compile(r"^##? .+$", re.M)
        assert headings.findall(prose(copy)) == headings.findall(prose(book))

    def test_no_cell_needs_what_a_solution_defined(self, chapter):
        script = "\n".join(code(exercises.without_solutions(SOURCES[chapter])))
        command = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--select", "F821", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.expensive
def test_the_command_writes_them_and_one_runs(house):
    done = command(house, "exercises")
    assert done.returncode == 0, done.stderr
    folder = house / "_build" / "exercises"
    assert sorted(p.stem for p in folder.iterdir()) == CHAPTERS
    done = papermill.execute_notebook(
        folder / "measures.ipynb", folder / "done.ipynb", kernel_name="python3", cwd=folder, progress_bar=False
    )
    figures = [cell for cell in done.cells if "mystnb" in cell.metadata]
    assert figures and all("image/svg+xml" in str(cell.outputs) for cell in figures)
