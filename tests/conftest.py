"""Shared fixtures: a house of its own for every test that executes, so that nothing here is touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nclib.__main__ import main

ROOT = Path(__file__).parents[1]


def furnish(place: Path) -> Path:
    """A copy of what the runner reads in a fresh folder."""
    for name in ("book", "profiles", "results", "sweeps", "templates"):
        shutil.copytree(ROOT / name, place / name)
    shutil.copy(ROOT / "_config.yml", place)
    return place


def nclib(house: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """``python -m nclib`` as a person at a shell would call it, on another house."""
    environment = os.environ | {"NCLIB_HOME": str(house), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-m", "nclib", *words], cwd=house, env=environment, capture_output=True, text=True
    )


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
