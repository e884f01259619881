"""A covariance spectrum that falls as 1/n, in small networks (Nassar et al. 2020), and what it is compared with.

Notation: h (N, D) activations of a hidden layer; e (D,) their variances, descending, along directions v (D, D), one by
column; s = tau + 1 the rank, counted from one, that anchors the law e_n = e_s (s / n)^alpha.
"""

import warnings
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..losses import margin
from ..models import in_mode

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
NEGLIGIBLE = 1e-10  # variances below this share of the largest are rounding


def variances(h: Tensor) -> Tensor:
    """Eigenvalues (D,) of the covariance of h (N, D), descending, in float64."""
    return torch.linalg.eigvalsh(_covariance(h)).flip(0)


def directions(h: Tensor, anchor: int = 1) -> Tensor:
    """Eigenvectors of the covariance of h (N, D), one by column: (D, D) float64.

    ValueError unless ``anchor`` of them carry variance.
    """
    e, v = torch.linalg.eigh(_covariance(h))
    if (carried := int((e > NEGLIGIBLE * e[-1]).sum())) < anchor:
        raise ValueError(f"only {carried} directions carry variance, and the law is anchored at number {anchor}")
    return v


def _covariance(h: Tensor) -> Tensor:
    if h.ndim != 2 or len(h) < 2:
        raise ValueError(f"activations must be (N, D) with two samples or more, not {tuple(h.shape)}")
    if not h.isfinite().all():
        raise ValueError("activations contain NaN or infinity")
    return torch.cov(h.detach().double().T)


def slope(e: Tensor, first: int = 11, last: int | None = None) -> float:
    """Slope of log variance on log rank, ranks first..last counted from one, by least squares.

    ``e`` (D,) descending. Those below 1e-10 of the largest are left out. ValueError for fewer than 3 points, and where
    the last is above the first.
    """
    e = np.asarray(e.cpu() if torch.is_tensor(e) else e, dtype=float)
    if len(e) and e[0] < e[-1]:
        raise ValueError("variances must be descending, the largest first: eigvalsh gives them ascending")
    rank = np.arange(1, len(e) + 1)
    kept = (rank >= first) & (rank <= (last or len(e))) & (e > NEGLIGIBLE * e[0])
    if kept.sum() < 3:
        carried = int((e > NEGLIGIBLE * e[0]).sum())
        raise ValueError(f"no slope: only {carried} directions carry variance, and the fit begins at rank {first}")
    return float(np.polyfit(np.log(rank[kept]), np.log(e[kept]), 1)[0])


def penalty(h: Tensor, v: Tensor, tau: int = 10, alpha: float = 1.0) -> Tensor:
    """How far the tail of a spectrum is from the law (Nassar et al. 2020, as released): a scalar.

    (1 / D) sum over n > s of (e_n / g_n - 1)^2 + max(e_n / g_n - 1, 0), with g_n = e_s (s / n)^alpha; e_s has no
    gradient. ``h`` (N, D) is a batch, ``v`` (D, D) are fixed directions. Directions without variance are skipped: where
    fewer than s carry any, as in exact collapse, the penalty is 0. ValueError for shapes, tau or alpha out of range.
    """
    D = _checked(h, v, tau, alpha)
    e = ((h - h.mean(0)) @ v.to(h)).square().sum(0) / (len(h) - 1)
    if not e.isfinite().all():
        raise ValueError("activations contain NaN or infinity")
    e = e.sort(descending=True).values
    s, tail = tau + 1, e[tau + 1 :]
    rank = torch.arange(s + 1, D + 1, device=h.device, dtype=h.dtype)
    law = e[tau].detach() * (s / rank) ** alpha
    excess = torch.where(tail > 0, tail / law.clamp_min(torch.finfo(h.dtype).tiny) - 1, 0.0)
    return (excess.square() + excess.relu()).sum() / D


