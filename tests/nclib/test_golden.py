"""A guard that cannot be forgotten: weights and versions move together, or not at all."""

import json
import os
import subprocess
import sys

import golden
import pytest
from golden import FILE, TOLERANCE, cases, projections, verdict

from nclib.attacks import pgd as attack
from nclib.training import recipe as recipes

KNOWN = json.loads(FILE.read_text())
CASES = cases()


def test_every_training_network_and_norm_has_a_case():
    assert CASES.keys() == KNOWN["cases"].keys()
    named = {part for recipe in CASES.values() for part in recipe.parts}
    data = {part for part in recipes.VERSIONS if part in recipes.choices("dataset")}
    assert named - {"digits"} == recipes.VERSIONS.keys() - data
    assert data == set(recipes.choices("dataset"))


@pytest.mark.parametrize("name", CASES)
def test_weights_and_versions_stand_or_move_together(name):
    assert verdict(CASES[name], KNOWN["cases"][name]) == "", "raise the part's version, then: make golden"


def test_the_training_code_is_the_one_that_was_trained():
    assert golden.code() == KNOWN["code"], "training code was edited: make golden"


def test_the_defaults_that_keys_leave_out_are_the_old_ones():
    now = golden.defaults()
    assert {name: now[name] for name in KNOWN["defaults"]} == KNOWN["defaults"]


@pytest.fixture
def fresh(monkeypatch):
    """Nothing remembered: what a test patches does not reach another one."""
    monkeypatch.setattr(golden, "projections", projections.__wrapped__)


def test_weights_that_move_under_an_unmoved_version_are_told(fresh, monkeypatch):
    """The step of l2 PGD, changed by one in a hundred."""
    real = attack.direction
    monkeypatch.setattr(attack, "direction", lambda g, norm: real(g, norm) * (1.01 if norm == "l2" else 1))
    name = "preactresnet8 adversarial l2"
    assert "weights moved by" in (said := verdict(CASES[name], KNOWN["cases"][name])) and "l2" in said
    other = "preactresnet8 adversarial linf"
    assert verdict(CASES[other], KNOWN["cases"][other]) == ""


def test_a_version_that_moves_without_weights_is_told(monkeypatch):
    monkeypatch.setitem(recipes.VERSIONS, "trades", 2)
    name = "preactresnet8 trades linf"
    assert "a version was raised" in verdict(CASES[name], KNOWN["cases"][name])
    assert verdict(CASES["vgg11 standard"], KNOWN["cases"]["vgg11 standard"]) == ""


@pytest.mark.parametrize("dial", ["lr", "momentum", "weight_decay", "epsilon", "step", "beta"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_in_a_hundred_of_any_dial_shows_a_hundredfold(dial, norm):
    name = "trades" if dial == "beta" else "adversarial"
    recipe = CASES[f"preactresnet8 {name} {norm}"]
    changed = projections.__wrapped__(recipe.but(**{dial: 1.01 * getattr(recipe, dial)}))
    assert max(abs(a - b) for a, b in zip(projections(recipe), changed)) > 100 * TOLERANCE


@pytest.mark.expensive
def test_the_projections_do_not_depend_on_the_instruction_set():
    """The weights of another CPU, here the same one without AVX-512."""
    code = "import golden, json; print(json.dumps({n: golden.projections(r) for n, r in golden.cases().items()}))"
    older = os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FILE.parent / "nclib", env=older, capture_output=True, text=True
    )
    for name, found in json.loads(done.stdout).items():
        assert found == pytest.approx(KNOWN["cases"][name]["projections"], abs=TOLERANCE), name


def test_what_golden_refuses_it_does_not_write(monkeypatch, capsys):
    monkeypatch.setitem(recipes.VERSIONS, "vgg11", 2)
    before = FILE.read_text()
    assert golden.main() == 1 and FILE.read_text() == before
    assert "vgg11 standard: a version was raised" in capsys.readouterr().err
