"""Collapse on the sphere (Yaras et al. 2022): cross-entropy over classifier rows and features of unit length.

A point X (K + N, d) has the K rows of W and then the N features H, every row of length 1: the oblique manifold, a
product of spheres. Starts may be stacked in front, (B, K + N, d): whatever is computed is computed for each by itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, log1p, sqrt

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import grad, jvp, vmap

from ..measures.exact import measure
from ..measures.simplex import simplex_gap

UNIT = 1e-6  # rows may miss length 1 by this much
HALVINGS, PATIENCE = 60, 100  # of one step; iterations
Loss = Callable[[Tensor], Tensor]  # X (..., K + N, d) to one value for each start, (...)


def project(X: Tensor, V: Tensor) -> Tensor:
    """V (..., d) without its part along each row of X: tangent to the spheres."""
    return V - (X * V).sum(-1, keepdim=True) * X


def retract(X: Tensor, V: Tensor | float = 0.0) -> Tensor:
    """(x + v) / |x + v| by row: a step along V, back on the spheres. ValueError for a row of length 0."""
    moved = X + V
    length = moved.norm(dim=-1, keepdim=True)
    if len(zero := (length[..., 0] == 0).nonzero()):
        raise ValueError(f"row {int(zero[0, -1])} has length 0: it has no direction")
    return moved / length


def _euclidean(f: Loss) -> Loss:
    return grad(lambda X: f(X).sum())


def gradient(f: Loss, X: Tensor) -> Tensor:
    """Riemannian gradient, G - (x . G) x by row, with G the Euclidean one. ValueError for rows not of unit length."""
    lengths = X.norm(dim=-1).flatten()
    worst = lengths[(lengths - 1).abs().argmax()]
    if abs(worst - 1) > UNIT:
        raise ValueError(f"rows are not of unit length ({worst:.4g}): call retract first")
    return project(X, _euclidean(f)(X))


def hessian_product(f: Loss, X: Tensor, V: Tensor) -> Tensor:
    """Riemannian Hessian at X times a tangent V: the projected derivative of G along V, less (x . G) V by row."""
    G, change = jvp(_euclidean(f), (X,), (V,))
    return project(X, change) - (X * G).sum(-1, keepdim=True) * V


def hessian(f: Loss, X: Tensor) -> Tensor:
    """The Hessian of one point (m, d) as a symmetric matrix (m d, m d); normal directions have eigenvalue 0."""
    basis = torch.eye(X.numel(), dtype=X.dtype).view(-1, *X.shape)
    rows = vmap(lambda V: hessian_product(f, X, project(X, V)), chunk_size=256)(basis).flatten(1)
    return (rows + rows.T) / 2


def lowest(f: Loss, X: Tensor, seed: int = 0) -> tuple[float, Tensor]:
    """The Hessian's lowest eigenvalue at one point (m, d) and its direction, of length 1, by Lanczos iteration.

    Where all tangent directions curve upwards it finds one of the normal directions, whose eigenvalue is 0.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh  # here, as nothing else needs it

    def times(v):
        V = project(X, torch.from_numpy(v).to(X).view_as(X))
        return hessian_product(f, X, V).flatten().numpy()

    start = torch.randn(X.numel(), generator=Generator().manual_seed(seed), dtype=torch.float64).numpy()
    operator = LinearOperator((X.numel(), X.numel()), matvec=times, dtype="float64")
    values, vectors = eigsh(operator, k=1, which="SA", v0=start, tol=1e-12, ncv=min(60, X.numel()))
    return float(values[0]), torch.from_numpy(vectors[:, 0]).to(X).view_as(X)


def descent(f: Loss, X: Tensor, iterations: int = 2000, tol: float = 1e-7) -> Iterator[tuple[Tensor, Tensor]]:
    """Riemannian gradient descent: yields X and f(X), the start first, until no start moves any more.

    Armijo's rule: a step is halved until f falls by half of what its slope promises, and doubled for the next
    iteration. A start stops where |gradient| <= tol f, and at the limit of the arithmetic: where no step brings f down,
    or ``PATIENCE`` of them bring it down by less than a 1e-13th.
    """
    value = before = f(X)
    steps, moving = torch.ones_like(value), torch.ones_like(value, dtype=torch.bool)
    for i in range(iterations):
        yield X, value
        G = gradient(f, X)
        slope = G.square().sum((-2, -1))
        moving = moving & (slope.sqrt() > tol * value)
        if i and i % PATIENCE == 0:
            moving, before = moving & (before - value > 1e-13 * value), value
        if not moving.any():
            return
        left = moving
        for _ in range(HALVINGS):
            trial = retract(X, -steps[..., None, None] * G)
            lower = left & ((reached := f(trial)) <= value - steps * slope / 2)
            X, value = torch.where(lower[..., None, None], trial, X), torch.where(lower, reached, value)
            steps, left = torch.where(lower, 2 * steps, torch.where(left, steps / 2, steps)), left & ~lower
            if not left.any():
                break
        moving = moving & ~left
    yield X, value


