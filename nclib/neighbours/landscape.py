"""The unconstrained features model: a last layer whose features move freely (Zhu et al. 2021, Zhou et al. 2022).

    f(W, H, b) = 1/N sum_i loss(W h_i + b, y_i) + lw/2 |W|^2 + lh/2 |H|^2 + lb/2 |b|^2

with W (C, d), H (N, d) that has n rows of every class, b (C,), all in one vector theta (P,), P = (C + N) d + C, or in
several of them, (..., P). But for the squared error's bias, everything below depends on C and c = sqrt(n lw lh) alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from ..losses import focal, squared

LOSSES = ("ce", "smoothing", "focal", "squared")
Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class UFM:
    """The model for one loss; calling it gives f (...,) of theta (..., P).

    smoothing, gamma : of label smoothing and of the focal loss.
    target, weight : the squared error is weight/2 |z - target e_y|^2; averaged over classes too, weight is 2/C.

    ValueError, in one line, for an unknown loss or a value out of range.
    """

    loss: str = "ce"
    C: int = 10
    d: int = 12
    n: int = 5
    lw: float = 5e-3
    lh: float = 1e-3
    lb: float = 1e-2
    smoothing: float = 0.05
    gamma: float = 3.0
    target: float = 1.0
    weight: float = 1.0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}; choose one of {', '.join(LOSSES)}")
        for name, least in (("C", 2), ("d", 1), ("n", 1), ("lb", 0), ("gamma", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in ("lw", "lh", "target", "weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), not {self.smoothing}")

    @property
    def c(self) -> float:
        """sqrt(n lw lh): the price of one unit of logits."""
        return (self.n * self.lw * self.lh) ** 0.5

    @property
    def labels(self) -> Tensor:
        """y (N,): n samples of class 0, then n of class 1, ..."""
        return torch.arange(self.C).repeat_interleave(self.n)

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of every sample: logits (N, C), y (N,) to (N,)."""
        if self.loss == "focal":
            return focal(logits, y, self.gamma)
        if self.loss == "squared":
            return self.weight * squared(logits, y, self.target)
        smoothing = self.smoothing if self.loss == "smoothing" else 0.0
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W (..., C, d), H (..., N, d) and b (..., C) of theta. ValueError for another number of entries."""
        sizes = [self.C * self.d, self.C * self.n * self.d, self.C]
        if theta.shape[-1] != sum(sizes):
            raise ValueError(f"theta has {theta.shape[-1]} entries, expected {sum(sizes)}")
        W, H, b = theta.split(sizes, -1)
        return W.unflatten(-1, (self.C, self.d)), H.unflatten(-1, (-1, self.d)), b

    def logits(self, theta: Tensor) -> Tensor:
        """Z (..., N, C): z_i = W h_i + b."""
        W, H, b = self.split(theta)
        return H @ W.mT + b[..., None, :]

    def data(self, logits: Tensor) -> Tensor:
        """The mean loss (...,) of logits (..., N, C): f without its decay."""
        y = self.labels.expand(logits.shape[:-1])
        return self.losses(logits.reshape(-1, self.C), y.reshape(-1)).view(y.shape).mean(-1)

    def __call__(self, theta: Tensor) -> Tensor:
        W, H, b = self.split(theta)
        decay = self.lw * W.square().sum((-2, -1)) + self.lh * H.square().sum((-2, -1)) + self.lb * b.square().sum(-1)
        return self.data(self.logits(theta)) + decay / 2

    def start(self, spread: float = 1.0, seed: int = 0) -> Tensor:
        """A random theta (P,): normal entries of this standard deviation, in float64."""
        size = (1 + self.n) * self.C * self.d + self.C
        return spread * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The simplex: what theory says of the minimum -----------------------------------------------------


class Minimum(NamedTuple):
    """f at the global minimum, the scale s of its logits s (e_y - 1/C) + const, and its bias, alike for all classes."""

    f: float
    s: float
    bias: float


def on_the_simplex(model: UFM, s: Tensor) -> Tensor:
    """f (S,) where logits are s (e_y - 1/C), bias at its best, and decay is shared best: loss + (C - 1) c s.

    W and H cost lw/2 |W|^2 + lh/2 |H|^2 >= c |Z|_* / sqrt(n), with equality where they are balanced.
    """
    C, s = model.C, torch.as_tensor(s, dtype=torch.float64).reshape(-1)
    direction = torch.eye(C, dtype=s.dtype)[0] - 1 / C
    f = model.losses(s[:, None] * direction, torch.zeros(len(s), dtype=torch.int64)) + (C - 1) * model.c * s
    if model.loss == "squared":  # its bias does not cancel
        f = f - (model.target * model.weight) ** 2 / (2 * C * (model.weight + model.lb))
    return f


def kappa(p: float, gamma: float) -> float:
    """The focal loss's gradient over cross-entropy's: (1 - p)^g - g p (1 - p)^(g - 1) log p, above 0."""
    return (1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * np.log(p)


def minimum(model: UFM) -> Minimum:
    """The global minimum in closed form; of the focal loss, along s. ValueError where it is no simplex: for too strong
    a decay (W = H = 0 is best), or too few dimensions."""
    C, c = model.C, model.c
    if model.d < C - 1:
        raise ValueError(f"no simplex of {C} classes in {model.d} dimensions: d must be {C - 1} or more")
    bound, words = {
        "ce": (1 / C, "1/C"),
        "smoothing": ((1 - model.smoothing) / C, "(1 - smoothing)/C"),
        "squared": (model.weight * model.target / C, "weight target/C"),
        "focal": (np.inf, ""),
    }[model.loss]
    if c >= bound:
        raise ValueError(f"weight decay too strong: c = {c:.4g} >= {words} = {bound:.4g}, the minimum is W = H = 0")
    if model.loss == "squared":
        return _squared_minimum(model)
    # Smoothing adds its share to the price of a logit; cross-entropy is smoothing 0.
    price = c + (model.smoothing / C if model.loss == "smoothing" else 0)
    s = _best_scale(model) if model.loss == "focal" else float(np.log(1 / price - (C - 1)))
    return Minimum(float(on_the_simplex(model, s)), s, 0.0)


def _best_scale(model: UFM) -> float:
    """On a grid first: for many classes the curve has two valleys."""
    grid = torch.linspace(0, 40, 2001, dtype=torch.float64)
    best = int(on_the_simplex(model, grid).argmin())
    if best == 0:
        raise ValueError(f"weight decay too strong: c = {model.c:.4g}, the minimum is W = H = 0")
    bounds = (float(grid[best - 1]), float(grid[min(best + 1, 2000)]))
    found = minimize_scalar(
        lambda s: float(on_the_simplex(model, s)), bounds=bounds, method="bounded", options={"xatol": 1e-12}
    )
    return float(found.x)


def _squared_minimum(model: UFM) -> Minimum:
    """A weak decay of the bias lets it carry the logits' mean; a strong one leaves a part t along 1 to W and H."""
    C, c, m, a, lb = model.C, model.c, model.target, model.weight, model.lb
    s = m - C * c / a
    if a * m * lb / (a + lb) <= C * c:
        return Minimum(float(on_the_simplex(model, s)), s, a * m / (C * (a + lb)))
    bias, t = c / lb, m - C * c / lb - C * c / a
    f = (C - 1) * (a * (m - s) ** 2 / (2 * C) + c * s) + C * c**2 / (2 * a) + c * t + lb * C * bias**2 / 2
    return Minimum(f, s, bias)


