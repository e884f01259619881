"""Neural collapse measured exactly, in two streaming passes and O(C d) memory.

Notation (all modules): C classes, n_c samples of class c, N in all; h (N, d) features; mu_c class
means, mu_G their mean weighted by n_c, M~ = M - mu_G (C, d); W (C, d), b (C,) the classifier.

Sums are float64 whatever the features are; no input is changed, no gradient tracked (``_check`` and ``_blocks``, the
two doors, detach). No d x d matrix is ever built: as Sigma_B = M~^T M~ / C, with P = pinv(M~^T) = (M~ M~^T)^+ M~ the
variability tr(Sigma_W Sigma_B^+) is C times the mean of |P (h_i - mu_{y_i})|^2.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max
IDENTICAL = 1e-10  # lengths below this share of the largest there is count as zero
BLOCK = {"cpu": 2**18, "cuda": 2**24}  # float64 features held at a time: 2 MB stay in cache; a GPU wants few launches


@dataclass(frozen=True, eq=False)
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
    def gram(self) -> Tensor:
        """M~ M~^T (C, C)."""
        return self.centered @ self.centered.T

    @cached_property
    def gram_inverse(self) -> Tensor:
        """(M~ M~^T)^+ (C, C), from the singular values of M~ itself: squaring would lose half their digits."""
        U, s, _ = torch.linalg.svd(torch.linalg.qr(self.centered.T, mode="r").R.T, full_matrices=False)
        return (U * torch.where(s > IDENTICAL * self.means.norm(dim=1).max(), s**-2, 0.0)) @ U.T

    def nearest(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        """Closest mean by Euclidean distance and by the angle seen from mu_G; ``inner`` (N, C) is (h - mu_G) M~^T."""
        squares = self.gram.diagonal()
        return (inner - squares / 2).argmax(1), (inner / squares.sqrt()).argmax(1)

    def distances(self, what: str = "means") -> Tensor:
        """|mu_c - mu_c'| (C, C). ValueError naming two classes whose means coincide: NC1 and CDNV have no value."""
        gaps = torch.cdist(self.means, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        if gaps.fill_diagonal_(torch.inf).min() <= IDENTICAL * self.means.norm(dim=1).max():
            a, b = divmod(int(gaps.argmin()), len(gaps))
            raise ValueError(f"classes {a} and {b} have identical {what}: NC1 and CDNV have no value here")
        return gaps.fill_diagonal_(0)


class MeansPass:
    """First pass: class sums over batches in any order and size. Errors wait for ``result``: no batch syncs."""

    def __init__(self, num_classes: int):
        if num_classes < 2:
            raise ValueError(f"collapse needs two classes or more, not {num_classes}")
        self.num_classes, self.seen, self.sums = num_classes, 0, None

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (n, d) or (n, ...), labels (n,)."""
        for h, y in _blocks(features, labels):
            if self.sums is None:
                self.sums, self.counts = h.new_zeros(self.num_classes, h.shape[1]), y.new_zeros(self.num_classes)
                self.bad_feature = self.bad_label = y.new_full((), NEVER)
            if h.shape[1] != self.sums.shape[1]:
                raise ValueError(f"features have {h.shape[1]} dimensions after batches of {self.sums.shape[1]}")
            inside = y.clamp(0, self.num_classes - 1)
            index = torch.arange(self.seen, self.seen + len(h), device=h.device)
            self.sums.index_add_(0, inside, h)
            self.counts.index_add_(0, inside, torch.ones_like(inside))
            self.bad_feature = torch.where(h.sum(1).isfinite(), NEVER, index).min().minimum(self.bad_feature)
            self.bad_label = torch.where(inside == y, NEVER, index).min().minimum(self.bad_label)
            self.seen += len(h)

    def result(self) -> ClassMeans:
        """Class means of all that was added. ValueError naming the sample or class at fault."""
        if not self.seen:
            raise ValueError("no samples to measure")
        if (i := int(self.bad_feature)) < NEVER:
            raise ValueError(f"features of sample {i} contain NaN or infinity")
        if (i := int(self.bad_label)) < NEVER:
            raise ValueError(f"label of sample {i} is outside 0..{self.num_classes - 1}")
        if empty := (self.counts == 0).nonzero().flatten().tolist():
            raise ValueError(f"no samples of class {', '.join(map(str, empty))}")
        return ClassMeans(self.sums / self.counts[:, None], self.counts)


class WithinPass:
    """Second pass: scatter about one set of centres, and the nearest-class-centre rule.

    ``means`` are those of the same samples; ``centers`` nu, by default the same, may be class means of *another* view.
    As h_i - nu_{y_i} = (h_i - mu_{y_i}) + (mu - nu)_{y_i}, the small term is never lost in a large one.
    """

    def __init__(self, means: ClassMeans, centers: ClassMeans | None = None):
        self.means, self.centers = means, means if centers is None else centers
        what = "means" if centers is None else "centers"
        _check(what, self.centers.means, means.means.shape)
        self.centers.distances(what)
        _lengths(self.centers.centered)
        self.offsets = (means.means - self.centers.means) @ self.centers.centered.T
        self.totals, self.variance, self.seen = defaultdict(float), torch.zeros_like(means.means[:, 0]), 0

    def update(self, features: Tensor, labels: Tensor, predicted: Tensor | None = None) -> None:
        """Add a batch; ``predicted`` (n,) are the network's own classes, for NC4."""
        nu = self.centers
        for h, y, k in _blocks(features, labels, labels if predicted is None else predicted):
            within = h - self.means.means.index_select(0, y)  # h_i - mu_{y_i}
            self.variance.index_add_(0, y, within.norm(dim=1).square())
            inner = self.offsets[y] + (nu.centered @ within.T).T  # (h_i - nu_{y_i}) M~^T
            nearest, closest = nu.nearest(inner + nu.gram[y])
            found = {"nc1": len(nu.means) * (inner @ nu.gram_inverse).square()}
            found |= {"ncc_accuracy": nearest == y, "leapt": closest != y}
            if predicted is not None:
                found["nc4"] = nearest != k
            for name, values in found.items():
                self.totals[name] += values.sum(dtype=torch.float64)
            self.seen += len(h)

    def result(self) -> dict[str, float]:
        """``nc1``, ``ncc_accuracy``, ``leapt`` and ``nc4``. ValueError unless every sample came again."""
        N = int(self.means.counts.sum())
        if self.seen != N:
            raise ValueError(f"the second pass saw {self.seen} samples, the first {N}")
        return {name: float(total) / N for name, total in self.totals.items()}

    def cdnv(self) -> float:
        """Mean over pairs of classes of (var_c + var_c') / (2 |mu_c - mu_c'|^2), about the samples' own means."""
        pooled = (v := self.variance / self.means.counts)[:, None] + v
        return float(_mean_over_pairs(pooled / (2 * self.means.distances().square())))


def combined(own: WithinPass, about: WithinPass | None = None) -> dict[str, float]:
    """Every measure of one view that needs no weight: about its own means, and (``centers_...``) about another's."""
    M, out = own.means.centered, own.result()
    out |= {"nc1_per_class": out["nc1"] / len(M), "equinorm": float(equinorm(M)), "equiangle": float(equiangle(M))}
    out["cdnv"] = own.cdnv()
    return out | ({} if about is None else {f"centers_{name}": value for name, value in about.result().items()})


def measure(
    features: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    num_classes: int | None = None,
    centers: ClassMeans | Tensor | None = None,
) -> dict[str, float]:
    """Every collapse measure of one set of features (Papyan, Han & Donoho 2020; Su et al. 2024, section 3).

    Takes features (N, d) or (N, ...), any float type; labels (N,), integers in 0..C-1; weight (C, d), bias (C,) of the
    linear classifier; num_classes C, else the rows of ``weight``, else the largest label + 1; centers, ``ClassMeans``
    or (C, d), the class means of another view.

    Returns a dict of floats without units, all 0 in perfect collapse but the accuracies, which are 1: ``nc1``
    tr(Sigma_W Sigma_B^+), with Sigma_W the mean of (h - mu_y)(h - mu_y)^T and Sigma_B = M~^T M~ / C; ``nc1_per_class``
    the same over C (Papyan's convention); ``equinorm`` and ``equiangle`` of M~ (see there); ``cdnv`` mean over pairs of
    (var_c + var_c') / (2 |mu_c - mu_c'|^2) (Galanti et al. 2022); ``ncc_accuracy`` share that the nearest class centre
    labels rightly; ``leapt`` share of h - mu_G closest *in angle* to another class's m~. With ``weight`` also
    ``weight_equinorm``, ``weight_equiangle``, ``nc3`` |W/|W|_F - M~/|M~|_F|_F^2, ``nc4`` share on which the nearest
    centre disagrees with the *network* argmax(W h + b), and its ``accuracy``. With ``centers`` the same samples about
    those means: ``centers_nc1``, ``centers_ncc_accuracy``, ``centers_leapt`` and ``centers_nc4``.
    Where d < C - 1 no simplex of C vertices fits: equiangle stays above 0, and NC1, by its pseudo-inverse, counts
    the scatter along the directions that the means span.
    Raises ValueError for NaN or infinity, no samples, an empty class, one class, a label out of range, shapes that
    do not match, identical class means, a class mean on the global mean, or a row of ``weight`` of length 0.
    """
    means = class_means(features, labels, len(weight) if weight is not None and num_classes is None else num_classes)
    passes = [WithinPass(means)]
    if centers is not None:
        passes.append(WithinPass(means, as_means(centers, "centers")))
    found, predicted = {}, None
    if weight is not None:
        found = weight_measures(weight, means)
        h = features.detach().flatten(1).to(torch.promote_types(features.dtype, torch.float32))  # as the network does
        b = None if bias is None else _check("bias", bias, weight.shape[:1]).to(h)
        predicted = torch.nn.functional.linear(h, weight.detach().to(h), b).argmax(1)
        found["accuracy"] = float((predicted == labels.to(predicted)).double().mean())
    for one in passes:
        one.update(features, labels, predicted)
    return combined(*passes) | found


def class_means(features: Tensor, labels: Tensor, num_classes: int | None = None) -> ClassMeans:
    """mu_c, the mean of h_i over y_i = c, and n_c, of features (N, d), labels (N,). Errors as in ``measure``."""
    first = MeansPass((int(labels.max()) + 1 if len(labels) else 2) if num_classes is None else num_classes)
    first.update(features, labels)
    return first.result()


def weight_measures(weight: Tensor, means: ClassMeans) -> dict[str, float]:
    """NC2 of the rows of W (C, d), not centred, and NC3, |W/|W|_F - M~/|M~|_F|_F^2. Errors as in ``measure``."""
    W, M = _check("weight", weight, means.means.shape).to(means.means), means.centered
    nc3 = (W / W.norm() - M / M.norm()).square().sum()
    return {"weight_equinorm": float(equinorm(W)), "weight_equiangle": float(equiangle(W)), "nc3": float(nc3)}


def equinorm(vectors: Tensor) -> Tensor:
    """std(|v_c|) / mean(|v_c|) of vectors (C, d), unbiased std; 0: all of one length. Errors as in ``cosines``."""
    lengths = _lengths(_check("vectors", vectors))
    return lengths.std() / lengths.mean()


def cosines(vectors: Tensor) -> Tensor:
    """cos(v_c, v_c') (C, C) of vectors (C, d), in float64. ValueError for one vector, NaN, infinity, or length zero."""
    v = _check("vectors", vectors)
    return (v @ v.T) / _lengths(v).outer(_lengths(v))


def equiangle(vectors: Tensor) -> Tensor:
    """Mean over ordered pairs of |cos(v_c, v_c') + 1/(C-1)|; 0: the angles of a simplex. Errors as in ``cosines``."""
    return _mean_over_pairs((cosines(vectors) + 1 / (len(vectors) - 1)).abs())


def similarity(means_a: ClassMeans | Tensor, means_b: ClassMeans | Tensor) -> dict[str, Tensor | float]:
    """Do two simplices coincide? Compare the class means of two views class by class (Su et al. 2024).

    Takes ``ClassMeans`` or (C, d). Returns ``angle`` (C,), in degrees, between m~_c of one and the other, ``distance``
    (C,) |m~_c - m~'_c| in the features' units, the twins ``angle_uncentered`` and ``distance_uncentered`` of mu_c, and
    ``shift`` |mu_G - mu'_G|. ValueError where shapes differ, for NaN or infinity, and where a mean has length zero.
    """
    a, b = as_means(means_a), as_means(means_b)
    _check("second means", b.means, a.means.shape)
    out = {}
    for kind, x, y in (("", a.centered, b.centered), ("_uncentered", a.means, b.means)):
        u, v = x / _lengths(x)[:, None], y / _lengths(y)[:, None]
        half = torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # Kahan's form, exact near 0 and 180 degrees
        out |= {"angle" + kind: torch.rad2deg(2 * half), "distance" + kind: (x - y).norm(dim=1)}
    return out | {"shift": float((a.global_mean - b.global_mean).norm())}


def leap_matrix(features: Tensor, labels: Tensor, means: ClassMeans | Tensor) -> Tensor:
    """Where attacked points went: (C, C), row c the shares of class-c samples by closest clean vertex (Su et al. 2024).

    Closest *in angle*: argmax over c' of cos(h_i - mu_G, m~_c'), both of the clean view ``means``. Identity: nothing
    leapt. features (N, d), labels (N,). Errors as in ``measure``.
    """
    clean = as_means(means)
    own = class_means(features, labels, len(clean.means))  # refuses what cannot be counted
    _lengths(_check("means", clean.centered, own.means.shape))
    counts = torch.zeros_like(clean.gram)
    for h, y in _blocks(features, labels):
        _, closest = clean.nearest((h - clean.global_mean) @ clean.centered.T)
        counts.index_put_((y, closest), counts.new_ones(()), accumulate=True)
    return counts / own.counts[:, None]


def as_means(means: ClassMeans | Tensor, what: str = "means") -> ClassMeans:
    """Class means from a plain (C, d) tensor, its classes weighted alike. ValueError for NaN or infinity."""
    if not isinstance(means, ClassMeans):
        means = ClassMeans(means, means.new_ones(len(means), dtype=torch.int64))
    return ClassMeans(_check(what, means.means), means.counts)


def _lengths(vectors: Tensor) -> Tensor:
    lengths = vectors.norm(dim=1)
    if zero := (lengths <= IDENTICAL * lengths.max()).nonzero().flatten().tolist():
        raise ValueError(f"vector of class {zero[0]} has length zero: its angles have no value")
    return lengths


def _mean_over_pairs(table: Tensor) -> Tensor:
    return table.fill_diagonal_(0).sum() / (len(table) * (len(table) - 1))


def _check(what: str, values: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """The values as float64, free of gradients. ValueError unless finite and of ``shape``, by default (C, d)."""
    ok = values.ndim == 2 and len(values) > 1 if shape is None else values.shape == shape
    if not ok:
        raise ValueError(
            f"{what} of shape {tuple(values.shape)}, expected {'(C, d), C > 1' if shape is None else tuple(shape)}"
        )
    if bad := (~values.isfinite()).nonzero()[:1].tolist():
        raise ValueError(f"{what} of class {bad[0][0]}: NaN or infinity")
    return values.detach().double()


def _blocks(features: Tensor, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows as float64 (n, d), a cache's worth at a time, beside the same rows of integer columns (N,)."""
    for c in columns:
        if features.ndim < 2 or c.shape != features.shape[:1] or c.is_floating_point() or c.dtype == torch.bool:
            raise ValueError(f"features {tuple(features.shape)} and labels {tuple(c.shape)} of {c.dtype} do not match")
    size = max(1, BLOCK[features.device.type] * len(features) // max(1, features.numel()))
    columns = [c.to(features.device, torch.int64).split(size) for c in columns]
    for h, *beside in zip(features.detach().split(size), *columns):
        if len(h):
            yield h.flatten(1).double(), *beside
