"""Collapse through a training: the kept weights of a run, measured epoch by epoch. Trains nothing."""

from collections.abc import Sequence

import pandas as pd

from ..checks import check_attack
from ..training.kept import COLUMNS, through
from .layers import head_name, last_layer, outputs
from .views import View, views

VERSION = 1  # raised by hand when a measure comes to give other values: what was cached before is measured anew


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
