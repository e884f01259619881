"""``fit``: a recipe in, a trained model and its history out. Resumes, shares, never half-writes."""

import copy
import json
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn

from .attacks import kl, model_mode, pgd
from .compute import Compute, choose
from .data import Dataset, load, pixels
from .files import write
from .layers import collapse
from .models import build
from .progress import alone, log, progress
from .provenance import environment, home
from .recipe import Recipe
from .views import View, views

SAVE_EVERY = 10.0  # seconds between saves of the resume state
COLUMNS = ["epoch", "split", "view", "measure", "value"]


@dataclass
class Run:
    """A trained ``model`` (eval mode) with its ``recipe``, its folder ``path`` and its ``history``.

    ``history`` has one row per epoch (0 is before training), split, view and measure: ``loss``, ``accuracy``, all
    of ``collapse``, and ``seconds`` of training so far.
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
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def epochs(self) -> list[int]:
        """The epochs that were measured, and whose weights were kept."""
        return sorted(int(e) for e in self.history.epoch.unique())

    def at(self, epoch: int) -> nn.Sequential:
        """The model as it was after a measured epoch. ValueError, with the choices, for any other."""
        if epoch not in self.epochs:
            raise ValueError(f"epoch {epoch} was not kept; choose one of {', '.join(map(str, self.epochs))}")
        model = copy.deepcopy(self.model)
        model.load_state_dict(load_file(self.path / snapshot_name(epoch)))
        return model.eval()


def fit(recipe: Recipe, root: str | Path | None = None, device: str | None = None) -> Run:
    """Train what the recipe says, or go on with it, or load it: ``root/<key>/`` holds every model once.

    ``root`` is ``runs`` in the checkout unless given, ``device`` CUDA where there is one. Two processes that ask
    for one recipe train it once. A killed run goes on from its last state and ends, on a CPU, bit for bit where
    an uninterrupted one does. Damaged files are named and trained again. Raises ValueError for bad data choices,
    FileNotFoundError for missing data files, FloatingPointError (naming epoch, step and learning rate) when the
    loss stops being finite, OSError when the disk is full.
    """
    data = load(recipe.dataset, per_class=recipe.per_class, test_per_class=recipe.test_per_class)
    compute = choose(recipe.precision, device, data.shape[-1])
    path = Path(root or home() / "runs") / recipe.key
    path.mkdir(parents=True, exist_ok=True)
    with alone(path / "lock", recipe.label):
        model = compute.lay_out(network(recipe, data))
        if not _complete(path):
            _train(model, recipe, data.to(compute.device), compute, path)
        (path / "state.safetensors").unlink(missing_ok=True)
        model.load_state_dict(load_file(path / "model.safetensors"))
        history = pd.read_csv(path / "history.csv")
    return Run(recipe, model.eval(), history, path)


def network(recipe: Recipe, data: Dataset) -> nn.Sequential:
    """The recipe's freshly initialised network; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(recipe.architecture, data.shape, data.num_classes, data.mean, data.std, recipe.width)


def measured_epochs(epochs: int, points: int = 12) -> list[int]:
    """Epochs spaced evenly in the logarithm, the initial network (0), the first and the last among them."""
    return sorted({0, epochs} | {round(epochs ** (i / (points - 1))) for i in range(points)})


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """lr, tenfold lower after each drop; ``epoch`` counts from 0."""
    return recipe.lr * 0.1 ** sum(epoch >= share * recipe.epochs for share in recipe.drops)


