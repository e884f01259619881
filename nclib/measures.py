"""Neural collapse measured exactly, in two streaming passes and O(C d) memory.

Notation (all modules): C classes, n_c samples of class c, N in all; h (N, d) features; mu_c class
means, mu_G their mean weighted by n_c, M~ = M - mu_G (C, d); W (C, d), b (C,) the classifier.

Sums are float64 whatever the features are. No d x d matrix is ever built: with P = pinv(M~^T), of
shape (C, d), the variability tr(Sigma_W Sigma_B^+) is C times the mean of |P (h_i - mu_{y_i})|^2.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max
RCOND = 1e-12  # eigenvalues of M~ M~^T below this share of the largest count as zero
IDENTICAL = 1e-10  # means closer than this share of the largest mean count as identical


@dataclass(frozen=True)
class ClassMeans:
    """Class means (C, d) float64 and class counts (C,) of one view of a data set."""

    means: Tensor
    counts: Tensor

    @cached_property
    def global_mean(self) -> Tensor:
        """mu_G (d,): the class means weighted by their counts, i.e. the mean of all samples."""
        return self.counts.to(self.means) @ self.means / self.counts.sum()

    @cached_property
    def centered(self) -> Tensor:
        """M~ (C, d): class means minus the global mean."""
        return self.means - self.global_mean

    @cached_property
    def pinv(self) -> Tensor:
        """P = pinv(M~^T) = (M~ M~^T)^+ M~, of shape (C, d), from a C x C eigenproblem."""
        values, vectors = torch.linalg.eigh(self.centered @ self.centered.T)
        inverse = torch.where(values > RCOND * values[-1], 1 / values, 0.0)
        return (vectors * inverse) @ (vectors.T @ self.centered)

    def nearest(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Closest centre of each row of h (N, d): by Euclidean distance, and by the angle seen from mu_G."""
        inner = (h - self.global_mean) @ self.centered.T
        lengths = self.centered.norm(dim=1)
        return (inner - lengths.square() / 2).argmax(1), (inner / lengths).argmax(1)

    def check_distinct(self) -> None:
        """Raise ValueError naming two classes whose means coincide: NC1 and CDNV then have no value."""
        gaps = torch.cdist(self.means, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        gaps.fill_diagonal_(torch.inf)
        if gaps.min() <= IDENTICAL * self.means.norm(dim=1).max():
            a, b = divmod(int(gaps.argmin()), len(gaps))
            raise ValueError(f"classes {a} and {b} have identical means: NC1 and CDNV have no value here")


class MeansPass:
    """First pass: class sums over batches in any order and size. ``result()`` gives ``ClassMeans``.

    ``result`` raises ValueError, naming sample or class, for NaN or infinite features, labels outside
    0..C-1, no samples, or a class without samples. Nothing is moved to the host before that.
    """

    def __init__(self, num_classes: int):
        if num_classes < 2:
            raise ValueError(f"collapse needs two classes or more, not {num_classes}")
        self.num_classes, self.seen, self.sums = num_classes, 0, None

    def update(self, features: Tensor, labels: Tensor) -> None:
        h = _rows(features, labels)
        if self.sums is None:
            self.sums = h.new_zeros(self.num_classes, h.shape[1])
            self.counts = labels.new_zeros(self.num_classes, device=h.device)
            self.bad_feature = self.bad_label = torch.tensor(NEVER, device=h.device)
        elif h.shape[1] != self.sums.shape[1]:
            raise ValueError(f"features have {h.shape[1]} dimensions after batches of {self.sums.shape[1]}")
        labels = labels.to(h.device)
        inside = labels.clamp(0, self.num_classes - 1)
        self.sums.index_add_(0, inside, h)
        self.counts.index_add_(0, inside, torch.ones_like(inside))
        index = torch.arange(self.seen, self.seen + len(h), device=h.device)
        self.bad_feature = _first(index, ~h.sum(1).isfinite(), self.bad_feature)
        self.bad_label = _first(index, inside != labels, self.bad_label)
        self.seen += len(h)

    def result(self) -> ClassMeans:
        if not self.seen:
            raise ValueError("no samples to measure")
        if (i := int(self.bad_feature)) < NEVER:
            raise ValueError(f"features of sample {i} contain NaN or infinity")
        if (i := int(self.bad_label)) < NEVER:
            raise ValueError(f"label of sample {i} is outside 0..{self.num_classes - 1}")
        if len(empty := (self.counts == 0).nonzero().flatten().tolist()):
            raise ValueError(f"no samples of class {', '.join(map(str, empty))}")
        return ClassMeans(self.sums / self.counts[:, None], self.counts)


class WithinPass:
    """Second pass: scatter about the class means, the nearest-class-centre rule, the variances.

    ``means`` are those of the same samples. ``centers`` (optional) are class means of *another* view;
    what is measured about them carries the prefix ``centers_``.
    """

    def __init__(self, means: ClassMeans, centers: ClassMeans | None = None):
        means.check_distinct()
        self.own, self.centers = means, centers
        self.abouts = {"": means} | ({"centers_": centers} if centers is not None else {})
        zero = means.means.new_zeros(())
        self.totals = {p + k: zero.clone() for p in self.abouts for k in ("scatter", "agree", "right", "leapt")}
        self.correct, self.variance, self.judged = zero.clone(), means.means.new_zeros(len(means.means)), False

    def update(self, features: Tensor, labels: Tensor, predicted: Tensor | None = None) -> None:
        """Add a batch; ``predicted`` (N,) are the network's own classes, for NC4 and accuracy."""
        h = _rows(features, labels)
        labels = labels.to(h.device)
        for prefix, about in self.abouts.items():
            within = h - about.means[labels]
            nearest, closest = about.nearest(h)
            self.totals[prefix + "scatter"] += (within @ about.pinv.T).square().sum()
            self.totals[prefix + "right"] += (nearest == labels).sum()
            self.totals[prefix + "leapt"] += (closest != labels).sum()
            if about is self.own:
                self.variance.index_add_(0, labels, within.square().sum(1))
            if predicted is not None:
                self.totals[prefix + "agree"] += (nearest == predicted).sum()
        if predicted is not None:
            self.judged = True
            self.correct += (predicted == labels).sum()

    def result(self) -> dict[str, float]:
        C, N = len(self.own.counts), self.own.counts.sum()
        out = {}
        for prefix in self.abouts:
            out[prefix + "nc1"] = C * self.totals[prefix + "scatter"] / N
            out[prefix + "ncc_accuracy"] = self.totals[prefix + "right"] / N
            out[prefix + "leapt"] = self.totals[prefix + "leapt"] / N
            if self.judged:
                out[prefix + "nc4"] = 1 - self.totals[prefix + "agree"] / N
        out["nc1_per_class"] = out["nc1"] / C
        out["cdnv"] = _cdnv(self.own.means, self.variance / self.own.counts)
        out["equinorm"], out["equiangle"] = equinorm(self.own.centered), equiangle(self.own.centered)
        if self.judged:
            out["accuracy"] = self.correct / N
        return {name: float(value) for name, value in out.items()}


@torch.no_grad()
def measure(
    features: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    num_classes: int | None = None,
    centers: ClassMeans | Tensor | None = None,
) -> dict[str, float]:
    """Every collapse measure of one set of features (Papyan, Han & Donoho 2020; Su et al. 2024, section 3).

    Parameters
    ----------
    features (N, d) or (N, ...), any float type; labels (N,) int64 in 0..C-1; weight (C, d) and bias (C,)
    of the linear classifier; num_classes C, else that of ``weight``, else the largest label + 1;
    centers, ``ClassMeans`` or (C, d), the class means of another view.

    Returns
    -------
    dict of floats, all 0 in perfect collapse but the accuracies:
    ``nc1`` tr(Sigma_W Sigma_B^+); ``nc1_per_class`` the same over C (Papyan's convention);
    ``equinorm``, ``equiangle`` of M~; ``cdnv`` class-distance normalised variance (Galanti et al. 2022);
    ``ncc_accuracy`` nearest-class-centre rule against the *labels*. With ``weight`` also
    ``weight_equinorm``, ``weight_equiangle``, ``nc3``, ``nc4`` (that rule against the *network*) and the
    network's ``accuracy``; ``leapt``, the share closest *in angle* to another class's mean. With
    ``centers`` also ``centers_nc1``, ``centers_ncc_accuracy``, ``centers_leapt`` and ``centers_nc4``:
    these samples about those means. Where d < C - 1 no simplex of C vertices fits in
    the space: equiangle then cannot reach 0, and NC1 uses the d directions there are.

    Raises
    ------
    ValueError for NaN or infinity, no samples, an empty class, one class, a label out of range, shapes
    that do not match, or identical class means.
    """
    C = num_classes or (len(weight) if weight is not None else int(labels.max()) + 1 if len(labels) else 0)
    if not len(labels) and not len(features):
        raise ValueError("no samples to measure")
    h = _rows(features, labels)
    first = MeansPass(C)
    first.update(h, labels)
    means = first.result()
    if weight is not None and tuple(weight.shape) != (C, h.shape[1]):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected {(C, h.shape[1])}")
    if bias is not None and tuple(bias.shape) != (C,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {(C,)}")
    if centers is not None:
        centers = as_means(centers)
        if centers.means.shape != means.means.shape:
            raise ValueError(f"centers have shape {tuple(centers.means.shape)}, expected {tuple(means.means.shape)}")
    predicted = None
    if weight is not None:
        logits = h @ weight.to(h).T
        predicted = (logits if bias is None else logits + bias.to(h)).argmax(1)
    second = WithinPass(means, centers)
    second.update(h, labels, predicted)
    return second.result() | (weight_measures(weight, means) if weight is not None else {})


@torch.no_grad()
def class_means(features: Tensor, labels: Tensor, num_classes: int | None = None) -> ClassMeans:
    """Class means (C, d) and counts (C,) of features (N, d). Errors as in ``measure``."""
    first = MeansPass(num_classes or int(labels.max()) + 1)
    first.update(features, labels)
    return first.result()


@torch.no_grad()
def weight_measures(weight: Tensor, means: ClassMeans) -> dict[str, float]:
    """NC2 of the rows of W (not centred) and NC3, |W/|W|_F - M~/|M~|_F|_F^2. weight: (C, d)."""
    W = weight.to(means.means)
    gap = W / W.norm() - means.centered / means.centered.norm()
    return {
        "weight_equinorm": float(equinorm(W)),
        "weight_equiangle": float(equiangle(W)),
        "nc3": float(gap.square().sum()),
    }


def equinorm(vectors: Tensor) -> Tensor:
    """std / mean of the norms of C vectors (C, d), unbiased std; 0: all of one length."""
    norms = vectors.norm(dim=1)
    return norms.std() / norms.mean()


def cosines(vectors: Tensor) -> Tensor:
    """Cosine matrix (C, C) of C vectors (C, d). ValueError, naming it, for a vector of length zero."""
    norms = vectors.norm(dim=1)
    if len(zero := (norms <= IDENTICAL * norms.max()).nonzero().flatten().tolist()):
        raise ValueError(f"vector of class {zero[0]} has length zero: its angles have no value")
    return (vectors @ vectors.T) / norms.outer(norms)


def equiangle(vectors: Tensor) -> Tensor:
    """Mean over ordered pairs of |cos(v_c, v_c') + 1/(C-1)|; 0: the angles of a simplex."""
    C = len(vectors)
    gaps = (cosines(vectors) + 1 / (C - 1)).abs()
    return gaps[~torch.eye(C, dtype=torch.bool, device=gaps.device)].mean()


def _cdnv(means: Tensor, variance: Tensor) -> Tensor:
    a, b = torch.triu_indices(len(means), len(means), 1)
    return ((variance[a] + variance[b]) / (2 * (means[a] - means[b]).square().sum(1))).mean()


@torch.no_grad()
def similarity(means_a: ClassMeans | Tensor, means_b: ClassMeans | Tensor) -> dict[str, Tensor | float]:
    """Do two simplices coincide? Compare the class means of two views class by class (Su et al. 2024).

    Takes ``ClassMeans`` or (C, d). Returns ``angle`` (C,) in degrees between centred means, ``distance``
    (C,) between them, the twins ``angle_uncentered`` and ``distance_uncentered``, and ``shift``, the
    length of the global mean's move. ValueError where shapes differ or a centred mean is zero.
    """
    a, b = as_means(means_a), as_means(means_b)
    if a.means.shape != b.means.shape:
        raise ValueError(f"means of shapes {tuple(a.means.shape)} and {tuple(b.means.shape)} cannot be compared")
    for vectors in (a.centered, b.centered):
        cosines(vectors)
    return {
        "angle": _angle(a.centered, b.centered),
        "distance": (a.centered - b.centered).norm(dim=1),
        "angle_uncentered": _angle(a.means, b.means),
        "distance_uncentered": (a.means - b.means).norm(dim=1),
        "shift": float((a.global_mean - b.global_mean).norm()),
    }


@torch.no_grad()
def leap_matrix(features: Tensor, labels: Tensor, means: ClassMeans | Tensor) -> Tensor:
    """Where attacked points went: (C, C), row c the shares of class-c samples by closest clean vertex.

    Closest *in angle*: of h_i - mu_G to the rows of M~, both of the clean view ``means``. The identity
    means that nothing leapt. features (N, d), labels (N,). Errors as in ``measure``.
    """
    means = as_means(means)
    C = len(means.means)
    class_means(features, labels, C)  # refuses what cannot be counted
    _, closest = means.nearest(_rows(features, labels).to(means.means.device))
    counts = torch.bincount(labels.to(closest.device) * C + closest, minlength=C * C).view(C, C).double()
    return counts / counts.sum(1, keepdim=True)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise angle in degrees, exact near 0 and 180 (Kahan's half-angle form)."""
    a, b = (torch.nn.functional.normalize(v, dim=1) for v in (a, b))
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)))


def as_means(means: ClassMeans | Tensor) -> ClassMeans:
    """Class means from a plain (C, d) tensor, its classes weighted alike."""
    if isinstance(means, ClassMeans):
        return means
    if means.ndim != 2:
        raise ValueError(f"class means must be (C, d), not {tuple(means.shape)}")
    return ClassMeans(means.double(), torch.ones(len(means), dtype=torch.int64, device=means.device))


def _rows(features: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)} do not match")
    return features.detach().flatten(1).double()


def _first(index: Tensor, bad: Tensor, before: Tensor) -> Tensor:
    if not len(index):
        return before
    return torch.minimum(before, torch.where(bad, index, NEVER).min())
