"""A chapter executed: what its page depends on, cells that raise, Ctrl-C, overrides."""

import io
import os
import re
import shutil
import signal
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import psutil
import pytest
from conftest import ROOT, command, start, told, wait_for
from small import small_house

import nclib as nc
from nclib.evidence import provenance
from nclib.evidence.pages import literals
from press import execute

_METADATA = re.compile(r"metadata|purl\.org|creativecommons|rdf-syntax")
_NUMBER, _REFERRED = re.compile(r"-?\d+(?:\.\d+)?"), re.compile(r"url\(#(.+?)\)|^#(.+)")


@pytest.mark.expensive
def test_a_raising_cell_stops_the_build_with_its_own_error(tmp_path):
    house = small_house(tmp_path)
    source = house / "book" / "collapse.ipynb"
    notebook = nbformat.read(source, 4)
    first = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell("raise RuntimeError('the kettle is dry')", id="kettle"))
    nbformat.write(notebook, source)
    done = command(house, "run", "collapse", "--profile", "small")
    assert done.returncode == 1 and "papermill" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    (number,) = re.fullmatch(r"book/collapse.ipynb, cell (\d+): RuntimeError: the kettle is dry", line).groups()
    assert not (house / "_build" / "small" / "pages" / "collapse.ipynb").exists()
    failed = nbformat.read(house / "_build" / "small" / "failed" / "collapse.ipynb", 4).cells
    told = [cell for cell in failed if "papermill-error-cell-tag" in cell.metadata.get("tags", [])]  # papermill's own
    assert "kettle" in [c for c in failed if c not in told][int(number) - 1].source


@pytest.fixture
def key(house, monkeypatch):
    """The execution key of a chapter of this house."""
    monkeypatch.setenv("NCLIB_HOME", str(house))
    return lambda chapter, **values: execute.execution_key(chapter, values, house / "_build" / "smoke")


def test_the_execution_key_knows_source_parameters_records_data_and_versions(key, house, monkeypatch):
    before, ledger = key("collapse"), key("ledger")
    assert before == key("collapse") != key("collapse", width=8)
    records = house / "_build" / "smoke" / "records"
    records.mkdir(parents=True)
    (records / "collapse.csv").write_text("x")
    assert key("ledger") != ledger and key("collapse") == before
    source = house / "book" / "collapse.ipynb"
    source.write_text(source.read_text().replace("seeds = [1, 2, 3, 4, 5]", "seeds = [2]"))
    assert key("collapse") != before
    now = key("collapse")
    for change in (("setenv", "NCLIB_DATA", str(house)), ("setattr", execute, "versions", lambda: {"torch": "0"})):
        with monkeypatch.context() as patch:
            getattr(patch, change[0])(*change[1:])
            assert key("collapse") != now
    assert key("collapse") == now


@pytest.mark.parametrize(
    "name,change,same",
    [
        ("losses.py", lambda text: text + "\n\n# said beside the code\n", True),
        ("losses.py", lambda text: text.replace('"""', '"""Also: ', 1), True),
        ("losses.py", lambda text: text + "\nextra = 1\n", False),
        ("attacks/pgd.py", lambda text: text + "\nextra = 1\n", False),
        ("player.html", lambda text: text + " ", False),
    ],
    ids=["a comment", "a docstring", "code", "code of a part", "what is not Python"],
)
def test_the_execution_key_knows_the_library_as_python_reads_it(key, house, monkeypatch, name, change, same):
    library, before = house / "library", key("collapse")
    shutil.copytree(ROOT / "nclib", library, ignore=shutil.ignore_patterns("__pycache__"))
    (library / name).write_text(change((library / name).read_text()))
    monkeypatch.setattr(execute, "library_key", lambda: provenance.library_key(library))
    assert (key("collapse") == before) == same


@pytest.mark.expensive
def test_ctrl_c_stops_at_once_and_the_same_command_goes_on(tmp_path):
    """Interrupted in mid-training, as from a terminal: nobody trains on, and the next run resumes."""
    house = small_house(tmp_path, epochs=100000)
    log, words = house / "_build" / "small" / "collapse.log", ("run", "collapse", "--profile", "small")

    def stop(process):
        tree = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, line = process.communicate(timeout=30)
        assert process.returncode == 130
        assert line.strip() == "stopped; the same command goes on from here"
        assert tree and not psutil.wait_procs(tree, timeout=10)[1], "somebody trains on"

    first = start(house, *words)
    wait_for(lambda: list((house / "runs").glob("*/epoch-0008.safetensors")), first)
    stop(first)
    second = start(house, *words)
    wait_for(lambda: re.search(r"from epoch [1-9]\d*", told(log)), second)
    stop(second)


@pytest.mark.expensive
def test_an_override_leaves_the_profile_alone(smoke, overridden):
    """Its page, its records and its stamp lie beside each other, under its own name."""
    made = smoke[0] / "_build" / "smoke"
    assert literals(overridden, "injected-parameters")["epsilon"] == 0.1
    mine, profiles = nc.records.read(overridden.with_suffix(".csv")), nc.records.read(made / "records" / "attacks.csv")
    assert set(mine.profile) == {"smoke, epsilon 0.1"} and set(profiles.profile) == {"smoke"}
    assert (overridden.parent / "stamps" / "attacks-0.1.json").exists()


def test_a_lean_drawing_has_all_that_is_seen():
    figure, (lines, picture) = plt.subplots(1, 2)
    lines.semilogy([1, 2, 3], [0.1, 3, 20], "o--", label=r"$\epsilon > 0$, a  b")
    lines.legend()
    picture.pcolormesh([[0.0, 1.0], [2.0, 3.0]])
    plt.close(figure)
    figure.savefig(file := io.StringIO(), format="svg")
    whole, lean = (ElementTree.fromstring(text) for text in (file.getvalue(), execute.lean(file.getvalue())))
    seen, kept = ([e for e in tree.iter() if not _METADATA.search(e.tag)] for tree in (whole, lean))
    assert [e.tag for e in kept] == [e.tag for e in seen] and len(kept) == len(list(lean.iter()))
    names = {e.get("id") for e in kept}
    for before, after in zip(seen, kept):
        assert (after.text or "").strip() == (before.text or "").strip()
        for name, value in before.attrib.items():
            said = after.get(name)
            if name in ("d", "x", "y"):
                assert _NUMBER.sub("", said).split() == _NUMBER.sub("", value).split()
                numbers = ([float(n) for n in _NUMBER.findall(text)] for text in (value, said))
                assert next(numbers) == pytest.approx(next(numbers), abs=0.0051)
            else:
                assert said == value or (name == "id" and said is None)
            assert set(filter(None, sum(_REFERRED.findall(said or ""), ()))) <= names
    assert len(execute.lean(file.getvalue())) < 0.9 * len(file.getvalue())
    assert execute.lean(execute.lean(file.getvalue())) == execute.lean(file.getvalue())
