"""Many runs: sweep files, the local engine, failures, and what a sweep's page shows."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, furnish, log_of, nclib, start, wait_for

import nclib as nc
from nclib import claims, records
from nclib.press import execute, sweep

COLLAPSE = "chapters: [collapse]\nprofile: smoke\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A house that this process is at home in: write a sweep file's text, get the sweep."""
    house = furnish(tmp_path)
    monkeypatch.setenv("NCLIB_HOME", str(house))

    def written(text, name="mine"):
        (house / "sweeps" / f"{name}.yml").write_text(text)
        return sweep.read(house / "sweeps" / f"{name}.yml")

    return written


# Sweep files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,expected",
    [
        ("chapters: [", "not YAML"),
        ("profile: smoke", "a sweep needs chapters, and may have profile, grid"),
        (COLLAPSE + "gird: {}", "unknown key 'gird'; choose from chapters, profile, grid"),
        (COLLAPSE + "cpus: two", "cpus must be a number of cores, not 'two'"),
        (COLLAPSE + "gpus: -1", "gpus must be a number of GPUs, not -1"),
        ("chapters: [colapse]", "unknown chapter 'colapse'; choose one of collapse"),
        ("chapters: [collapse]\nprofile: smok", "unknown profile 'smok'; choose one of"),
        (COLLAPSE + "grid: {norm: [l2]}", "unknown parameter 'norm'; choose from"),
        (COLLAPSE + "grid: {profile: [digits]}", "unknown parameter 'profile'; choose from"),
        (COLLAPSE + "grid: {seeds: [1, 2]}", "seeds must be a list of int, not 1"),
        (COLLAPSE + "grid: {width: 8}", "width must be a list of values or of mappings, not 8"),
        (COLLAPSE + "grid: {dataset: [mnits]}", "unknown dataset 'mnits'; choose one of"),
        (COLLAPSE + "runs: [4, 8]", "an entry of runs must be a mapping of parameters, not 4"),
        (COLLAPSE + "grid: {width: [4], size: [{width: 8}]}", "width is set by two axes"),
    ],
)
def test_a_wrong_sweep_file_gets_one_line(here, text, expected):
    with pytest.raises(execute.BookError, match=re.escape(expected)) as caught:
        here(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_or_run_is_named_before_any_work(refused, house):
    line = refused("sweep", "sweeps/papr.yml")
    assert line == "no sweep file 'sweeps/papr.yml'; choose one of sweeps/digits-seeds.yml, sweeps/paper.yml"
    paper = str(house / "sweeps" / "paper.yml")
    assert refused("sweep", paper, "--select", "127") == f"no run 127: {paper} has runs 1 to 126"
    assert not (house / "_build").exists()


def test_the_papers_grid_is_whole(here):
    paper = sweep.read(ROOT / "sweeps" / "paper.yml")
    trained = [run for run in paper.runs if run.chapter == "adversarial-training"]
    assert len(trained) == 3 * 2 * 2 * 3 and paper.runs[: len(trained)] == trained, "what trains most comes first"
    assert {(r.values["dataset"], r.values["architecture"], r.values["norm"], *r.values["seeds"]) for r in trained} == {
        (data, network, norm, seed)
        for data in ("cifar10", "cifar100", "imagenette")
        for network in ("preactresnet18", "vgg11")
        for norm in ("linf", "l2")
        for seed in (1, 2, 3)
    }
    assert execute.parameters("adversarial-training", "paper", trained[0].values)["epochs"] == 400
    assert len(paper.cells) == 12 and "cifar10, vgg11, l2, epsilon 0.502, step 0.05882" in paper.cells
    assert {len(runs) for runs in paper.cells.values()} == {4 * 3}
    assert len(paper.runs) == 36 + 36 + 36 + 18, "clean training knows no norm: one run for both cells"


def test_a_runs_command_says_its_parameters_exactly(here):
    values = {"seeds": [1, 2], "epsilon": 1e-5, "step": 8 / 255, "per_class": None, "norm": "l2"}
    made = here(yaml.safe_dump({"chapters": ["attacks"], "runs": [values]}))
    words = made.runs[0].words
    said = {words[i + 1]: yaml.safe_load(words[i + 2]) for i, word in enumerate(words) if word == "-p"}
    assert said == values


def test_a_runs_folder_follows_its_parameters_and_nothing_else(here):
    two = here(COLLAPSE + "grid: {seeds: [[1], [2]], width: [4, 8]}")
    three = here(COLLAPSE + "grid: {width: [8, 4], seeds: [[3], [2], [1]]}")
    assert {run.folder for run in two.runs} < {run.folder for run in three.runs}
    assert list(two.cells) == ["width 4", "width 8"]
    assert not {run.folder.name for run in here(COLLAPSE + "grid: {seeds: [[4]]}").runs} & {
        run.folder.name for run in three.runs
    }


def test_the_estimate_is_what_a_seed_has_cost_times_the_seeds(here, tmp_path):
    made = here(COLLAPSE + "grid: {seeds: [[1], [2, 3, 4]]}")
    assert sweep.estimate(made.runs) is None and "time unknown" in sweep.plan(made)
    past = {"profile": "smoke", "seconds": 20.0, "training_seconds": {"a": 5.0, "b": 7.0}}
    folder = tmp_path / "_build" / "smoke" / "records"
    folder.mkdir(parents=True)
    (folder / "collapse.json").write_text(json.dumps(past | {"recipes": {"a": {"seed": 1}, "b": {"seed": 2}}}))
    assert sweep.estimate(made.runs) == pytest.approx(10 + 30)
    assert "2 runs, 0 done; left: about 40 s one by one" in sweep.plan(made)


# The local engine --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two sweeps at once in one house, after an array task that made the second run of one of them."""
    house = furnish(tmp_path_factory.mktemp("house"))
    mine = "chapters: [collapse]\nprofile: smoke\nruns: [{seeds: [1]}, {seeds: [2]}, {width: 0}]\n"
    (house / "sweeps" / "mine.yml").write_text(mine)
    (house / "sweeps" / "other.yml").write_text("chapters: [attacks]\nprofile: smoke\nruns: [{seeds: [1]}]\n")
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "PYTHON": sys.executable, "NCLIB_HOME": str(house), "PYTHONPATH": str(ROOT)}
    script = ["bash", "sweeps/array.sh", "sweeps/mine.yml"]
    task = subprocess.run(script, cwd=house, env=os.environ | slurm, capture_output=True, text=True)
    os.environ["NCLIB_HOME"], before = str(house), os.environ.get("NCLIB_HOME")
    after_task = [run.done for run in sweep.read(house / "sweeps" / "mine.yml").runs]
    both = [start(house, "sweep", f"sweeps/{name}.yml", "--jobs", "2") for name in ("mine", "other")]
    told = [(*process.communicate(timeout=1500), process.returncode) for process in both]
    yield house, sweep.read(house / "sweeps" / "mine.yml"), (task, after_task), *told
    os.environ.pop("NCLIB_HOME")
    if before:
        os.environ["NCLIB_HOME"] = before


