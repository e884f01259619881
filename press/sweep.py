"""Many runs: a grid of parameters over chapters, on this machine or, with Ray, on many.

A sweep file (YAML) names ``chapters``, a base ``profile``, and what changes: a ``grid`` with a list of entries for
each axis, of which every combination is run, or ``runs``, a list of entries (beside a grid: one more axis). An entry
is a value of the parameter that its axis is named after, or a mapping of several parameters. A parameter goes to
those chapters that know it. ``cpus`` (1) and ``gpus`` (1 where the cluster has any) are what one run takes.
"""

import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mean, median

import pandas as pd
import yaml

from .. import records
from ..files import write
from ..provenance import home
from .execute import BookError, check, defaults, moving_line, read_profile, report, source, unchanged

KEYS = {
    "chapters": (list, "a list of chapters"),
    "profile": (str, "the name of a profile"),
    "grid": (dict, "a mapping of lists"),
    "runs": (list, "a list of mappings"),
    "cpus": (int, "a number of cores"),
    "gpus": ((int, float), "a number of GPUs"),
}
RETRIES = 3  # of a run whose worker or node died


@dataclass(frozen=True, eq=False)
class Run:
    """One chapter under one set of parameters: one shell command, one folder of the house for all that it leaves."""

    chapter: str
    profile: str
    values: dict
    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / f"{self.chapter}.ipynb"

    @property
    def words(self) -> list[str]:
        """What follows ``python -m nclib``, in the house."""
        words = ["run", f"book/{self.chapter}.ipynb", "--profile", self.profile]
        for name, value in self.values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=9999)
            words += ["-p", name, text.removesuffix("...\n").strip()]
        return [*words, "-o", str(self.page)]

    @property
    def done(self) -> bool:
        """Is the page there, and is it what today's source, parameters and library would give?"""
        return unchanged(self.chapter, self.profile, self.values, home() / self.page)


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep file, and the cells of its grid: by label, all runs that differ in nothing but seeds."""

    file: Path
    runs: list[Run]
    cells: dict[str, list[Run]]
    cpus: int
    gpus: float | None


# From a file to runs -----------------------------------------------------------------------------


def read(file: Path) -> Sweep:
    """A sweep file as runs, checked. BookError, in one line, for anything missing, unknown or of a wrong type."""
    asked = _load(file)
    chapters, profile = [source(str(chapter)).stem for chapter in asked["chapters"]], asked.get("profile", "digits")
    read_profile(profile)
    known = {chapter: defaults(source(chapter)).keys() - {"profile"} for chapter in chapters}
    every = {name: value for chapter in chapters for name, value in defaults(source(chapter)).items()}
    every.pop("profile", None)  # has a key of its own
    points = _points(asked, file)
    for point in points:
        check(point, every, str(file))
    varied = [n for n in dict.fromkeys(itertools.chain(*points)) if any(p.get(n) != points[0].get(n) for p in points)]
    runs, cells = {}, {}
    for chapter, point in itertools.product(chapters, points):
        values = {name: value for name, value in point.items() if name in known[chapter]}
        key = sha256(json.dumps([chapter, profile, values], sort_keys=True).encode()).hexdigest()[:8]
        folder = Path("_build", "sweeps", file.stem, f"{chapter}-{key}")
        run = runs.setdefault(key, Run(chapter, profile, values, folder))
        label = ", ".join(_words(name, point[name]) for name in varied if name in point and name != "seeds")
        cells.setdefault(label or profile, {})[key] = run
    cells = {label: list(of_cell.values()) for label, of_cell in cells.items()}
    return Sweep(file, list(runs.values()), cells, asked.get("cpus", 1), asked.get("gpus"))


def _load(file: Path) -> dict:
    if not file.is_file():
        there = ", ".join(f"sweeps/{f.name}" for f in sorted((home() / "sweeps").glob("*.yml")))
        raise BookError(f"no sweep file {str(file)!r}; choose one of {there}")
    try:
        asked = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise BookError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(asked, dict) or not asked.get("chapters"):
        raise BookError(f"{file}: a sweep needs chapters, and may have {', '.join(list(KEYS)[1:])}")
    for key, value in asked.items():
        if key not in KEYS:
            raise BookError(f"{file}: unknown key {key!r}; choose from {', '.join(KEYS)}")
        kind, words = KEYS[key]
        if not isinstance(value, kind) or (isinstance(value, (int, float)) and (isinstance(value, bool) or value < 0)):
            raise BookError(f"{file}: {key} must be {words}, not {value!r}")
    return asked


def _points(asked: dict, file: Path) -> list[dict]:
    """Every combination of one entry from each axis, as parameters."""
    runs, axes = asked.get("runs", []), dict(asked.get("grid", {}))
    if wrong := [entry for entry in runs if not isinstance(entry, dict)]:
        raise BookError(f"{file}: an entry of runs must be a mapping of parameters, not {wrong[0]!r}")
    if runs:
        axes["runs"] = runs
    for name, entries in axes.items():
        if not isinstance(entries, list) or not entries:
            raise BookError(f"{file}: {name} must be a list of values or of mappings, not {entries!r}")
    points = []
    for chosen in itertools.product(*axes.values()):
        parts = [entry if isinstance(entry, dict) else {name: entry} for name, entry in zip(axes, chosen)]
        names = [name for part in parts for name in part]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BookError(f"{file}: {twice[0]} is set by two axes")
        points.append({name: value for part in parts for name, value in part.items()})
    return points


def _words(name: str, value) -> str:
    return value if isinstance(value, str) else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


# What there is to do -----------------------------------------------------------------------------


def plan(sweep: Sweep) -> str:
    """Every run as a shell command, with its number and whether it is done, and an estimate of what is left."""
    left = [run for run in sweep.runs if not run.done]
    seconds = estimate(left)
    rest = "time unknown: no records of such runs" if seconds is None else f"about {_duration(seconds)} one by one"
    done = len(sweep.runs) - len(left)
    lines = [f"{sweep.file.stem}: {len(sweep.runs)} runs, {done} done; left: {rest if left else 'nothing'}"]
    for number, run in enumerate(sweep.runs, 1):
        lines.append(f"{number:4d}  {'     ' if run in left else 'done '} python -m nclib {shlex.join(run.words)}")
    return "\n".join(lines)


def estimate(runs: list[Run]) -> float | None:
    """Seconds that runs may take one by one, from what a seed has cost in past records of chapter and profile."""
    known = [cost for run in runs if (cost := _cost(run)) is not None]
    return mean(known) * len(runs) if known else None


def _cost(run: Run) -> float | None:
    seeds = (defaults(source(run.chapter)) | read_profile(run.profile) | run.values).get("seeds", [1])
    for place in ("_build/sweeps/*/*", f"_build/{run.profile}/records", f"results/{run.profile}/records"):
        costs = []
        for origin in (json.loads(file.read_text()) for file in home().glob(f"{place}/{run.chapter}.json")):
            if origin["profile"] == run.profile:
                trained = sum(origin["training_seconds"].values())  # perhaps by another chapter
                costs.append(max(origin["seconds"], trained) / len({r["seed"] for r in origin["recipes"].values()}))
        if costs:
            return median(costs) * len(seeds)
    return None


def _duration(seconds: float) -> str:
    name, size = next((n, s) for n, s in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= 2 * s or s == 1)
    return f"{seconds / size:.0f} {name}"


# Doing it ----------------------------------------------------------------------------------------


def run(sweep: Sweep, engine: str = "local", jobs: int = 1, address: str = "local", select: int | None = None) -> int:
    """Execute what is not done, and the sweep's page; ``select`` executes one run, counted from 1, and no page.

    Prints a line for every run and, at the end, one for every failure. Returns the exit code: 1 where a run failed.
    """
    if select is not None and not 1 <= select <= len(sweep.runs):
        raise BookError(f"no run {select}: {sweep.file} has runs 1 to {len(sweep.runs)}")
    if jobs < 1:
        raise BookError(f"jobs must be 1 or more, not {jobs}")
    chosen = sweep.runs if select is None else [sweep.runs[select - 1]]
    left = [run for run in chosen if not run.done]
    print(f"{sweep.file.stem}: {len(chosen)} runs, {len(chosen) - len(left)} done", flush=True)
    began, over, failed, guess = time.time(), 0, {}, estimate(left)
    work = _ray(sweep, left, address) if engine == "ray" else _local(sweep, left, jobs)
    for finished, running in work if left else ():
        for run, files in finished.items():
            over += 1
            if error := _collect(run, files):
                failed[run] = error
            word = f"failed: {error}" if error else f"done, after {_duration(time.time() - began)}"
            print(f"{sweep.runs.index(run) + 1:4d}  {run.folder.name}  {word}", flush=True)
        each = (time.time() - began) / over if over else guess and guess / len(left) / max(1, running)
        rest = f", about {_duration(each * (len(left) - over))} left" if each else ""
        moving_line(f"{over - len(failed)} done, {running} running, {len(failed)} failed of {len(left)}{rest}")
    if select is None:
        _page(sweep)
    for run, error in failed.items():
        print(f"failed: {run.folder}: {error}", file=sys.stderr)
    return 1 if failed else 0


def perform(house: str, folder: str, words: list[str], cpus: int) -> dict[str, bytes]:
    """One run, as one shell command that dies with this process. Returns its folder's files; error.txt if it failed.

    Where the asking machine's house is not on this one, this one's own is used.
    """
    house = Path(house) if Path(house).is_dir() else home()
    place, error = house / folder, house / folder / "error.txt"
    place.mkdir(parents=True, exist_ok=True)
    own = {"NCLIB_HOME": str(house), "NCLIB_PARENT": str(os.getpid())}
    own |= {"NCLIB_JOBS": str(cpus), "OMP_NUM_THREADS": str(cpus)}
    command = [sys.executable, "-m", "nclib", *words]
    done = subprocess.run(command, env=os.environ | own, cwd=house, capture_output=True, text=True)
    error.unlink(missing_ok=True)
    if done.returncode:
        write(error, done.stderr.strip() or f"its process ended with {done.returncode}")
    kept = (file for file in place.rglob("*") if file.is_file() and file.suffix != ".lock")
    return {str(file.relative_to(place)): file.read_bytes() for file in kept}


def _task(sweep: Sweep, run: Run) -> tuple:
    return str(home()), str(run.folder), run.words, max(1, sweep.cpus)


def _local(sweep: Sweep, runs: list[Run], jobs: int) -> Iterator[tuple[dict[Run, dict], int]]:
    """Every second or so: the runs that finished, with their files, and how many are running."""
    pool = ThreadPoolExecutor(jobs)
    waiting = {pool.submit(perform, *_task(sweep, run)): run for run in runs}
    try:
        while waiting:
            finished, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            yield {waiting.pop(f): f.result() for f in finished}, sum(f.running() for f in waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ray(sweep: Sweep, runs: list[Run], address: str) -> Iterator[tuple[dict[Run, dict], int]]:
    """The same from a Ray cluster: it places runs, repeats those whose worker or node died, and moves their files."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise BookError("the ray engine needs Ray: pip install -r requirements-cluster.txt") from None
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        raise BookError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sweep.gpus if sweep.gpus is not None else int(any(node.get("GPU") for node in nodes))
        if not any(node.get("CPU", 0) >= sweep.cpus and node.get("GPU", 0) >= gpus for node in nodes):
            raise BookError(f"{sweep.file}: a run takes {sweep.cpus} cores and {gpus} GPUs, which no node of Ray has")
        task = ray.remote(num_cpus=sweep.cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False)(_stream)
        waiting, running = {task.remote(*_task(sweep, run)): run for run in runs}, set()
        while waiting:
            finished = {}
            for stream in ray.wait(list(waiting), timeout=1)[0]:
                try:
                    files = ray.get(next(stream))
                except ray.exceptions.RayError as error:
                    files = {"error.txt": str(error).encode()}
                if files is None:
                    running.add(stream)
                else:
                    running.discard(stream)
                    finished[waiting.pop(stream)] = files
            yield finished, len(running)
    finally:
        ray.shutdown()


