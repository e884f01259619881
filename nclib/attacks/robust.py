"""Accuracy, and a robust accuracy that is the worst of several attacks."""

import warnings
from collections.abc import Callable
from functools import partial
from math import inf

import torch
from torch import Generator, Tensor

from ..checks import as_model, check_attack, check_count, check_finite, check_labels, check_logits, check_samples
from ..compute import full_precision
from ..data import pixels
from ..models import in_mode
from .apgd import apgd
from .square import square

Model = Callable[[Tensor], Tensor]
QUERIES = 500  # of Square, for what still stands
PROBED = 64  # images that a model is tried on before it is attacked
FLAT = 0.1  # share of them without a gradient from which a warning is due


def unit_logits(model: Model) -> Model:
    """The model with every sample's logits scaled to a range of 10: same decisions, no saturation."""

    def scaled(x: Tensor) -> Tensor:
        logits = check_finite("the model's answer to x", check_logits(model(x)))
        spread = (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).detach()
        return 10 * logits / spread.clamp_min(1e-12)  # a flat answer has no gradient, and no infinite one

    return scaled


def robust_mask(
    model: Model, x: Tensor, y: Tensor, epsilon: float = 8 / 255, norm: str = "linf", steps: int = 30,
    targets: int = 9, generator: Generator | None = None, batch: int = 512,
) -> Tensor:  # fmt: skip
    """Which samples keep their label under every one of several attacks: (N,) bool (after Croce & Hein 2020).

    Auto-PGD on cross-entropy, targeted auto-PGD towards the ``targets`` likeliest other classes, and Square, which
    needs no gradient, each tried on what is still standing. None of them sees the scale of the logits, so
    terminal-phase training cannot hide behind saturation. Warns, in one line, where the answer should not be believed:
    of a model that answers with probabilities, at random, or without gradients. Errors as in ``pgd``.
    """
    check_attack(epsilon, norm, steps=steps), check_count("targets", targets, 0), check_count("batch", batch)
    x, y = check_samples(model, x, y)
    options = dict(epsilon=epsilon, norm=norm, generator=generator)
    with in_mode(model, "eval"), torch.no_grad(), full_precision():
        attacked = believable(model, x[:PROBED], y[:PROBED]) if len(x) else model
        parts = zip(x.split(batch), y.split(batch))
        return torch.cat([_survivors(attacked, *part, steps, targets, options) for part in parts])


def believable(model: Model, x: Tensor, y: Tensor) -> Model:
    """The model on a scale that can be attacked; warns of what would make its robustness a matter of masking."""
    logits = check_logits(model(x))
    check_labels(y, len(x), logits.shape[1])
    if not torch.equal(logits, check_logits(model(x))):
        _warn("the model answers at random: one image, two answers; average over its randomness first")
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        _warn("the model answers with probabilities, which saturate: give it without its softmax")
        return unit_logits(lambda x: check_logits(model(x)).clamp_min(1e-38).log())
    scaled = unit_logits(model)
    with torch.inference_mode(False), torch.enable_grad():
        point = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scaled(point), y, reduction="sum"), point)
    if (share := float((slope.flatten(1) == 0).all(1).float().mean())) >= FLAT:
        _warn(f"{share:.0%} of the images have no gradient at all: attacks that follow one are blind to them")
    return scaled


def _warn(words: str) -> None:
    warnings.warn(f"robust accuracy cannot be believed: {words}", stacklevel=4)


def _survivors(model: Model, x: Tensor, y: Tensor, steps: int, targets: int, options: dict) -> Tensor:
    logits = model(x)
    standing = logits.argmax(1) == y
    others = logits.scatter(1, y[:, None], -inf).topk(min(targets, logits.shape[1] - 1), dim=1).indices
    climb = partial(apgd, model, steps=steps, **options)
    ways = [lambda left: climb(x[left], y[left])]
    ways += [lambda left, goal=goal: climb(x[left], y[left], targets=goal[left]) for goal in others.T]
    ways += [lambda left: square(model, x[left], y[left], queries=QUERIES, **options)]
    for attacked in ways:
        left = standing.nonzero().flatten()
        if len(left):
            standing[left] = model(attacked(left)).argmax(1) == y[left]
    return standing


@torch.no_grad()
def accuracy(model: Model, x: Tensor, y: Tensor, batch: int = 512) -> float:
    """Share of images (N, C, H, W), float or uint8, that a model in eval mode assigns to their labels (N,).

    ValueError for labels that are not one per image, for no images, and for a model that answers with NaN.
    """
    check_count("batch", batch), pixels(x[:0])
    y, right = check_labels(y, len(x)).to(x.device), 0
    if not len(x):
        raise ValueError("no samples to classify")
    with in_mode(model, "eval"), full_precision():
        for a, b in zip(x.split(batch), y.split(batch)):
            logits = check_finite("the model's answer to x", check_logits(model(as_model(model, pixels(a)))))
            right += int((logits.argmax(1) == check_labels(b, len(b), logits.shape[1])).sum())
    return right / len(y)


def robust_accuracy(
    model: Model, x: Tensor, y: Tensor, epsilon: float = 8 / 255, norm: str = "linf", **options
) -> float:
    """Share of samples that keep their label under the worst of several attacks (see ``robust_mask``)."""
    if not len(x):
        raise ValueError("no samples to attack")
    return float(robust_mask(model, x, y, epsilon, norm, **options).float().mean())