def test_an_array_task_makes_its_run_and_no_other(made):
    task, done = made[2]
    assert task.returncode == 0, task.stderr
    assert done == [False, True, False]


def test_a_failed_run_is_told_and_the_rest_go_on(made):
    house, mine, _, (out, err, code), _ = made
    assert code == 1
    assert "3 runs, 1 done" in out and len(re.findall(r"^ +\d  collapse-\w{8}  done", out, re.M)) == 1
    (line,) = err.strip().splitlines()
    bad = mine.runs[2]
    assert line == f"failed: {bad.folder}: book/collapse.ipynb, cell 8: ValueError: width must be above 0, not 0"
    assert "width must be above 0" in (house / bad.folder / "error.txt").read_text()
    assert [run.done for run in mine.runs] == [True, True, False]
    assert not any((house / run.folder / "error.txt").exists() for run in mine.runs[:2])


def test_two_sweeps_at_once_train_no_recipe_twice(made):
    house, mine, *_, (_, err, code) = made
    assert code == 0, err
    logs = [log_of(house, run) for run in (*mine.runs, *sweep.read(house / "sweeps" / "other.yml").runs)]
    trained = re.findall(r"^standard · .* seed (\d): training on .* from epoch 0$", "\n".join(logs), re.M)
    epochs = yaml.safe_load((house / "profiles" / "smoke.yml").read_text())["epochs"]
    recipes = [json.loads(f.read_text())["recipe"] for f in (house / "runs").glob("*/recipe.json")]
    assert len(trained) == len(recipes), "each network was begun once"
    assert sum(r["seed"] == 1 and r["epochs"] == epochs for r in recipes) == 1, "and both sweeps used the one"


def test_what_is_done_is_not_done_again(made):
    house, mine, *_ = made
    page = house / mine.runs[0].page
    before = page.stat().st_mtime_ns
    words = sweep.plan(mine).splitlines()
    assert words[0].startswith("mine: 3 runs, 2 done; left: about ")
    assert [line[6:10] for line in words[1:]] == ["done", "done", "    "]
    command = words[1].split("python -m nclib ")[1].replace("'", "").split()
    done = nclib(house, *command)
    assert done.returncode == 0 and done.stdout.strip() == str(page) and page.stat().st_mtime_ns == before


