"""Where it runs: folders to read only, no home folder, a script without a main guard."""

import errno
import os
import subprocess
import sys
from functools import partial

import pandas as pd
import pytest
from conftest import ROOT
from tiny import TINY, fit, folder, same_weights

import nclib as nc
from nclib.training.kept import kept

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
read_only = []


def _refuse(event: str, given: tuple) -> None:
    """As a file system that is mounted to be read only: to root, too."""
    if not read_only:
        return
    writes = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink")
    writes |= event == "open" and isinstance(given[2], int) and bool(given[2] & WRITES)
    if writes and not isinstance(given[0], int) and str(given[0]).startswith(read_only[0]):
        if event == "os.mkdir" and os.path.isdir(given[0]):
            return  # which fails by itself: it is there
        raise OSError(errno.EROFS, "Read-only file system", str(given[0]))


sys.addaudithook(_refuse)  # which cannot be taken back: it asks for a folder first


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Finished runs of others, which one may only read; call it to shut the folder."""
    monkeypatch.setenv("NCLIB_LOG", str(tmp_path / "log.txt"))
    monkeypatch.delenv("NCLIB_USED", raising=False)
    place = tmp_path / "house" / "runs"
    yield place, partial(read_only.append, str(place))
    read_only.clear()


def test_finished_runs_that_one_may_only_read_are_loaded_and_measured(shared, tmp_path):
    root, shut = shared
    first = fit(root, training="adversarial")
    (first.path / "state.safetensors").write_bytes(b"left by a killed process")
    again = fit(tmp_path / "mine", training="adversarial").history
    shut()
    run = fit(root, training="adversarial")
    assert same_weights(run.model.state_dict(), first.model.state_dict())
    pd.testing.assert_frame_equal(run.history[run.history.measure != "seconds"], again[again.measure != "seconds"])
    assert len(nc.history(run, ["clean", "sign"], split="test", epsilon=0.1)) and len(nc.boundary(run, per_class=1))
    assert len(nc.collapse(run.at(1), nc.views(run.model, run.data, names=["clean", "gaussian"])))
    assert not (run.path / "measures").exists()
    log = (tmp_path / "log.txt").read_text()
    assert log.count("measures cannot be written (read-only file system)") == 3 and "Traceback" not in log


def test_measures_that_were_kept_are_read_where_nothing_can_be_written(shared, monkeypatch):
    root, shut = shared
    kept_before = fit(root).history
    shut()
    monkeypatch.setattr("nclib.measures.history._measured", None)
    pd.testing.assert_frame_equal(fit(root).history, kept_before)


@pytest.mark.parametrize("started", [False, True])
def test_a_training_that_cannot_be_written_is_one_line_with_the_remedy(shared, monkeypatch, started):
    root, shut = shared
    if started:
        monkeypatch.setattr("nclib.training.store._train", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(root)
    shut()
    with pytest.raises(PermissionError) as caught:
        fit(root)
    assert str(caught.value) == (
        f"{nc.Recipe(**TINY).label}: {folder(root)} cannot be written (read-only file system):"
        " name another folder, as root=... or in NCLIB_HOME"
    )


def test_a_kept_network_that_cannot_be_written_is_one_line(shared, monkeypatch):
    root, shut = shared
    monkeypatch.setenv("NCLIB_HOME", str(root.parent))
    made = kept("net", {"seed": 1}, lambda: {"w": nc.load("digits").train.labels})
    shut()
    assert kept("net", {"seed": 1}, None).path == made.path
    with pytest.raises(PermissionError, match=r"^net: .* cannot be written \(read-only file system\): name another"):
        kept("net", {"seed": 2}, None)


NOBODY = """
import os, pwd, sys
def unknown(*_):
    raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = unknown
import nclib as nc, nclib.figures, torch
from press.doctor import _data
model = nc.build("preactresnet8", (1, 8, 8), 10, (0.5,), (0.5,), 4)
torch.optim.SGD(model.parameters())
print(len(nc.collapse(model, nc.views(model, nc.load("digits", per_class=2), names=["clean", "sign"]))))
print(_data())
nc.load("mnist")
"""


@pytest.mark.parametrize("house, words", [
    (None, "FileNotFoundError: there is no home folder to keep data in: set NCLIB_DATA to one"),
    ("/proc/nowhere", "FileNotFoundError: mnist: /proc/nowhere/.cache/nclib/MNIST/raw/train-images-idx3-ubyte is"),
])  # fmt: skip
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="no folder here that nobody may write")
def test_a_user_without_a_name_and_a_home_folder_measures_and_trains(tmp_path, house, words):
    """As in a container under a bare number. Only data that would be kept there want a place."""
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "NCLIB_DATA")
    left = {k: v for k, v in os.environ.items() if k not in (*names, "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")}
    left |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ({"HOME": house} if house else {})
    done = subprocess.run([sys.executable, "-c", NOBODY], cwd=tmp_path, env=left, capture_output=True, text=True)
    measured, data, *_ = done.stdout.splitlines() or [done.stderr, ""]
    assert measured.isdigit() and data.startswith("digits comes with scikit-learn; "), done.stderr
    assert done.stderr.splitlines()[-1].startswith(words), done.stderr


def test_helpers_do_not_run_a_script_again_that_has_no_main_guard(tmp_path):
    (tmp_path / "mine.py").write_text('from nclib.runtime import spread; print(spread(abs, [-1, 2], "signs", jobs=2))')
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[1, 2]\n" and "Traceback" not in done.stderr, done.stderr
