"""A network that ships, trained anew: the same recipe ends where the shipped one ended, within stated tolerances."""

import json
import re

import nbformat
import pytest
from conftest import ROOT

import nclib as nc
from nclib.evidence import records
from nclib.training.recipe import Recipe

pytestmark = pytest.mark.expensive
TOLERANCES = {"accuracy": 0.005, "equinorm": 0.03, "equiangle": 0.03, "nc4": 0.005}  # another CPU rounds otherwise


@pytest.fixture
def recipe(monkeypatch) -> Recipe:
    """The standard network of seed 1 of the digits profile."""
    monkeypatch.setenv("NCLIB_HOME", str(ROOT))
    monkeypatch.delenv("NCLIB_FRESH", raising=False)
    origin = json.loads((records.recorded("digits") / "collapse.json").read_text())
    (found,) = [Recipe(**fields) for fields in origin["recipes"].values() if fields["seed"] == 1]
    return found


def test_trained_anew_it_ends_where_the_shipped_one_did(recipe, tmp_path):
    there, here = nc.fit(recipe, tmp_path, "cpu"), nc.fit(recipe, tmp_path, "cpu", shipped=False)
    assert there.shipped and not here.shipped and there.recipe.key == here.recipe.key
    one, two = (_last(run) for run in (there, here))
    for measure, tolerance in TOLERANCES.items():
        assert two[measure] == pytest.approx(one[measure], abs=tolerance), measure
    assert two["nc1"] == pytest.approx(one["nc1"], rel=0.5)


def _last(run) -> dict[str, float]:
    history = run.history
    rows = history[(history.epoch == run.recipe.epochs) & (history.split == "train") & (history["view"] == "clean")]
    return dict(zip(rows.measure, rows.value))


def test_every_record_of_digits_has_its_networks_beside_it():
    folder = ROOT / "results" / "digits"
    origins = [json.loads(file.read_text()) for file in folder.glob("records/*.json")]
    named = {key for origin in origins for key in (*origin["recipes"], *origin.get("kept", ()))}
    shipped = {place.name.split("-")[0] for place in folder.glob("networks/*")}
    assert named and named <= shipped
    size = sum(file.stat().st_size for file in (ROOT / "results").rglob("*") if file.is_file())
    assert size < 150e6


def test_networks_that_were_loaded_answer_for_one_image_as_in_a_batch():
    """The recorded page of spectra measured shipped networks: in eval mode, where a whitening sees no other image."""
    cells = nbformat.read(ROOT / "results" / "digits" / "pages" / "spectrum.ipynb", 4).cells
    told = [o.data["text/plain"] for c in cells for o in c.get("outputs", []) if "text/plain" in o.get("data", {})]
    (said,) = [text for text in told if "alone − in a batch" in text]
    assert float(re.search(r"alone − in a batch': ([\d.e+-]+)", said).group(1)) < 1e-3
