"""The site of a book of one chapter: twins, and the ways to a public repository."""

import re
import shutil

import nbformat
import pytest
import yaml
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small import PYTHON

from nclib.evidence import provenance
from press import BookError, site

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0h9v9z"/></svg>'
TITLE = "(ch-attacks)=\n# A chapter\n\n:::{admonition} In short\n:class: tip\nIt has {numref}`fig-attack-arrows`.\n:::"
FIGURE = {
    "mystnb": {"figure": {"name": "fig-attack-arrows", "caption": "A triangle."}, "image": {"alt": "One triangle."}}
}


def chapter(executed: bool, title: str = TITLE):
    cell = new_code_cell("draw()", metadata=FIGURE, id="figure")
    if executed:
        cell.outputs = [new_output("display_data", {"image/svg+xml": SVG})]
    return new_notebook(cells=[new_markdown_cell(title, id="title"), cell], metadata=PYTHON)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A book of a root and a chapter, executed here and recorded at another scale."""
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    for name in ("book/references.bib", "book/api.md", "book/examples.yml", "book/notation.md", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "book" / "intro.md").write_text("# A book\n\nIt has [a chapter](ch-attacks).\n")
    toc = {"format": "jb-book", "root": "intro", "parts": [{"caption": "One", "chapters": [{"file": "attacks"}]}]}
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    for folder in ("book", "_build/mine/pages", "results/bigger/pages"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        nbformat.write(chapter(executed=folder != "book"), tmp_path / folder / "attacks.ipynb")
    (tmp_path / "_build" / "mine" / "stamps").mkdir()
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path))
    monkeypatch.setenv("NCLIB_REPOSITORY", "git@github.com:someone/some-book.git")
    return tmp_path


def test_twins_are_linked_both_ways_and_buttons_lead_to_this_commit(house):
    html = site.render("mine").parent
    page, twin = (html / "attacks.html").read_text(), (html / "bigger" / "attacks.html").read_text()
    assert 'href="bigger/attacks.html"' in page and 'id="fig-attack-arrows"' in page
    assert 'href="../attacks.html"' in twin and 'id="bigger-fig-attack-arrows"' in twin
    at, head = "https://github.com/someone/some-book", provenance.commit().removesuffix("+")
    for text in (page, twin):
        links = re.findall(r'href="([^"]+)"', text)
        assert "https://colab.research.google.com/github/someone/some-book/blob/gh-pages/launch/attacks.ipynb" in links
        assert (
            f"https://mybinder.org/v2/gh/someone/some-book/{head}?urlpath=lab/tree/_build/notebooks/attacks.ipynb"
            in links
        )
        assert f"{at}/edit/{provenance.branch()}/book/attacks.ipynb" in links
        assert any(link.startswith(f"{at}/issues/new?") for link in links)
    first, *rest = nbformat.read(html / "launch" / "attacks.ipynb", 4).cells
    assert f"git+{at}@{head}" in first.source
    title, figure, caption = rest
    assert title.source == "# A chapter\n\n> **In short.** It has Figure 1." and figure.source == "draw()"
    assert caption.source == "> **Figure 1.** A triangle."
    assert nbformat.read(html / "_sources" / "bigger" / "attacks.ipynb", 4).cells[1].outputs, "downloads are executed"
    assert "twin" not in nbformat.read(html / "_sources" / "bigger" / "attacks.ipynb", 4).cells[0].source
    before = (html / "index.html").stat().st_mtime_ns
    assert site.render("mine").stat().st_mtime_ns == before, "nothing changed, nothing is rendered"


def test_a_warning_stops_the_site_and_leaves_no_broken_one(house):
    page = house / "_build" / "mine" / "pages" / "attacks.ipynb"
    nbformat.write(chapter(executed=True, title=TITLE + "\n\nSee {ref}`nowhere`."), page)
    with pytest.raises(BookError, match=r"the site was not built:\n.*WARNING.*nowhere"):
        site.render("mine")
    assert not (house / "_build" / "mine" / "site").exists()


def test_a_twins_labels_and_references_get_its_profiles_name():
    prose = "See {ref}`fig-a`, {ref}`fig-ab`, {eq}`eq-x` and [names](notation.md).\n\n$$ x $$ (eq-x)\n"
    twin = new_notebook(cells=[new_markdown_cell(prose)])
    site.relabel(twin, {"fig-a", "eq-x"}, "big")
    (cell,) = twin.cells
    assert cell.source == (
        "See {ref}`big-fig-a`, {ref}`fig-ab`, {eq}`big-eq-x` and [names](../notation.md).\n\n$$ x $$ (big-eq-x)\n"
    )


def test_every_kind_of_label_is_found():
    prose = "(ch-a)=\n# T\n(not a label)\n$$ x $$ (eq-b)\n:label: def-c\n:name: fig-d\n```{exercise-start} ex-e\n"
    prose += "```{solution-start} ex-f\n"
    notebook = new_notebook(cells=[new_markdown_cell(prose), new_code_cell("draw()", metadata=FIGURE)])
    found = {"ch-a", "eq-b", "def-c", "fig-d", "ex-e", "ex-f", "fig-attack-arrows"}
    assert site._labels(notebook) == found
