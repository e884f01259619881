"""Sweeps: the local engine, failures, Ctrl-C, files from afar, and what a sweep's page shows."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from html import unescape

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import ROOT, command, log_of, start, wait_for
from small import small_house

from nclib.evidence.ledger import judged
from nclib.training.store import RECORD
from press import grid, sweep
from press.engines import perform


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two sweeps at once in one house, after an array task that made the second job of one of them."""
    house = small_house(tmp_path_factory.mktemp("house"))
    mine = "chapters: [collapse]\nprofile: small\nruns: [{seeds: [1]}, {seeds: [2]}, {width: 0}]\n"
    (house / "sweeps" / "mine.yml").write_text(mine)
    (house / "sweeps" / "other.yml").write_text("chapters: [attacks]\nprofile: small\nruns: [{seeds: [1]}]\n")
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "PYTHON": sys.executable, "NCLIB_HOME": str(house), "PYTHONPATH": str(ROOT)}
    script = ["bash", ROOT / "sweeps" / "array.sh", "sweeps/mine.yml"]
    task = subprocess.run(script, cwd=house, env=os.environ | slurm, capture_output=True, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCLIB_HOME", str(house))
        after_task = [job.done for job in grid.read(house / "sweeps" / "mine.yml").jobs]
        both = [start(house, "sweep", f"sweeps/{name}.yml", "--jobs", "2") for name in ("mine", "other")]
        told = [(*process.communicate(timeout=600), process.returncode) for process in both]
        yield house, grid.read(house / "sweeps" / "mine.yml"), (task, after_task), *told


def test_slurm_is_told_the_number_of_tasks_where_gpus_are_counted_by_task():
    asked = re.findall(r"^#SBATCH --([\w-]+)", (ROOT / "sweeps" / "array.sh").read_text(), re.M)
    assert {"gpus-per-task", "ntasks"} <= set(asked)  # sbatch refuses the first without the second


@pytest.mark.expensive
class TestTwoAtOnce:
    def test_an_array_task_makes_its_job_and_no_other(self, made):
        task, done = made[2]
        assert task.returncode == 0, task.stderr
        assert done == [False, True, False]

    def test_a_failed_job_is_told_and_the_rest_go_on(self, made):
        house, mine, _, (out, err, code), _ = made
        assert code == 1
        assert "3 runs, 1 done" in out and len(re.findall(r"^ +\d  collapse-\w{8}  done", out, re.M)) == 1
        said = [line for line in err.splitlines() if line.startswith("failed: ")]  # a kernel may warn beside it
        assert len(said) == 1, err
        (bad,) = (job for job in mine.jobs if job.values == {"width": 0})
        error = r"book/collapse.ipynb, cell \d+: ValueError: width must be above 0 and finite, not 0"
        assert re.fullmatch(f"failed: {bad.folder}: {error}", said[0]), err
        assert "width must be above 0" in (house / bad.folder / "error.txt").read_text()
        assert [job for job in mine.jobs if not job.done] == [bad]
        assert [job for job in mine.jobs if (house / job.folder / "error.txt").exists()] == [bad]

    def test_they_train_no_recipe_twice(self, made):
        house, mine, *_, (_, err, code) = made
        assert code == 0, err
        logs = [log_of(house, job) for job in (*mine.jobs, *grid.read(house / "sweeps" / "other.yml").jobs)]
        trained = re.findall(r"^standard · .* seed (\d): training on .* from epoch 0$", "\n".join(logs), re.M)
        kept = [json.loads(f.read_text())["recipe"]["seed"] for f in (house / "runs").glob(f"*/{RECORD}")]
        assert sorted(trained) == ["1", "2"] and sorted(kept) == [1, 2], "both sweeps used one network of seed 1"

    def test_what_is_done_is_not_done_again(self, made):
        house, mine, *_ = made
        page = house / mine.jobs[0].page
        before = page.stat().st_mtime_ns
        head, *lines = sweep.plan(mine).splitlines()
        assert head.startswith("mine: 3 runs, 2 done; left: about ")
        plan = [re.fullmatch(r" +(\d+) +(done)? +python -m press (.+)", line).groups() for line in lines]
        assert [(number, done) for number, done, _ in plan] == [("1", "done"), ("2", "done"), ("3", None)]
        done = command(house, *shlex.split(plan[0][2]))
        assert done.returncode == 0 and done.stdout.strip() == str(page) and page.stat().st_mtime_ns == before

    def test_the_page_shows_settings_interval_and_ledger(self, made):
        house, mine, *_ = made
        frame = sweep.table(mine)
        assert set(frame.seed) == {1, 2} and set(frame.setting) == {"small"}
        html = (house / "_build" / "sweeps" / "mine" / "sweep.html").read_text()
        found = sweep.summary(frame)
        row = found[(found.measure == "nc1") & (found.split == "train")].iloc[0]
        assert f"{row['mean']:.3g} ± {row.interval:.2g} [{row.lowest:.3g}, {row.highest:.3g}]" in html
        ledger = judged(frame.assign(profile=frame.setting))
        assert " and " in ledger.measured[0] and ledger.measured[0].split("; ")[0] in unescape(html)
        assert html.count("image/svg+xml") + html.count("<svg") >= 3
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.https?://", html), "it asks nobody outside"
        assert '<meta name="viewport"' in html, "a phone shows it at its own width"


@pytest.mark.expensive
def test_a_stopped_sweep_leaves_nobody_at_work_and_goes_on(tmp_path, monkeypatch):
    """Interrupted as by ``kill -INT``, the driver alone: what it started dies with it."""
    house = small_house(tmp_path, epochs=100000)
    (house / "sweeps" / "mine.yml").write_text("chapters: [collapse]\nprofile: small\n")
    monkeypatch.setenv("NCLIB_HOME", str(house))
    (job,) = grid.read(house / "sweeps" / "mine.yml").jobs
    first = start(house, "sweep", "sweeps/mine.yml")
    wait_for(lambda: list((house / "runs").glob("*/epoch-0008.safetensors")), first)
    tree = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGINT)
    _, words = first.communicate(timeout=60)
    assert first.returncode == 130 and words.strip() == "stopped; the same command goes on from here"
    assert tree and not psutil.wait_procs(tree, timeout=60)[1], "somebody is at work"
    second = start(house, "sweep", "sweeps/mine.yml")
    wait_for(lambda: re.search(r"from epoch [1-9]\d*", log_of(house, job)), second)
    os.killpg(second.pid, signal.SIGINT)
    second.communicate(timeout=60)