def _checked(h: Tensor, v: Tensor, tau: int, alpha: float) -> int:
    D = h.shape[1]
    if v.shape != (D, D):
        raise ValueError(f"directions must be ({D}, {D}) for activations {tuple(h.shape)}, not {tuple(v.shape)}")
    if len(h) < 2:
        raise ValueError(f"a covariance needs two samples or more, not {len(h)}")
    if not 0 <= tau < D - 2:
        raise ValueError(f"tau {tau} leaves nothing to regularise in {D} dimensions; choose 0 to {D - 3}")
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    return D


def jacobian_penalty(logits: Tensor, x: Tensor, generator: Generator | None = None) -> Tensor:
    """(C / 2) |v^T J|^2 averaged over samples, v a random unit vector for each: in expectation |J|_F^2 / 2
    (Hoffman et al. 2019). ``logits`` (N, C) of ``x``, which requires a gradient."""
    v = F.normalize(torch.empty_like(logits).normal_(generator=generator))
    (gradient,) = torch.autograd.grad((v * logits).sum(), x, create_graph=True)
    return logits.shape[1] / 2 * gradient.flatten(1).square().sum(1).mean()


class Whiten(nn.Module):
    """R^-1 t, with R R^T = t^T t / N + jitter I: uncorrelated coordinates of mean square 1 (not centred, as released).

    R is the batch's in training mode. In eval mode it is the one that ``freeze`` kept, so that no image sees another.
    """

    def __init__(self, width: int, jitter: float = 1e-5):
        super().__init__()
        self.jitter = jitter
        self.register_buffer("inverse", torch.eye(width))

    def forward(self, t: Tensor) -> Tensor:
        return t @ (self.fit(t) if self.training else self.inverse).T

    def fit(self, t: Tensor) -> Tensor:
        """R^-1 (D, D) of a batch (N, D). ValueError where its second moments are singular."""
        one = torch.eye(t.shape[1]).to(t)
        factor, fault = torch.linalg.cholesky_ex(t.T @ t / len(t) + self.jitter * one)
        if fault:
            raise ValueError(f"{len(t)} samples cannot whiten {t.shape[1]} dimensions with jitter {self.jitter:g}")
        return torch.linalg.solve_triangular(factor, one, upper=False)


def mlp(
    shape, num_classes: int, width: int, depth: int = 1, activation="tanh", whiten: int = 0, batchnorm=False, seed=0
) -> nn.Sequential:
    """A multilayer perceptron on pixels of ``shape``: stages layer1..layer<depth>, then ``head``.

    ``whiten``: the layer after which a ``Whiten`` stands (0: none); ``batchnorm``: after each activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    if not 0 <= whiten <= depth:
        raise ValueError(f"whiten must be a layer from 1 to {depth}, or 0 for none, not {whiten}")
    stages, inside = OrderedDict(flatten=nn.Flatten()), int(np.prod(shape))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for number in range(1, depth + 1):
            parts = [nn.Linear(inside, width), ACTIVATIONS[activation](), *([nn.BatchNorm1d(width)] * batchnorm)]
            stages[f"layer{number}"], inside = nn.Sequential(*parts), width
            if number == whiten:
                stages["whiten"] = Whiten(width)
        stages["head"] = nn.Linear(inside, num_classes)
    return nn.Sequential(stages)


def walk(model: nn.Sequential, x: Tensor, renew: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Logits (N, C), and the activations (N, D) of every hidden layer, in order."""
    hidden = []
    for name, stage in model.named_children():
        if renew and isinstance(stage, Whiten):
            stage.inverse.copy_(stage.fit(x))
        x = stage(x)
        if name.startswith("layer"):
            hidden.append(x)
    return x, hidden


