"""How far vectors are from a simplex, and how far two simplices, or points and vertices, are from each other."""

import torch
from torch import Tensor

from .means import IDENTICAL, ClassMeans, as_means, blocks, check, class_means, lengths


def equinorm(vectors: Tensor) -> Tensor:
    """std(|v_c|) / mean(|v_c|) of vectors (C, d), unbiased std; 0: all of one length. Errors as in ``cosines``."""
    length = lengths(check("vectors", vectors))
    return length.std() / length.mean()


def cosines(vectors: Tensor) -> Tensor:
    """cos(v_c, v_c') (C, C) of vectors (C, d), in float64. ValueError for one vector, NaN, infinity, or length zero."""
    v = check("vectors", vectors)
    return (v @ v.T) / lengths(v).outer(lengths(v))


def equiangle(vectors: Tensor) -> Tensor:
    """Mean over ordered pairs of |cos(v_c, v_c') + 1/(C-1)|; 0: the angles of a simplex. Errors as in ``cosines``."""
    return mean_over_pairs((cosines(vectors) + 1 / (len(vectors) - 1)).abs())


def simplex_gap(A: Tensor, B: Tensor, centred: bool = True) -> Tensor:
    """| A B^T / |A B^T| - (I - 11^T/C) / sqrt(C - 1) | of vectors (C, d), Frobenius norms (Zhou et al. 2022).

    With A = B = W their NC2; with the classifier and the class means their NC3: not the gap that ``measure`` calls nc3.
    0: A and B are one simplex, but for scale. ``centred`` takes the mean of the rows off both first; without it a
    common offset counts (Yaras et al. 2022). ValueError for other shapes, NaN, infinity, or where A B^T is zero.
    """
    a = check("first vectors", A)
    b = check("second vectors", B, a.shape)
    zero = IDENTICAL**2 * a.norm() * b.norm()
    if centred:
        a, b = a - a.mean(0), b - b.mean(0)
    inner, C = a @ b.T, len(a)
    if inner.norm() <= zero:
        raise ValueError("all inner products of the two sets of vectors are zero: no shape to compare with a simplex")
    simplex = torch.eye(C).to(inner) - 1 / C
    return (inner / inner.norm() - simplex / (C - 1) ** 0.5).norm()


def similarity(means_a: ClassMeans | Tensor, means_b: ClassMeans | Tensor) -> dict[str, Tensor | float]:
    """Do two simplices coincide? Compare the class means of two views class by class (Su et al. 2024).

    Takes ``ClassMeans`` or (C, d). Returns ``angle`` (C,), in degrees, between m~_c of one and the other, ``distance``
    (C,) |m~_c - m~'_c| in the features' units, the twins ``angle_uncentered`` and ``distance_uncentered`` of mu_c, and
    ``shift`` |mu_G - mu'_G|. ValueError where shapes differ, for NaN or infinity, and where a mean has length zero.
    """
    a, b = as_means(means_a), as_means(means_b)
    check("second means", b.means, a.means.shape)
    out = {}
    for kind, x, y in (("", a.centered, b.centered), ("_uncentered", a.means, b.means)):
        u, v = x / lengths(x)[:, None], y / lengths(y)[:, None]
        half = torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # Kahan's form, exact near 0 and 180 degrees
        out |= {"angle" + kind: torch.rad2deg(2 * half), "distance" + kind: (x - y).norm(dim=1)}
    return out | {"shift": float((a.global_mean - b.global_mean).norm())}


def leap_matrix(features: Tensor, labels: Tensor, means: ClassMeans | Tensor) -> Tensor:
    """Where attacked points went: (C, C), row c the shares of class-c samples by closest clean vertex (Su et al. 2024).

    Closest *in angle*: argmax over c' of cos(h_i - mu_G, m~_c'), both of the clean view ``means``. Identity: nothing
    leapt. features (N, d), labels (N,). Errors as in ``measure``.
    """
    clean = as_means(means)
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    own = class_means(features, labels, len(clean.means))  # refuses what cannot be counted
    lengths(check("means", clean.centered, own.means.shape))
    counts = torch.zeros_like(clean.gram)
    for h, y in blocks(features, labels, width=len(clean.means)):
        _, closest = clean.nearest((h - clean.global_mean) @ clean.centered.T)
        counts.index_put_((y, closest), counts.new_ones(()), accumulate=True)
    return counts / own.counts[:, None]


def mean_over_pairs(table: Tensor) -> Tensor:
    return table.fill_diagonal_(0).sum() / (len(table) * (len(table) - 1))
