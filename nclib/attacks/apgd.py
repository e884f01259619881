"""Auto-PGD (Croce & Hein 2020, algorithm 1): projected ascent whose step follows what the loss does."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Generator, Tensor

from ..checks import check_attack, check_finite, check_logits, check_samples, check_targets, needed, slope
from ..losses import LOSSES, targeted_dlr
from ..models import in_mode
from .pgd import direction, project

MOMENTUM = 0.75  # weight of the new step against the last one
RISING = 0.75  # of the steps since the last checkpoint, so many must have raised the loss


def checkpoints(steps: int) -> list[int]:
    """Steps after which the step size is looked at: 22 % of all, then spans that shrink by 3 % to 6 %."""
    percent = [0, 22]
    while percent[-1] < 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return [ceil(share * steps / 100) for share in percent[1:]]


@torch.inference_mode(False)
def apgd(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, epsilon: float = 8 / 255, steps: int = 50,
    norm: str = "linf", loss: str = "ce", targets: Tensor | None = None, generator: Generator | None = None,
    start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attack labels y of images x (N, C, H, W) within epsilon, from ``start`` or from a random point on the ball.

    loss : "ce", "margin" or "dlr"; with ``targets`` (N,) the targeted DLR (eq. 9) instead. The step starts at
        2 epsilon and is halved, going back to the best point so far, where the loss no longer rises.

    Returns a point that is classified wrongly, where one was met, else the one of the largest loss: within epsilon and
    within [0, 1]. The model is in eval mode meanwhile. Errors as in ``pgd``.
    """
    check_attack(epsilon, norm, loss, steps=steps)
    if loss == "kl":
        raise ValueError("auto-PGD knows no loss 'kl'; choose one of ce, margin, dlr")
    x, y = check_samples(model, x, y)
    if not epsilon or not len(x):
        return x
    value = LOSSES[loss] if targets is None else targeted_dlr
    goals = {} if targets is None else {"target": check_targets(targets, y)}
    found, classes = x.clone(), max(map(needed, (y, *goals.values())))
    looked = lambda point: check_logits(model(point), len(point), classes)  # noqa: E731
    at = {"index": torch.arange(len(x), device=x.device), "x": x, "y": y, **goals}
    if start is not None and start.shape != x.shape:
        raise ValueError(f"start must be one point for each image, {tuple(x.shape)}, not {tuple(start.shape)}")
    begun = epsilon * _on_the_ball(x, norm, generator) if start is None else check_samples(model, start, y)[0] - x
    at["point"] = x + project(begun, x, epsilon, norm)
    with in_mode(model, "eval"):
        at |= _climbed(looked, value, at)
        at |= {"last": at["point"], "best": at["point"], "best_loss": at["loss"], "best_slope": at["slope"]}
        at |= {"rises": torch.zeros(len(x), device=x.device), "seen": at["loss"]}
        at |= {"step": torch.full((len(x), *[1] * (x.ndim - 1)), 2 * epsilon, device=x.device)}
        at["halved"] = torch.ones(len(x), dtype=torch.bool, device=x.device)
        looks, since = checkpoints(steps), 0
        for k in range(steps):
            at = _without_the_fooled(at, found)
            if not len(at["index"]):
                return found
            at = _stepped(looked, value, at, epsilon, norm, MOMENTUM if k else 1.0)
            if k + 1 in looks:
                at = _looked_at(at, k + 1 - since)
                since = k + 1
    fooled = at["wrong"].view(-1, *[1] * (x.ndim - 1))
    found[at["index"]] = torch.where(fooled, at["point"], at["best"])
    return found


def _climbed(model, value: Callable, at: dict) -> dict:
    """Loss, its gradient and whether the label is lost, at the current point."""
    point = at["point"].detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
        goals = [at[name] for name in ("target",) if name in at]
        loss = value(logits, at["y"], *goals)
        gradient = slope(loss.sum(), point)
    wrong = logits.argmax(1) != at["y"]
    return {"loss": loss.detach(), "slope": check_finite("the gradient at x", gradient), "wrong": wrong}


def _without_the_fooled(at: dict, found: Tensor) -> dict:
    """Points that lost their label are done."""
    if not at["wrong"].any():
        return at
    found[at["index"][at["wrong"]]] = at["point"][at["wrong"]]
    left = ~at["wrong"]
    return {name: tensor[left] for name, tensor in at.items()}


def _stepped(model, value: Callable, at: dict, epsilon: float, norm: str, momentum: float) -> dict:
    x, point = at["x"], at["point"]
    ahead = x + project(point + at["step"] * direction(at["slope"], norm) - x, x, epsilon, norm)
    ahead = point + momentum * (ahead - point) + (1 - momentum) * (point - at["last"])
    before = at["loss"]
    at = at | {"last": point, "point": x + project(ahead - x, x, epsilon, norm)}
    at |= _climbed(model, value, at)
    better = at["loss"] > at["best_loss"]
    wide = better.view(-1, *[1] * (x.ndim - 1))
    return at | {
        "rises": at["rises"] + (at["loss"] > before),
        "best": torch.where(wide, at["point"], at["best"]),
        "best_slope": torch.where(wide, at["slope"], at["best_slope"]),
        "best_loss": torch.where(better, at["loss"], at["best_loss"]),
    }


def _looked_at(at: dict, span: int) -> dict:
    """Halve the step, and go back to the best point, where too few steps rose or nothing better was found."""
    stuck = ~at["halved"] & (at["best_loss"] <= at["seen"])
    halve = ((at["rises"] < RISING * span) | stuck) & ~at["wrong"]  # who lost the label stays where that was
    wide = halve.view(-1, *[1] * (at["x"].ndim - 1))
    return at | {
        "step": torch.where(wide, at["step"] / 2, at["step"]),
        "point": torch.where(wide, at["best"], at["point"]),
        "slope": torch.where(wide, at["best_slope"], at["slope"]),
        "loss": torch.where(halve, at["best_loss"], at["loss"]),
        "halved": halve, "seen": at["best_loss"], "rises": torch.zeros_like(at["rises"]),
    }  # fmt: skip


def _on_the_ball(x: Tensor, norm: str, generator: Generator | None) -> Tensor:
    if norm == "l2":
        return direction(torch.empty_like(x).normal_(generator=generator), norm)
    noise = torch.empty_like(x).uniform_(-1, 1, generator=generator)
    return noise / noise.abs().amax(tuple(range(1, x.ndim)), keepdim=True).clamp_min(1e-12)