# Descent ------------------------------------------------------------------------------------------


def gradient(objective: Objective, theta: Tensor) -> Tensor:
    """The gradient of f at theta (..., P), each theta's its own."""
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(objective(theta).sum(), theta)[0]


def heavy_ball(objective: Objective, theta: Tensor, steps: int = 1000, lr: float = 1.0, momentum: float = 0.9):
    """Gradient descent with momentum from theta (..., P): yields theta before each step, and at the end."""
    velocity = torch.zeros_like(theta)
    yield theta
    for _ in range(steps):
        velocity = momentum * velocity - lr * gradient(objective, theta)
        theta = theta + velocity
        yield theta


def growth(eigenvalue: float, lr: float = 1.0, momentum: float = 0.9) -> float:
    """By what ``heavy_ball`` multiplies a small distance in each step along a direction of negative curvature: the
    larger root of r^2 - (1 + momentum - lr eigenvalue) r + momentum. ValueError for another direction."""
    if eigenvalue > 0:
        raise ValueError(f"descent leaves no point along positive curvature, {eigenvalue}")
    half = (1 + momentum - lr * eigenvalue) / 2
    return half + (half**2 - momentum) ** 0.5


def lbfgs(objective: Objective, theta: Tensor, most: int = 5000) -> Tensor:
    """L-BFGS from theta (P,) until no step gains anything."""

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(x).requires_grad_()
        f = objective(x)
        return float(f.detach()), torch.autograd.grad(f, x)[0].numpy()

    options = dict(maxiter=most, maxfun=2 * most, maxcor=30, ftol=0, gtol=1e-12)
    found = minimize(value_and_gradient, theta.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x)


