"""How the press is laid out: small rooms, no circles, and no two things of one name."""

import ast

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "press").glob("*.py"))
TREES = {file.stem: ast.parse(file.read_text()) for file in FILES}
FUNCTIONS = {node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.FunctionDef)}


def imported(tree: ast.Module) -> set[str]:
    """The modules of the press that one of them imports."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    names = [name for node in froms for name in ([node.module] if node.module else [a.name for a in node.names])]
    return set(names) & TREES.keys()


def test_rooms_are_small():
    lines = {file.stem: len(file.read_text().splitlines()) for file in FILES}
    assert max(lines.values()) <= 300 and sum(lines.values()) < 1900, lines


def test_no_module_imports_itself_in_a_circle():
    known = {name: imported(tree) for name, tree in TREES.items()}
    while leaves := [name for name, needs in known.items() if not needs & known.keys()]:
        for name in leaves:
            del known[name]
    assert not known, "these import each other"


@pytest.mark.parametrize("module", TREES)
def test_no_function_bears_its_modules_name_and_no_variable_a_functions(module):
    nodes = list(ast.walk(TREES[module]))
    assert module not in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    variables = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    variables |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    assert not variables & FUNCTIONS


def test_templates_travel_with_the_package():
    files = {file.name for file in (ROOT / "press" / "templates").iterdir() if file.is_file()}
    assert files == {"sweep.ipynb", "compare.ipynb", "page.html", "paper.html"}
    assert 'press = ["templates/*"]' in (ROOT / "pyproject.toml").read_text()
