"""Where trained networks are kept: a recipe in, a run out. Resumes, shares, never half-writes.

``runs/<key>-<dtype>/`` holds a run: a snapshot of the weights at every kept epoch, the final weights, the outputs on
stale perturbations where a recipe asks for them, and, written last, ``recipe.json`` with the digests of all these.
"""

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..compute import Compute, choose
from ..data import Dataset, load
from ..evidence.provenance import environment
from ..measures.history import history
from ..measures.layers import outputs
from ..measures.views import View
from ..runtime import alone, home, log, progress, spread, write
from .epochs import network, reestimate_statistics, sgd, train_epoch
from .recipe import Recipe

SAVE_EVERY = 10.0  # seconds between saves of the resume state
RECORD = "recipe.json"
UNFINISHED = "unfinished"


@dataclass
class Run:
    """A trained ``model`` (eval mode) with its ``recipe``, the ``data`` it knows, and its folder ``path``.

    ``origin`` is what its record says: key, dtype, seconds of training until each kept epoch, device, versions,
    commit.
    """

    recipe: Recipe
    model: nn.Sequential
    data: Dataset
    path: Path
    origin: dict

    @cached_property
    def history(self) -> pd.DataFrame:
        """``nclib.history`` of this run: clean views, and attacked ones where training saw attacks."""
        return history(self)

    @property
    def dtype(self) -> str:
        """What it was trained in: "float32" or "bfloat16"."""
        return self.origin["dtype"]

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
        """The epochs whose weights were kept, the untrained network (0) and the last among them."""
        return [int(epoch) for epoch in self.origin["seconds"]]

    def at(self, epoch: int) -> nn.Sequential:
        """The model as it was after a kept epoch. ValueError, with the choices, for any other."""
        if epoch not in self.epochs:
            raise ValueError(f"epoch {epoch} was not kept; choose one of {', '.join(map(str, self.epochs))}")
        if epoch == self.epochs[-1]:
            return copy.deepcopy(self.model)
        model = copy.deepcopy(self.model)
        model.load_state_dict(load_file(self.path / snapshot_name(epoch)))
        return model

    def stale(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N,), features (N, d) and logits (N, C) of the perturbations made during a kept epoch.

        The network is the one at the epoch's end; the perturbations were made against weights before it. ValueError
        where none were kept: before training, and where the recipe does not say ``perturbations="stale"``.
        """
        file = self.path / stale_name(epoch)
        if not file.exists():
            raise ValueError(f"no stale perturbations were kept for epoch {epoch}: ask for perturbations='stale'")
        kept = load_file(file, str(self.device))
        return kept["labels"], kept["features"], kept["logits"]


@dataclass
class Checkpoint:
    """What a training has behind it: epochs, seconds, seconds at kept epochs, and the sha256 of each file written."""

    epoch: int = 0
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def fit(recipe: Recipe, root: str | Path | None = None, device: str | None = None) -> Run:
    """Train what the recipe says, or go on with it, or load it: ``root`` holds every run once.

    ``root`` is ``runs`` in the checkout unless given, ``device`` CUDA where there is one. Two processes that ask
    for one recipe train it once. A killed run goes on from its last state and ends, on a CPU, bit for bit where
    an uninterrupted one does. Damaged files are named and trained again. Raises ValueError for bad data choices,
    FileNotFoundError for missing data files, FloatingPointError (naming epoch, step and learning rate) when the
    loss stops being finite, OSError when the disk is full.
    """
    data = load(recipe.dataset, per_class=recipe.per_class, test_per_class=recipe.test_per_class)
    compute = choose(recipe.precision, device, data.shape[-1])
    data = data.to(compute.device)
    model = compute.lay_out(network(recipe, data))
    path = next((p for p in folders(recipe, compute.name, root) if _fault(recipe, p) is None), None)
    if path is None:
        path = folders(recipe, compute.name, root)[0]
        path.mkdir(parents=True, exist_ok=True)
        with alone(path / "lock", recipe.label):
            fault = _fault(recipe, path)  # looked at again: another process may have trained it meanwhile
            if fault and fault != UNFINISHED:
                _start_over(path, fault)
            if fault:
                _train(model, recipe, data, compute, path)
    (path / "state.safetensors").unlink(missing_ok=True)
    model.load_state_dict(load_file(path / "model.safetensors"))
    return Run(recipe, model.eval(), data, path, json.loads((path / RECORD).read_text()))


def folders(recipe: Recipe, dtype: str, root: str | Path | None = None) -> list[Path]:
    """Where a recipe's run may lie: in the dtype that fits the device, then, unless one was asked for, in another."""
    names = [dtype] + [name for name in ("float32", "bfloat16") if name != dtype and recipe.precision == "auto"]
    return [Path(root or home() / "runs") / f"{recipe.key}-{name}" for name in names]


