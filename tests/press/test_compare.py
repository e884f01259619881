"""Two runs side by side: what differs is shown, matched and computed rightly; bad input gets one line."""

import re
import shutil

import nbformat
import pandas as pd
import pytest
from conftest import command

from nclib.evidence.provenance import told
from nclib.evidence.records import read
from press import BookError, compare


@pytest.fixture
def here(smoke, monkeypatch):
    """The smoke book's house, where one chapter was also executed with a smaller budget."""
    monkeypatch.setenv("NCLIB_HOME", str(smoke[0]))
    monkeypatch.chdir(smoke[0])
    return smoke[0]


@pytest.fixture
def pair(here, overridden):
    return compare.sides("smoke", str(overridden))


@pytest.mark.expensive
def test_parameters_and_measures_that_differ(pair, here):
    assert compare.parameters(*pair).to_numpy().tolist() == [["epsilon", "0.2", "0.1", "attacks"]]
    key = dict(model="standard", split="train", layer="features", view="untargeted", measure="nc1")
    (compared,) = pick(compare.measures(*pair), key)[["A", "B", "B − A", "B/A"]].to_numpy().tolist()
    files = here / "_build" / "smoke" / "records" / "attacks.csv", here / "mine" / "attacks-0.1.csv"
    a, b = (last(pick(read(file), key)) for file in files)
    assert a != b
    assert compared == pytest.approx([a, b, b - a, b / a])


def pick(frame, where):
    return frame[(frame[list(where)] == pd.Series(where)).all(axis=1)]


def last(frame) -> float:
    """The mean over seeds at the last epoch."""
    return frame[frame.epoch == frame.epoch.max()].value.mean()


@pytest.mark.expensive
def test_the_page_shows_both_and_needs_nothing_beside_it(here, overridden):
    done = command(here, "compare", "smoke", str(overridden))
    assert done.returncode == 0, done.stderr
    page = (here / "_build" / "compare" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) and "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 2 * page.count("<figcaption>") >= 8
    assert [word for word in ("epsilon", "C2", "C3", "C4", "device", "commit", "torch") if word not in page] == []
    assert [word for word in ("Traceback", "import") if word in page] == []


@pytest.fixture
def recorded(house, monkeypatch):
    """A house with recorded pages in folders: A and twice hold attacks, bare its page alone, L another chapter."""
    monkeypatch.setenv("NCLIB_HOME", str(house))
    monkeypatch.chdir(house)
    for name in ("A/page", "bare/page", "twice/one", "twice/two"):
        place(house, "attacks", house / name)
    place(house, "layers", house / "L" / "page")
    for file in ("page.csv", "page.json"):
        (house / "bare" / file).unlink()
    return house


def place(house, chapter, there):
    """Copy what was recorded of a chapter: page, records and provenance, under another name."""
    there.parent.mkdir(exist_ok=True)
    for file in (house / "results" / "digits").glob(f"*/{chapter}.*"):
        shutil.copy(file, there.with_suffix(file.suffix))


@pytest.mark.parametrize(
    "a,b,expected",
    [
        ("A", "nowhere", "nothing to compare in 'nowhere'"),
        ("", "A", "nothing to compare in ''"),
        ("A", "A/page.ipynb", "A and A/page.ipynb are one run of attacks: name two"),
        ("A", "L", "no chapter in common: A has attacks; L has layers"),
        ("A", "bare", "bare: no records in "),
        ("twice", "A", "twice holds several runs of attacks"),
    ],
)
def test_bad_input_gets_one_line(recorded, a, b, expected):
    with pytest.raises(BookError, match=re.escape(expected)) as error:
        compare.write_page(a, b)
    assert "\n" not in str(error.value) and not (recorded / "_build" / "compare").exists()


def test_two_runs_may_lie_in_one_folder(recorded):
    """Each has its records beside it, under its own name."""
    one, two = compare.sides("twice/one.ipynb", "twice/two.ipynb")
    assert len(one.records) == len(two.records) > 0 and set(one.records.profile) == {"twice/one.ipynb"}


def test_both_sides_say_where_they_come_from(recorded):
    a, b = (side.origin for side in compare.sides("results/digits", "results/cifar10-mini"))
    assert a["commit"] and a["device"] and a["torch"].startswith("2.") and a.keys() == b.keys()
    assert told([{"device": d, "commit": "c", "versions": {"torch": "2"}} for d in "xyx"])["device"] == "x, y"


def test_a_figure_that_one_run_did_not_draw(recorded):
    """A page recorded before a figure was added, or one that leaves a variant out, says so in words."""
    place(recorded, "attacks", recorded / "few" / "page")
    notebook = nbformat.read(recorded / "few" / "page.ipynb", 4)
    drawn = [c for c in notebook.cells if any("image/svg+xml" in o.get("data", {}) for o in c.get("outputs", []))]
    drawn[1].outputs = []
    nbformat.write(notebook, recorded / "few" / "page.ipynb")
    for a, b in (("A", "few"), ("few", "A")):
        page = compare.figures(*compare.sides(f"{a}/page.ipynb", f"{b}/page.ipynb"), "attacks")
        assert page.count("<img") == 2 * len(drawn) - 1
        shown = page.partition(f'id="{drawn[1].metadata.mystnb.figure.name}"')[2].partition("</figure>")[0]
        assert shown.count("not in this run") == 1 and shown.count("<img") == 1
        assert (shown.index("<img") < shown.index("not in this run")) == (a == "A")