def test_the_page_shows_cells_interval_and_ledger(made):
    house, mine, *_ = made
    frame = sweep.table(mine)
    assert set(frame.seed) == {1, 2} and set(frame.cell) == {"smoke"}
    html = (house / "_build" / "sweeps" / "mine" / "sweep.html").read_text()
    found = sweep.summary(frame)
    row = found[(found.measure == "nc1") & (found.split == "train")].iloc[0]
    assert f"{row['mean']:.3g} ± {row.interval:.2g} [{row.lowest:.3g}, {row.highest:.3g}]" in html
    ledger = claims.ledger(frame.assign(profile=frame.cell))
    assert "[" in ledger.measured[0] and ledger.measured[0].split("; ")[0] in html
    assert html.count("image/svg+xml") + html.count("<svg") >= 3
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.https?://", html), "the page asks nobody outside"
    assert '<meta name="viewport"' in html, "a phone shows it at its own width"


def test_a_stopped_sweep_leaves_nobody_at_work_and_goes_on(here, tmp_path):
    """Interrupted as by ``kill -INT``, the driver alone: what it started dies with it."""
    (tmp_path / "profiles" / "long.yml").write_text("per_class: 20\ntest_per_class: 5\nwidth: 4\nepochs: 100000\n")
    long = here("chapters: [collapse]\nprofile: long\n")
    first = start(tmp_path, "sweep", "sweeps/mine.yml")
    wait_for(lambda: list((tmp_path / "runs").glob("*/epoch-0008.safetensors")), first)
    first.send_signal(signal.SIGINT)
    _, words = first.communicate(timeout=600)
    assert first.returncode == 130 and words.strip() == "stopped; the same command goes on from here"
    (lock,) = (tmp_path / "runs").glob("*/lock")
    with nc.progress.alone(lock, "the test"):  # waits until the trainer is gone
        pass
    second = start(tmp_path, "sweep", "sweeps/mine.yml")
    wait_for(lambda: re.search(r"from epoch [1-9]\d*", log_of(tmp_path, long.runs[0])), second)
    os.killpg(second.pid, signal.SIGINT)
    second.communicate(timeout=600)


def test_files_come_back_from_a_machine_that_shares_no_disk(here, tmp_path, monkeypatch):
    run = here(COLLAPSE).runs[0]
    away = furnish(tmp_path / "away")
    monkeypatch.setenv("NCLIB_HOME", str(away))
    files = sweep.perform("/no/such/house", str(run.folder), ["run", "colapse"], 1)
    assert list(files) == ["error.txt"] and (away / run.folder / "error.txt").exists()
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path))
    assert sweep._collect(run, files).startswith("unknown chapter 'colapse'")
    assert (tmp_path / run.folder / "error.txt").read_bytes() == files["error.txt"]
    assert "made by another library" in sweep._collect(run, {"collapse.csv": b"x"})
    assert (tmp_path / run.folder / "collapse.csv").read_bytes() == b"x"


# What seeds say together -------------------------------------------------------------------------


def rows(value, seed, epoch=2, measure="nc1"):
    fields = dict(
        cell="here", profile="smoke", chapter="collapse", model="standard", recipe="a", seed=seed, epoch=epoch
    )
    return fields | dict(split="train", layer="features", view="clean", measure=measure, value=value)


def test_the_interval_is_students():
    frame = pd.DataFrame([rows(float(seed), seed) for seed in (1, 2, 3)] + [rows(99.0, 1, epoch=1)])
    (found,) = sweep.summary(frame).to_dict("records")
    assert (found["seeds"], found["mean"], found["lowest"], found["highest"]) == (3, 2.0, 1.0, 3.0)
    assert found["interval"] == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    (alone,) = sweep.summary(frame[frame.seed == 1]).to_dict("records")
    assert alone["seeds"] == 1 and np.isnan(alone["interval"])


def test_the_ledger_judges_the_mean_and_shows_the_range_over_seeds():
    first = dict(accuracy=0.9, nc1=10.0, equinorm=0.3, equiangle=0.4, nc4=0.2)
    last = dict(accuracy=1.0, nc1=0.5, equinorm=0.1, equiangle=0.1, nc4=0.0)
    table = [rows(v, s, epoch=1, measure=m) for m, v in first.items() for s in (1, 2)]
    table += [rows(v * (3 if m == "nc1" and s == 2 else 1), s, measure=m) for m, v in last.items() for s in (1, 2)]
    frame = pd.DataFrame(table)[records.COLUMNS]
    both, one = claims.ledger(frame).iloc[0], claims.ledger(frame[frame.seed == 1]).iloc[0]
    assert both.verdict == "holds" and "NC1 last/first epoch 0.1 [0.05 to 0.15] (≤ 0.1)" in both.measured
    assert "NC1 last/first epoch 0.05 (≤ 0.1)" in one.measured
