"""Cells that say they can be copied: each runs alone, and its result is checked."""

import ast

import matplotlib
import pytest
import torch
from reading import SOURCES, code_cells

import nclib as nc

matplotlib.use("agg")
CELLS = {f"{source.stem}-{cell.id}": (source, cell) for source in SOURCES for cell in code_cells(source, "copyable")}


@pytest.mark.parametrize("name", CELLS)
def test_copyable_cell_runs_alone(name, tmp_path, monkeypatch):
    """With ``nc`` and ``torch`` alone, or after the set-up cell that it says it needs; its result is checked."""
    monkeypatch.chdir(tmp_path)
    (source, cell), namespace = CELLS[name], {"nc": nc, "torch": torch}
    if "needs-setup" in cell.metadata.tags:
        for needed in code_cells(source, "parameters") + code_cells(source, "setup"):
            exec(needed.source, namespace)
    tree = ast.parse(cell.source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, cell.id, "exec"), namespace)
    if last is not None:
        result = eval(compile(ast.Expression(last.value), cell.id, "eval"), namespace)
        if isinstance(result, tuple):  # written out by hand, and by the library
            by_hand, by_library = result
            assert by_hand == pytest.approx(by_library, rel=1e-9)
        if check := cell.metadata.get("nclib", {}).get("check"):
            assert eval(check, namespace | {"result": result}), check
