"""Shared fixtures: a house of its own for every test that executes, so that nothing here is touched."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

import nclib as nc
from nclib.__main__ import main

ROOT = Path(__file__).parents[1]
STARTED = []


def furnish(place: Path) -> Path:
    """A copy of what the runner reads in a fresh folder."""
    for name in ("book", "profiles", "results", "sweeps", "templates"):
        shutil.copytree(ROOT / name, place / name)
    shutil.copy(ROOT / "_config.yml", place)
    return place


def nclib(house: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """``python -m nclib`` as a person at a shell would call it, on another house."""
    process = start(house, *words, **variables)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(house: Path, *words: str, **variables: str) -> subprocess.Popen:
    """The same in the background, and as a terminal would: Ctrl-C is heard even where the tests run with it ignored."""
    own = {"NCLIB_HOME": str(house), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "nclib", *words], cwd=house, env=os.environ | own | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    STARTED.append(process)
    return process


def wait_for(condition, process: subprocess.Popen, seconds: float = 1500) -> None:
    """Wait until something is true, while a process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def log_of(house: Path, run) -> str:
    """What a sweep's run has told so far."""
    file = house / run.folder / f"{run.chapter}.log"
    return file.read_text() if file.exists() else ""


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small network trained for 10 epochs on digits, in eval mode."""
    recipe = nc.Recipe(epochs=10, width=8, per_class=60, test_per_class=20)
    return nc.fit(recipe, root=tmp_path_factory.mktemp("runs"), device="cpu").model


def accuracy(model, x, y) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


@pytest.fixture(autouse=True)
def nobody_left():
    """What a failed test left running is killed, children and all."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            with suppress(psutil.Error):
                tree = psutil.Process(process.pid)
                for one in (*tree.children(recursive=True), tree):
                    one.kill()


@pytest.fixture
def house(tmp_path) -> Path:
    return furnish(tmp_path)


@pytest.fixture
def refused(house, monkeypatch, capsys):
    """Call ``python -m nclib`` in this process, where nothing should be done: the one line that it gives."""
    monkeypatch.setenv("NCLIB_HOME", str(house))

    def call(*words: str) -> str:
        assert main(list(words)) == 1
        line = capsys.readouterr().err.strip()
        assert len(line.splitlines()) == 1 and "Traceback" not in line
        assert not (house / "runs").exists()
        return line

    return call
