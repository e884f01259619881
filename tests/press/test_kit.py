"""The kit for a machine without internet: what is packed, that its code runs, and what a wrong word gets."""

import json
import os
import subprocess

import pytest
from conftest import ROOT, command


def pack(place, **variables):
    environment = os.environ | {"KIT_WHEELS": "no"} | variables
    return subprocess.run([ROOT / "kit" / "pack.sh", place], env=environment, capture_output=True, text=True)


def run(kit, **variables):
    return subprocess.run([kit / "run.sh", "smoke"], env=os.environ | variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    place = tmp_path_factory.mktemp("a machine")
    (place / "sets").mkdir()
    (place / "sets" / "some.bin").write_bytes(b"data")
    done = pack(place / "kit", KIT_DATA=str(place / "sets"), KIT_TORCH="system")
    assert done.returncode == 0, done.stderr
    return place / "kit"


def test_a_kit_holds_code_data_and_the_way_to_run(kit):
    assert {p.name for p in kit.iterdir()} == {"code", "data", "run.sh", "README.txt"}
    assert (kit / "data" / "some.bin").read_bytes() == b"data"
    tracked = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    assert [name for name in tracked if not (kit / "code" / name).exists()] == []
    pins = (kit / "code" / "requirements.txt").read_text()
    assert "\ntorch" not in pins and "\nnumpy==" in pins and "\nadvertorch==" in pins


@pytest.mark.expensive
def test_the_packed_code_makes_a_chapter_and_names_its_commit(kit, runs):
    (kit / "code" / "runs").symlink_to(runs)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    done = command(kit / "code", "run", "collapse", "--profile", "smoke", PYTHONPATH=str(kit / "code"))
    assert done.returncode == 0, done.stderr
    origin = json.loads((kit / "code" / "_build" / "smoke" / "records" / "collapse.json").read_text())
    assert head.startswith(origin["commit"])


@pytest.mark.parametrize(
    "variables,expected",
    [
        ({"KIT_TORCH": "sytem"}, "KIT_TORCH: unknown 'sytem'; choose wheels or system"),
        ({"KIT_WHEELS": "maybe"}, "KIT_WHEELS: unknown 'maybe'; choose yes or no"),
        ({"KIT_DATA": "/no/such/place"}, "KIT_DATA: no folder '/no/such/place'"),
    ],
)
def test_a_wrong_word_gets_one_line_and_no_kit(tmp_path, variables, expected):
    done = pack(tmp_path / "kit", **variables)
    assert done.returncode == 1 and done.stderr.strip() == expected and not list(tmp_path.iterdir())


def test_a_kit_that_cannot_run_here_says_so_before_any_work(kit):
    assert run(kit).stderr.strip() == "no wheels in this kit: pack it again, without KIT_WHEELS=no"
    (kit / "wheels").mkdir()
    (kit / "python").write_text("2.7\n")
    assert "the wheels are for 2.7: set PYTHON, or pack with that one" in run(kit).stderr
    assert not (kit / "code" / ".venv").exists()