def test_files_come_back_from_a_machine_that_shares_no_disk(tmp_path_factory, monkeypatch):
    house, away = (small_house(tmp_path_factory.mktemp(name)) for name in ("house", "away"))
    (house / "sweeps" / "mine.yml").write_text("chapters: [collapse]\nprofile: small\n")
    monkeypatch.setenv("NCLIB_HOME", str(house))
    (job,) = grid.read(house / "sweeps" / "mine.yml").jobs
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (away / "book" / "collapse.ipynb").unlink()
    with monkeypatch.context() as there:
        there.setenv("NCLIB_HOME", str(away))
        files = perform(job, house / "nowhere", 1)
    assert list(files) == ["error.txt"] and (away / job.folder / "error.txt").exists()
    assert sweep._collect(job, files).startswith("unknown chapter 'book/collapse.ipynb'")
    assert (house / job.folder / "error.txt").read_bytes() == files["error.txt"]
    assert "made by another library" in sweep._collect(job, {"collapse.csv": b"x"})
    assert (house / job.folder / "collapse.csv").read_bytes() == b"x"


def rows(value, seed, epoch=2):
    where = dict(setting="here", model="standard", split="train", layer="features", view="clean", measure="nc1")
    return where | dict(seed=seed, epoch=epoch, value=value)


def test_the_interval_is_students():
    frame = pd.DataFrame([rows(float(seed), seed) for seed in (1, 2, 3)] + [rows(99.0, 1, epoch=1)])
    (found,) = sweep.summary(frame).to_dict("records")
    assert (found["seeds"], found["mean"], found["lowest"], found["highest"]) == (3, 2.0, 1.0, 3.0)
    assert found["interval"] == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    (alone,) = sweep.summary(frame[frame.seed == 1]).to_dict("records")
    assert alone["seeds"] == 1 and np.isnan(alone["interval"])
