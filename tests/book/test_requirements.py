"""What is imported is asked for, and asked for only where it is used."""

import ast
import sys
from importlib import metadata

import nbformat
import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = {"nclib", "press", *(file.stem for file in (ROOT / "tests").rglob("*.py"))}


def brought(file: str) -> set[str]:
    """Names of all that ``pip install -r`` brings: what the file asks for, and what that asks for in turn."""
    todo = []
    for line in (ROOT / file).read_text().splitlines():
        if line.startswith("-r "):
            todo += [(name, "") for name in brought(line.split()[1])]
        elif line and not line.startswith("#"):
            todo.append((Requirement(line).name, ""))
    found = set()
    while todo:
        name, extra = todo.pop()
        name = canonicalize_name(name)
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for wanted in map(Requirement, metadata.requires(name) or []):
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                todo += [(wanted.name, e) for e in ("", *wanted.extras)]
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


@pytest.mark.parametrize(
    "file,patterns,apart",
    [
        ("requirements.txt", ("nclib/**/*.py", "press/**/*.py", "book/*.ipynb", "press/templates/*.ipynb"), {"ray"}),
        ("requirements-cluster.txt", ("nclib/**/*.py", "press/**/*.py", "tests/**/*.py"), set()),
    ],
    ids=["book", "tests"],
)
def test_every_package_that_is_imported_comes_with_the_requirements(file, patterns, apart):
    """``apart``: what only one option needs, which says so in one line where it is missing."""
    names = set().union(*map(imported, sources(*patterns)))
    owners = metadata.packages_distributions()
    come = brought(file)
    lacking = {n for n in names - apart if not set(map(canonicalize_name, owners.get(n, []))) & come}
    assert {"torch", "matplotlib", "nbconvert"} <= names and not lacking
