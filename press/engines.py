"""What executes jobs: this machine's processes, or a Ray cluster. A job is one shell command, wherever it runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from nclib.runtime import home, write

from . import BookError
from .grid import Job, Sweep

RETRIES = 3  # of a job whose worker or node died


def perform(job: Job, house: Path, cpus: int, gpus: float | None = None) -> dict[str, bytes]:
    """One job, as one shell command that dies with this process, in the asking machine's house or, without it, our own.

    With 0 ``gpus`` it sees none. Returns its folder's files, among them error.txt if it failed.
    """
    house = house if house.is_dir() else home()
    place, error = house / job.folder, house / job.folder / "error.txt"
    place.mkdir(parents=True, exist_ok=True)
    own = {"NCLIB_HOME": house, "NCLIB_PARENT": os.getpid(), "NCLIB_JOBS": cpus, "OMP_NUM_THREADS": cpus}
    own |= {"CUDA_VISIBLE_DEVICES": ""} if gpus == 0 else {}
    environment = os.environ | {name: str(value) for name, value in own.items()}
    command = [sys.executable, "-m", "press", *job.words]
    done = subprocess.run(command, env=environment, cwd=house, capture_output=True, text=True)
    error.unlink(missing_ok=True)
    if done.returncode:
        write(error, done.stderr.strip() or f"its process ended with {done.returncode}")
    return {
        f.relative_to(place).as_posix(): f.read_bytes() for f in place.rglob("*") if f.is_file() and f.suffix != ".lock"
    }


def on_this_machine(sweep: Sweep, jobs: list[Job], at_once: int) -> Iterator[tuple[dict[Job, dict], int]]:
    """Every second or so: the jobs that finished, with their files, and how many are running."""
    pool = ThreadPoolExecutor(at_once)
    waiting = {pool.submit(perform, job, home(), max(1, sweep.cpus), sweep.gpus): job for job in jobs}
    try:
        while waiting:
            finished, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            yield {waiting.pop(f): f.result() for f in finished}, sum(f.running() for f in waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def on_ray(sweep: Sweep, jobs: list[Job], address: str) -> Iterator[tuple[dict[Job, dict], int]]:
    """The same from a Ray cluster: it places jobs, repeats those whose worker or node died, and moves their files."""
    ray = _cluster(address)
    try:
        gpus, slots = _slots(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        options = dict(num_cpus=sweep.cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False)
        task = ray.remote(**options)(perform)
        waiting = {task.remote(job, home(), max(1, sweep.cpus), gpus): job for job in jobs}
        while waiting:
            ready = ray.wait(list(waiting), timeout=1)[0]
            finished = {waiting.pop(future): _files(ray, future) for future in ready}
            yield finished, min(len(waiting), slots)  # if the cluster is this sweep's alone
    finally:
        ray.shutdown()


def _cluster(address: str):
    """Ray, connected. BookError, in one line, where it is not installed or nobody answers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise BookError("the ray engine needs Ray: pip install -r requirements-cluster.txt") from None
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        raise BookError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from None
    return ray


def _slots(sweep: Sweep, nodes: list[dict]) -> tuple[float, int]:
    """The GPUs that a job takes, and how many jobs the cluster's nodes hold at once. BookError where none holds one."""
    gpus = sweep.gpus if sweep.gpus is not None else int(any(node.get("GPU") for node in nodes))
    needs = [(kind, need) for kind, need in (("CPU", sweep.cpus), ("GPU", gpus)) if need]
    slots = sum(int(min((node.get(kind, 0) // need for kind, need in needs), default=1)) for node in nodes)
    if not slots:
        raise BookError(f"{sweep.file}: a run takes {sweep.cpus} cores and {gpus} GPUs, which no node of Ray has")
    return gpus, slots


def _files(ray, future) -> dict[str, bytes]:
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        return {"error.txt": str(error).encode()}