def batch_loss(model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The loss of one batch and the images it was attacked with (x itself in standard training)."""
    attack = dict(epsilon=recipe.epsilon, step=recipe.step, steps=recipe.steps, norm=recipe.norm, generator=generator)
    if recipe.training != "trades":
        x_adv = x if recipe.training == "standard" else pgd(model, x, y, mode=recipe.attack_batchnorm, **attack)
        return F.cross_entropy(model(x_adv).float(), y), x_adv
    mode = "eval" if recipe.trades_batchnorm == "published" else recipe.attack_batchnorm
    x_adv = pgd(model, x, y, mode=mode, loss="kl", start="gaussian", **attack)
    clean, perturbed = model(x).float(), model(x_adv).float()
    return F.cross_entropy(clean, y) + recipe.beta * kl(perturbed, clean).mean(), x_adv


@dataclass
class Past:
    """What a run has behind it: epochs, seconds, history rows, and the sha256 of each snapshot written."""

    epoch: int = 0
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)


def _train(model, recipe: Recipe, data: Dataset, compute: Compute, path: Path) -> None:
    sgd = dict(lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    optimizer = torch.optim.SGD(model.parameters(), **sgd)
    past = _resume(path, model, optimizer)
    log(f"{recipe.label}: training on {compute.device}, {compute.dtype} ({compute.reason}), from epoch {past.epoch}")

    def keep(stale: list | None) -> None:
        past.rows += _measure(model, recipe, data, compute, past, stale)
        name = snapshot_name(past.epoch)
        past.sha256[name] = write(path / name, save(_weights(model)))
        _save_state(path, model, optimizer, past)

    if not past.rows:
        keep(None)
    measured, saved = measured_epochs(recipe.epochs), time.monotonic()
    for epoch in progress(range(past.epoch, recipe.epochs), recipe.label, recipe.epochs):
        began, last = time.perf_counter(), epoch + 1
        stale = [] if recipe.perturbations == "stale" and last in measured else None
        _epoch(model, optimizer, recipe, data, compute, epoch, stale)
        if last == recipe.epochs and recipe.reestimate:
            reestimate_statistics(model, data.train.images)
        past.epoch, past.seconds = last, past.seconds + time.perf_counter() - began
        if last in measured:
            keep(stale)
        elif time.monotonic() - saved > SAVE_EVERY:
            _save_state(path, model, optimizer, past)
            saved = time.monotonic()
    _finish(path, recipe, model, past, compute)


def _epoch(model, optimizer, recipe: Recipe, data: Dataset, compute: Compute, epoch: int, stale: list | None) -> None:
    # The release never leaves the attack's eval mode again: in TRADES its batch norm stays untrained.
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
    # Looked at once an epoch, as a look stalls the device; the weights last: no loss has seen the final step.
    weights = torch.stack([p.detach().sum() for p in model.parameters()]).sum()
    finite = torch.stack([*losses, weights]).isfinite()
    if not finite.all():
        step = min(int((~finite).nonzero()[0]), len(losses) - 1)
        where = f"epoch {epoch + 1}, step {step + 1}, learning rate {rate:g}"
        raise FloatingPointError(f"{recipe.label}: loss not finite at {where}; the last good state is kept: lower lr")


def _generator(device, *numbers: int) -> Generator:
    """A generator of its own for every (seed, epoch, purpose): resuming needs no random state."""
    return Generator(device).manual_seed(int.from_bytes(sha256(repr(numbers).encode()).digest()[:7]))


@torch.no_grad()
def reestimate_statistics(model: nn.Module, images: Tensor, batch: int = 512) -> None:
    """Batch-norm statistics anew, as plain averages over clean images (N, C, H, W); modes are put back."""
    norms = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    with model_mode(model, "train"):
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
        for x in images.tensor_split(-(-len(images) // batch)):  # of one size, so that all count the same
            model(pixels(x))
    for m, momentum in norms.items():
        m.momentum = momentum


def _measure(model, recipe: Recipe, data: Dataset, compute: Compute, past: Past, stale: list | None) -> list[dict]:
    names = ["clean"] if recipe.training == "standard" else ["clean", "untargeted"]
    options = {name: getattr(recipe, name) for name in ("epsilon", "step", "steps", "norm", "seed")}
    options |= dict(names=names, precision=str(compute.dtype).removeprefix("torch."))
    made = [view for split in ("train", "test") for view in views(model, data, split=split, **options)]
    if stale and len(names) > 1:
        made[1] = View("untargeted", *(torch.cat(parts) for parts in zip(*stale)))
    table = collapse(model, made).assign(epoch=past.epoch)
    seconds = dict(zip(COLUMNS, (past.epoch, "train", "clean", "seconds", past.seconds)))
    return [*table[COLUMNS].to_dict("records"), seconds]


def snapshot_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}


def _save_state(path: Path, model, optimizer, past: Past) -> None:
    tensors = {f"model.{n}": t for n, t in _weights(model).items()}
    for name, p in model.named_parameters():
        if p in optimizer.state:  # nothing there before the first step, nor without momentum
            tensors[f"momentum.{name}"] = optimizer.state[p]["momentum_buffer"].contiguous().cpu()
    text = json.dumps(asdict(past))
    seal = sha256(save(tensors) + text.encode()).hexdigest()  # safetensors has no checksum against flipped bits
    write(path / "state.safetensors", save(tensors, {"past": text, "sha256": seal}))


def _resume(path: Path, model, optimizer) -> Past:
    """Fill model and optimiser from the resume state, where it and the snapshots before it are sound."""
    file = path / "state.safetensors"
    if not file.exists():
        return Past()
    try:
        with safe_open(file, "pt") as state:
            metadata, tensors = state.metadata(), {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118
        if metadata["sha256"] != sha256(save(tensors) + metadata["past"].encode()).hexdigest():
            raise ValueError("digest differs")
        past = Past(**json.loads(metadata["past"]))
        damaged = _damaged(path, past.sha256)
    except (SafetensorError, KeyError, TypeError, ValueError):
        damaged = [file.name]
    if not _intact(path, damaged):
        return Past()
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    for name, p in model.named_parameters():
        if f"momentum.{name}" in tensors:
            optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(tensors[f"momentum.{name}"])
    return past


def _finish(path: Path, recipe: Recipe, model, past: Past, compute: Compute) -> None:
    past.sha256["model.safetensors"] = write(path / "model.safetensors", save(_weights(model)))
    table = pd.DataFrame(past.rows)[COLUMNS].to_csv(index=False)
    past.sha256["history.csv"] = write(path / "history.csv", table)
    record = {
        "recipe": asdict(recipe),
        "key": recipe.key,
        "seconds": past.seconds,
        "precision": f"{compute.dtype} ({compute.reason})",
        "environment": environment(compute.device),
        "sha256": past.sha256,
    }
    write(path / "recipe.json", json.dumps(record, indent=1))  # last: its presence says "complete"
    log(f"{recipe.label}: {recipe.epochs} epochs in {past.seconds:.0f} s")


def _complete(path: Path) -> bool:
    """Is a finished run here, whole?"""
    try:
        digests = json.loads((path / "recipe.json").read_text())["sha256"]
        damaged = _damaged(path, {"model.safetensors": None, "history.csv": None} | digests)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):
        damaged = ["recipe.json"]
    return _intact(path, damaged)


def _intact(path: Path, damaged: list[str]) -> bool:
    """True where nothing is damaged; else name it and clear the run away."""
    if damaged:
        log(f"{path / damaged[0]} is damaged or missing: training starts again")
        (path / "recipe.json").unlink(missing_ok=True)  # first: the run is no longer complete
        for file in path.glob("*.safetensors"):
            file.unlink()
    return not damaged


def _damaged(path: Path, digests: dict[str, str]) -> list[str]:
    """The files that are missing, or not what was written."""
    files = {path / name: was for name, was in digests.items()}
    return [f.name for f, was in files.items() if not f.exists() or sha256(f.read_bytes()).hexdigest() != was]
