"""The book under the smoke profile: what ``make book`` prints, runs and shows."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT, command

import nclib as nc
from nclib.evidence.claims import VERDICTS
from nclib.evidence.ledger import CLAIMS, judged
from press import profiles

pytestmark = pytest.mark.expensive


CHAPTERS = ["collapse", "attacks", "adversarial-training", "released", "layers"]
APART = ["losses", "sphere", "kernel", "spectrum", "verification"]  # part two: networks without recipes, too


@pytest.fixture
def made(smoke) -> Path:
    """The folder of all that was made under the smoke profile."""
    return smoke[0] / "_build" / "smoke"


@pytest.fixture
def html(made) -> Path:
    return made / "site" / "_build" / "html"


def test_the_book_prints_seconds_verdicts_and_path(smoke, html):
    _, out = smoke
    for chapter in (*CHAPTERS, *APART, "ledger"):
        assert re.search(rf"^  {chapter} +\d+\.\d s$", out, re.M)
    for claim in CLAIMS:
        words = "|".join(filter(None, (*VERDICTS, claim.below)))
        assert re.search(rf"^  {claim.id} +({words}) +{re.escape(claim.text)}$", out, re.M), claim.id
    assert out.strip().endswith(str(html / "index.html"))


def test_an_unchanged_book_is_not_run_twice(smoke, made):
    before = {p: p.stat().st_mtime_ns for p in (made / "pages").glob("*.ipynb")}
    done = command(smoke[0], "book", "--profile", "smoke")
    assert done.stdout.count("unchanged") == len(profiles.chapters()) == len(before)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_chapters_that_name_one_recipe_share_one_network(made):
    epochs = yaml.safe_load((ROOT / "profiles" / "smoke.yml").read_text())["epochs"]
    keys: dict[tuple, set[str]] = {}
    for file in (made / "records").glob("*.json"):
        for key, fields in json.loads(file.read_text())["recipes"].items():
            schedule = (fields["epochs"], tuple(fields["drops"]))
            if fields["seed"] == 1 and schedule == (epochs, nc.Recipe().drops):
                named = nc.Recipe(**fields).name, fields.get("beta"), fields["lr"]
                keys.setdefault(named, set()).add(key)
    assert {"standard", "adversarial", "TRADES (fixed)", "TRADES (published)"} <= {name for name, *_ in keys}
    assert all(len(found) == 1 for found in keys.values()), keys


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_foot_of_a_page_tells_its_origin_in_full(made, html, chapter):
    page = (html / f"{chapter}.html").read_text()
    origin = json.loads((made / "records" / f"{chapter}.json").read_text())
    foot = page[page.index('id="where-this-page-came-from"') :]
    told = [*origin["recipes"], *origin["kept"], *(f"{name} {v}" for name, v in origin["versions"].items())]
    told += [origin["commit"], *["learning rate down tenfold after 0.25 and 0.375 of them"] * bool(origin["recipes"])]
    assert [words for words in told if words not in foot] == []


def test_the_ledger_page_shows_what_the_records_say(made, html):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (html / "ledger.html").read_text()))
    for row in judged(nc.records.load(made / "records")).itertuples():
        assert re.search(rf"{row.id} {re.escape(row.claim)} {row.verdict} ", text), row.id


def test_no_page_shows_a_traceback_or_an_unfilled_number(html):
    for page in html.glob("*.html"):
        text = re.sub(r"<[^>]+>", "", page.read_text())
        assert "Traceback" not in text and "it/s]" not in text, page.name
        assert "{glue" not in text and "{eq}" not in text and "{ref}" not in text, page.name


@pytest.mark.parametrize("chapter", CHAPTERS + APART)
def test_every_chapter_ends_with_where_it_came_from(made, chapter):
    *_, last = nbformat.read(made / "pages" / f"{chapter}.ipynb", 4).cells
    (shown,) = (output.data["text/html"] for output in last.outputs)
    for line in ("profile", "smoke", "models (recipe key)", "device", "versions", "torch", "commit"):
        assert line in shown


def test_recorded_profiles_get_twins_linked_both_ways_and_a_column_in_the_ledger(html):
    """What another machine recorded is shown beside this book's own run, without running it again."""
    recorded = sorted(folder.parent.name for folder in (ROOT / "results").glob("*/pages"))
    assert "digits" in recorded
    boxes = (html / "ledger.html").read_text()
    for profile in recorded:
        pages = ROOT / "results" / profile / "pages"
        for chapter in (name for name in CHAPTERS + APART if (pages / f"{name}.ipynb").exists()):
            assert f'href="{profile}/{chapter}.html"' in (html / f"{chapter}.html").read_text()
            twin = (html / profile / f"{chapter}.html").read_text()
            assert f'href="../{chapter}.html"' in twin and f'id="{profile}-fig-' in twin
        assert boxes.count(f"<em>{profile}</em>") == boxes.count("<em>smoke</em>") >= len(CLAIMS)
