"""``fit``: a recipe in, a trained model and its history out. Resumes, shares, never half-writes."""

import errno
import hashlib
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn

from .attacks import kl, pgd
from .compute import Compute, choose
from .data import Dataset, load, pixels
from .layers import collapse
from .models import build
from .progress import log, progress
from .provenance import environment, home
from .recipe import Recipe
from .views import View, views

SAVE_EVERY = 10.0  # seconds between saves of the resume state


@dataclass
class Run:
    """A trained model with its past: ``model`` (eval mode), ``history`` (tidy frame), ``recipe``, ``path``.

    ``history`` has one row per epoch, split, view and measure (``loss``, ``accuracy``, all of ``collapse``), and
    ``seconds`` of training so far. Epoch 0 is before training.
    """

    recipe: Recipe
    model: nn.Sequential
    history: pd.DataFrame
    path: Path

    @property
    def seconds(self) -> float:
        """Seconds of training, measuring aside."""
        return float(self.history[self.history.measure == "seconds"].value.max())

    @property
    def epochs(self) -> list[int]:
        """The epochs that were measured, and whose weights were kept."""
        return sorted(int(e) for e in self.history.epoch.unique())

    def at(self, epoch: int) -> nn.Sequential:
        """The model as it was after a measured epoch. ValueError, with the choices, for any other."""
        if epoch not in self.epochs:
            raise ValueError(f"epoch {epoch} was not kept; choose one of {', '.join(map(str, self.epochs))}")
        model = network(self.recipe)
        model.load_state_dict(load_file(self.path / snapshot_name(epoch)))
        return model.to(next(self.model.parameters()).device).eval()


def fit(recipe: Recipe, root: str | Path | None = None, device: str | None = None) -> Run:
    """Train what the recipe says, or go on with it, or load it: ``root/<key>/`` holds every model once.

    ``root`` is ``runs`` in the checkout unless given; ``device`` CUDA where there is one.

    Two processes that ask for one recipe train it once. A killed run goes on from its last state and ends,
    on a CPU, bit for bit where an uninterrupted one does. Damaged files are named and trained again.

    Raises ValueError for bad data choices, FileNotFoundError for missing data files, FloatingPointError
    (naming epoch, step and learning rate) when the loss stops being finite, OSError when the disk is full.
    """
    path = Path(root or home() / "runs") / recipe.key
    path.mkdir(parents=True, exist_ok=True)
    with _alone(path / "lock", recipe):
        compute = choose(recipe.precision, device, side=0 if recipe.dataset == "digits" else 32)
        if not _complete(path):
            _train(recipe, path, compute)
        model = network(recipe)
        model.load_state_dict(load_file(path / "model.safetensors"))
        history = _read_history((path / "history.csv").read_text())
    return Run(recipe, compute.lay_out(model).eval(), history, path)