def fit_all(recipes: Sequence[Recipe], root: str | Path | None = None, jobs: int | None = None) -> list[Run]:
    """``fit`` for every recipe, in order, trained ``jobs`` at a time (``runtime.spread``; one at a time on a GPU)."""
    jobs = jobs or (1 if torch.cuda.is_available() else None)
    left = [r for r in recipes if not any((path / RECORD).exists() for path in folders(r, "float32", root))]
    spread(partial(_fit_quietly, root), left, "networks trained", jobs)
    return [fit(recipe, root) for recipe in recipes]


def _fit_quietly(root: str | Path | None, recipe: Recipe) -> None:
    fit(recipe, root)  # the run stays on disk: models do not travel between processes


def kept_epochs(epochs: int, points: int = 12) -> list[int]:
    """Epochs spaced evenly in the logarithm, the initial network (0), the first and the last among them."""
    return sorted({0, epochs} | {round(epochs ** (i / (points - 1))) for i in range(points)})


def snapshot_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def stale_name(epoch: int) -> str:
    return f"stale-{epoch:04d}.safetensors"


def _train(model, recipe: Recipe, data: Dataset, compute: Compute, path: Path) -> None:
    optimizer = sgd(model, recipe)
    past = _resume(path, model, optimizer)
    log(f"{recipe.label}: training on {compute.device}, {compute.dtype} ({compute.reason}), from epoch {past.epoch}")

    def keep(attacked: list | None) -> None:
        past.seconds[str(past.epoch)] = past.elapsed
        if attacked:
            name, seen = stale_name(past.epoch), View("stale", *(torch.cat(parts) for parts in zip(*attacked)))
            features, logits = outputs(model, seen)
            past.sha256[name] = write(
                path / name, save({"labels": seen.labels, "features": features, "logits": logits})
            )
        name = snapshot_name(past.epoch)
        past.sha256[name] = write(path / name, save(_weights(model)))
        _save_state(path, model, optimizer, past)

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
            _save_state(path, model, optimizer, past)
            saved = time.monotonic()
    _finish(path, recipe, model, past, compute)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}


def _save_state(path: Path, model, optimizer, past: Checkpoint) -> None:
    tensors = {f"model.{n}": t for n, t in _weights(model).items()}
    for name, p in model.named_parameters():
        if p in optimizer.state:  # nothing there before the first step, nor without momentum
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"].contiguous().cpu()
    text = json.dumps(asdict(past))
    seal = sha256(save(tensors) + text.encode()).hexdigest()  # safetensors has no checksum against flipped bits
    write(path / "state.safetensors", save(tensors, {"past": text, "sha256": seal}))


def _resume(path: Path, model, optimizer) -> Checkpoint:
    """Fill model and optimiser from the resume state, where it and the files before it are sound."""
    file = path / "state.safetensors"
    if not file.exists():
        return Checkpoint()
    try:
        with safe_open(file, "pt") as state:
            metadata, tensors = state.metadata(), {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118
        if metadata["sha256"] != sha256(save(tensors) + metadata["past"].encode()).hexdigest():
            raise ValueError("digest differs")
        past = Checkpoint(**json.loads(metadata["past"]))
        damaged = _damaged(path, past.sha256)
    except (SafetensorError, KeyError, TypeError, ValueError):
        damaged = [file.name]
    if damaged:
        _start_over(path, damaged[0])
        return Checkpoint()
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    for name, p in model.named_parameters():
        if f"momentum.{name}" in tensors:
            optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(tensors[f"momentum.{name}"])
    return past


def _finish(path: Path, recipe: Recipe, model, past: Checkpoint, compute: Compute) -> None:
    past.sha256["model.safetensors"] = write(path / "model.safetensors", save(_weights(model)))
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


def _fault(recipe: Recipe, path: Path) -> str | None:
    """Why a folder is not a finished run with all that the recipe asks for: unfinished, or the name of a bad file."""
    try:
        record = json.loads((path / RECORD).read_text())
        damaged = _damaged(path, {"model.safetensors": None} | record["sha256"])
        kept = [stale_name(int(epoch)) for epoch in record["seconds"] if epoch != "0"]
    except FileNotFoundError:
        return UNFINISHED
    except (ValueError, KeyError, TypeError, AttributeError):
        return RECORD
    if recipe.perturbations == "stale":
        damaged += [name for name in kept if name not in record["sha256"]]
    return damaged[0] if damaged else None


def _start_over(path: Path, damaged: str) -> None:
    """Name what is damaged or missing and clear the run away."""
    log(f"{path / damaged} is damaged or missing: training starts again")
    (path / RECORD).unlink(missing_ok=True)  # first: the run is no longer complete
    for file in path.glob("*.safetensors"):
        file.unlink()


def _damaged(path: Path, digests: dict[str, str]) -> list[str]:
    """The files that are missing, or not what was written."""
    files = {path / name: was for name, was in digests.items()}
    return [f.name for f, was in files.items() if not f.exists() or sha256(f.read_bytes()).hexdigest() != was]