def zero(model: UFM) -> Tensor:
    """W = H = 0 with the bias at its best (P,): a critical point for every loss."""
    theta = 0 * model.start()
    if model.loss == "squared":
        theta[-model.C :] = model.weight * model.target / (model.C * (model.weight + model.lb))
    return theta


def merged(model: UFM, groups: Sequence[int], seed: int = 0) -> Tensor:
    """A critical point theta (P,) at which classes of one group (``groups``: a number per class, from 0) share row,
    features and bias: f is least among those that share, so by symmetry no other direction has a slope."""
    groups, (C, d) = torch.as_tensor(groups), (model.C, model.d)
    if groups.shape != (C,):
        raise ValueError(f"groups must give {C} classes a group each, not {len(groups)}")
    count = int(groups.max()) + 1

    def lifted(small: Tensor) -> Tensor:
        W, h, b = small.split([count * d, count * d, count], -1)
        H = h.unflatten(-1, (count, d))[groups].repeat_interleave(model.n, 0)
        return torch.cat([W.unflatten(-1, (count, d))[groups].flatten(), H.flatten(), b[groups]])

    noise = torch.randn(count * (2 * d + 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    small = lbfgs(lambda x: model(lifted(x)), noise)
    *_, small = heavy_ball(lambda x: model(lifted(x)), small, steps=60, lr=0.5 / model.n)
    return lifted(small)


# Curvature ----------------------------------------------------------------------------------------


def hessian_product(objective: Objective, theta: Tensor, v: Tensor) -> Tensor:
    """The Hessian at theta (P,) times v (P,)."""
    theta = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(objective(theta), theta, create_graph=True)
    return torch.autograd.grad(slope @ v, theta)[0]


def hessian(objective: Objective, theta: Tensor) -> Tensor:
    """The Hessian (P, P) at theta (P,)."""
    theta = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(objective(theta), theta, create_graph=True)
    eye = torch.eye(len(theta), dtype=theta.dtype)
    return torch.autograd.grad(slope, theta, eye, is_grads_batched=True)[0]


def lowest(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    """The Hessian's smallest eigenvalue and its direction (P,), by Lanczos: at saddles. At a minimum hundreds of
    eigenvalues are zero, and it does not converge: take ``hessian``."""
    size = len(theta)
    product = LinearOperator(
        (size, size),
        matvec=lambda v: hessian_product(objective, theta, torch.from_numpy(v).reshape(-1)).numpy(),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(size)
    values, vectors = eigsh(product, k=1, which="SA", v0=start, tol=1e-12)
    return float(values[0]), torch.from_numpy(vectors[:, 0])


def steepest(model: UFM, theta: Tensor) -> float:
    """sigma: the largest singular value of the loss's gradient with respect to the logits (N, C)."""
    logits = model.logits(theta).detach().requires_grad_()
    return float(torch.linalg.matrix_norm(torch.autograd.grad(model.data(logits), logits)[0], 2))


def certificate(model: UFM, theta: Tensor) -> float:
    """sigma / sqrt(lw lh) at a critical point: for a convex loss 1 at the global minimum, and above 1 at all others."""
    return steepest(model, theta) / (model.lw * model.lh) ** 0.5


def curvature_bound(model: UFM, theta: Tensor) -> float:
    """What sigma says of the Hessian's smallest eigenvalue: at most
    (lw + lh)/2 - sqrt(((lw - lh)/2)^2 + sigma^2), where some direction of R^d is orthogonal to all rows of W."""
    sigma = steepest(model, theta)
    return (model.lw + model.lh) / 2 - (((model.lw - model.lh) / 2) ** 2 + sigma**2) ** 0.5
