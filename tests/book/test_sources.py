"""The book's sources: notebooks without outputs, parameters, labels, captions, and what is said of every name."""

import ast
import inspect
import itertools
import re

import nbformat
import pytest
from conftest import ROOT
from reading import SOURCES, code_cells, prose

import nclib as nc
from nclib.evidence.pages import literals
from press import plain, profiles

PROFILES = sorted(file.stem for file in (ROOT / "profiles").glob("*.yml"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
class TestSource:
    def test_is_valid_and_carries_no_outputs(self, source):
        nbformat.validate(nbformat.read(source, 4))
        for cell in code_cells(source):
            assert not cell.outputs and cell.execution_count is None

    def test_has_one_parameters_cell_of_typed_literals(self, source):
        (cell,) = code_cells(source, "parameters")
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, ast.Assign), "literals only: a derived value goes stale"
            ast.literal_eval(statement.value)

    def test_every_figure_has_caption_name_and_alt_text(self, source):
        for cell in code_cells(source):
            if "figures." in cell.source and "mystnb" in cell.metadata:
                figure, image = cell.metadata.mystnb.figure, cell.metadata.mystnb.image
                assert len(figure.caption) > 40 and figure.name.startswith("fig-") and len(image.alt) > 30

    def test_equations_figures_and_definitions_are_referred_to(self, source):
        text = prose(source)
        labels = re.findall(r"^\$\$ \(([\w-]+)\)$|^:label: (def-[\w-]+)|^:name: (fig-[\w-]+)", text, re.M)
        labels += [(cell.metadata.mystnb.figure.name,) for cell in code_cells(source) if "mystnb" in cell.metadata]
        for label in filter(None, itertools.chain(*labels)):
            assert re.search(rf"\{{(eq|prf:ref|numref)\}}`{label}`", text), label

    def test_no_number_of_a_result_is_typed_by_hand(self, source):
        """In "What we see" every decimal number comes from glue."""
        section = re.search(r"## What we see\n(.*?)\n## ", prose(source), re.S)
        if section:
            typed = re.sub(r"\{[^}]*\}`[^`]*`|\$[^$]*\$", "", section.group(1))
            assert not re.findall(r"\d+\.\d+", typed.replace("0.999", ""))


def test_a_reference_is_found_by_its_doi_and_leads_to_one_place_once():
    """The style prints url, eprint and doi, each with a link. What is on arXiv alone has arXiv's DOI in place of both;
    what appeared elsewhere keeps its free copy beside the DOI of the record."""
    entries = plain._bibliography()
    for key, entry in entries.items():
        url, eprint, doi = (entry.fields.get(name, "") for name in ("url", "eprint", "doi"))
        assert not doi or re.fullmatch(r"10\.\d{4,}/[^\s{}]+", doi), key
        assert not (eprint and "arXiv" in doi) and "doi.org" not in url and not (url and doi), key
        assert entry.type != "misc" or not eprint, f"{key}: on arXiv alone it has the DOI 10.48550/arXiv.{eprint}"
    assert sum("doi" in entry.fields for entry in entries.values()) >= 32


PAPER = ["collapse", "attacks", "adversarial-training", "released", "layers"]
NEIGHBOURS = ["losses", "sphere", "kernel", "spectrum", "verification"]


@pytest.mark.parametrize("chapter", PAPER + NEIGHBOURS)
def test_chapters_share_one_skeleton(chapter):
    headings = re.findall(r"^## (.+)$", prose(ROOT / "book" / f"{chapter}.ipynb"), re.M)
    skeleton = ["The question", "What to expect, and why", "Parameters", "The mathematics", "What we see",
                "What it does not show", "Summary", "Verdict", "Exercises", "Where this page came from"]  # fmt: skip
    assert [h for h in headings if h in skeleton] == skeleton


def test_every_parameter_is_explained_in_a_table():
    explained = set()
    for source in SOURCES:
        rows = re.findall(r"^\| (`[^|]+) \|", prose(source), re.M)
        explained |= set(re.findall(r"`(\w+)`", " ".join(rows)))
    known = {name for chapter in profiles.chapters() for name in literals(profiles.source(chapter))}
    assert known - explained == {"images"}  # the cheat sheet's stand-in, which its text explains


def test_parameters_are_checked_against_every_profile():
    for profile in PROFILES:
        for chapter in profiles.chapters():
            profiles.parameters(chapter, profile, {})


def test_the_digits_profile_is_what_the_chapters_say():
    """A chapter opened in Jupyter runs as it stands, and gives the page that ``make book`` gives."""
    for chapter in profiles.chapters():
        assert profiles.parameters(chapter, "digits", {}) == {}


def test_every_function_is_listed_with_where_the_book_explains_it():
    rows = [line for line in (ROOT / "book" / "notation.md").read_text().splitlines() if line.startswith("| `nc.")]
    listed = [name for row in rows for name in re.findall(r"`nc\.(\w+)`", row)]
    offered = [name for name in nc.__all__ if not inspect.ismodule(getattr(nc, name))]
    assert sorted(listed) == sorted(offered) and all("{ref}`" in row for row in rows)


def test_every_profile_is_explained():
    rerun = (ROOT / "book" / "rerun.md").read_text()
    for name in PROFILES:
        row = next(line for line in rerun.splitlines() if line.startswith(f"| `{name}`"))
        profile = profiles.read_profile(name)
        assert "epochs" not in profile or f" {profile['epochs']}," in row
