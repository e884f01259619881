"""What is recorded: pages, records and the networks that pages used; and what a fresh run says of the record."""

import json
import shutil

import pytest
from conftest import ROOT, command, furnish

import nclib as nc
from nclib.evidence import ledger, records
from nclib.evidence.travel import ship
from nclib.training.recipe import Recipe
from press import recording

pytestmark = pytest.mark.expensive


@pytest.fixture(scope="module")
def recorded(smoke, runs, tmp_path_factory):
    """The smoke book, recorded in a house of its own: the house, and what was recorded."""
    house = furnish(tmp_path_factory.mktemp("house"), runs)
    made = house / "_build" / "smoke"
    shutil.copytree(smoke[0] / "_build" / "smoke", made, ignore=shutil.ignore_patterns("site", "source"))
    (made / "site").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NCLIB_RECORDS", "NCLIB_USED", "NCLIB_LOG"):
            patch.setenv(name, "")  # to be as it was afterwards, as executing sets it
            patch.delenv(name)
        patch.setenv("NCLIB_HOME", str(house))
        yield house, recording.record("smoke")


def test_what_the_pages_used_travels_and_makes_the_book_elsewhere(recorded, tmp_path, monkeypatch):
    house, results = recorded
    used = recording.networks(house / "_build" / "smoke")
    assert {folder.name for folder in results.glob("networks/*")} == used.keys()
    origins = [json.loads(file.read_text()) for file in results.glob("records/*.json")]
    told = {key for origin in origins for key in (*origin["recipes"], *origin["kept"])}
    assert told <= {name.split("-")[0] for name in used}, "every network that a record names"
    assert list(results.glob("networks/*-film")), "what a page shows of the weights of every epoch travels"
    assert not any(used.values()) and not list(results.glob("networks/*/epoch-*")), "they themselves do not"
    assert not list((results / "networks").glob("*/*.lock"))
    away = tmp_path / "away"
    shutil.copytree(house / "results" / "smoke", away / "results" / "smoke")
    monkeypatch.setenv("NCLIB_HOME", str(away))
    for file in results.glob("records/*.json"):
        for fields in json.loads(file.read_text())["recipes"].values():
            run = nc.fit(Recipe(**fields))
            assert run.shipped and len(run.history), "nothing is trained"
    assert not (away / "runs").exists()


def test_the_recorded_ledger_page_has_the_run_once(recorded):
    _, results = recorded
    everything = records.everything("smoke")
    assert "smoke" in set(everything.profile) and "smoke, recorded" not in set(everything.profile)
    page = (results / "pages" / "ledger.ipynb").read_text()
    assert "*smoke*" in page and "smoke, recorded" not in page


def test_a_run_that_differs_from_the_record_stands_beside_it(recorded):
    house, results = recorded
    file = house / "_build" / "smoke" / "records" / "attacks.csv"
    before = file.read_text()
    try:
        file.write_text(before.replace(",accuracy,0", ",accuracy,1", 1))
        found = set(records.everything("smoke").profile)
        assert {"smoke", "smoke, recorded"} <= found
    finally:
        file.write_text(before)
    assert all("agrees" in line for line in _lines())
    kept = {file: file.read_bytes() for file in (results / "records").glob("collapse.*")}
    for file in kept:
        file.unlink()
    assert any("recorded: not run" in line or "not run" in line for line in _lines())
    for file, content in kept.items():
        file.write_bytes(content)


def test_recording_twice_leaves_the_same(recorded):
    _, results = recorded
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file() and p.parent.name != "pages"}
    recording.record("smoke")
    assert {p: p.read_bytes() for p in before} == before


def test_records_of_defaults_that_changed_since_are_refused_and_made_anew(recorded):
    house, results = recorded
    for steps, chapter in enumerate(("attacks", "layers"), 7):
        file = results / "records" / f"{chapter}.json"
        origin = json.loads(file.read_text())
        file.write_text(json.dumps(origin | {"parameters": origin["parameters"] | {"steps": steps}}))
    with pytest.raises(ValueError, match="make record PROFILE=smoke"):
        records.everything("smoke")
    (house / "_build" / "smoke" / "pages" / "ledger.ipynb").unlink()  # it was refused
    recording.record("smoke")
    assert "smoke" in set(records.everything("smoke").profile)
    assert (results / "pages" / "ledger.ipynb").exists()


