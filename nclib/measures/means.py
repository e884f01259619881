"""First pass: class means, and the doors through which all samples come.

Notation (all modules): C classes, n_c samples of class c, N in all; h (N, d) features; mu_c class
means, mu_G their mean weighted by n_c, M~ = M - mu_G (C, d); W (C, d), b (C,) the classifier.

Sums are float64 whatever the features are; no input is changed, no gradient tracked (``check`` and ``blocks``, the
two doors, detach).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..checks import check_count

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
        """(M~ M~^T)^+ (C, C), from the singular values of M~ itself: squaring would lose half their digits.

        Where C > d without its last factor (C, d), as that one changes no length and would cost C x C products a row.
        """
        U, s, _ = torch.linalg.svd(torch.linalg.qr(self.centered.T, mode="r").R.T, full_matrices=False)
        half = U * torch.where(s > IDENTICAL * self.means.norm(dim=1).max(), s**-2, 0.0)
        return half if len(half) > len(s) else half @ U.T

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
        if check_count("num_classes", num_classes, 0) < 2:
            raise ValueError(f"collapse needs two classes or more, not {num_classes}")
        self.num_classes, self.seen, self.sums = num_classes, 0, None

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (n, d) or (n, ...), labels (n,)."""
        for h, y in blocks(features, labels):
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
            named = ", ".join(map(str, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
            raise ValueError(f"no samples of class {named}, of {self.num_classes} classes")
        return ClassMeans(self.sums / self.counts[:, None], self.counts)


def class_means(features: Tensor, labels: Tensor, num_classes: int | None = None) -> ClassMeans:
    """mu_c, the mean of h_i over y_i = c, and n_c, of features (N, d), labels (N,). Errors as in ``measure``."""
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    first = MeansPass((int(labels.max()) + 1 if len(labels) else 2) if num_classes is None else num_classes)
    first.update(features, labels)
    return first.result()


def as_means(means: ClassMeans | Tensor, what: str = "means") -> ClassMeans:
    """Class means from a plain (C, d) tensor, its classes weighted alike. ValueError for NaN or infinity."""
    if isinstance(means, ClassMeans):
        return ClassMeans(check(what, means.means), means.counts)
    means = check(what, means)
    return ClassMeans(means, torch.ones_like(means[:, 0], dtype=torch.int64))


def lengths(vectors: Tensor) -> Tensor:
    lengths = vectors.norm(dim=1)
    if zero := (lengths <= IDENTICAL * lengths.max()).nonzero().flatten().tolist():
        raise ValueError(f"vector of class {zero[0]} has length zero: its angles have no value")
    return lengths


def check(what: str, values: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """The values as float64, free of gradients. ValueError unless finite and of ``shape``, by default (C, d)."""
    values = torch.as_tensor(values)
    ok = values.ndim == 2 and len(values) > 1 if shape is None else values.shape == shape
    if not ok:
        raise ValueError(
            f"{what} of shape {tuple(values.shape)}, expected {'(C, d), C > 1' if shape is None else tuple(shape)}"
        )
    if bad := (~values.isfinite()).nonzero()[:1].tolist():
        raise ValueError(f"{what} of class {bad[0][0]}: NaN or infinity")
    return double(values.detach())


def double(values: Tensor) -> Tensor:
    """In float64; from an MPS device, which does not know it, on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def blocks(features: Tensor, *columns: Tensor, width: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """Rows as float64 (n, d), a cache's worth at a time, beside the same rows of integer columns (N,).

    ``width``: numbers that the caller makes of a row, where they may be more than d.
    """
    if features.is_complex():
        raise ValueError(f"features must be real numbers, not {features.dtype}")
    for c in columns:
        if features.ndim < 2 or c.shape != features.shape[:1] or c.is_floating_point() or c.dtype == torch.bool:
            raise ValueError(f"features {tuple(features.shape)} and labels {tuple(c.shape)} of {c.dtype} do not match")
    if features.device.type == "mps":
        features = features.cpu()  # which knows double precision
    d = features.numel() // max(1, len(features))
    size = max(1, BLOCK.get(features.device.type, BLOCK["cuda"]) // max(d, width))
    columns = [c.to(features.device, torch.int64).split(size) for c in columns]
    for h, *beside in zip(features.detach().split(size), *columns):
        if len(h):
            yield h.flatten(1).double(), *beside
