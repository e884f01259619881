"""How far away is the decision boundary: the smallest budget that fools a network, image by image, and in training."""

import pandas as pd
import torch
from torch import Tensor

from ..attacks.pgd import check_attack, pgd
from ..attacks.robust import unit_logits
from ..data import pixels
from ..models import in_mode
from .history import COLUMNS, through

VERSION = 1  # raised by hand when ``minimal_epsilon`` comes to give other values
LOSSES = ("ce", "dlr")


def minimal_epsilon(
    model, x: Tensor, y: Tensor, most: float, norm: str = "linf", steps: int = 10, halvings: int = 7
) -> Tensor:
    """The smallest budget at which one of several attacks fools a model, by bisection: (N,), in pixel units.

    model : pixels (N, C, H, W) in [0, 1] to logits. PGD from x, with steps of a quarter of the budget, of cross-entropy
    on logits of a fixed range and of DLR; the smaller budget counts. 0 where the model errs on x itself; ``most`` where
    it withstands ``most``. To within most / 2 ** halvings, and, as no attack is perfect, an upper bound. Errors as in
    ``pgd``; ValueError where ``most`` is not above 0.
    """
    check_attack(most, norm)
    if not most > 0:
        raise ValueError(f"most must be above 0, not {most}")
    scaled = unit_logits(model)
    with in_mode(model, "eval"):
        found = [_bisected(scaled, x, y, most, norm, steps, halvings, loss) for loss in LOSSES]
        with torch.no_grad():
            right = model(x).argmax(1) == y
    return torch.stack(found).amin(0) * right


def _bisected(model, x: Tensor, y: Tensor, most: float, norm: str, steps: int, halvings: int, loss: str) -> Tensor:
    low, high = x.new_zeros(len(x)), x.new_full((len(x),), most)
    for _ in range(halvings):
        middle = (low + high) / 2
        moved = pgd(model, x, y, middle, middle / 4, steps, norm, loss=loss, start=None)
        with torch.no_grad():
            fooled = model(moved).argmax(1) != y
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return high


def boundary(run, most: float, norm: str = "linf", steps: int = 10, per_class: int = 10) -> pd.DataFrame:
    """The median of ``minimal_epsilon`` at every kept epoch of a run, on the first test images of each class.

    One row per epoch, measured once and kept beside the run as ``history`` is. Errors as in ``minimal_epsilon``.
    """
    check_attack(most, norm)
    settings = {"version": VERSION, "measure": "minimal_epsilon", "most": most, "norm": norm, "steps": steps}
    settings |= {"per_class": per_class, "test_per_class": run.recipe.test_per_class, "dtype": run.dtype}
    return through(run, settings, _median)


def _median(run, epoch: int, settings: dict) -> pd.DataFrame:
    images, labels = run.data.test
    each = [(labels == c).nonzero()[: settings["per_class"], 0] for c in range(run.data.num_classes)]
    some, options = torch.cat(each), {name: settings[name] for name in ("most", "norm", "steps")}
    found = minimal_epsilon(run.loaded(epoch), pixels(images[some]), labels[some], **options)
    row = (epoch, "test", "clean", "minimal_epsilon", float(found.median()))
    return pd.DataFrame([row], columns=COLUMNS)
