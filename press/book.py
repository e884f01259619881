"""The whole book: every chapter executed, the site rendered, the evidence recorded."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd

from nclib.evidence.ledger import judged
from nclib.evidence.records import load
from nclib.runtime import home

from . import BookError, moving_line
from .execute import unchanged
from .profiles import LEDGER, chapters, read_profile, source
from .site import render

MARK = ("<!-- verdicts -->", "<!-- end of verdicts -->")  # what lies between them in the README is written by record


def make(profile: str, jobs: int | None = None) -> Path:
    """The whole way: execute every chapter, render the site, print seconds and verdicts. Returns index.html's path."""
    began = time.time()
    jobs = jobs or max(1, min(2, os.cpu_count() or 1))
    print(f"profile {profile}: {len(chapters())} chapters, {jobs} at a time", flush=True)
    run_all(profile, jobs)
    index = render(profile)
    print("\nclaims:")
    for row in judged(load(home() / "_build" / profile / "records")).itertuples():
        print(f"  {row.id:13s} {row.verdict:14s} {row.claim}")
    print(f"\n{time.time() - began:.0f} s in all")
    return index


def run_all(profile: str, jobs: int) -> None:
    """Execute every changed chapter, ``jobs`` at a time, each in a process of its own; a line for each."""
    read_profile(profile)
    first = sorted((name for name in chapters() if name != LEDGER), key=_order)
    for wave in (first, [name for name in chapters() if name == LEDGER]):
        queue = []
        for name in wave:
            if unchanged(name, profile):
                print(f"  {name:24s} unchanged", flush=True)
            else:
                queue.append(name)
        _run(queue, profile, jobs)


def _order(chapter: str) -> int:
    """Chapters that train longest start first (``nclib: {"order": n}`` in a notebook's metadata)."""
    return nbformat.read(source(chapter), 4).metadata.get("nclib", {}).get("order", 9)


def _run(queue: list[str], profile: str, jobs: int) -> None:
    place, running = home() / "_build" / profile, {}
    while queue or running:
        while queue and len(running) < jobs:
            name = queue.pop(0)
            running[name] = _start(name, profile, jobs)
        time.sleep(0.2)
        _show(place, running)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            if error := _ended(name, running.pop(name), place):
                for other in running.values():
                    other.terminate()
                raise BookError(error)


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
        last = told.read_text().replace("\r", "\n").strip().splitlines()[-1:] if told.exists() else []
        words.append(f"{name}: {' '.join(last)[:60]}")
    moving_line(" | ".join(words))


def _ended(name: str, process: subprocess.Popen, place: Path) -> str:
    """Print what a chapter took. Its error, if it failed."""
    if process.returncode:
        return process.stderr.read().decode().strip() or f"{name}: process ended with {process.returncode}"
    seconds = json.loads((place / "stamps" / f"{name}.json").read_text())["seconds"]
    print(f"  {name:24s} {seconds:6.1f} s", flush=True)
    return ""


def record(profile: str) -> Path:
    """Commit-ready evidence of a finished book: executed chapters and records to ``results/<profile>/``.

    For digits the README's verdicts and picture follow. BookError where the book has not been made.
    """
    place, results = home() / "_build" / profile, home() / "results" / profile
    if not (place / "site").exists():
        raise BookError(f"nothing to record: run 'make book PROFILE={profile}' first")
    verdicts = judged(load(place / "records"))
    for kind, pattern in (("records", "*.*"), ("pages", "*.ipynb")):
        shutil.rmtree(results / kind, ignore_errors=True)
        (results / kind).mkdir(parents=True)
        for file in (place / kind).glob(pattern):
            shutil.copy2(file, results / kind)
    if profile == "digits":
        readme = home() / "README.md"
        before, after = readme.read_text().split(MARK[0])[0], readme.read_text().split(MARK[1])[1]
        readme.write_text(before + MARK[0] + "\n" + verdict_table(verdicts) + MARK[1] + after)
        shutil.copy2(place / "source" / "_static" / "picture.svg", results)
    return results


def verdict_table(verdicts: pd.DataFrame) -> str:
    """The README's table of verdicts, in Markdown."""
    lines = [f"| {row.id} | {row.claim} | **{row.verdict}** |\n" for row in verdicts.itertuples()]
    return "| | claim | on digits |\n|---|---|---|\n" + "".join(lines)
