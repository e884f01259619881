"""Sweep files: what is refused, the jobs and settings that they name, and how long they may take."""

import json
import re

import pytest
import yaml
from conftest import ROOT

from press import BookError, grid, profiles, sweep
from press.__main__ import _parser

COLLAPSE = "chapters: [collapse]\nprofile: smoke\n"


@pytest.fixture
def here(house, monkeypatch):
    """A house that this process is at home in: write a sweep file's text, get the sweep."""
    monkeypatch.setenv("NCLIB_HOME", str(house))

    def written(text, name="mine"):
        (house / "sweeps" / f"{name}.yml").write_text(text)
        return grid.read(house / "sweeps" / f"{name}.yml")

    return written


@pytest.mark.parametrize(
    "text,expected",
    [
        ("chapters: [", "not YAML"),
        ("profile: smoke", "a sweep needs chapters, and may have profile, grid"),
        (COLLAPSE + "grid: {width: [4], width: [8]}", "not YAML: width is set twice"),
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
    with pytest.raises(BookError, match=re.escape(expected)) as caught:
        here(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_sweep_file_in_another_encoding_gets_one_line(here, house):
    (house / "sweeps" / "mine.yml").write_bytes(b"chapters: [collapse]  # \xe9tude")
    with pytest.raises(BookError, match="not YAML: 'utf-8' codec can't decode"):
        grid.read(house / "sweeps" / "mine.yml")


def test_the_papers_grid_is_whole(here):
    paper = grid.read(ROOT / "sweeps" / "paper.yml")
    trained = [job for job in paper.jobs if job.chapter == "adversarial-training"]
    assert len(trained) == 3 * 2 * 2 * 3 and paper.jobs[: len(trained)] == trained, "what trains most comes first"
    assert {(j.values["dataset"], j.values["architecture"], j.values["norm"], *j.values["seeds"]) for j in trained} == {
        (data, network, norm, seed)
        for data in ("cifar10", "cifar100", "imagenette")
        for network in ("preactresnet18", "vgg11")
        for norm in ("linf", "l2")
        for seed in (1, 2, 3)
    }
    assert profiles.parameters("adversarial-training", "paper", trained[0].values)["epochs"] == 400
    assert len(paper.settings) == 12 and "cifar10, vgg11, l2, epsilon 0.502, step 0.05882" in paper.settings
    assert {len(jobs) for jobs in paper.settings.values()} == {4 * 3}
    assert len(paper.jobs) == 36 + 36 + 36 + 18, "clean training knows no norm: one job for both settings"


def test_a_jobs_command_says_its_parameters_exactly(here):
    values = {"seeds": [1, 2], "epsilon": 1e-5, "step": 8 / 255, "per_class": None, "norm": "l2"}
    (job,) = here(yaml.safe_dump({"chapters": ["attacks"], "runs": [values]})).jobs
    said = _parser().parse_args(job.words)
    assert {name: yaml.safe_load(value) for name, value in said.p} == values
    assert said.command == "run" and said.output == job.page


def test_a_jobs_folder_follows_its_parameters_and_nothing_else(here):
    two = here(COLLAPSE + "grid: {seeds: [[1], [2]], width: [4, 8]}")
    three = here(COLLAPSE + "grid: {width: [8, 4], seeds: [[3], [2], [1]]}")
    (other,) = here(COLLAPSE + "grid: {seeds: [[4]]}").jobs
    assert {job.folder for job in two.jobs} < {job.folder for job in three.jobs}
    assert other.folder not in {job.folder for job in three.jobs}
    assert list(two.settings) == ["width 4", "width 8"]


def test_the_estimate_is_what_a_seed_has_cost_times_the_seeds(here, tmp_path):
    made = here(COLLAPSE + "grid: {seeds: [[1], [2, 3, 4]]}")
    assert sweep.estimate(made.jobs) is None and "time unknown" in sweep.plan(made)
    past = {"profile": "smoke", "seconds": 20.0, "training_seconds": {"a": 5.0, "b": 7.0}}
    folder = tmp_path / "_build" / "smoke" / "records"
    folder.mkdir(parents=True)
    (folder / "collapse.json").write_text(json.dumps(past | {"recipes": {"a": {"seed": 1}, "b": {"seed": 2}}}))
    assert sweep.estimate(made.jobs) == pytest.approx(10 + 30)
    assert "2 runs, 0 done; left: about 40 s one by one" in sweep.plan(made)
