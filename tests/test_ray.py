"""Sweeps on a real Ray cluster of two nodes: the local engine's records, though a worker is killed."""

import re

import pandas as pd
import psutil
import pytest
import yaml
from conftest import ROOT, furnish, log_of, nclib, start, wait_for

import nclib as nc
from nclib import records
from nclib.press import sweep

EXAMPLE = "epochs: 12\nper_class: 20\ntest_per_class: 5\nwidth: 4\nbatch: 50\nsteps: 2\n"


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two nodes of one core each, on the loopback interface: its address."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's own switch for 127.0.0.1 as a node's address
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from ray.cluster_utils import Cluster

    node = dict(num_cpus=1, num_gpus=0, node_ip_address="127.0.0.1", include_dashboard=False)
    it = Cluster(initialize_head=True, head_node_args=node)
    it.add_node(**node)
    yield it.address
    it.shutdown()


def test_a_cluster_gives_the_local_engines_records_though_a_worker_is_killed(cluster, tmp_path, monkeypatch):
    houses = {name: furnish(tmp_path / name) for name in ("local", "ray")}
    for house in houses.values():
        (house / "profiles" / "short.yml").write_text(EXAMPLE)
        example = house / "sweeps" / "digits-seeds.yml"
        example.write_text(example.read_text().replace("profile: digits", "profile: short"))
    monkeypatch.setenv("NCLIB_HOME", str(houses["ray"]))
    there = sweep.read(houses["ray"] / "sweeps" / "digits-seeds.yml")
    first = nc.Recipe(**yaml.safe_load(EXAMPLE), training="trades", trades_batchnorm="published")
    words = ["sweep", "sweeps/digits-seeds.yml"]
    driver = start(houses["ray"], *words, "--engine", "ray", "--address", cluster)
    wait_for((houses["ray"] / "runs" / first.key / "epoch-0002.safetensors").exists, driver)
    (runner,) = [p for p in psutil.process_iter() if _is_run(p, there.runs[0])]
    worker = runner.parent()
    assert worker.name().startswith("ray::"), worker
    worker.kill()
    out, err = driver.communicate(timeout=1500)
    assert driver.returncode == 0, out + err
    assert not psutil.pid_exists(runner.pid)
    assert re.search(r"TRADES \(published\).* from epoch [1-9]", log_of(houses["ray"], there.runs[0])), "resumed"
    done = nclib(houses["local"], *words, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert len(there.runs) == 3
    for run in there.runs:
        mine, theirs = (records.load(house / run.folder) for house in (houses["local"], houses["ray"]))
        timing = mine.measure == "seconds"
        assert len(mine) > 1000 and timing.sum() > 0
        pd.testing.assert_frame_equal(mine[~timing], theirs[~timing], check_exact=True)


def _is_run(process, run) -> bool:
    try:
        return str(run.page) in process.cmdline()
    except psutil.Error:
        return False


def test_a_run_that_no_node_can_hold_is_refused(house):
    (house / "sweeps" / "mine.yml").write_text("chapters: [collapse]\nprofile: smoke\ngpus: 64\n")
    done = nclib(house, "sweep", "sweeps/mine.yml", "--engine", "ray")
    assert done.returncode == 1 and "a run takes 1 cores and 64 GPUs, which no node of Ray has" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