def test_snapshots_that_a_page_asks_for_travel_and_no_longer_when_none_does(recorded):
    house, results = recorded
    stamp = house / "_build" / "smoke" / "stamps" / "layers.networks"
    before, name = stamp.read_text(), stamp.read_text().split()[0]
    try:
        stamp.write_text(f"{before}{name} snapshots\n")
        assert [one for one, snapshots in recording.networks(house / "_build" / "smoke").items() if snapshots] == [name]
        recording.record("smoke")
        assert list((results / "networks" / name).glob("epoch-*"))
    finally:
        stamp.write_text(before)
        recording.record("smoke")
    assert not list(results.glob("networks/*/epoch-*"))


def test_a_network_of_two_profiles_travels_once_and_for_both(recorded):
    house, results = recorded
    mine, other = results / "networks", house / "results" / "other"
    (other / "networks").mkdir(parents=True), (other / "records").mkdir()
    name = next(n for n in recording.networks(house / "_build" / "smoke") if not n.endswith("-film"))
    try:
        (mine / name).rename(other / "networks" / name)
        recording.record("smoke")
        assert (other / "networks" / name / "model.safetensors").exists() and not (mine / name).exists()
        (other / "networks" / name).rename(mine / name)
        for left in ("aaaaaaaaaaaa-float32", "bbbbbbbbbbbb-float32"):  # of which the other profile names one
            (mine / left).mkdir()
        (other / "records" / "layers.json").write_text(json.dumps({"recipes": {"aaaaaaaaaaaa": {}}}))
        recording.record("smoke")
        assert (mine / "aaaaaaaaaaaa-float32").exists() and not (mine / "bbbbbbbbbbbb-float32").exists()
    finally:
        shutil.rmtree(other), shutil.rmtree(mine / "aaaaaaaaaaaa-float32", ignore_errors=True)
        recording.record("smoke")
    assert (mine / name).exists()


def test_a_book_of_two_minds_is_not_recorded(recorded):
    """One page made anew with other parameters, the rest not yet: refused before anything is replaced."""
    house, results = recorded
    file = house / "_build" / "smoke" / "records" / "attacks.json"
    before, kept = file.read_text(), (results / "records" / "attacks.json").read_text()
    origin = json.loads(before)
    try:
        file.write_text(json.dumps(origin | {"parameters": origin["parameters"] | {"steps": 7}}))
        with pytest.raises(ValueError, match=r"steps is 2 in adversarial-training\.csv and 7 in attacks\.csv"):
            recording.record("smoke")
        assert (results / "records" / "attacks.json").read_text() == kept
    finally:
        file.write_text(before)


def test_what_is_not_there_cannot_be_shipped_or_recorded(house, monkeypatch, refused):
    monkeypatch.setenv("NCLIB_HOME", str(house))
    with pytest.raises(FileNotFoundError, match="no finished run abc-float32 to ship"):
        ship("abc-float32", house / "results" / "mine" / "networks")
    assert refused("record", "--profile", "smoke") == "nothing to record: run 'make book PROFILE=smoke' first"


def test_the_readme_shows_the_verdicts_of_the_committed_digits_records():
    table = ledger.verdict_table(records.load(ROOT / "results" / "digits" / "records"))
    assert table in (ROOT / "README.md").read_text()


def test_fresh_trains_what_would_be_there(recorded, tmp_path):
    """The same book in a house where its networks travelled to, asked to train them all: it says so of each claim."""
    house, _ = recorded
    away = tmp_path / "away"
    for name in ("book", "profiles", "results"):
        shutil.copytree(house / name, away / name)
    done = command(away, "run", "collapse", "--profile", "smoke", NCLIB_FRESH="1")
    assert done.returncode == 0, done.stderr
    assert "from epoch 0" in (away / "_build" / "smoke" / "collapse.log").read_text()
    origin = json.loads((away / "_build" / "smoke" / "records" / "collapse.json").read_text())
    assert set(origin["trained"].values()) == {"here"}


def _lines() -> list[str]:
    """What ``make book`` prints of the claims: this run's verdicts beside the recorded ones."""
    here = records.load(records.own("smoke"))
    return ledger.verdict_lines(here, records.load(records.recorded("smoke")))
