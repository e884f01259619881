"""Shared fixtures: houses to execute in, so that nothing here is touched, and what the whole session makes once.

What is made once lies in ``shared``, where the workers of pytest-xdist find it too: trained networks, and the book
under the smoke profile.
"""

import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock

import nclib as nc
from press.__main__ import main

ROOT = Path(__file__).parents[1]
STARTED = []
FAILED = "failed"


def pytest_collection_modifyitems(items):
    """The book is made first. Who else reads it comes last, and does not wait for it."""
    readers = {item.path for item in items if "smoke" in item.fixturenames}
    items.sort(key=lambda item: 0 if item.path.name == "test_pages.py" else 2 if item.path in readers else 1)


def furnish(place: Path, runs: Path | None = None) -> Path:
    """A copy of what the press reads, in a fresh folder; with the networks that were trained in ``runs``, or none."""
    for name in ("book", "profiles", "results", "sweeps"):
        shutil.copytree(ROOT / name, place / name)
    shutil.copy(ROOT / "_config.yml", place)
    if runs:
        (place / "runs").symlink_to(runs)
    return place


def command(house: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """``python -m press`` as a person at a shell would call it, on another house."""
    process = start(house, *words, **variables)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(house: Path, *words: str, **variables: str) -> subprocess.Popen:
    """The same in the background, and as a terminal would: Ctrl-C is heard even where the tests run with it ignored."""
    own = {"NCLIB_HOME": str(house), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "press", *words], cwd=house, env=os.environ | own | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    STARTED.append(process)
    return process


def wait_for(condition: Callable, process: subprocess.Popen, seconds: float = 600):
    """Wait until something is true, while a process runs. Returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return found


def told(log: Path) -> str:
    """What a job has told so far: nothing where it has no log, or begins a new one just now."""
    try:
        return log.read_text()
    except FileNotFoundError:
        return ""


def log_of(house: Path, job) -> str:
    return told(house / job.folder / f"{job.chapter}.log")


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


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder of this session, one for all workers."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def once(shared) -> Callable:
    """``once(name, make)``: what ``make(folder)`` leaves and returns, made by the first worker that asks for it."""

    def made(name: str, make: Callable[[Path], str]) -> tuple[Path, str]:
        folder, told = shared / name, shared / f"{name}.txt"
        with FileLock(shared / f"{name}.lock"):
            if not told.exists():
                told.write_text(FAILED)  # until it is made: nobody else need try
                folder.mkdir()
                told.write_text(make(folder))
        assert told.read_text() != FAILED, f"{name} could not be made: see the test that asked for it first"
        return folder, told.read_text()

    return made


@pytest.fixture(scope="session")
def runs(shared) -> Path:
    """Networks trained in this session, for every test that does not count, stop or resume trainings."""
    folder = shared / "runs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trained(runs):
    """A small network trained for 10 epochs on digits, in eval mode."""
    recipe = nc.Recipe(epochs=10, width=8, per_class=60, test_per_class=20)
    return nc.fit(recipe, root=runs, device="cpu").model


@pytest.fixture(scope="session")
def smoke(once, runs) -> tuple[Path, str]:
    """The whole book, executed and rendered under the smoke profile, as ``make book`` does it: its house, its words."""

    def make(folder: Path) -> str:
        old = "error::DeprecationWarning:__main__,error::FutureWarning:__main__"  # a cell that calls what goes away
        own = {"NCLIB_JOBS": "1", "PYTHONWARNINGS": old}
        done = command(furnish(folder / "house", runs), "book", "--profile", "smoke", **own)
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder, told = once("smoke", make)
    return folder / "house", told


@pytest.fixture(scope="session")
def overridden(once, smoke) -> Path:
    """A page beside the smoke book's own, with a smaller budget: ``mine/attacks-0.1.ipynb`` in its house."""

    def make(_: Path) -> str:
        page = smoke[0] / "mine" / "attacks-0.1.ipynb"
        words = ["run", "book/attacks.ipynb", "--profile", "smoke", "-p", "epsilon", "0.1", "-o", str(page)]
        done = command(smoke[0], *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return Path(once("overridden", make)[1])


@pytest.fixture(scope="session")
def site(smoke):
    """The rendered site on a local port: its address."""
    folder = smoke[0] / "_build" / "smoke" / "site" / "_build" / "html"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}", folder
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    it = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield it
    it.quit()


@pytest.fixture
def house(tmp_path) -> Path:
    return furnish(tmp_path)


@pytest.fixture
def refused(house, monkeypatch, capsys):
    """Call ``python -m press`` in this process, where nothing should be done: the one line that it gives."""
    monkeypatch.setenv("NCLIB_HOME", str(house))

    def call(*words: str) -> str:
        assert main(list(words)) == 1
        line = capsys.readouterr().err.strip()
        assert len(line.splitlines()) == 1 and "Traceback" not in line
        assert not (house / "runs").exists()
        return line

    return call