def simplex(num_classes: int, d: int) -> Tensor:
    """Unit rows (K, d) whose angles are all as wide as can be. ValueError where d is too small for them."""
    if d < num_classes - 1:
        raise ValueError(f"no simplex of {num_classes} classes in {d} dimensions")
    centred = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    U, s, _ = torch.linalg.svd(centred)
    return F.pad(F.normalize((U * s)[:, :-1]), (0, d - num_classes + 1))


def minimum(num_classes: int, tau: float) -> float:
    """The least loss on the spheres, f* = log(1 + (K - 1) exp(-tau K / (K - 1))), that of the simplex; d >= K - 1."""
    return _loss_at(num_classes, tau, num_classes / (num_classes - 1))


def floor(num_classes: int, tau: float) -> float:
    """The least loss with features >= 0, as after a ReLU: log(1 + (K - 1) exp(-tau sqrt(K / (K - 1)))); d >= K.

    The features form an orthogonal frame, and W is the simplex about the frame's centre.
    """
    return _loss_at(num_classes, tau, sqrt(num_classes / (num_classes - 1)))


def _loss_at(num_classes: int, tau: float, lead: float) -> float:
    if not tau > 0:
        raise ValueError(f"tau must be above 0, not {tau:g}")
    return log1p((num_classes - 1) * exp(-tau * lead))


@dataclass(frozen=True)
class Spheres:
    """The mean of CE(tau W h_i, y_i) over n features of each of K classes, on unit rows in d dimensions: f(X).

    Labels run 0 .. 0, 1 .. 1, and so on. ValueError unless tau is above 0.
    """

    num_classes: int
    d: int
    n: int = 1
    tau: float = 1.0

    def __post_init__(self):
        _loss_at(self.num_classes, self.tau, 1.0)

    @property
    def labels(self) -> Tensor:
        """The classes of the features (N,)."""
        return torch.arange(self.num_classes).repeat_interleave(self.n)

    def __call__(self, X: Tensor) -> Tensor:
        return self.entropy(*self.split(X), self.tau)

    def entropy(self, W: Tensor, H: Tensor, tau: float) -> Tensor:
        """log(1 + sum over j != y of exp(z_j - z_y)), which keeps the digits that a softmax near 1 would lose."""
        z = tau * H @ W.mT
        behind = z - z.gather(-1, self.labels[:, None].expand(*z.shape[:-1], 1))
        own = F.one_hot(self.labels, self.num_classes).bool()
        others = behind.masked_fill(own, -inf).logsumexp(-1)
        return torch.logaddexp(others, torch.zeros_like(others)).mean(-1)

    def decayed(self, X: Tensor, decay: float) -> Tensor:
        """The twin of free lengths: tau 1, and decay / 2 times (|W|^2 + |H|^2 / n) on top (Zhu et al. 2021)."""
        W, H = self.split(X)
        lengths = W.square().sum((-2, -1)) + H.square().sum((-2, -1)) / self.n
        return self.entropy(W, H, 1.0) + decay / 2 * lengths

    def split(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """W (..., K, d) and H (..., N, d)."""
        return X[..., : self.num_classes, :], X[..., self.num_classes :, :]

    def random(self, starts: int, seed: int = 0) -> Tensor:
        """Points drawn uniformly from the spheres: (starts, K + N, d), float64."""
        generator, rows = Generator().manual_seed(seed), self.num_classes * (1 + self.n)
        return retract(torch.randn(starts, rows, self.d, generator=generator, dtype=torch.float64))

    def collapsed(self) -> Tensor:
        """A minimiser (K + N, d): rows and features on one simplex. ValueError where none fits."""
        return self.tied(simplex(self.num_classes, self.d).repeat(2, 1), range(self.num_classes))

    def tied(self, P: Tensor, groups: Sequence[int]) -> Tensor:
        """The point whose classes share rows: class c has row groups[c] of P (..., 2 m, d)'s upper half as its row
        of W, and that of the lower half as all its features."""
        W, H = P.chunk(2, dim=-2)
        of_class = torch.tensor(list(groups))
        return torch.cat([W[..., of_class, :], H[..., of_class[self.labels], :]], dim=-2)

    def collapse(self, X: Tensor) -> dict[str, float]:
        """NC1 per class, and the authors' NC2 and NC3, uncentred, of one point (K + N, d). Errors as in ``measure``."""
        W, H = self.split(X)
        means = H.unflatten(0, (self.num_classes, self.n)).mean(1)
        gaps = {f"nc{k}": float(simplex_gap(W, V, centred=False)) for k, V in ((2, W), (3, means))}
        return {"nc1": measure(H, self.labels)["nc1_per_class"]} | gaps
