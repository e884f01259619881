"""How far away is the decision boundary: the smallest budget that fools a network, image by image, and in training."""

import pandas as pd
import torch
from torch import Tensor

from ..attacks.pgd import pgd
from ..attacks.robust import unit_logits
from ..checks import check_attack, check_count, check_samples
from ..compute import full_precision
from ..data import pixels
from ..models import in_mode
from ..training.kept import COLUMNS, through

VERSION = 1  # raised by hand when ``minimal_epsilon`` comes to give other values
LOSSES = ("ce", "dlr")
DECADES = 4  # budgets are looked for from 1e-4 of the box to all of it


def minimal_epsilon(model, x: Tensor, y: Tensor, norm: str = "linf", steps: int = 10, halvings: int = 9) -> Tensor:
    """The smallest budget at which one of several attacks fools a model: (N,), in pixel units.

    model : pixels (N, C, H, W) in [0, 1] to logits. Bisection of log epsilon over four decades, up to the whole box
    (1 in l-infinity, the root of the number of pixels in l2). At each budget PGD from x, with steps of a quarter of it,
    of cross-entropy on logits of a fixed range and of DLR; the smaller budget counts. 0 where the model errs on x
    itself, the whole box where nothing fools it. Nine halvings are good to 2 %; as no attack is perfect, it is an upper
    bound. Errors as in ``pgd``.
    """
    check_attack(1.0, norm, steps=steps), check_count("halvings", halvings, 0)
    scaled, (x, y) = unit_logits(model), check_samples(model, x, y)
    with in_mode(model, "eval"), full_precision():
        with torch.no_grad():
            least = _box(x, norm) * (scaled(x).argmax(1) == y)
        for loss in LOSSES:
            least = _bisected(scaled, x, y, least, norm, steps, halvings, loss)
    return least


def _box(x: Tensor, norm: str) -> Tensor:
    return x.new_full((len(x),), 1.0 if norm == "linf" else x[0].numel() ** 0.5)


def _bisected(model, x: Tensor, y: Tensor, least: Tensor, norm: str, steps: int, halvings: int, loss: str) -> Tensor:
    """Budgets that fool the model by one loss, where they are smaller than ``least``: no image is attacked beyond."""
    high = _box(x, norm)
    low = high / 10**DECADES
    for _ in range(halvings):
        on = (low < least).nonzero()[:, 0]
        if not len(on):
            break
        middle = (low[on] * high[on]).sqrt()
        moved = pgd(model, x[on], y[on], middle, middle / 4, steps, norm, loss=loss, start=None)
        with torch.no_grad():
            fooled = model(moved).argmax(1) != y[on]
        low[on], high[on] = torch.where(fooled, low[on], middle), torch.where(fooled, middle, high[on])
    return torch.minimum(least, high)


def boundary(run, norm: str = "linf", steps: int = 10, per_class: int = 5) -> pd.DataFrame:
    """The median of ``minimal_epsilon`` at every kept epoch of a run, on the first test images of each class.

    One row per epoch, measured once and kept beside the run as ``history`` is. Errors as in ``minimal_epsilon``.
    """
    check_attack(1.0, norm, steps=steps)
    steps, per_class = check_count("steps", steps, 0), check_count("per_class", per_class)
    settings = {"version": VERSION, "measure": "minimal_epsilon", "norm": norm, "steps": steps, "per_class": per_class}
    settings |= {"test_per_class": run.recipe.test_per_class, "dtype": run.dtype}
    return through(run, settings, _median)


def _median(run, epoch: int, settings: dict) -> pd.DataFrame:
    images, labels = run.data.test
    each = [(labels == c).nonzero()[: settings["per_class"], 0] for c in range(run.data.num_classes)]
    some = torch.cat(each)
    found = minimal_epsilon(run.loaded(epoch), pixels(images[some]), labels[some], settings["norm"], settings["steps"])
    return pd.DataFrame([(epoch, "test", "clean", "minimal_epsilon", float(found.median()))], columns=COLUMNS)
