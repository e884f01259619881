"""What a command refuses, in one line and before any work, and what it does not load to do so."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, command

from press import profiles

REFUSED = [
    (["book", "--profile", "digitz"], "unknown profile 'digitz'; choose one of"),
    (["run", "atacks"], "unknown chapter 'atacks'; choose one of collapse"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "epsilom", "0.1"], "unknown parameter 'epsilom'; choose from"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "epsilon", "big"], "epsilon must be float, not 'big'"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "epsilon", "-1"], "epsilon must be 0 or more and finite, not -1"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "epochs", "2.5"], "epochs must be int, not 2.5"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "dataset", "mnits"], "unknown dataset 'mnits'; choose one of"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "architecture", "resnet"], "unknown architecture 'resnet'"),
    (["run", "attacks", "-o", "x.ipynb", "-p", "seeds", "[one]"], "seeds must be a list of int"),
    (["run", "attacks", "-o", "book"], "-o book: name a notebook, for instance book/attacks.ipynb"),
    (["run", "attacks", "-o", "mine/"], "-o mine: name a notebook, for instance mine/attacks.ipynb"),
    (["run", "attacks", "-p", "epsilon", "0.1"], "overrides (-p) need an output file (-o)"),
    (["sweep", "sweeps/papr.yml"], "no sweep file 'sweeps/papr.yml'; choose one of"),
    (["sweep", "sweeps/paper.yml", "--select", "127"], "no run 127: sweeps/paper.yml has runs 1 to 126"),
    (["sweep", "sweeps/paper.yml", "--jobs", "0"], "jobs must be 1 or more, not 0"),
    (["compare", "nowhere", "digits"], "nothing to compare in 'nowhere'"),
    (["record", "--profile", "smoke"], "nothing to record: run 'make book PROFILE=smoke' first"),
    (["pdf", "--profile", "smoke"], "nothing to print: run 'make book PROFILE=smoke' first"),
    (["pdf", "--profile", "cifar10-mini"], "cifar10-mini has some chapters only, so no site and nothing to print"),
]


@pytest.mark.parametrize("words,expected", REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_input_gets_one_line_before_any_work(refused, house, monkeypatch, words, expected):
    monkeypatch.chdir(house)
    assert expected in refused(*words)
    assert not (house / "_build").exists()


def test_a_missing_data_folder_is_named(refused, monkeypatch):
    monkeypatch.setenv("NCLIB_DATA", "/no/such/place")
    words = ("run", "collapse", "-o", "x.ipynb", "-p", "dataset", "cifar10")
    assert "data folder '/no/such/place' does not exist" in refused(*words)


def test_a_profile_with_an_unknown_name_is_refused(refused, house):
    (house / "profiles" / "mine.yml").write_text("epochz: 3\n")
    assert "profile mine: unknown parameter 'epochz'" in refused("book", "--profile", "mine")


def test_a_profile_may_be_for_some_chapters_alone(refused, house, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(house))
    (house / "profiles" / "mine.yml").write_text("chapters: [layers, collapse]\nepochs: 3\n")
    assert profiles.chapters("mine") == ["collapse", "layers"] and "chapters" not in profiles.read_profile("mine")
    assert profiles.chapters("smoke") == profiles.chapters()
    (house / "profiles" / "mine.yml").write_text("chapters: [colapse]\n")
    assert "unknown chapter 'colapse'; choose one of" in refused("book", "--profile", "mine")


@pytest.mark.parametrize("text, words", [
    ("epochs: [3", "profile mine is not YAML"), ("- epochs", "profile mine must be lines of 'name: value'"),
    ("epochs: 3\nepochs: 4", "profile mine is not YAML: epochs is set twice"),
    ("epsilon: 8/x", "epsilon must be float, not '8/x'"), ("epsilon: 1/0", "epsilon must be float, not '1/0'"),
])  # fmt: skip
def test_a_profile_that_cannot_be_read_gets_one_line(refused, house, text, words):
    (house / "profiles" / "mine.yml").write_text(text)
    said = refused("book", "--profile", "mine")
    assert words in said and "\n" not in said.strip()


def test_fractions_powers_and_none_are_what_they_say(house, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(house))
    (house / "profiles" / "mine.yml").write_text("epsilon: 8/255\nstep: 1e-3\nper_class: None\n")
    read = profiles.read_profile("mine")
    assert read == {"epsilon": 8 / 255, "step": 1e-3, "per_class": None, "profile": "mine"}
    assert profiles.parameters("attacks", "mine", {})["epsilon"] == 8 / 255


def test_the_command_line_passes_a_refusal_on(house):
    done = command(house, "book", "--profile", "digitz")
    assert done.returncode == 1 and done.stderr.startswith("unknown profile 'digitz'; choose one of")


def test_what_only_draws_is_loaded_where_something_is_drawn():
    """Trainers and commands start without it: it takes longer to import than they take to answer."""
    code = """if True:
        import sys, nclib as nc, press.__main__
        nc.Recipe, nc.page, nc.records, nc.ledger, nc.fit
        assert not {"seaborn", "matplotlib.pyplot", "scipy.stats"} & sys.modules.keys()
        assert "figures" in dir(nc) and nc.figures.WIDTH and "seaborn" in sys.modules"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_command_answers_without_what_only_kernels_need(house):
    """PyTorch takes three times longer to import than all else that a command needs."""
    code = f"""if True:
        import sys
        sys.modules |= dict.fromkeys(["torch", "torchvision", "sklearn", "scipy", "seaborn", "matplotlib"])
        from press.__main__ import main
        assert main(["sweep", "sweeps/digits-seeds.yml", "--dry-run"]) == 0
        for words in {[words for words, _ in REFUSED]}:
            assert main(words) == 1, words"""
    variables = {"NCLIB_HOME": str(house), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=house, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "3 runs, 0 done" in done.stdout and len(done.stderr.splitlines()) == len(REFUSED)


def test_no_paper_without_a_browser(refused, house, monkeypatch):
    (house / "_build" / "smoke" / "site").mkdir(parents=True)
    monkeypatch.setenv("PATH", "/no/such/place")
    assert "no chromium on this machine" in refused("pdf", "--profile", "smoke")


def test_the_doctor_says_what_there_is(house):
    done = command(house, "doctor", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert said["device"].startswith("cpu") and "float32, as images this small" in said["precision"]
    assert "TF32 off in measuring" in said["switches"] and "1 of" in said["threads"]
    assert re.search(r"\d+ shipped for digits", said["networks"]) and "torch 2" in said["versions"]
