"""Collapse through a training: the kept weights of a run, measured epoch by epoch. Trains nothing."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd

from ..runtime import alone, log, progress, write
from .layers import last_layer, outputs
from .views import View, views

VERSION = 1  # raised by hand when a measure comes to give other values: what was cached before is measured anew
COLUMNS = ["epoch", "split", "view", "measure", "value"]


def history(run, views: Sequence[str] | None = None, split: str | None = None, **attack) -> pd.DataFrame:
    """Every measure of ``collapse`` at every kept epoch of a run: one row per epoch, split, view and measure.

    ``views`` are names of views, by default "clean", and "untargeted" where the training saw attacks; the first one's
    class means are the reference. ``split`` is "train" or "test", by default both. ``attack`` changes the recipe's
    own epsilon, norm, step, steps or seed. Epoch 0 is the untrained network; ``seconds`` of training stand beside.
    Where the recipe says ``perturbations="stale"``, the untargeted training view is the one made during the epoch.

    What was measured is kept beside the run, epoch by epoch, and not measured twice. Errors as in ``views``.
    """
    names = list(views or (["clean", "untargeted"] if run.recipe.attacked else ["clean"]))
    options = {name: getattr(run.recipe, name) for name in ("epsilon", "norm", "step", "steps", "seed")}
    settings = {"version": VERSION, "views": names, "splits": [split] if split else ["train", "test"]}
    settings |= {"test_per_class": run.recipe.test_per_class, "attack": options | attack, "dtype": run.dtype}
    if names == ["clean"]:
        settings["attack"] = {}
    elif "untargeted" in names and "train" in settings["splits"]:
        settings["perturbations"] = run.recipe.perturbations
    file = run.path / "measures" / f"{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}.csv"
    file.parent.mkdir(exist_ok=True)
    with alone(file.with_suffix(".lock"), run.recipe.label):
        tables = [_cached(file, settings)]
        left = [epoch for epoch in run.epochs if epoch not in set(tables[0].epoch)]
        for epoch in progress(left, f"{run.recipe.label}: measures", len(left)):
            tables.append(_measured(run, epoch, settings))
            _cache(file, settings, pd.concat([t for t in tables if len(t)]))
    seconds = [(epoch, "train", "clean", "seconds", run.origin["seconds"][str(epoch)]) for epoch in run.epochs]
    tables.append(pd.DataFrame(seconds, columns=COLUMNS))
    return pd.concat([t for t in tables if len(t)], ignore_index=True)


def _measured(run, epoch: int, settings: dict) -> pd.DataFrame:
    model, options, seen = run.at(epoch), settings["attack"], []
    for split in settings["splits"]:
        for view in views(model, run.data, split=split, names=settings["views"], precision=run.dtype, **options):
            seen.append((view, *outputs(model, view)))
    if settings.get("perturbations") == "stale" and epoch:  # before training there is nothing stale
        place = next(i for i, (view, *_) in enumerate(seen) if (view.split, view.name) == ("train", "untargeted"))
        labels, features, logits = run.stale(epoch)
        seen[place] = (View("untargeted", labels, labels), features, logits)
    return last_layer(model.head.weight, seen).assign(epoch=epoch)[COLUMNS]


def _cache(file: Path, settings: dict, table: pd.DataFrame) -> None:
    body = table.to_csv(index=False)
    digest = sha256(body.encode()).hexdigest()
    write(file, f"# {json.dumps(settings | {'sha256': digest})}\n{body}")


def _cached(file: Path, settings: dict) -> pd.DataFrame:
    """What was measured before, where it is whole."""
    empty = pd.DataFrame(columns=COLUMNS)
    if not file.exists():
        return empty
    head, _, body = file.read_bytes().partition(b"\n")
    digest = sha256(body).hexdigest()
    if head != f"# {json.dumps(settings | {'sha256': digest})}".encode():
        log(f"{file} is damaged: measured anew")
        return empty
    return pd.read_csv(file, comment="#")