@contextmanager
def _alone(file: Path, recipe: Recipe):
    """Hold the run's lock; the system drops it if the process dies."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"{recipe.label}: waiting for another process that trains it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def network(recipe: Recipe) -> nn.Sequential:
    """The recipe's freshly initialised network; the global random state is left as it was."""
    data = load(recipe.dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(recipe.architecture, data.shape, data.num_classes, data.mean, data.std, recipe.width)


def measured_epochs(epochs: int, points: int = 12) -> list[int]:
    """Epochs spaced evenly in the logarithm, the initial network (0), the first and the last among them."""
    return sorted({0, epochs} | {round(epochs ** (i / (points - 1))) for i in range(points)})


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """lr, tenfold lower after each drop; ``epoch`` counts from 0."""
    return recipe.lr * 0.1 ** sum(epoch >= share * recipe.epochs for share in recipe.drops)


# One training step's loss ------------------------------------------------------------------------


def batch_loss(model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The loss of one batch and the images it was attacked with (x itself in standard training)."""
    attack = dict(epsilon=recipe.epsilon, step=recipe.step, steps=recipe.steps, norm=recipe.norm, generator=generator)
    if recipe.training == "standard":
        return F.cross_entropy(model(x).float(), y), x
    if recipe.training == "adversarial":
        x_adv = pgd(model, x, y, mode=recipe.attack_batchnorm, **attack)
        return F.cross_entropy(model(x_adv).float(), y), x_adv
    published = recipe.trades_batchnorm == "published"
    mode = "eval" if published else recipe.attack_batchnorm
    x_adv = pgd(model, x, y, mode=mode, loss="kl", start="gaussian", **attack)
    model.train(not published)  # the release never leaves eval mode again: its batch norm stays untrained
    clean, perturbed = model(x).float(), model(x_adv).float()
    return F.cross_entropy(clean, y) + recipe.beta * kl(perturbed, clean).mean(), x_adv


# The loop ----------------------------------------------------------------------------------------


def _train(recipe: Recipe, path: Path, compute: Compute) -> None:
    data = load(recipe.dataset, per_class=recipe.per_class).to(compute.device)
    model = compute.lay_out(network(recipe))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    done, rows, seconds = _resume(path, model, optimizer)
    keep, saved = measured_epochs(recipe.epochs), time.monotonic()
    log(f"{recipe.label}: training on {compute.device}, {compute.dtype} ({compute.reason}), from epoch {done}")
    if done == 0 and not rows:
        rows = _measure(model, recipe, data, compute, 0, 0.0, None)
        _write(path / snapshot_name(0), save(_weights(model)))
    for epoch in progress(range(done, recipe.epochs), recipe.label, recipe.epochs):
        began, last = time.perf_counter(), epoch + 1
        stale = [] if recipe.perturbations == "stale" and last in keep else None
        _epoch(model, optimizer, recipe, data, compute, epoch, stale)
        if last == recipe.epochs and recipe.reestimate:
            reestimate_statistics(model, data.train.images)
        seconds += time.perf_counter() - began
        if last in keep:
            rows = rows + _measure(model, recipe, data, compute, last, seconds, stale)
            _write(path / snapshot_name(last), save(_weights(model)))
        if last in keep or time.monotonic() - saved > SAVE_EVERY:
            _save_state(path, model, optimizer, last, rows, seconds)
            saved = time.monotonic()
    _finish(path, recipe, model, rows, seconds, compute)


def _epoch(model, optimizer, recipe: Recipe, data: Dataset, compute: Compute, epoch: int, stale: list | None) -> None:
    model.train(not (recipe.training == "trades" and recipe.trades_batchnorm == "published"))
    order = torch.randperm(len(data.train), generator=_generator("cpu", recipe.seed, epoch, 0))
    attack_generator = _generator(compute.device, recipe.seed, epoch, 1)
    rate = learning_rate(recipe, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = []
    for index in order.to(compute.device).split(recipe.batch):
        x, y = compute.lay_out(pixels(data.train.images[index])), data.train.labels[index]
        with compute.autocast():
            loss, x_adv = batch_loss(model, recipe, x, y, attack_generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if stale is not None:
            stale.append((x_adv, y))
    finite = torch.stack(losses).isfinite()  # looked at once an epoch: a look stalls the device
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"{recipe.label}: loss is not finite at epoch {epoch + 1}, step {step + 1}, learning rate {rate:g};"
            " the last good state is kept: try a lower lr"
        )


def _generator(device, *numbers: int) -> Generator:
    """A generator of its own for every (seed, epoch, purpose): resuming needs no random state."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


@torch.no_grad()
def reestimate_statistics(model: nn.Module, images: Tensor, batch: int = 512) -> None:
    """Batch-norm statistics anew, as plain averages over clean images (N, C, H, W); modes are put back."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    modes, momenta = [m.training for m in norms], [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    for x in images.split(batch):
        model(pixels(x))
    for m, training, momentum in zip(norms, modes, momenta):
        m.momentum = momentum
        m.train(training)


def _measure(model, recipe: Recipe, data: Dataset, compute: Compute, epoch: int, seconds: float, stale) -> list[dict]:
    names = ["clean"] if recipe.training == "standard" else ["clean", "untargeted"]
    attack = dict(epsilon=recipe.epsilon, step=recipe.step, steps=recipe.steps, norm=recipe.norm)
    precision = str(compute.dtype).removeprefix("torch.")
    made: list[View] = []
    for split in ("train", "test"):
        made += views(model, data, names=names, split=split, precision=precision, seed=recipe.seed, **attack)
    if stale:
        images, labels = (torch.cat(parts) for parts in zip(*stale))
        made[1] = View("untargeted", images, labels)
    table = collapse(model, made)
    table = table[["split", "view", "measure", "value"]].assign(epoch=epoch)
    return table.to_dict("records") + [
        {"epoch": epoch, "split": "train", "view": "clean", "measure": "seconds", "value": seconds}
    ]


# Files -------------------------------------------------------------------------------------------


def snapshot_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}


def _save_state(path: Path, model, optimizer, epoch: int, rows: list[dict], seconds: float) -> None:
    tensors = {f"model.{n}": t for n, t in _weights(model).items()}
    for name, p in model.named_parameters():
        tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"].contiguous().cpu()
    metadata = {"epoch": str(epoch), "seconds": repr(seconds), "history": json.dumps(rows)}
    _write(path / "state.safetensors", save(tensors, metadata))


def _resume(path: Path, model, optimizer) -> tuple[int, list[dict], float]:
    """Fill model and optimiser from the resume state, if a sound one is there: epochs done, history, seconds."""
    file = path / "state.safetensors"
    if not file.exists():
        return 0, [], 0.0
    try:
        with safe_open(file, "pt") as state:
            metadata = state.metadata()
            tensors = {name: state.get_tensor(name) for name in state.keys()}
        model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        for name, p in model.named_parameters():
            optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(tensors[f"momentum.{name}"])
        return int(metadata["epoch"]), json.loads(metadata["history"]), float(metadata["seconds"])
    except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
        log(f"{file} is damaged ({type(error).__name__}): training starts again")
        file.unlink()
        return 0, [], 0.0


def _finish(path: Path, recipe: Recipe, model, rows: list[dict], seconds: float, compute: Compute) -> None:
    columns = ["epoch", "split", "view", "measure", "value"]
    _write(path / "model.safetensors", save(_weights(model)))
    _write(path / "history.csv", pd.DataFrame(rows)[columns].to_csv(index=False).encode())
    kept = ["model.safetensors", "history.csv"] + [snapshot_name(e) for e in measured_epochs(recipe.epochs)]
    record = {
        "recipe": asdict(recipe),
        "key": recipe.key,
        "seconds": seconds,
        "precision": f"{compute.dtype} ({compute.reason})",
        "environment": environment(compute.device),
        "sha256": {name: _digest(path / name) for name in kept},
    }
    _write(path / "recipe.json", json.dumps(record, indent=1).encode())  # last: its presence says "complete"
    (path / "state.safetensors").unlink(missing_ok=True)
    log(f"{recipe.label}: {recipe.epochs} epochs in {seconds:.0f} s")


def _complete(path: Path) -> bool:
    """Is a finished run here, whole? What is damaged is named, and the run starts again."""
    try:
        record = json.loads((path / "recipe.json").read_text())
        damaged = [name for name, digest in record["sha256"].items() if _digest(path / name) != digest]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError):
        damaged = ["recipe.json"]
    if damaged:
        log(f"{path / damaged[0]} is damaged or missing: training starts again")
        for file in path.glob("*.safetensors"):
            file.unlink()
        (path / "recipe.json").unlink()
    return not damaged


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "missing"


def _read_history(text: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(text), float_precision="round_trip")


def _write(file: Path, content: bytes) -> None:
    """All or nothing: a reader sees the old file or the new one, never a part."""
    partial = file.with_name(file.name + ".part")
    try:
        with open(partial, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"disk full while writing {file.name}: free some space and run again") from None
        raise
