"""Accuracy, and a robust accuracy that is the worst of several attacks."""

from collections.abc import Callable
from math import inf

import torch
from torch import Generator, Tensor

from ..models import in_mode
from .pgd import check_attack, pgd


def unit_logits(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The model with every sample's logits scaled to a range of 10: same decisions, no saturation."""

    def scaled(x: Tensor) -> Tensor:
        logits = model(x)
        spread = (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).detach()
        return 10 * logits / spread.clamp_min(torch.finfo(logits.dtype).tiny)

    return scaled


def robust_mask(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    epsilon: float = 8 / 255,
    norm: str = "linf",
    steps: int = 20,
    targets: int = 9,
    generator: Generator | None = None,
    batch: int = 512,
) -> Tensor:
    """Which samples keep their label under every one of several attacks: (N,) bool.

    Cross-entropy on logits of a fixed range, DLR, and a targeted margin sweep over the ``targets`` likeliest
    other classes, each tried on what is still standing. None of them sees the scale of the logits, so
    terminal-phase training cannot hide behind saturation. Errors as in ``pgd``.
    """
    check_attack(epsilon, norm)
    options = dict(epsilon=epsilon, step=2.5 * epsilon / max(steps, 1), steps=steps, norm=norm, generator=generator)
    with in_mode(model, "eval"), torch.no_grad():
        parts = zip(x.split(batch), y.split(batch))
        return torch.cat([_survivors(unit_logits(model), *part, targets, options) for part in parts])


def _survivors(model, x: Tensor, y: Tensor, targets: int, options: dict) -> Tensor:
    logits = model(x)
    standing = logits.argmax(1) == y
    others = logits.scatter(1, y[:, None], -inf).topk(min(targets, logits.shape[1] - 1), dim=1).indices
    for loss, target in [("ce", None), ("dlr", None), *(("margin", column) for column in others.T)]:
        left = standing.nonzero().flatten()
        if len(left):
            goal = y[left] if target is None else target[left]
            x_adv = pgd(model, x[left], goal, loss=loss, targeted=target is not None, **options)
            standing[left] = model(x_adv).argmax(1) == y[left]
    return standing


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, batch: int = 512) -> float:
    """Share of images (N, C, H, W) that a model, in eval mode, assigns to their labels (N,)."""
    with in_mode(model, "eval"):
        right = [(model(a).argmax(1) == b).sum() for a, b in zip(x.split(batch), y.split(batch))]
    return float(sum(right)) / len(y)


def robust_accuracy(model, x: Tensor, y: Tensor, epsilon: float = 8 / 255, norm: str = "linf", **options) -> float:
    """Share of samples that keep their label under the worst of several attacks (see ``robust_mask``)."""
    if not len(x):
        raise ValueError("no samples to attack")
    return float(robust_mask(model, x, y, epsilon, norm, **options).float().mean())
