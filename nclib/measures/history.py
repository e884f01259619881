"""Collapse through a training: the kept weights of a run, measured epoch by epoch. Trains nothing."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from io import StringIO
from pathlib import Path

import pandas as pd

from ..checks import check_attack
from ..runtime import alone, log, progress, read_sealed, write_sealed
from .layers import head_name, last_layer, outputs
from .views import View, views

VERSION = 1  # raised by hand when a measure comes to give other values: what was cached before is measured anew
COLUMNS = ["epoch", "split", "view", "measure", "value"]


def history(run, views: Sequence[str] | None = None, split: str | None = None, **attack) -> pd.DataFrame:
    """Every measure of ``collapse`` at every kept epoch of a run: one row per epoch, split, view and measure.

    ``views`` are names of views, by default "clean", and "untargeted" where the training saw attacks; the first one's
    class means are the reference. ``split`` is "train" or "test", by default both. ``attack`` changes the recipe's
    own epsilon, norm, step, steps or seed. Epoch 0 is the untrained network; ``seconds`` of training stand beside.
    Where the recipe says ``perturbations="stale"``, the untargeted training view is the one made during the epoch.

    What was measured is kept beside the run, epoch by epoch, and not measured twice; where the folder can only be read,
    it is not kept, and the log says so. Errors as in ``views``.
    """
    names = [views] if isinstance(views, str) else list(views or ["clean", "untargeted"][: 1 + run.recipe.attacked])
    options = {name: getattr(run.recipe, name) for name in ("epsilon", "norm", "step", "steps", "seed")}
    attack = {name: value.item() if hasattr(value, "item") else value for name, value in attack.items()}
    if unknown := attack.keys() - options.keys():
        raise ValueError(f"history has no option {min(unknown)!r}; choose from {', '.join(options)}")
    check_attack(*((options | attack)[name] for name in ("epsilon", "norm")))
    settings = {"version": VERSION, "views": names, "splits": [split] if split else ["train", "test"]}
    settings |= {"test_per_class": run.recipe.test_per_class, "attack": options | attack, "dtype": run.dtype}
    if names == ["clean"]:
        settings["attack"] = {}
    elif "untargeted" in names and "train" in settings["splits"]:
        settings["perturbations"] = run.recipe.perturbations
    table = through(run, settings, _measured)
    seconds = [(epoch, "train", "clean", "seconds", run.origin["seconds"][str(epoch)]) for epoch in run.epochs]
    return pd.concat([table, pd.DataFrame(seconds, columns=COLUMNS)], ignore_index=True)


def through(run, settings: dict, measure: Callable) -> pd.DataFrame:
    """``measure(run, epoch, settings)`` at every kept epoch, in one table of ``COLUMNS``, kept beside the run under its
    settings (all that decides a value, a version among them) and not measured twice."""
    settings = settings | {"weights": run.origin["sha256"]["model.safetensors"]}
    name = f"{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}.csv"
    beside, here = run.path / "measures", run.root / run.path.name / "measures"
    table = max((_kept(folder / name, settings) for folder in (beside, here)), key=len)
    if left := [epoch for epoch in run.epochs if epoch not in set(table.epoch)]:
        whole = run if all(map(run.has, left)) else run.whole()
        if whole is not run:
            return through(whole, settings, measure)
        table = _measured_and_kept(run, settings, measure, here / name)
    return table


def _measured_and_kept(run, settings: dict, measure: Callable, file: Path) -> pd.DataFrame:
    """Every kept epoch; what another process has done is not done again. A folder that can only be read keeps none."""
    try:
        with alone(file.with_suffix(".lock"), run.recipe.label):
            return _completed(_kept(file, settings), run, settings, measure, file)
    except PermissionError as error:
        log(f"{error}; measures are not kept")
        return _completed(_kept(file, settings), run, settings, measure, None)


def _completed(table: pd.DataFrame, run, settings: dict, measure: Callable, file: Path | None) -> pd.DataFrame:
    """A table with the epochs that it lacks, each put on disk, where there is a file for it, as soon as measured."""
    left = [epoch for epoch in run.epochs if epoch not in set(table.epoch)]
    for epoch in progress(left, f"{run.recipe.label}: measures", len(left)):
        table = pd.concat([t for t in (table, measure(run, epoch, settings)) if len(t)], ignore_index=True)
        if file:
            write_sealed(file, settings, table.to_csv(index=False))
    return table


def _kept(file: Path, settings: dict) -> pd.DataFrame:
    body = read_sealed(file, settings)
    return pd.read_csv(StringIO(body)) if body else pd.DataFrame(columns=COLUMNS)


def _measured(run, epoch: int, settings: dict) -> pd.DataFrame:
    model, options, seen = run.loaded(epoch), settings["attack"], []
    head = head_name(model, View("clean", *run.data.test))
    for split in settings["splits"]:
        for view in views(model, run.data, split=split, names=settings["views"], precision=run.dtype, **options):
            seen.append((view, *outputs(model, view, head=head)))
    if settings.get("perturbations") == "stale" and epoch:  # before training there is nothing stale
        place = next(i for i, (view, *_) in enumerate(seen) if (view.split, view.name) == ("train", "untargeted"))
        labels, features, logits = run.stale(epoch)
        seen[place] = (View("untargeted", labels, labels), features, logits)
    return last_layer(model.get_submodule(head).weight, seen).assign(epoch=epoch)[COLUMNS]
