"""What a sweep costs beyond papermill, and what a second worker gains.

    python benchmarks/sweep.py             # the local engine and Ray, some minutes
    python benchmarks/sweep.py --local     # without Ray

Everything happens in a house of its own that is thrown away. 1: what one run of a chapter that trains nothing takes
beside the seconds in which its notebook is executed, by papermill's own command and by either engine with one worker.
Taken from each run's own execution, as a machine's speed may change from one run to the next by more than an engine
adds. Ray's first run, which starts the worker, is told apart. 2: seconds of the same four trainings with one worker
and with two. Rounds are interleaved; median (lowest-highest).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from nclib.runtime import home
from press import engines, grid

ROOT = Path(__file__).parents[1]
CHEAP = "chapters: [measures]\nprofile: smoke\ngrid: {classes: [5, 6, 7]}\n"
TRAINING = "chapters: [collapse]\nprofile: smoke\ngrid: {epochs: [200], seeds: [[1], [2], [3], [4]]}\n"


@contextmanager
def house(text: str):
    """A house of its own and a sweep in it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for folder in ("book", "profiles", "sweeps", "results"):
            shutil.copytree(ROOT / folder, place / folder)
        os.environ["NCLIB_HOME"] = name
        (place / "sweeps" / "bench.yml").write_text(text)
        yield grid.read(place / "sweeps" / "bench.yml")


@contextmanager
def cluster(workers: int):
    """A Ray cluster on the loopback interface: its address."""
    from ray.cluster_utils import Cluster

    node = dict(num_cpus=workers, num_gpus=0, node_ip_address="127.0.0.1", include_dashboard=False)
    it = Cluster(initialize_head=True, head_node_args=node)
    yield it.address
    it.shutdown()


def finishes(engine) -> list[float]:
    """Seconds after which each run of an engine was over."""
    began, times = time.perf_counter(), []
    for finished, _ in engine:
        times += [time.perf_counter() - began] * len(finished)
        if failed := [files["error.txt"].decode() for files in finished.values() if "error.txt" in files]:
            raise SystemExit(failed[0])
    return times


def beside(made, engine) -> list[float]:
    """Seconds of each run of an engine with one worker, without those in which its notebook was executed."""
    times = [0.0, *finishes(engine)]
    stamps = [home() / job.folder / "stamps" / f"{job.chapter}.json" for job in made.jobs]
    return [
        after - before - json.loads(s.read_text())["seconds"] for (before, after), s in zip(pairwise(times), stamps)
    ]


def beside_by_papermill(classes: int) -> float:
    """The same of papermill's own command."""
    with tempfile.TemporaryDirectory() as name:
        page = Path(name, "out.ipynb")
        command = [str(Path(sys.executable).with_name("papermill")), "book/measures.ipynb", str(page)]
        words = ["--cwd", "book", "-p", "profile", "smoke", "-p", "classes", str(classes)]
        began = time.perf_counter()
        subprocess.run(command + words, cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - began - json.loads(page.read_text())["metadata"]["papermill"]["duration"]


def tell(name: str, times: list[float]) -> None:
    print(f"   {name:32} {statistics.median(times):6.2f} ({min(times):.2f}-{max(times):.2f})", flush=True)


def overhead(repeats: int, ray: bool) -> None:
    print(
        f"1. Seconds of a run beside its execution, {repeats} rounds of three runs (wanted: papermill's and at most 2)"
    )
    found = {name: [] for name in ("papermill", "local", "ray", "ray, a worker's first run")}
    for _ in range(repeats):
        found["papermill"] += [beside_by_papermill(classes) for classes in (5, 6, 7)]
        with house(CHEAP) as made:
            found["local"] += beside(made, engines.on_this_machine(made, made.jobs, 1))
        if ray:
            with house(CHEAP) as made, cluster(1) as address:
                first, *later = beside(made, engines.on_ray(made, made.jobs, address))
                found["ray"] += later
                found["ray, a worker's first run"].append(first)
    for name, times in found.items():
        if times:
            tell(name, times)


def speed_up(repeats: int, ray: bool) -> None:
    print(f"2. Four trainings: seconds with one worker / seconds with two, {repeats} rounds, {os.cpu_count()} cores")
    ratios = {"local": [], "ray": []}
    for _ in range(repeats):
        seconds = {}
        for workers in (1, 2):
            with house(TRAINING) as made:
                seconds["local", workers] = finishes(engines.on_this_machine(made, made.jobs, workers))[-1]
            if ray:
                with house(TRAINING) as made, cluster(workers) as address:
                    seconds["ray", workers] = finishes(engines.on_ray(made, made.jobs, address))[-1]
        for engine in ratios if ray else ["local"]:
            ratios[engine].append(seconds[engine, 1] / seconds[engine, 2])
    for engine in ratios if ray else ["local"]:
        tell(engine, ratios[engine])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--local", action="store_true", help="without Ray")
    options = parser.parse_args()
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | loopback
    overhead(options.repeats, not options.local)
    speed_up(options.repeats, not options.local)


if __name__ == "__main__":
    main()
