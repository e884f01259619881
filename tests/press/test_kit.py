"""The kit for a machine without internet: what is packed, that its code runs, and what a wrong word gets."""

import json
import os
import re
import subprocess
import sys

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


def gpu(place, minutes="5", **variables):
    rehearsal = {"CUDA_VISIBLE_DEVICES": "", "PROFILE": "smoke", "SKIP": "tests bench", "PYTHON": sys.executable}
    words, environment = [ROOT / "kit" / "gpu.sh", minutes, place], os.environ | rehearsal | variables
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_a_borrowed_gpu_is_used_as_far_as_time_allows_and_left_with_a_report(tmp_path):
    """Rehearsed on a CPU, with tiny trainings: four of them, kept; asked again, they are found."""
    done = gpu(tmp_path)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "report.txt").read_text()
    names = ["train-standard", "train-adversarial", "train-trades-fixed", "train-trades-published"]
    assert all(f"{name}: exit 0 after" in said for name in names) and "device     cpu" in said, said
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/model.safetensors")}
    assert len(kept) == 4 and gpu(tmp_path).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/model.safetensors")} == kept


def test_a_borrowed_gpu_is_what_the_benchmarks_run_on(tmp_path):
    """A Python that notes what is asked of it, and says that it has a GPU."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n[ "$1" != -c ] || echo cuda\n')
    python.chmod(0o755)
    assert gpu(tmp_path / "out", PYTHON=str(python), SKIP="doctor train").returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    ran = [words.split()[0] for words in asked if words.startswith("benchmarks/")]
    assert ran == ["benchmarks/training.py", "benchmarks/attacks.py"]
    assert all("--device cuda" in words for words in asked if words.startswith("benchmarks/"))
    assert any("pytest" in words for words in asked)


def test_a_borrowed_gpu_runs_every_test_that_needs_one():
    """By their names, as nothing else tells pytest's -k."""
    needing = re.compile(
        r"@pytest.mark.skipif\(not torch.cuda.is_available.*\n(?:@.*\n)*def (\w+)|param\((\"\w+\").*cuda.is_av"
    )
    found = [a or b for file in ROOT.glob("tests/nclib/*.py") for a, b in needing.findall(file.read_text())]
    assert len(found) >= 5 and [name for name in found if "cuda" not in name] == []


@pytest.mark.parametrize("minutes, variables, words", [
    ("soon", {}, "MINUTES must be a whole number above 0, not 'soon'"), ("0", {}, "not '0'"),
    ("1", {"PROFILE": "cifar"}, "no profile 'cifar'"), ("1", {"PYTHON": "/no/python"}, "has no torch"),
])  # fmt: skip
def test_a_borrowed_gpu_is_not_wasted_on_a_wrong_word(tmp_path, minutes, variables, words):
    done = gpu(tmp_path, minutes, **variables)
    assert done.returncode == 1 and words in done.stderr and not (tmp_path / "report.txt").exists()
