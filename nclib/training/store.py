"""Where trained networks are kept: a recipe in, a run out. Resumes, shares, never half-writes.

``runs/<key>-<dtype>/`` holds a run: a snapshot of the weights at every kept epoch, the final weights, the outputs on
stale perturbations where a recipe asks for them, and, written last, ``recipe.json`` with the digests of all these.
``results/*/networks/`` holds runs that travel with the book, read only: final weights, and what was measured.
"""

import copy
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import NoneType

import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..checks import check_logits
from ..compute import Compute, choose
from ..data import Dataset, as_dataset, load, pixels, subset
from ..evidence.provenance import environment
from ..measures.history import history
from ..measures.layers import outputs
from ..measures.views import View
from ..models import in_mode
from ..runtime import alone, home, log, networks, note_use, progress, spread, write
from . import checkpoint
from .checkpoint import RECORD, Checkpoint, name_of
from .epochs import network, reestimate_statistics, sgd, train_epoch
from .recipe import Recipe

SAVE_EVERY = 10.0  # seconds between saves of the resume state


@dataclass
class Run:
    """A trained ``model`` (eval mode) with its ``recipe``, the ``data`` it knows, its folder ``path``, and its record.

    The record, ``origin``, has dtype, seconds of training until each kept epoch, device, versions and commit. ``root``
    is where runs of this machine are kept; a network that travelled lies elsewhere.
    """

    recipe: Recipe
    model: nn.Sequential
    data: Dataset
    path: Path
    origin: dict
    root: Path
    own: dict = field(default_factory=dict)  # data and model that stood for the recipe's

    @cached_property
    def history(self) -> pd.DataFrame:
        """``nclib.history`` of this run: clean views, and attacked ones where training saw attacks."""
        return history(self)

    @property
    def dtype(self) -> str:
        """What it was trained in: "float32" or "bfloat16"."""
        return self.origin["dtype"]

    @property
    def shipped(self) -> bool:
        """Did it travel with the book, trained elsewhere?"""
        return self.path.parent != self.root

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return max(self.origin["seconds"].values())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def epochs(self) -> list[int]:
        """The kept epochs, the untrained network (0) and the last among them."""
        return [int(epoch) for epoch in self.origin["seconds"]]

    def has(self, epoch: int) -> bool:
        """Is all of an epoch here? A network that travelled may have left its snapshots behind."""
        needed = [name_of(epoch)] if 0 < epoch < self.epochs[-1] else []
        needed += [name_of(epoch, "stale")] if epoch and self.recipe.perturbations == "stale" else []
        return all((self.path / name).exists() for name in needed)

    def at(self, epoch: int) -> nn.Sequential:
        """The model after a kept epoch (else ValueError); of the run trained again if its snapshot did not travel."""
        if epoch in self.epochs[1:-1]:
            note_use(f"{self.path.name} snapshots")
        return self.loaded(epoch)

    def loaded(self, epoch: int) -> nn.Sequential:
        """``at``, for measuring: the page that asks needs no snapshots to travel."""
        if epoch not in self.epochs:
            raise ValueError(f"epoch {epoch} was not kept; choose one of {', '.join(map(str, self.epochs))}")
        if not self.has(epoch):
            return self.whole().loaded(epoch)
        model, file = copy.deepcopy(self.model), self.path / name_of(epoch)
        if epoch == 0 and not file.exists():
            model.load_state_dict(network(self.recipe, self.data).state_dict())
        elif epoch != self.epochs[-1]:
            model.load_state_dict(load_file(file))
        return model

    def whole(self) -> "Run":
        """This run with the weights of every kept epoch: itself, or, where they did not travel, trained here."""
        if all(map(self.has, self.epochs)):
            return self
        log(f"{self.recipe.label}: snapshots did not travel with this network; it is trained here")
        return fit(self.recipe, self.root, str(self.device), shipped=False, **self.own)

    def stale(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N,), features (N, d) and logits (N, C) of the perturbations made during a kept epoch.

        They were made against weights before the epoch's end. ValueError where none were kept.
        """
        file = self.path / name_of(epoch, "stale")
        if not file.exists():
            raise ValueError(f"no stale perturbations were kept for epoch {epoch}: ask for perturbations='stale'")
        kept = load_file(file, str(self.device))
        return kept["labels"], kept["features"], kept["logits"]


def fit(
    recipe: Recipe,
    root: str | Path | None = None,
    device: str | None = None,
    shipped: bool | None = None,
    data=None,
    model: nn.Module | None = None,
) -> Run:
    """Train what the recipe says, or go on with it, or load it: ``root`` (default ``runs``) holds every run once.

    ``device`` is CUDA where there is one. A network that travels with the book is loaded where none is kept here,
    unless ``shipped`` is False or NCLIB_FRESH is set. Two processes that ask for one recipe train it once. A killed run
    goes on from its last state and ends, on a CPU, bit for bit where an uninterrupted one does. Damaged files are named
    and not used.

    ``data``: one's own, a ``Dataset`` or what ``nclib.dataset`` takes, as a pair (train, test) of splits; ``model``: a
    network of one's own, any ``nn.Module`` from pixels to logits, which is copied and not changed. They stand for the
    recipe's data set and architecture; a run is kept under their content too, so that nothing is mistaken.

    Raises ValueError for bad data choices, FileNotFoundError for missing data files, FloatingPointError
    (naming epoch, step and learning rate) when the loss stops being finite, OSError when the disk is full,
    PermissionError where there is something to train and ``root`` can only be read.
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(f"fit needs a Recipe, not {type(recipe).__name__}")
    if not isinstance(model, (nn.Module, NoneType)):
        raise ValueError(f"a network of one's own is an nn.Module, not {type(model).__name__}")
    given, own = {"data": data, "model": model}, checkpoint.content(data, model)
    if data is None:
        data = load(recipe.dataset, per_class=recipe.per_class, test_per_class=recipe.test_per_class)
    else:
        data = subset(as_dataset(data), recipe.per_class, recipe.test_per_class)
    if model is not None and recipe.head != "linear":
        raise ValueError(f"a model of your own has its own head: head must be 'linear', not {recipe.head!r}")
    compute, root = choose(recipe.precision, device, data.shape[-1]), Path(root or home() / "runs")
    data = data.to(compute.device)
    model = compute.lay_out(network(recipe, data) if model is None else copy.deepcopy(model))
    if given["model"] is not None:
        _try(model, data)
    path = find(recipe, compute.name, root, shipped, own)
    if path is None:
        path = root / f"{recipe.key}{own}-{compute.name}"
        with alone(path / "lock", recipe.label):
            wrong = checkpoint.fault(recipe, path)  # looked at again: another process may have trained it meanwhile
            if wrong and wrong != checkpoint.UNFINISHED:
                checkpoint.start_over(path, wrong)
            if wrong:
                _train(model, recipe, data, compute, path)
    with suppress(OSError):  # a shared folder may be one to read only
        (root / path.name / "state.safetensors").unlink(missing_ok=True)
    model.load_state_dict(load_file(path / "model.safetensors"))
    if root == home() / "runs":
        note_use(path.name)
    return Run(recipe, model.eval(), data, path, json.loads((path / RECORD).read_text()), root, given)


