"""Small networks that are kept by name and settings: made once, found, refused where damaged, shipped."""

import json

import pandas as pd
import pytest
import torch

from nclib.evidence import records
from nclib.evidence.pages import Page
from nclib.evidence.travel import ship
from nclib.training.kept import kept, key

SETTINGS = dict(seed=1, steps=3)


@pytest.fixture
def house(tmp_path, monkeypatch):
    for name in ("NCLIB_FRESH", "NCLIB_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    for name, file in (("NCLIB_HOME", "house"), ("NCLIB_LOG", "log.txt"), ("NCLIB_USED", "used.txt")):
        monkeypatch.setenv(name, str(tmp_path / file))
    return tmp_path / "house"


class Maker:
    """Counts how often it is asked."""

    def __init__(self, value=1.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return {"weight": torch.full((2, 3), self.value), "bias": torch.arange(3)}


def told(house):
    return (house.parent / "log.txt").read_text()


def test_it_is_made_once_and_found_again(house):
    make = Maker()
    first, second = kept("net", SETTINGS, make), kept("net", SETTINGS, make)
    assert make.calls == 1 and not first.shipped and first.key == key("net", SETTINGS)
    assert first.keys() == {"weight", "bias"} and all(torch.equal(first[n], second[n]) for n in first)
    assert first.origin["settings"] == SETTINGS and {"seconds", "device", "commit", "sha256"} <= first.origin.keys()
    assert {p.name for p in first.path.iterdir()} == {"weights.safetensors", "kept.json", "lock"}
    assert (house.parent / "used.txt").read_text().split() == [first.path.name] * 2


def test_another_name_or_setting_is_another_one(house):
    paths = {kept(name, dict(seed=seed), Maker()).path for name in ("a", "b") for seed in (1, 2)}
    assert len(paths) == 4
    assert key("net", dict(a=1, b=2)) == key("net", dict(b=2, a=1)) != key("net", dict(a=1, b=2.5))
    with pytest.raises(TypeError):
        key("net", dict(a=torch.zeros(1)))


@pytest.mark.parametrize("name", ["weights.safetensors", "kept.json"])
def test_a_damaged_one_is_named_and_made_again(house, name):
    path = kept("net", SETTINGS, Maker()).path
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-3])
    make = Maker(2.0)
    again = kept("net", SETTINGS, make)
    assert (
        make.calls == 1 and float(again["weight"][0, 0]) == 2 and f"{path / name} is damaged or missing" in told(house)
    )


def test_one_under_anothers_key_is_not_used(house):
    path = kept("net", SETTINGS, Maker()).path
    record = json.loads((path / "kept.json").read_text())
    (path / "kept.json").write_text(json.dumps(record | {"settings": {"seed": 2}}))
    make = Maker()
    kept("net", SETTINGS, make)
    assert make.calls == 1


def test_a_making_that_fails_leaves_nothing_to_be_found(house):
    def fail():
        raise FloatingPointError("no")

    with pytest.raises(FloatingPointError):
        kept("net", SETTINGS, fail)
    make = Maker()
    assert kept("net", SETTINGS, make).keys() and make.calls == 1


@pytest.fixture
def travelled(house):
    """One that travelled to a house where nothing was made."""
    name = kept("net", SETTINGS, Maker()).path.name
    place = ship(name, house / "results" / "mine" / "networks")
    (house / "runs").rename(house / "elsewhere")
    return place


def test_it_travels_and_is_read_only(house, travelled):
    make = Maker()
    before = {p.name: p.read_bytes() for p in travelled.iterdir()}
    there = kept("net", SETTINGS, make)
    assert make.calls == 0 and there.shipped and there.path == travelled and not (house / "runs").exists()
    assert before == {p.name: p.read_bytes() for p in travelled.iterdir()} and "lock" not in before
    assert ship(travelled.name, travelled.parent) == travelled, "shipped twice, the same"


def test_fresh_makes_it_here(house, travelled, monkeypatch):
    monkeypatch.setenv("NCLIB_FRESH", "1")
    make = Maker()
    assert not kept("net", SETTINGS, make).shipped and make.calls == 1


def test_a_damaged_one_that_travelled_is_named_and_made_here(house, travelled):
    (travelled / "weights.safetensors").write_bytes(b"no")
    make = Maker()
    assert not kept("net", SETTINGS, make).shipped and make.calls == 1
    assert f"{travelled / 'weights.safetensors'} is damaged or missing: not used" in told(house)


def test_records_of_a_page_whose_networks_are_all_kept(house):
    """Saved, read back, and refused where the settings do not give the key."""
    one = kept("net", SETTINGS, Maker())
    fields = {
        "model": "net",
        "recipe": one.key,
        "seed": 1,
        "epoch": 3,
        "split": "test",
        "view": "full",
        "measure": "rv",
    }
    page = Page("small", {"profile": "digits"})
    shown = records.save(page, [], [pd.DataFrame([fields | {"value": 0.5}])], [one])
    assert "net, seed 1" in shown.to_html() and "trained here" in shown.to_html()
    file = records.place(page).with_name("small.csv")
    assert records.read(file).value.tolist() == [0.5]
    origin = json.loads(file.with_suffix(".json").read_text())
    assert origin["kept"] == {one.key: {"name": "net", "settings": SETTINGS}}
    origin["kept"][one.key]["settings"] = {"seed": 2}
    file.with_suffix(".json").write_text(json.dumps(origin))
    with pytest.raises(ValueError, match=f"the recipe given for key {one.key} has key"):
        records.read(file)
    file.with_suffix(".json").write_text(json.dumps(origin | {"kept": {}}))
    with pytest.raises(ValueError, match="lacks recipes, dtypes"):
        records.read(file)
