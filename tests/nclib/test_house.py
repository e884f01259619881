"""The house: who may know whom, how large rooms are, and what a start costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
from conftest import ROOT

import nclib as nc

FILES = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sorted(ROOT.glob("nclib/**/*.py"))}
NAMES = set(FILES.values())


def imported(file: Path) -> set[str]:
    """Modules of ours that a file imports, at its head or within a function."""
    found, package = set(), FILES[file].split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def test_the_library_knows_nothing_of_the_press():
    assert [file for file in FILES if any(name.split(".")[0] == "press" for name in imported(file))] == []


def test_no_module_imports_itself_in_a_circle():
    known = {FILES[file]: imported(file) & NAMES for file in FILES}
    while leaves := [name for name, needs in known.items() if not needs & known.keys()]:
        for name in leaves:
            del known[name]
    assert not known, "these import each other"


def test_the_ground_imports_nothing_of_ours():
    """But for figures, which know what several seeds say, and data, which are looked at as they come in."""
    ground = {"nclib.seeds", "nclib.checks", "nclib.runtime", "nclib.known", "nclib.losses"}
    for name in ("data", "models", "losses", "compute", "figures", "runtime", "seeds", "checks", "known"):
        assert imported(ROOT / "nclib" / f"{name}.py") & NAMES <= ground, name


def test_rooms_are_small_and_the_science_is_thin():
    lines = {name: len(file.read_text().splitlines()) for file, name in FILES.items()}
    assert max(lines.values()) <= 300, max(lines, key=lines.get)
    apart = ("nclib.evidence", "nclib.figures", "nclib.runtime", "nclib.seeds", "nclib.neighbours")
    apart += ("nclib.training.store", "nclib.training.checkpoint", "nclib.training.kept")  # they keep what it made
    apart += ("nclib.data", "nclib.checks", "nclib.known", "nclib.readers", "nclib.nobody")  # and these are its door
    assert sum(n for name, n in lines.items() if not name.startswith(apart)) < 2200


@pytest.mark.parametrize(
    "module", ["evidence.ledger", "evidence.records", "evidence.pages", "training.recipe", "runtime", "known"]
)
def test_who_needs_no_network_waits_for_no_pytorch(module, tmp_path):
    """Recipes, records, verdicts and what runs them: PyTorch takes longer to import than all else together."""
    for name in ("torch", "torchvision", "sklearn", "scipy", "seaborn", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was loaded')")
    code = f"import sys; sys.path[:0] = {[str(tmp_path), str(ROOT)]}; import nclib.{module}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_hides_no_module():
    assert set(nc.__all__) <= set(dir(nc)) and nc.__version__
    here = {name.split(".")[1] for name in NAMES if name.count(".") == 1} | {
        "attacks",
        "evidence",
        "measures",
        "training",
    }
    for name in nc.__all__:
        found = getattr(nc, name)
        assert name not in here or found.__name__ == f"nclib.{name}", name
    with pytest.raises(AttributeError, match="module 'nclib' has no attribute 'pdg'"):
        nc.pdg  # noqa: B018


def test_the_contract_that_other_peoples_cells_rely_on(tmp_path):
    """Names, arguments and shapes: what chapters and students call."""
    data = nc.load("digits", per_class=12, test_per_class=4)
    recipe = nc.Recipe(dataset="digits", training="standard", epochs=1, seed=1, per_class=12, test_per_class=4, width=4)
    run = nc.fit(recipe, tmp_path)
    assert run.data.num_classes == data.num_classes and run.recipe is recipe and set(run.at(0).state_dict())
    assert list(run.history) == ["epoch", "split", "view", "measure", "value"]
    views = nc.views(run.model, data, epsilon=0.2)
    assert [view.name for view in views] == ["clean", "untargeted", "targeted", "sign", "gaussian"]
    assert set(nc.collapse(run.model, views).view) == set(nc.propagate(run.model, views).view)
    (x, y), options = data.test, dict(epsilon=8 / 255, norm="linf")
    x_adv = nc.pgd(
        run.model, x, y, step=2 / 255, steps=10, targeted=False, loss="ce", start="uniform", generator=None, **options
    )
    assert x_adv.shape == x.shape and 0 <= nc.robust_accuracy(run.model, x, y, **options) <= 1
    h = nc.features(run.model, x)
    assert nc.measure(h, y, weight=None, bias=None, num_classes=None, centers=None)["nc1"] > 0
    means = nc.class_means(h, y)
    assert float(nc.similarity(means, means)["angle"].max()) == 0


def test_everything_imports_where_only_unix_has_a_module(tmp_path):
    """As on Windows; and there a page's records have no peak memory."""
    code = """
import importlib, math, pkgutil, sys
for name in ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty", "syslog"):
    sys.modules[name] = None
import nclib, press
for package in (nclib, press):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from nclib.evidence.provenance import peak_memory
assert math.isnan(peak_memory())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_of_files_in_keys_and_texts_are_the_same_on_every_system():
    """A relative path becomes text by ``as_posix``: "a/b", where Windows itself would write a backslash."""
    assert PureWindowsPath("a\\b").relative_to("a").as_posix() == "b" != str(PureWindowsPath("a", "b"))
    for file in sorted([*ROOT.glob("nclib/**/*.py"), *ROOT.glob("press/*.py")]):
        for made in re.findall(r"relative_to\([^()]*\)(.{0,9})", file.read_text("utf-8")):
            assert made.startswith((".as_posix", ".parts")), (file.name, made)
