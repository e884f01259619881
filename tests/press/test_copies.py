"""Copies that leave the book: to run, without solutions, to retype. No MyST in them, nothing lost, and they run."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import ROOT, command

from press import copies, plain
from press.copies import ANSWER, KINDS

SOURCES = {p.stem: nbformat.read(p, 4) for p in sorted((ROOT / "book").glob("*.ipynb"))}
CHAPTERS = [name for name, notebook in SOURCES.items() if "{exercise}" in str(notebook)]


ELSEWHERE = plain.labels_elsewhere()
MYST = re.compile(r"\{[\w:.-]+\}`|^\s*[`:]{3,}\{|^:{3}|^\([\w-]+\)=|^:(?:class|label|name|doc):|\$\$ \([\w-]+\)", re.M)
RECORDED = sorted((ROOT / "results").glob("*/pages/*.ipynb"))


def code(notebook):
    """Code, without the cells that say what was prose."""
    return [c.source for c in notebook.cells if c.cell_type == "code" and "prose" not in c.metadata.get("tags", [])]


def texts(notebook):
    """All that a reader sees as Markdown: cells, what cells say, and what they showed."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" or "prose" in cell.metadata.get("tags", []):
            yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("data", {}).get("text/markdown", "")


def without_solutions(chapter):
    return plain.without_myst(copies.without_solutions(SOURCES[chapter]), ELSEWHERE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chapter", SOURCES)
def test_no_copy_of_a_source_has_myst_in_it(chapter, kind):
    if (made := KINDS[kind](SOURCES[chapter])) is None:
        assert chapter not in CHAPTERS
        return
    copy = plain.without_myst(made, ELSEWHERE)
    nbformat.validate(copy)
    assert len({cell.id for cell in copy.cells}) == len(copy.cells)
    assert [found[0] for text in texts(copy) for found in MYST.finditer(text)] == []


@pytest.mark.parametrize("page", RECORDED, ids=lambda p: f"{p.parents[1].name}-{p.stem}")
def test_no_download_has_myst_or_an_empty_place_in_it(page):
    copy = plain.without_myst(nbformat.read(page, 4), ELSEWHERE)
    nbformat.validate(copy)
    said = "\n".join(texts(copy))
    assert MYST.findall(said) == [] and "{{" not in said
    assert not [o for c in copy.cells for o in c.get("outputs", []) if plain.RECORD in str(o)]
    if page.stem == "attacks":
        assert re.search(r"takes training accuracy to 0\.\d{3} and NC1 from \d", said)


def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("chapter", CHAPTERS)
class TestCopy:
    def test_it_has_every_exercise_and_room_for_each_answer_but_no_solution(self, chapter):
        book, copy = SOURCES[chapter], without_solutions(chapter)
        nbformat.validate(copy)
        titles = re.findall(r"\{exercise\} (.+)", prose(book))
        assert titles and re.findall(r"^### Exercise: (.+)", prose(copy), re.M) == titles
        assert code(copy).count(ANSWER) == len(titles)
        assert not re.search(r"\{solution|\{exercise|:label: ex-|:class: dropdown", prose(copy))
        after = re.findall(r"\{solution-start\}.*\n.*\n`+\n+(.{20,})", prose(book))  # each solution's first words
        assert after and not [words for words in after if words in prose(copy)]

    def test_all_else_is_there_in_order(self, chapter):
        book, copy = SOURCES[chapter], without_solutions(chapter)
        hidden, kept = False, []
        for cell in book.cells:
            if cell.cell_type == "code" and not hidden:
                kept.append(cell.source)
            hidden = (cell.source.count("{solution-start}") - cell.source.count("{solution-end}") + hidden) == 1
        assert [source for source in code(copy) if source != ANSWER] == kept != code(book)
        headings = re.compile(r"^##? .+$", re.M)
        kept = [heading for heading in headings.findall(prose(copy)) if heading != "## References"]
        assert kept == headings.findall(prose(book))

    def test_no_cell_needs_what_a_solution_defined(self, chapter):
        script = "\n".join(code(without_solutions(chapter)))
        command = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--select", "F821", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.expensive
def test_the_command_writes_them_and_one_runs(house):
    done = command(house, "copies", "exercises")
    assert done.returncode == 0, done.stderr
    folder = house / "_build" / "exercises"
    assert sorted(p.stem for p in folder.iterdir()) == CHAPTERS
    done = papermill.execute_notebook(
        folder / "measures.ipynb", folder / "done.ipynb", kernel_name="python3", cwd=folder, progress_bar=False
    )
    figures = [cell for cell in done.cells if "mystnb" in cell.metadata]
    assert figures and all("image/svg+xml" in str(cell.outputs) for cell in figures)


def test_a_copy_that_was_changed_is_left_alone(house, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(house))
    mine, *_ = copies.write_copies("notebooks")
    notebook = nbformat.read(mine, 4)
    notebook.cells[0].source = "mine"
    nbformat.write(notebook, mine)
    source = house / "book" / mine.name
    source.write_text(source.read_text("utf-8").replace("## The question", "## A question"), "utf-8")
    copies.write_copies("notebooks")
    assert nbformat.read(mine, 4).cells[0].source == "mine"


def test_a_copy_that_was_only_run_follows_its_source(house, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(house))
    (file, *_) = copies.write_copies("notebooks")
    notebook = nbformat.read(file, 4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").execution_count = 7
    nbformat.write(notebook, file)
    source = house / "book" / file.name
    source.write_text(source.read_text("utf-8").replace("## The question", "## A question"), "utf-8")
    copies.write_copies("notebooks")
    assert "## A question" in prose(nbformat.read(file, 4))


def test_a_copy_to_retype_keeps_every_text_and_no_line_of_code():
    copy = copies.to_retype(SOURCES["attacks"])
    assert prose(copy) == prose(SOURCES["attacks"])
    left = [
        c.source for c in copy.cells if c.cell_type == "code" and not copies.GIVEN & set(c.metadata.get("tags", []))
    ]
    assert sum(not re.fullmatch(r"# \d+ lines?(: .+)?", source) for source in left) == 1  # the imports
    assert any(re.fullmatch(r"# \d+ lines: .*nc\.pgd.*", source) for source in left)


def test_what_is_missing_is_installed_first_and_nothing_where_all_is_there():
    first = copies.launchable("cheatsheet", "https://github.com/a/b", "abc").cells[0].source
    assert "['nclib', 'advertorch']" in first and '"nclib[attacks] @ git+https://github.com/a/b@abc"' in first
    assert "['nclib']" in copies.launchable("attacks", "https://github.com/a/b", "abc").cells[0].source
