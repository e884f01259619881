"""Many runs: what there is to do, doing it on an engine, and what came of it, setting by setting."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from statistics import mean, median

import pandas as pd

from nclib.evidence.pages import literals
from nclib.evidence.records import COLUMNS, load
from nclib.runtime import home, moving_line, write
from nclib.seeds import interval

from . import TEMPLATES, BookError
from .engines import on_ray, on_this_machine
from .execute import report
from .grid import Job, Sweep
from .profiles import read_profile, source


def plan(sweep: Sweep) -> str:
    """Every job as a shell command, with its number and whether it is done, and an estimate of what is left."""
    left = [job for job in sweep.jobs if not job.done]
    seconds = estimate(left)
    rest = "time unknown: no records of such runs" if seconds is None else f"about {_duration(seconds)} one by one"
    done = len(sweep.jobs) - len(left)
    head = f"{sweep.file.stem}: {len(sweep.jobs)} runs, {done} done; left: {rest if left else 'nothing'}"
    words = [f"{'     ' if job in left else 'done '} python -m press {shlex.join(job.words)}" for job in sweep.jobs]
    return "\n".join([head, *(f"{number:4d}  {line}" for number, line in enumerate(words, 1))])


def estimate(jobs: list[Job]) -> float | None:
    """Seconds that jobs may take one by one, from what a seed has cost in past records of chapter and profile."""
    known = [cost for job in jobs if (cost := _cost(job)) is not None]
    return mean(known) * len(jobs) if known else None


def _cost(job: Job) -> float | None:
    seeds = (literals(source(job.chapter)) | read_profile(job.profile) | job.values).get("seeds", [1])
    for place in ("_build/sweeps/*/*", f"_build/{job.profile}/records", f"results/{job.profile}/records"):
        costs = []
        for origin in (json.loads(file.read_text()) for file in home().glob(f"{place}/{job.chapter}.json")):
            if origin["profile"] == job.profile:
                trained = sum(origin["training_seconds"].values())  # perhaps by another chapter
                of_seeds = {r["seed"] for r in origin["recipes"].values()}
                costs.append(max(origin["seconds"], trained) / max(len(of_seeds), 1))
        if costs:
            return median(costs) * len(seeds)
    return None


def _duration(seconds: float) -> str:
    name, size = next((n, s) for n, s in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= 2 * s or s == 1)
    return f"{seconds / size:.0f} {name}"


def run(sweep: Sweep, engine: str, at_once: int, address: str, select: int | None) -> int:
    """Execute what is not done, and the sweep's page; ``select`` executes one job, counted from 1, and no page.

    Prints a line for every job and, at the end, one for every failure. Returns the exit code: 1 where a job failed.
    """
    if select is not None and not 1 <= select <= len(sweep.jobs):
        raise BookError(f"no run {select}: {sweep.file} has runs 1 to {len(sweep.jobs)}")
    if at_once < 1:
        raise BookError(f"jobs must be 1 or more, not {at_once}")
    chosen = sweep.jobs if select is None else [sweep.jobs[select - 1]]
    left = [job for job in chosen if not job.done]
    print(f"{sweep.file.stem}: {len(chosen)} runs, {len(chosen) - len(left)} done", flush=True)
    work = on_ray(sweep, left, address) if engine == "ray" else on_this_machine(sweep, left, at_once)
    failed = _follow(sweep, left, work) if left else {}
    if select is None:
        _write_page(sweep)
    for job, error in failed.items():
        print(f"failed: {job.folder}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _follow(sweep: Sweep, left: list[Job], work: Iterator[tuple[dict[Job, dict], int]]) -> dict[Job, str]:
    """Collect and print what comes back from an engine. Returns the errors of the jobs that failed."""
    began, over, failed, guess = time.time(), 0, {}, estimate(left)
    for finished, running in work:
        for job, files in finished.items():
            over += 1
            if error := _collect(job, files):
                failed[job] = error
            word = f"failed: {error}" if error else f"done, after {_duration(time.time() - began)}"
            print(f"{sweep.jobs.index(job) + 1:4d}  {job.folder.name}  {word}", flush=True)
        each = (time.time() - began) / over if over else guess and guess / len(left) / max(1, running)
        rest = f", about {_duration(each * (len(left) - over))} left" if each else ""
        moving_line(f"{over - len(failed)} done, {running} running, {len(failed)} failed of {len(left)}{rest}")
    return failed


def _collect(job: Job, files: dict[str, bytes]) -> str:
    """Put a job's files in its folder, where no shared disk has done so. Returns its error's last line, if any."""
    for name, content in files.items():
        file = home() / job.folder / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, content)
    if "error.txt" in files:
        return files["error.txt"].decode().splitlines()[-1]
    return "" if job.done else "made by another library, other versions or another data folder than here"


def _write_page(sweep: Sweep) -> None:
    """``sweep.html`` of what is done, made anew where a run, the file or the template is newer."""
    page = home() / "_build" / "sweeps" / sweep.file.stem / "sweep.ipynb"
    pages = [home() / job.page for job in sweep.jobs if (home() / job.page).exists()]
    newest = max(file.stat().st_mtime for file in (TEMPLATES / "sweep.ipynb", sweep.file, *pages))
    if pages and not (page.exists() and page.stat().st_mtime > newest):
        print(report("sweep", page, {"file": str(sweep.file.resolve())}, f"Sweep {sweep.file.stem}", cwd=home()))


def table(sweep: Sweep) -> pd.DataFrame:
    """Records of every finished job, each with the label of its setting (a job may belong to several)."""
    frames = [pd.DataFrame(columns=[*COLUMNS, "setting"])]
    for label, jobs in sweep.settings.items():
        frames += [load(home() / job.folder).assign(setting=label) for job in jobs if job.done]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Last-epoch values over seeds: mean, half the 95 % t-interval of the mean (NaN for one seed), lowest, highest."""
    by = ["setting", "model", "split", "view", "layer", "measure"]
    last = frame[frame.epoch == frame.groupby(by).epoch.transform("max")]
    seeds = last.groupby([*by, "seed"], sort=False).value.mean().groupby(by, sort=False)
    half = {"interval": lambda v: interval(v)[2] - v.mean() if len(v) > 1 else float("nan")}
    return seeds.agg(seeds="count", mean="mean", lowest="min", highest="max", **half).reset_index()
