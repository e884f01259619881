"""The training loop, an epoch at a time: images in, better weights out. Writes no file and measures nothing."""

from functools import partial
from hashlib import sha256

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..attacks.pgd import perturb
from ..checks import check_count, check_logits, check_stored
from ..compute import Compute
from ..data import Dataset, Split, pixels
from ..losses import focal, kl, squared
from ..models import build, in_mode, unit_rows_
from .recipe import DECAYED, Recipe


def network(recipe: Recipe, data: Dataset) -> nn.Sequential:
    """The recipe's freshly initialised network; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        of = data.shape, data.num_classes, data.mean, data.std
        return build(recipe.architecture, *of, recipe.width, recipe.head, recipe.temperature)


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The recipe's optimiser: momentum, no Nesterov, weight decay on all parameters."""
    return torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """lr, tenfold lower after each drop; ``epoch`` counts from 0."""
    drops = (round(share * recipe.epochs, 9) for share in recipe.drops)  # 0.55 of 100 epochs is 55, not a bit more
    return recipe.lr * 0.1 ** sum(epoch >= drop for drop in drops)


def batch_loss(model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The loss of one batch and the images it was attacked with (x itself in standard training)."""
    attack = dict(epsilon=recipe.epsilon, step=recipe.step, steps=recipe.steps, norm=recipe.norm, generator=generator)
    if recipe.training != "trades":
        x_adv = perturb(model, x, y, mode=recipe.attack_batchnorm, **attack) if recipe.attacked else x
        if recipe.head not in DECAYED:
            return objective(recipe, check_logits(model(x_adv)), y), x_adv
        features = model[:-1](x_adv)
        return objective(recipe, check_logits(model.head(features)), y) + decay(recipe, model, features), x_adv
    mode = "eval" if recipe.trades_batchnorm == "published" else recipe.attack_batchnorm
    x_adv = perturb(model, x, y, mode=mode, loss="kl", start="gaussian", **attack)
    clean, perturbed = check_logits(model(x)), check_logits(model(x_adv))
    return F.cross_entropy(clean, y) + recipe.beta * kl(perturbed, clean).mean(), x_adv


def objective(recipe: Recipe, logits: Tensor, y: Tensor) -> Tensor:
    """The recipe's loss of a batch's logits (n, C), a number."""
    if recipe.loss == "focal":
        return focal(logits, y, recipe.gamma).mean()
    if recipe.loss == "squared":
        return squared(logits, y, recipe.target).mean()
    return F.cross_entropy(logits, y, label_smoothing=recipe.smoothing if recipe.loss == "smoothing" else 0.0)


def decay(recipe: Recipe, model: nn.Module, features: Tensor) -> Tensor:
    """What the heads in ``DECAYED`` add: head_decay / 2 times the squared lengths of rows and of a batch's features."""
    return recipe.head_decay / 2 * (model.head.weight.square().sum() + check_logits(features).square().sum())


def moved(x: Tensor, generator: Generator, mirror: bool) -> Tensor:
    """Each image (N, C, H, W) moved by up to an eighth of its side either way, zeros from beyond its edges, and, where
    ``mirror``, half of them mirrored (He et al. 2016)."""
    n, _, height, width = x.shape
    reach, draw = max(height // 8, 1), partial(torch.randint, generator=generator, device=x.device)
    row, column = (torch.arange(side, device=x.device) + draw(2 * reach + 1, (n, 1)) for side in (height, width))
    if mirror:
        column = torch.where(draw(2, (n, 1)).bool(), column.flip(1), column)
    image = torch.arange(n, device=x.device)[:, None, None]
    return F.pad(x, [reach] * 4)[image, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def train_epoch(
    model: nn.Module, optimizer, recipe: Recipe, train: Split, compute: Compute, epoch: int, kept: list | None = None
) -> None:
    """One pass over the training split, in an order of its own; ``epoch`` counts from 0.

    Each batch's attacked images (n, C, H, W) and labels (n,) are put in ``kept``, where it is given. Raises
    FloatingPointError, naming epoch, step and learning rate, where a loss or a weight is no longer finite.
    """
    # The release never leaves the attack's eval mode again: in TRADES its batch norm stays untrained.
    model.train(not (recipe.training == "trades" and recipe.trades_batchnorm == "published"))
    order = torch.randperm(len(train), generator=_generator("cpu", recipe.seed, epoch, 0))
    attack_generator, moves = (_generator(compute.device, recipe.seed, epoch, purpose) for purpose in (1, 2))
    rate = learning_rate(recipe, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = []
    for index in order.to(compute.device).split(recipe.batch):
        x, y = pixels(train.images[index]), train.labels[index]
        if recipe.augmentation != "none":
            x = moved(x, moves, mirror=recipe.augmentation == "flip")
        x = compute.lay_out(x)
        with compute.autocast():
            loss, x_adv = batch_loss(model, recipe, x, y, attack_generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if recipe.head in ("sphere", "rows"):
            unit_rows_(model.head)
        losses.append(loss.detach())
        if kept is not None:
            kept.append((x_adv, y))
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
    check_count("batch", batch), check_count("images", len(check_stored(images)))
    norms = {m: m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    with in_mode(model, "train"):
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
        for x in images.tensor_split(-(-len(images) // batch)):  # of one size, so that all count the same
            model(pixels(x))
    for m, momentum in norms.items():
        m.momentum = momentum
