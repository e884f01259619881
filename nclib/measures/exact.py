"""Neural collapse measured exactly, in two streaming passes and O(C (C + d)) memory (notation: ``means``).

No d x d matrix is ever built: as Sigma_B = M~^T M~ / C, with P = pinv(M~^T) = (M~ M~^T)^+ M~ the
variability tr(Sigma_W Sigma_B^+) is C times the mean of |P (h_i - mu_{y_i})|^2. The C x C numbers are those of pairs
of classes; samples cost the same memory however many there are.
"""

from collections import defaultdict

import torch
from torch import Tensor

from .means import BLOCK, ClassMeans, as_means, blocks, check, class_means, double, lengths
from .simplex import equiangle, equinorm, mean_over_pairs


class WithinPass:
    """Second pass: scatter about one set of centres, and the nearest-class-centre rule.

    ``means`` are those of the same samples; ``centers`` nu, by default the same, may be class means of *another* view.
    As h_i - nu_{y_i} = (h_i - mu_{y_i}) + (mu - nu)_{y_i}, the small term is never lost in a large one.
    """

    def __init__(self, means: ClassMeans, centers: ClassMeans | None = None):
        self.means, self.centers = means, means if centers is None else centers
        what = "means" if centers is None else "centers"
        check(what, self.centers.means, means.means.shape)
        self.centers.distances(what)
        lengths(self.centers.centered)
        self.offsets = (means.means - self.centers.means) @ self.centers.centered.T
        self.totals, self.variance, self.seen = defaultdict(float), torch.zeros_like(means.means[:, 0]), 0

    def update(self, features: Tensor, labels: Tensor, predicted: Tensor | None = None) -> None:
        """Add a batch; ``predicted`` (n,) are the network's own classes, for NC4."""
        nu = self.centers
        for h, y, k in blocks(features, labels, labels if predicted is None else predicted, width=len(nu.means)):
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
        return float(mean_over_pairs(pooled / (2 * self.means.distances().square())))


def combined(own: WithinPass, about: WithinPass | None = None) -> dict[str, float]:
    """Every measure of one view that needs no weight: about its own means, and (``centers_...``) about another's."""
    M, out = own.means.centered, own.result()
    out |= {"nc1_per_class": out["nc1"] / len(M), "equinorm": float(equinorm(M)), "equiangle": float(equiangle(M))}
    out["cdnv"] = own.cdnv()
    return out | ({} if about is None else {f"centers_{name}": value for name, value in about.result().items()})


def measure(
    features: Tensor, labels: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    num_classes: int | None = None, centers: ClassMeans | Tensor | None = None,
) -> dict[str, float]:  # fmt: skip
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
    Where d < C - 1 no simplex fits: equiangle stays above 0, and NC1 counts the scatter in the span of the means.
    Raises ValueError for NaN or infinity, no samples, an empty class, one class, a label out of range, shapes that
    do not match, identical class means, a class mean on the global mean, or a row of ``weight`` of length 0.
    """
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    if weight is None and bias is not None:
        raise ValueError("a bias without its weight: give both, or neither")
    weight = None if weight is None else torch.as_tensor(weight)
    means = class_means(features, labels, len(weight) if weight is not None and num_classes is None else num_classes)
    passes = [WithinPass(means)]
    if centers is not None:
        passes.append(WithinPass(means, as_means(centers, "centers")))
    found, predicted = {}, None
    if weight is not None:
        found = weight_measures(weight, means)
        h = features.detach().flatten(1).to(torch.promote_types(features.dtype, torch.float32))  # as the network does
        b = None if bias is None else check("bias", bias, weight.shape[:1]).to(h)
        W, rows = weight.detach().to(h), max(1, BLOCK["cpu"] // len(weight))
        predicted = torch.cat([torch.nn.functional.linear(part, W, b).argmax(1) for part in h.split(rows)])
        found["accuracy"] = float(double(predicted == labels.to(predicted)).mean())
    for one in passes:
        one.update(features, labels, predicted)
    return combined(*passes) | found


def weight_measures(weight: Tensor, means: ClassMeans) -> dict[str, float]:
    """NC2 of the rows of W (C, d), not centred, and NC3, |W/|W|_F - M~/|M~|_F|_F^2. Errors as in ``measure``."""
    W, M = check("weight", weight, means.means.shape).to(means.means), means.centered
    nc3 = (W / W.norm() - M / M.norm()).square().sum()
    return {"weight_equinorm": float(equinorm(W)), "weight_equiangle": float(equiangle(W)), "nc3": float(nc3)}
