"""Attacks on a callable that maps pixels in [0, 1] to logits: start, step, project.

Everything works on the perturbation delta; x + delta never leaves the box. Gradients go to the input only (as fast
as with frozen parameters), and a model is handed back as it came: modes, flags, gradients, batch-norm statistics.
"""

from collections.abc import Callable
from math import inf

import torch
from torch import Generator, Tensor

from ..checks import check_attack, check_finite, check_images, check_logits, check_samples, check_size, needed, slope
from ..losses import LOSSES
from ..models import in_mode, statistics_kept


def pgd(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, epsilon: float | Tensor = 8 / 255,
    step: float | Tensor | None = None, steps: int = 10, norm: str = "linf", targeted: bool = False, loss: str = "ce",
    start: str | None = "uniform", generator: Generator | None = None, mode: str | None = None,
) -> Tensor:  # fmt: skip
    """Projected gradient descent (Madry et al. 2018): maximise a loss in an epsilon-ball around x.

    model : pixels (N, C, H, W) in [0, 1] to logits (N, classes). x : float pixels; y : labels (N,), the
        targets where ``targeted``; unused by ``loss="kl"``, which moves away from the model's output at x.
    epsilon, step : in pixel units, a number or one per sample (N,); ``step`` is epsilon / 4 unless given.
    norm, loss : "linf" or "l2"; "ce", "margin", "dlr" (weak towards a target: take "margin") or "kl".
    start : "uniform" in the ball; "radial", a random direction of uniform length (the authors' l2 start, dense
        near x); "gaussian", 0.001 N(0, I) (TRADES); None, at x.
    mode : None leaves the model's mode and statistics alone; "eval" or "train" sets that mode during the attack
        (batch-norm statistics then move in "train") and puts the old one back.

    Returns a new tensor (N, C, H, W) within epsilon of x and within [0, 1]; x itself if epsilon is 0.
    Raises ValueError for an unknown norm, loss, start or mode, for epsilon < 0 or of a wrong length, for pixels or
    labels that are none, for "kl" without a random start, and for a gradient that is NaN.
    """
    check_attack(epsilon, norm, loss, start, steps, many=True)
    check_size("step", 0 if step is None else step, many=True)
    if loss == "kl" and targeted:
        raise ValueError("loss 'kl' knows no target: it moves away from the model's own answer")
    x, y = check_samples(model, x, y, labelled=loss != "kl")
    options = dict(steps=steps, norm=norm, targeted=targeted, loss=loss, start=start, generator=generator, mode=mode)
    options["classes"] = 2 if loss == "kl" else needed(y)
    return check_finite("the gradient at x", perturb(model, x, y, epsilon, step, **options))


def perturb(
    model, x: Tensor, y: Tensor, epsilon, step=None, steps=10, norm="linf", targeted=False, loss="ce",
    start="uniform", generator=None, mode=None, classes=2,
) -> Tensor:  # fmt: skip
    """``pgd`` without a look at what comes in and out, which would stall a GPU at every batch of a training."""
    if not len(x) or (not torch.is_tensor(epsilon) and epsilon == 0):
        return x
    x, step = x.detach(), epsilon / 4 if step is None else step
    epsilon, step = _per_sample(epsilon, x, "epsilon"), _per_sample(step, x, "step")
    value, sign = LOSSES[loss], -1.0 if targeted else 1.0
    guard = in_mode(model, mode) if mode else statistics_kept(model)
    with torch.inference_mode(False), guard, torch.enable_grad():
        if loss == "kl":  # not under no_grad: autocast, before torch 2.11, keeps weights cast there without a gradient
            y = check_logits(model(x)).detach()
        delta = project(_start(x, epsilon, norm, start, generator), x, epsilon, norm)
        for _ in range(steps):
            delta.requires_grad_()
            # The losses add up over samples, so each sample gets its own gradient.
            gradient = slope(value(check_logits(model(x + delta), len(x), classes), y).sum(), delta)
            delta = project(delta.detach() + sign * step * direction(gradient, norm), x, epsilon, norm)
    return (x + delta).clamp(0, 1)


def project(delta: Tensor, x: Tensor, epsilon: float | Tensor, norm: str) -> Tensor:
    """Clip x + delta to [0, 1], and delta to the epsilon-ball: ``epsilon`` a number or (N, 1, 1, 1).

    The box comes first, as in advertorch: shrinking an l2 delta afterwards cannot leave the box, and the
    whole budget stays in use. (The authors and foolbox clip last, which may leave some of it unused.)
    """
    if norm == "linf":
        delta = delta.clamp(-epsilon, epsilon)
    delta = (x + delta).clamp(0, 1) - x
    return delta if norm == "linf" else delta * (epsilon / _length(delta).clamp_min(1e-30)).clamp(max=1)


def _start(x: Tensor, epsilon: float | Tensor, norm: str, start: str | None, generator: Generator | None) -> Tensor:
    if start is None:
        return torch.zeros_like(x)
    if start == "uniform" and norm == "linf":
        return epsilon * torch.empty_like(x).uniform_(-1, 1, generator=generator)
    noise = torch.empty_like(x).normal_(generator=generator)
    if start == "gaussian":
        return 0.001 * noise
    radius = x.new_empty(len(x), *[1] * (x.ndim - 1)).uniform_(generator=generator)
    return epsilon * radius ** (1 / x[0].numel() if start == "uniform" else 1) * direction(noise, norm)


def direction(gradient: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return gradient.sign() + 0 * gradient  # the sign of NaN is 0, and nobody would hear of it
    # Measured in units of the largest entry: squares of a saturated network's gradient underflow.
    largest = _length(gradient, inf).clamp_min(1e-38)
    return gradient / (largest * _length(gradient / largest)).clamp_min(1e-38)


def _length(v: Tensor, order: float = 2) -> Tensor:
    return torch.linalg.vector_norm(v, order, dim=tuple(range(1, v.ndim)), keepdim=True)


def _per_sample(value: float | Tensor, x: Tensor, name: str) -> float | Tensor:
    if not torch.is_tensor(value):
        return value  # a number stays off the device
    if value.numel() not in (1, len(x)):
        raise ValueError(f"{name} must be one number or one per sample ({len(x)}), not {value.numel()}")
    return value.to(x).view(-1, *[1] * (x.ndim - 1))


def sign_noise(x: Tensor, epsilon: float, generator: Generator | None = None) -> Tensor:
    """x + epsilon * sign(N(0, I)), clipped to [0, 1]: a corner of the l-infinity ball, chosen blindly."""
    _, x = check_size("epsilon", epsilon), check_images(x)
    return (x + epsilon * torch.empty_like(x).normal_(generator=generator).sign()).clamp(0, 1)


def gaussian_noise(x: Tensor, epsilon: float, generator: Generator | None = None) -> Tensor:
    """x + epsilon * N(0, I), clipped to [0, 1]; epsilon is the standard deviation of a pixel."""
    _, x = check_size("epsilon", epsilon), check_images(x)
    return (x + epsilon * torch.empty_like(x).normal_(generator=generator)).clamp(0, 1)


def sphere_noise(x: Tensor, epsilon: float, generator: Generator | None = None) -> Tensor:
    """x plus noise of l2 length epsilon in a random direction, clipped: the l2 attack's equal in size."""
    _, x = check_size("epsilon", epsilon), check_images(x)
    noise = torch.empty_like(x).normal_(generator=generator)
    return (x + epsilon * noise / _length(noise)).clamp(0, 1)
