"""Networks that travel with the book: found, loaded, measured, refused where they are damaged."""

import json
import time

import pandas as pd
import pytest
from tiny import TINY, fit, folder, lasting, same_weights, weights

import nclib as nc
from nclib.evidence.travel import ship
from nclib.training import store
from nclib.training.recipe import Recipe

KIND = dict(training="adversarial", attack_batchnorm="train", perturbations="stale")


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A house with one network that travelled to it, and the run that it was."""
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("NCLIB_LOG", str(tmp_path / "log.txt"))
    monkeypatch.delenv("NCLIB_FRESH", raising=False)
    run = fit(tmp_path / "elsewhere" / "runs", **KIND)
    assert len(run.history)
    place = ship(run.path.name, tmp_path / "house" / "results" / "mine" / "networks")
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path / "house"))
    return run, place, tmp_path / "house" / "runs"


def told(place):
    file = place.parents[4] / "log.txt"
    return file.read_text() if file.exists() else ""


def test_a_network_whose_weights_alone_were_used_travels_too(house, monkeypatch):
    _, place, _ = house
    monkeypatch.setenv("NCLIB_HOME", str(place.parents[4] / "elsewhere"))
    run = fit(place.parents[4] / "elsewhere" / "runs", **KIND, seed=2)
    assert not (run.path / "measures").exists()
    travelled = ship(run.path.name, place.parent)
    assert (travelled / "model.safetensors").exists() and not list((travelled / "measures").iterdir())


def test_a_network_that_travelled_is_loaded_with_its_measures(house, monkeypatch):
    run, place, runs = house
    monkeypatch.setattr(store, "_train", None)
    monkeypatch.setattr("nclib.measures.history._measured", None)
    began = time.perf_counter()
    there = fit(runs, **KIND)
    assert time.perf_counter() - began < 1
    assert there.path == place and there.shipped and not run.shipped and not runs.exists()
    assert same_weights(weights(there), weights(run)) and there.origin["commit"] == run.origin["commit"]
    pd.testing.assert_frame_equal(there.history, run.history, check_exact=True)
    assert {p.name for p in place.iterdir()} == {
        "recipe.json",
        "model.safetensors",
        "stale-0003.safetensors",
        "measures",
    }
    assert there.epochs == run.epochs and same_weights(there.at(3).state_dict(), run.at(3).state_dict())


def test_a_snapshot_that_did_not_travel_is_trained_here(house):
    run, place, runs = house
    there = fit(runs, **KIND)
    assert same_weights(there.at(1).state_dict(), run.at(1).state_dict())  # on one machine the same weights
    assert "snapshots did not travel with this network; it is trained here" in told(place)
    assert folder(runs, **KIND).exists() and fit(runs, **KIND).path == folder(runs, **KIND)
    other = nc.history(there, views=["clean", "untargeted"], epsilon=0.05)
    pd.testing.assert_frame_equal(lasting(other), lasting(nc.history(run, views=["clean", "untargeted"], epsilon=0.05)))


def test_snapshots_may_travel_too(house, tmp_path, monkeypatch):
    run, place, runs = house
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path / "elsewhere"))
    ship(run.path.name, tmp_path / "house" / "results" / "mine" / "networks", snapshots=True)
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path / "house"))
    monkeypatch.setattr(store, "_train", None)
    assert same_weights(fit(runs, **KIND).at(1).state_dict(), run.at(1).state_dict())
    monkeypatch.setenv("NCLIB_USED", str(tmp_path / "used"))
    run.loaded(1), run.at(0), run.at(3)
    assert not (tmp_path / "used").exists(), "a page that measures, or asks for no snapshot"
    run.at(1)
    assert (tmp_path / "used").read_text() == f"{run.path.name} snapshots\n"
    assert list(place.glob("epoch-*"))
    ship(run.path.name, place.parent)  # of a book whose pages no longer ask for them
    assert not list(place.glob("epoch-*")) and fit(runs, **KIND).shipped


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "stale-0003.safetensors"])
def test_a_damaged_network_is_named_and_not_used(house, name):
    run, place, runs = house
    content = (place / name).read_bytes()
    spoilt = content[:100] + bytes([content[100] ^ 16]) + content[101:] if name != "recipe.json" else content[:-9]
    (place / name).write_bytes(spoilt)
    again = fit(runs, **KIND)
    assert f"{place / name} is damaged or missing: this network is not used" in told(place)
    assert not again.shipped and same_weights(weights(again), weights(run))


def test_fresh_means_trained_here(house, monkeypatch):
    _, place, runs = house
    monkeypatch.setenv("NCLIB_FRESH", "1")
    assert not fit(runs, **KIND).shipped and "from epoch 0" in told(place)
    assert nc.fit(Recipe(**TINY, **KIND), runs, "cpu", shipped=True).path == folder(runs, **KIND), "here before there"


def test_a_network_under_another_recipe_is_not_found(house):
    _, place, runs = house
    assert not fit(runs, **KIND, seed=2).shipped
    with pytest.raises(FileNotFoundError, match="no finished run abc-float32 to ship"):
        ship("abc-float32", place.parent)


def test_the_record_tells_only_of_what_travelled(house):
    run, place, _ = house
    record = json.loads((place / "recipe.json").read_text())
    assert set(record["sha256"]) == {"model.safetensors", "stale-0003.safetensors"}
    assert record["seconds"] == run.origin["seconds"] and Recipe(**record["recipe"]).key == record["key"]
