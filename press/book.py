"""The whole book: every chapter executed, the site rendered, verdicts beside the recorded ones."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from nclib.evidence.ledger import verdict_lines
from nclib.evidence.records import load, recorded
from nclib.runtime import home, moving_line

from . import BookError
from .execute import unchanged
from .profiles import LEDGER, chapters, read_profile, source
from .site import export_figures, render


def make(profile: str, jobs: int | None = None) -> Path:
    """The whole way: execute every chapter, render the site, print seconds and verdicts. Returns index.html's path.

    Of a profile for some chapters alone only these are executed: recorded, they stand in every site as twins.
    """
    began = time.time()
    jobs = jobs or min(3, (os.cpu_count() or 1) + 1)  # one more than two cores have: a long page is not left alone
    print(f"profile {profile}: {len(chapters(profile))} chapters, {jobs} at a time", flush=True)
    run_all(profile, jobs)
    export_figures(home() / "_build" / profile / "pages")
    whole = chapters(profile) == chapters()
    index = render(profile) if whole else home() / "_build" / profile / "pages"
    here, before = load(home() / "_build" / profile / "records"), load(recorded(profile))
    print(f"\nclaims{', and as recorded' if len(before) else ''}:", *verdict_lines(here, before), sep="\n")
    print(f"\n{time.time() - began:.0f} s in all")
    return index


def run_all(profile: str, jobs: int) -> None:
    """Execute every changed chapter, ``jobs`` at a time, each in a process of its own; a line for each."""
    read_profile(profile)
    metadata = {name: nbformat.read(source(name), 4).metadata for name in chapters(profile)}
    order = {name: its.get("nclib", {}).get("order", 9) for name, its in metadata.items()}  # what trains longest first
    first = sorted((name for name in order if name != LEDGER), key=order.get)
    for wave in (first, [name for name in order if name == LEDGER]):
        queue = []
        for name in wave:
            if unchanged(name, profile):
                print(f"  {name:24s} unchanged", flush=True)
            else:
                queue.append(name)
        _run(queue, profile, jobs)


def _run(queue: list[str], profile: str, jobs: int) -> None:
    place, running = home() / "_build" / profile, {}
    while queue or running:
        while queue and len(running) < jobs:
            name = queue.pop(0)
            running[name] = _start(name, profile, jobs)
        time.sleep(0.2)
        _show(place, running)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            process = running.pop(name)
            if process.returncode:
                for other in running.values():
                    other.terminate()
                words = process.stderr.read().decode().strip()
                raise BookError(words or f"{name}: process ended with {process.returncode}")
            seconds = json.loads((place / "stamps" / f"{name}.json").read_text())["seconds"]
            print(f"  {name:24s} {seconds:6.1f} s", flush=True)


def _start(chapter: str, profile: str, jobs: int) -> subprocess.Popen:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "press", "run", chapter, "--profile", profile]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _show(place: Path, running: dict) -> None:
    """The latest word of every running chapter."""
    words = []
    for name in running:
        told = place / f"{name}.log"
        last = told.read_text("utf-8").replace("\r", "\n").strip().splitlines()[-1:] if told.exists() else []
        words.append(f"{name}: {' '.join(last)[:60]}")
    moving_line(" | ".join(words))
