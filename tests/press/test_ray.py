"""Sweeps on a real Ray cluster of two nodes: the local engine's records, though a worker is killed."""

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
from conftest import ROOT, command, log_of, start, wait_for
from small import small_house

import nclib as nc
from nclib.evidence import records
from press import BookError, engines, grid
from press.engines import _slots

SWEEP = "chapters: [collapse]\nprofile: small\ngrid: {seeds: [[1], [2]]}\n"


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes of one core each, on the loopback interface: its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's own switch for 127.0.0.1 as a node's address
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        from ray.cluster_utils import Cluster

        node = dict(num_cpus=1, num_gpus=0, node_ip_address="127.0.0.1", include_dashboard=False)
        it = Cluster(initialize_head=True, head_node_args=node)
        it.add_node(**node)
        yield it.address
        it.shutdown()


@pytest.mark.expensive
def test_a_job_that_no_node_can_hold_is_refused(cluster, tmp_path):
    house = small_house(tmp_path)
    (house / "sweeps" / "mine.yml").write_text("chapters: [collapse]\nprofile: small\ngpus: 64\n")
    done = command(house, "sweep", "sweeps/mine.yml", "--engine", "ray", "--address", cluster)
    assert done.returncode == 1
    assert done.stderr.strip() == "sweeps/mine.yml: a run takes 1 cores and 64 GPUs, which no node of Ray has"


@pytest.mark.expensive
def test_a_cluster_gives_the_local_engines_records_though_a_worker_is_killed(cluster, tmp_path, monkeypatch):
    houses = {}
    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
        houses[name] = small_house(tmp_path / name, epochs=80)
        (houses[name] / "sweeps" / "two.yml").write_text(SWEEP)
    monkeypatch.setenv("NCLIB_HOME", str(houses["ray"]))
    first, second = grid.read(houses["ray"] / "sweeps" / "two.yml").jobs
    assert first.values == {"seeds": [1]}
    recipe = nc.Recipe(per_class=20, test_per_class=5, width=4, batch=20, epochs=80, seed=1)
    network = houses["ray"] / "runs" / f"{recipe.key}-float32"
    driver = start(houses["ray"], "sweep", "sweeps/two.yml", "--engine", "ray", "--address", cluster)
    wait_for((network / "epoch-0002.safetensors").exists, driver)
    (runner,) = [process for process in psutil.process_iter() if makes(process, first.page)]
    worker = runner.parent()
    assert worker.name().startswith("ray::"), worker
    worker.kill()
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, out + err
    assert not psutil.pid_exists(runner.pid)
    assert re.search(r"^standard.* from epoch [1-9]", log_of(houses["ray"], first), re.M), "resumed"
    done = command(houses["local"], "sweep", "sweeps/two.yml", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    for job in (first, second):
        mine, theirs = (records.load(house / job.folder) for house in houses.values())
        timing = mine.measure == "seconds"
        assert len(mine) > 100 and timing.sum() > 0
        pd.testing.assert_frame_equal(mine[~timing], theirs[~timing], check_exact=True)


@pytest.mark.parametrize("gpus, seen", [(0, ""), (1, "3"), (0.5, "3"), (None, "3")])
def test_a_job_that_asks_for_no_gpu_sees_none(gpus, seen, tmp_path, monkeypatch):
    """Ray leaves CUDA_VISIBLE_DEVICES as it was where a task takes none."""
    environments = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(
        engines.subprocess, "run", lambda words, env, **_: environments.append(env) or SimpleNamespace(returncode=0)
    )
    engines.perform(grid.Job("collapse", "small", {}, Path("there")), tmp_path, 1, gpus)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == [seen]


def makes(process: psutil.Process, page: Path) -> bool:
    try:
        return str(page) in process.cmdline()
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    "cpus,gpus,nodes,expected",
    [
        (1, None, [{"CPU": 2}, {"CPU": 1}], (0, 3)),
        (2, None, [{"CPU": 5}, {"CPU": 1}], (0, 2)),
        (1, None, [{"CPU": 4, "GPU": 1}, {"CPU": 4}], (1, 1)),
        (1, 0, [{"CPU": 4, "GPU": 1}, {"CPU": 4}], (0, 8)),
        (1, 0.5, [{"CPU": 4, "GPU": 1}], (0.5, 2)),
        (0, 0, [{"CPU": 4}], (0, 1)),
    ],
)
def test_the_jobs_that_a_cluster_holds_at_once_are_counted(cpus, gpus, nodes, expected):
    sweep = grid.Sweep(Path("mine.yml"), [], {}, cpus, gpus)
    assert _slots(sweep, nodes) == expected
    with pytest.raises(BookError, match="a run takes 9 cores"):
        _slots(grid.Sweep(Path("mine.yml"), [], {}, 9, gpus), nodes)
