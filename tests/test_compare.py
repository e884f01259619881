"""Two runs side by side: what differs is shown, matched and computed rightly; bad input gets one line."""

import re
import shutil

import pandas as pd
import pytest
from conftest import furnish, nclib

from nclib.press import compare
from nclib.press.execute import BookError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One chapter under smoke, with two budgets: A/page.ipynb and B/page.ipynb with their records."""
    house = furnish(tmp_path_factory.mktemp("house"))
    for name, epsilon in (("A", "0.1"), ("B", "0.3")):
        words = ["-p", "epsilon", epsilon, "-p", "seeds", "[1]", "-o", f"{name}/page.ipynb"]
        done = nclib(house, "run", "attacks", "--profile", "smoke", *words)
        assert done.returncode == 0, done.stderr
    return house


@pytest.fixture
def pair(runs, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(runs))
    monkeypatch.chdir(runs)
    return compare.sides("A", "B/page.ipynb")


def test_parameters_and_measures_that_differ(pair, runs):
    assert compare.parameters(*pair).to_numpy().tolist() == [["epsilon", "0.1", "0.3", "attacks"]]
    row = compare.measures(*pair).set_index(["model", "split", "layer", "view", "measure"])
    key = ("standard", "train", "features", "untargeted", "nc1")
    values = []
    for name in "AB":
        table = pd.read_csv(runs / name / "attacks.csv")
        table = table[(table.epoch == table.epoch.max()) & (table.view == key[3]) & (table.measure == key[4])]
        values.append(table[(table.model == key[0]) & (table.split == key[1]) & (table.layer == key[2])].value.item())
    a, b = values
    assert a != b
    assert row.loc[key, ["A", "B", "B − A", "B/A"]].to_numpy() == pytest.approx([a, b, b - a, b / a])


@pytest.mark.parametrize(
    "a,b,expected",
    [
        ("A", "nowhere", "nothing to compare in 'nowhere'"),
        ("", "A", "nothing to compare in ''"),
        ("A", "A/page.ipynb", "lie in one folder and share its records"),
        ("A", "L", "no chapter in common: A has attacks; L has layers"),
        ("A", "bare", "bare: no records in "),
        ("twice", "A", "twice holds several runs of attacks"),
    ],
)
def test_bad_input_gets_one_line(runs, monkeypatch, a, b, expected):
    monkeypatch.setenv("NCLIB_HOME", str(runs))
    monkeypatch.chdir(runs)
    for name, files in {"L": [], "bare": ["one.ipynb"], "twice": ["one.ipynb", "two.ipynb"]}.items():
        (runs / name).mkdir(exist_ok=True)
        for file in files:
            shutil.copy(runs / "A" / "page.ipynb", runs / name / file)
    shutil.copy(runs / "book" / "layers.ipynb", runs / "L")
    with pytest.raises(BookError, match=re.escape(expected)) as error:
        compare.compare(a, b)
    assert "\n" not in str(error.value) and not (runs / "_build" / "compare" / "compare.ipynb").exists()


def test_the_page_shows_both_and_needs_nothing_beside_it(runs):
    done = nclib(runs, "compare", "A", "B/page.ipynb")
    assert done.returncode == 0, done.stderr
    page = (runs / "_build" / "compare" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) and "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 2 * page.count("<figcaption>") >= 8
    for word in ("epsilon", "C2", "C3", "C4", "Traceback", "import"):
        assert (word in page) == (word not in ("Traceback", "import")), word


def test_a_figure_that_one_run_did_not_draw(house, monkeypatch):
    """The recorded CIFAR-10 run leaves the released variant out: its page says so in words."""
    monkeypatch.setenv("NCLIB_HOME", str(house))
    monkeypatch.chdir(house)
    for a, b in (("results/digits", "results/cifar10-mini"), ("results/cifar10-mini", "results/digits")):
        page = compare.figures(*compare.sides(a, b), "adversarial-training")
        shown = page.partition('id="fig-robust-released"')[2].partition("</figure>")[0]
        assert page.count("<img") == 7 and shown.count("not in this run") == 1 and shown.count("<img") == 1
        assert (shown.index("<img") < shown.index("not in this run")) == ("digits" in a)
