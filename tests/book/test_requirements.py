"""What is imported is asked for, and asked for only where it is used."""

import ast
import itertools
import re
import sys
import tomllib
from importlib import metadata

import nbformat
import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nclib as nc

OURS = {"nclib", "press", *(file.stem for file in (ROOT / "tests").rglob("*.py"))}


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {"": EXTRAS["dependencies"]} | EXTRAS["optional-dependencies"]


def lines(file: str) -> list[str]:
    """What a requirements file asks for, with the files that it names."""
    found = []
    for line in (ROOT / file).read_text().splitlines():
        found += lines(line.split()[1]) if line.startswith("-r ") else [line] if line and line[0] != "#" else []
    return found


def brought(asked: list[str]) -> set[str]:
    """Names of all that pip brings for some requirements: they, and what they ask for in turn; nclib's own extras."""
    todo, found = [(Requirement(line), "") for line in asked], set()
    while todo:
        wanted, extra = todo.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        for chosen in ("", *wanted.extras):
            if (key := (canonicalize_name(wanted.name), chosen)) not in found:
                found.add(key)
                more = EXTRAS[chosen] if key[0] == "nclib" else metadata.requires(wanted.name) or []
                todo += [(Requirement(line), chosen) for line in more]
    return {name for name, _ in found}


def imported(source: str) -> set[str]:
    """Top-level names of the packages that a module imports, at its head or within a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - OURS


def sources(*patterns: str) -> list[str]:
    texts = []
    for path in (path for pattern in patterns for path in sorted(ROOT.glob(pattern))):
        if path.suffix == ".py":
            texts.append(path.read_text())
        else:
            texts += [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return texts


BOOK = ("nclib/**/*.py", "press/**/*.py", "book/*.ipynb", "press/templates/*.ipynb")
COPIED = ("nclib/**/*.py", "book/*.ipynb")


@pytest.mark.parametrize(
    "asked,patterns,apart",
    [
        (lines("requirements.txt"), BOOK, {"ray"}),
        (lines("requirements-tests.txt"), ("nclib/**/*.py", "press/**/*.py", "tests/**/*.py"), set()),
        (["nclib[book]"], BOOK, {"ray"}),
        (["nclib[attacks]"], COPIED, {"yaml"}),
    ],
    ids=["book", "tests", "the extra book", "a copied chapter"],
)
def test_every_package_that_is_imported_comes_with_the_requirements(asked, patterns, apart):
    """``apart``: what only one option needs, which says so where it is missing; yaml, which only a checkout needs."""
    names = set().union(*map(imported, sources(*patterns)))
    owners = metadata.packages_distributions()
    come = brought(asked)
    lacking = {n for n in names - apart if not set(map(canonicalize_name, owners.get(n, []))) & come}
    assert {"torch", "matplotlib"} <= names and not lacking


def test_what_the_site_is_built_with_comes_with_the_extra():
    """Sphinx extensions are named in a file and imported by nobody."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    named = {name.partition(".")[0] for name in config["sphinx"]["config"]["extensions"] if name[:7] != "sphinx."}
    owners, come = metadata.packages_distributions(), brought(["nclib[book]"])
    named = {"sphinxcontrib_bibtex" if n == "sphinxcontrib" else n.replace("-", "_") for n in named}
    known = {name.replace("-", "_") for name in come}
    assert [n for n in named if n not in known and not {canonicalize_name(o) for o in owners.get(n, [])} & come] == []


def test_pins_and_lower_bounds_agree():
    pins = {canonicalize_name(r.name): r for r in map(Requirement, lines("requirements-tests.txt"))}
    for wanted in map(Requirement, itertools.chain(*EXTRAS.values())):
        if wanted.name != "nclib":
            assert str(wanted.specifier), f"{wanted.name} has no lower bound"
        if pin := pins.get(canonicalize_name(wanted.name)):
            assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), (wanted, pin)


def test_the_lock_has_every_pin_with_hashes_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([\w.-]+)==(\S+)(?: ;.*?)? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M)
    assert len(locked) == len(re.findall(r"^\S", text, re.M)) > 150
    known = {canonicalize_name(name): version for name, version, _ in locked}
    for pin in map(Requirement, {*lines("requirements-tests.txt"), *lines("requirements-lab.txt")}):
        assert pin.specifier.contains(known[canonicalize_name(pin.name)]), pin
    assert "://" not in text and "index" not in text


def test_citation_package_and_site_name_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == nc.__version__
    assert f"version = {{{nc.__version__}}}" in (ROOT / "book" / "intro.md").read_text("utf-8")
    assert citation["title"] in (ROOT / "book" / "intro.md").read_text("utf-8")


@pytest.mark.parametrize("file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.stem)
def test_workflows_call_what_the_makefile_has(file):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    called = re.findall(
        r"make ((?:[a-z]+ )+)", "\n".join(re.findall(r"run: (make .+)", file.read_text())).replace("\n", " \n")
    )
    assert set(" ".join(called).split()) <= targets
    assert yaml.safe_load(file.read_text())