def _stream(*task) -> Iterator[dict[str, bytes] | None]:
    """A first word when a worker has begun, then what ``perform`` returns."""
    yield None
    yield perform(*task)


def _collect(run: Run, files: dict[str, bytes]) -> str:
    """Put a run's files in its folder, where no shared disk has done so. Returns its error's last line, if any."""
    for name, content in files.items():
        file = home() / run.folder / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, content)
    if "error.txt" in files:
        return files["error.txt"].decode().splitlines()[-1]
    return "" if run.done else "made by another library, other versions or another data folder than here"


# What came of it ---------------------------------------------------------------------------------


def _page(sweep: Sweep) -> None:
    """``sweep.html`` of what is done, made anew where a run, the file or the template is newer."""
    page = home() / "_build" / "sweeps" / sweep.file.stem / "sweep.ipynb"
    pages = [home() / run.page for run in sweep.runs if (home() / run.page).exists()]
    newest = max(file.stat().st_mtime for file in (home() / "templates" / "sweep.ipynb", sweep.file, *pages))
    if pages and not (page.exists() and page.stat().st_mtime > newest):
        values = {"file": str(sweep.file.resolve())}
        print(report("sweep", page, values, f"Sweep {sweep.file.stem}", cwd=home()))


def table(sweep: Sweep) -> pd.DataFrame:
    """Records of every finished run, each with the label of its cell (a run may belong to several)."""
    frames = [pd.DataFrame(columns=[*records.COLUMNS, "cell"])]
    for label, runs in sweep.cells.items():
        frames += [records.load(home() / run.folder).assign(cell=label) for run in runs if run.done]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Last-epoch values over seeds: mean, half the 95 % t-interval of the mean (NaN for one seed), lowest, highest."""
    from scipy.stats import t  # here, as it takes longer to import than most commands take to answer

    by = ["cell", "model", "split", "view", "layer", "measure"]
    last = frame[frame.epoch == frame.groupby(by).epoch.transform("max")]
    seeds = last.groupby([*by, "seed"], sort=False).value.mean().groupby(by, sort=False)
    found = seeds.agg(seeds="count", mean="mean", lowest="min", highest="max")
    half = t.ppf(0.975, (found.seeds - 1).where(found.seeds > 1)) * seeds.sem()
    return found.assign(interval=half).reset_index()