def _try(model: nn.Module, data: Dataset) -> None:
    """Two images through a network of one's own, before any training: one clear line where they do not fit."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the model has no parameter to train: all are frozen, or there are none")
    x = pixels(data.train.images[:2])
    try:
        with torch.no_grad(), in_mode(model, "eval"):
            check_logits(model(x), len(x), data.num_classes)
    except (RuntimeError, TypeError, IndexError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"the model cannot take images {tuple(x.shape)} of {x.dtype}: {line}") from None


def find(recipe: Recipe, dtype: str, root: Path, shipped: bool | None = None, own: str = "") -> Path | None:
    """The folder of a finished run: here before there, in the dtype that fits the device, or was asked for, first."""
    dtypes = sorted(("float32", "bfloat16"), key=lambda name: name != dtype)
    asked = dtypes if recipe.precision == "auto" else [recipe.precision]
    for path in (place / f"{recipe.key}{own}-{name}" for place in networks(root, shipped) for name in asked):
        if not (wrong := checkpoint.fault(recipe, path)):
            return path
        if wrong != checkpoint.UNFINISHED and path.parent != root:
            log(f"{path / wrong} is damaged or missing: this network is not used")
    return None


def fit_all(recipes: Sequence[Recipe], root: str | Path | None = None, jobs: int | None = None) -> list[Run]:
    """``fit`` for every recipe, in order, trained ``jobs`` at a time (``runtime.spread``; one at a time on a GPU)."""
    jobs, place = jobs or (1 if torch.cuda.is_available() else None), Path(root or home() / "runs")
    left = [recipe for recipe in recipes if find(recipe, "float32", place) is None]
    spread(partial(_fit_quietly, root), left, "networks trained", jobs)
    return [fit(recipe, root) for recipe in recipes]


def _fit_quietly(root: str | Path | None, recipe: Recipe) -> None:
    history(fit(recipe, root))  # both stay on disk: models do not travel between processes


def kept_epochs(epochs: int, points: int = 12) -> list[int]:
    """Epochs spaced evenly in the logarithm, the initial network (0), the first and the last among them."""
    return sorted({0, epochs} | {round(epochs ** (i / (points - 1))) for i in range(points)})


def _train(model, recipe: Recipe, data: Dataset, compute: Compute, path: Path) -> None:
    optimizer = sgd(model, recipe)
    past = checkpoint.resume(path, model, optimizer)
    log(f"{recipe.label}: training on {compute.device}, {compute.dtype} ({compute.reason}), from epoch {past.epoch}")

    def keep(attacked: list | None) -> None:
        past.seconds[str(past.epoch)] = past.elapsed
        if attacked:
            name, seen = name_of(past.epoch, "stale"), View("stale", *(torch.cat(parts) for parts in zip(*attacked)))
            features, logits = outputs(model, seen)
            kept = {"labels": seen.labels, "features": features, "logits": logits}
            past.sha256[name] = write(path / name, save(kept))
        name = name_of(past.epoch)
        past.sha256[name] = write(path / name, save(checkpoint.weights(model)))
        checkpoint.save_state(path, model, optimizer, past)

    if not past.seconds:
        keep(None)
    kept, saved = kept_epochs(recipe.epochs), time.monotonic()
    for epoch in progress(range(past.epoch, recipe.epochs), recipe.label, recipe.epochs):
        began, last = time.perf_counter(), epoch + 1
        attacked = [] if recipe.perturbations == "stale" and last in kept else None
        train_epoch(model, optimizer, recipe, data.train, compute, epoch, attacked)
        if last == recipe.epochs and recipe.reestimate:
            reestimate_statistics(model, data.train.images)
        past.epoch, past.elapsed = last, past.elapsed + time.perf_counter() - began
        if last in kept:
            keep(attacked)
        elif time.monotonic() - saved > SAVE_EVERY:
            checkpoint.save_state(path, model, optimizer, past)
            saved = time.monotonic()
    _finish(path, recipe, model, past, compute)


def _finish(path: Path, recipe: Recipe, model, past: Checkpoint, compute: Compute) -> None:
    past.sha256["model.safetensors"] = write(path / "model.safetensors", save(checkpoint.weights(model)))
    record = {
        "recipe": asdict(recipe),
        "key": recipe.key,
        "dtype": compute.name,
        "reason": compute.reason,
        "seconds": past.seconds,
        **environment(compute.device),
        "sha256": past.sha256,
    }
    write(path / RECORD, json.dumps(record, indent=1))  # last: its presence says "complete"
    log(f"{recipe.label}: {recipe.epochs} epochs in {past.elapsed:.0f} s")
