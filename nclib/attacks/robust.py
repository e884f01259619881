"""Accuracy, and a robust accuracy that is the worst of several attacks."""

from collections.abc import Callable
from functools import partial
from math import ceil, inf

import torch
from torch import Generator, Tensor

from ..checks import as_model, check_attack, check_count, check_finite, check_labels, check_logits, check_samples, masks
from ..compute import full_precision
from ..data import pixels
from ..models import in_mode
from .apgd import apgd
from .square import square

Model = Callable[[Tensor], Tensor]
APPROACH = ((3, 1 / 3), (2, 1 / 3), (1, 2 / 3))  # budgets in units of epsilon, and the share of the steps at each
QUERIES = 1.3  # of Square, for each step of the gradient attacks before it: about their time
ROUNDS, FINDS = 3, 0.02  # at most so many rounds; a next one where Square took such a share of what gradients had left
PROBED = 64  # images that a model is tried on before it is attacked


def unit_logits(model: Model, seen: Tensor | None = None) -> Model:
    """The model with every sample's logits scaled to a range of 10: same decisions, no saturation.

    Of two classes that range is the margin itself, which a search must see fall: there one scale for all, by the mean
    range of the logits ``seen`` (N, 2), where they are given.
    """

    def span(logits: Tensor) -> Tensor:
        return (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).detach().clamp_min(1e-12)

    def scaled(point: Tensor) -> Tensor:
        logits = check_finite("the model's answer to x", check_logits(model(point)))
        return 10 * logits / (usual or span(logits))  # a flat answer has no gradient, and no infinite one

    usual = float(span(seen).mean()) if seen is not None and seen.shape[1] == 2 else None
    return scaled


@torch.inference_mode(False)
def robust_mask(
    model: Model, x: Tensor, y: Tensor, epsilon: float = 8 / 255, norm: str = "linf", steps: int = 30,
    targets: int = 9, generator: Generator | None = None, batch: int = 512,
) -> Tensor:  # fmt: skip
    """Which samples keep their label under every one of several attacks: (N,) bool (after Croce & Hein 2020).

    Auto-PGD on cross-entropy, targeted auto-PGD towards the ``targets`` likeliest other classes, and Square, which
    needs no gradient, each tried on what is still standing. Targeted and blind attacks are repeated while the blind one
    finds what the others missed; ``steps`` is the effort of all. None sees the scale of the logits, so terminal-phase
    training cannot hide behind saturation. Warns, in one line, where the answer should not be believed: of a model that
    answers with probabilities, at random, or without gradients. Errors as in ``pgd``.
    """
    check_attack(epsilon, norm, steps=steps), check_count("targets", targets, 0), check_count("batch", batch)
    x, y = check_samples(model, x, y)
    options = dict(epsilon=epsilon, norm=norm, generator=generator)
    with in_mode(model, "eval"), torch.no_grad(), full_precision():
        answer = model
        if len(x) and masks(model, unit_logits(model), x[:PROBED], y[:PROBED]):
            answer = lambda x: check_logits(model(x)).clamp_min(1e-38).log()  # noqa: E731
        parts = zip(x.split(batch), y.split(batch))
        return torch.cat([_survivors(answer, *part, steps, targets, options) for part in parts])


def _survivors(model: Model, x: Tensor, y: Tensor, steps: int, targets: int, options: dict) -> Tensor:
    logits = check_finite("the model's answer to x", check_logits(model(x)))
    model, standing = unit_logits(model, logits), logits.argmax(1) == y
    others = logits.scatter(1, y[:, None], -inf).topk(min(targets, logits.shape[1] - 1), dim=1).indices

    def strike(attack: Callable, *goal: Tensor) -> float:
        """Attack what still stands; the share of it that fell."""
        left = standing.nonzero().flatten()
        if len(left):
            attacked = attack(model, x[left], y[left], *(part[left] for part in goal), **options)
            standing[left] = model(attacked).argmax(1) == y[left]
        return (len(left) - int(standing.sum())) / max(len(left), 1)

    passes = steps * (1 + others.shape[1] * sum(share for _, share in APPROACH))
    blind = partial(square, queries=max(1, round(QUERIES * passes)))
    strike(partial(apgd, steps=steps))
    for _ in range(ROUNDS):
        for goal in others.T:
            strike(partial(_from_afar, steps=steps), goal)
        if strike(blind) < FINDS:
            break
    return standing


def _from_afar(model: Model, x: Tensor, y: Tensor, targets: Tensor, steps: int, epsilon: float, **options) -> Tensor:
    """Targeted auto-PGD within larger balls first, each from where the last one ended (Croce & Hein 2021)."""
    point, most = None, 1.0 if options["norm"] == "linf" else inf  # a ball of 1 in l-infinity holds the whole box
    for times, share in APPROACH:
        size = min(times * epsilon, most)
        point = apgd(model, x, y, size, ceil(share * steps), targets=targets, start=point, **options)
    return point


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
    return int(robust_mask(model, x, y, epsilon, norm, **options).sum()) / len(x)