@torch.no_grad()
def freeze(model: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Fix every whitening on these images, the whole training set; logits and activations, in eval mode."""
    with in_mode(model, "eval"):
        return walk(model, x, renew=True)


@dataclass(frozen=True)
class Kept:
    """A network along its training: the step, cross-entropy and accuracy on the training set, and the weights."""

    step: int
    loss: float
    accuracy: float
    state: dict[str, Tensor]


def train(
    model: nn.Sequential, x: Tensor, y: Tensor, steps: int, lr: float, beta=0.0, alpha=1.0, layers=(-1,), tau=10,
    jacobian=0.0, weight_decay=0.0, batch: int | None = None, refresh=18, keep: int = 0, seed: int = 0,
) -> list[Kept]:  # fmt: skip
    """Train a network in place by Adam (amsgrad) on cross-entropy + beta sum of ``penalty`` over ``layers``
    + jacobian ``jacobian_penalty``.

    x (N, ...) pixels, y (N,) labels. Directions are the training set's, renewed every ``refresh`` steps. ``batch``
    images a step, drawn without replacement (None: all). Returns the network every ``keep`` steps, and at the end.
    """
    _check_training(model, x, beta, layers, batch)
    optimiser = torch.optim.Adam(model.parameters(), lr, weight_decay=weight_decay, amsgrad=True, fused=True)
    generator, fixed, kept = Generator(x.device).manual_seed(seed), {}, []
    for step in range(steps):
        if beta and step % refresh == 0:
            hidden = freeze(model, x)[1]
            fixed = {layer: directions(hidden[layer], tau + 1) for layer in layers}
        some = slice(None) if batch is None else torch.randperm(len(x), generator=generator, device=x.device)[:batch]
        model.train()
        optimiser.zero_grad()
        _loss(model, x[some], y[some], fixed, beta, alpha, tau, jacobian, generator).backward()
        optimiser.step()
        if step + 1 == steps or (keep and (step + 1) % keep == 0):
            kept.append(snapshot(model, x, y, step + 1))
    model.eval()
    return kept


def _loss(model, x, y, fixed: dict[int, Tensor], beta, alpha, tau, jacobian, generator) -> Tensor:
    """What is minimised on a batch; ``fixed`` are the directions of each regularised layer."""
    x = x.detach().requires_grad_(jacobian > 0)
    logits, hidden = walk(model, x)
    by_class = logits.T.contiguous()  # a softmax over the last axis is slow for few classes
    loss = F.cross_entropy(by_class[None], y[None])
    if beta:
        loss = loss + beta * sum(penalty(hidden[layer], v, tau, alpha) for layer, v in fixed.items())
    if jacobian:
        loss = loss + jacobian * jacobian_penalty(logits, x, generator)
    return loss


def _check_training(model, x, beta, layers, batch) -> None:
    if beta < 0:
        raise ValueError(f"beta must be 0 or more, not {beta}")
    depth = sum(name.startswith("layer") for name, _ in model.named_children())
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(f"layer {layer} of a network of {depth}; choose {-depth} to {depth - 1}")
    size, width = batch or len(x), model.head.in_features
    if size < 2:
        raise ValueError(f"a covariance needs a batch of two or more, not {size}")
    if beta and size < width:
        warnings.warn(f"a batch of {size} cannot show the variance of {width} directions", stacklevel=3)


def snapshot(model, x: Tensor, y: Tensor, step: int) -> Kept:
    """The network as it is at a step: what it gives on the training set x (N, ...), y (N,), and its weights."""
    logits, _ = freeze(model, x)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    right = (logits.argmax(1) == y).double().mean()
    return Kept(step, float(F.cross_entropy(logits, y)), float(right), state)


def linear_radius(model, x: Tensor, y: Tensor) -> Tensor:
    """Margin over the l1 length of its gradient (N,): the l-infinity move that would reach the boundary, were the
    network linear. Negative where it errs."""
    x = x.detach().requires_grad_()
    with in_mode(model, "eval"):
        m = -margin(model(x), y)
        (gradient,) = torch.autograd.grad(m.sum(), x)
    return (m / gradient.flatten(1).abs().sum(1).clamp_min(1e-30)).detach()


def saturated(h: Tensor, limit: float = 0.99) -> float:
    """Share of activations whose size is above ``limit``: there the derivative of tanh is below 0.02."""
    return float((h.abs() > limit).double().mean())
