"""The tangent kernel of wide ReLU networks in closed form, what it predicts, and how kernels compare.

Images are flattened, (N, ...) to (N, d). A kernel is a callable: images (N, d) and (M, d) to a matrix (N, M). Matrices
are factored in float64; a predictor that is attacked runs in float32, at half the time and the same accuracies.
"""

from collections.abc import Callable
from math import inf, pi
from typing import NamedTuple

import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn import functional as F

WEIGHT, BIAS = 2.0, 0.01  # variances of weights (times 1/fan-in) and biases
TINY = 1e-14
Kernel = Callable[[Tensor, Tensor], Tensor]


def linear_kernel(x: Tensor, z: Tensor | None = None, weight: float = WEIGHT, bias: float = BIAS) -> Tensor:
    """weight <x, z> / d + bias, (N, M): the tangent kernel of a linear network. ValueError for images that differ."""
    x, z = _pair(x, z)
    if not (0 < weight < inf and 0 <= bias < inf):
        raise ValueError(f"weight is a variance above 0, bias one of 0 or more, not {weight} and {bias}")
    return weight / x.shape[1] * x @ z.T + bias


def relu_kernel(
    x: Tensor, z: Tensor | None = None, depth: int = 1, weight: float = WEIGHT, bias: float = BIAS, rows: int = 256
) -> Tensor:
    """The tangent kernel of an infinitely wide ReLU network, (N, M), in closed form (Jacot et al. 2018; Cho & Saul
    2009 for the arc-cosine step).

    depth : hidden layers. weight, bias : variances of weights, times 1/fan-in, and of biases.
    rows : images of ``x`` at a time; memory beyond the result, and the result once more while its parts are joined, is
        about 10 rows M numbers, times depth where a gradient is asked for. Few rows stay in cache and are faster.

    Raises ValueError for depth < 1, weight <= 0, images of other size or type or with NaN, and an all-zero image where
    bias is 0.
    """
    x, z = _pair(x, z)
    if depth < 1:
        raise ValueError(f"depth counts hidden layers, 1 or more, not {depth}; see linear_kernel for none")
    for images in (x, z) if bias <= 0 else ():
        if not (seen := images.any(1)).all():
            where = int((~seen).nonzero()[0])
            raise ValueError(f"image {where} is all zero: the kernel has no angle there; set bias > 0")
    return torch.cat([_tangent(part, z, depth, weight, bias) for part in x.split(rows)])


def _tangent(x: Tensor, z: Tensor, depth: int, weight: float, bias: float) -> Tensor:
    forward = linear_kernel(x, z, weight, bias)
    at_x, at_z = (weight / t.shape[1] * t.square().sum(1) + bias for t in (x, z))
    tangent = forward
    for _ in range(depth):
        lengths = (at_x[:, None] * at_z).sqrt()
        cosine = forward / lengths
        sine = (1 - cosine.square()).clamp_min(TINY).sqrt()  # arccos has an infinite slope where x meets z
        outside = (pi - torch.atan2(sine, cosine)) / pi
        forward = weight / 2 * lengths * (sine / pi + outside * cosine) + bias
        tangent = forward + weight / 2 * outside * tangent
        at_x, at_z = (weight / 2 * t + bias for t in (at_x, at_z))
    return tangent


def _pair(x: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
    x = x.flatten(1)
    z = x if z is None else z.flatten(1)
    if x.shape[1] != z.shape[1] or x.dtype != z.dtype:
        one, other = (f"{t.shape[1]} pixels of {t.dtype}" for t in (x, z))
        raise ValueError(f"images must be alike: {one} and {other}")
    if not (x.isfinite().all() and z.isfinite().all()):
        raise ValueError("images hold NaN or infinite pixels")
    return x, z


# What a kernel predicts -----------------------------------------------------------------------------


class Spectrum(NamedTuple):
    """Eigenvalues (N,), the largest first, and eigenvectors (N, N) by column."""

    values: Tensor
    vectors: Tensor


def spectrum(matrix: Tensor, jitter: float = 0.0) -> Spectrum:
    """Factor a kernel's matrix (N, N) in float64, ``jitter`` times its mean diagonal added to the diagonal. ValueError
    for a matrix that is not symmetric, or has an eigenvalue below -1e-8 of the largest."""
    matrix = matrix.double()
    if matrix.shape != matrix.T.shape or (matrix - matrix.T).abs().max() > 1e-6 * matrix.abs().max():
        raise ValueError(f"not a kernel matrix: {tuple(matrix.shape)}, and not symmetric")
    values, vectors = torch.linalg.eigh(matrix + jitter * matrix.trace() / len(matrix) * torch.eye(len(matrix)))
    if values[0] < -1e-8 * values[-1]:
        raise ValueError(f"not a kernel matrix: eigenvalue {values[0]:.3g} beside the largest, {values[-1]:.3g}")
    return Spectrum(values.flip(0), vectors.flip(1))


def targets(y: Tensor, num_classes: int) -> Tensor:
    """Unit vectors of labels (N,) minus 1/C, (N, C), float64: centred, so that a constant explains none of them."""
    if len(strange := y[(y < 0) | (y >= num_classes)]):
        raise ValueError(f"labels run from 0 to {num_classes - 1}: not {int(strange[0])}")
    return F.one_hot(y, num_classes).double() - 1 / num_classes


def coefficients(
    found: Spectrum, wanted: Tensor, block: tuple[int, int] | None = None, time: float | None = None
) -> Tensor:
    """alpha (N, C) of the predictor f(x) = K(x, X) alpha that gradient flow on squared error reaches from zero.

    wanted : what to fit, (N, C). block : first and last eigenvector of a feature, counted from 1. time : of the flow,
    learning rate times steps; None, until it fits. Tsilivis & Kempe (2022), section 2; filters of eigenvalues:
    (1 - exp(-time value)) / value. ValueError for a time < 0, a block outside 1..N, and a singular matrix.
    """
    values, vectors = found
    first, last = block or (1, len(values))
    if not 1 <= first <= last <= len(values):
        raise ValueError(f"a block lies within 1 and {len(values)}, its first not above its last: not {block}")
    if time is not None and not 0 <= time < inf:
        raise ValueError(f"time must be 0 or more and finite, not {time}; None is the end")
    values, vectors = values[first - 1 : last], vectors[:, first - 1 : last]
    if time is None and values[-1] <= 1e-13 * found.values[0]:
        one, other = (int(i) for i in vectors[:, -1].abs().topk(2).indices.sort().values)
        raise ValueError(f"singular kernel: images {one} and {other} coincide, or nearly: add jitter")
    if time is None:
        filters = 1 / values
    else:  # an eigenvalue that is 0 but for rounding has the limit, time
        sure = values > 1e-13 * found.values[0]
        filters = torch.where(sure, -torch.expm1(-time * values) / torch.where(sure, values, 1), time)
    return vectors @ (filters[:, None] * (vectors.T @ wanted.double()))


def predictor(kernel: Kernel, x: Tensor, alpha: Tensor, span: float | None = 10.0, dtype=torch.float32) -> Callable:
    """Images (M, ...) to logits (M, C) = scale K(images, x) alpha, for any attack to take.

    The scale makes the mean range of logits over ``x`` equal to ``span`` (None: no scale): decisions stay, and
    cross-entropy sees a slope, of a single feature too, whose predictions are tiny.
    """
    x, alpha = x.flatten(1).to(dtype), alpha.to(dtype)
    if span:
        logits = kernel(x, x) @ alpha
        alpha = alpha * (span / (logits.amax(1) - logits.amin(1)).mean().clamp_min(1e-30))
    return lambda images: kernel(images.flatten(1).to(dtype), x) @ alpha


def nystroem(kernel: Kernel, x: Tensor, wanted: Tensor, landmarks: Tensor) -> Tensor:
    """alpha (M, C) of the predictor on M of the images alone, ``landmarks`` (indices), that fits all N best: memory
    N M, time N M^2 (Williams & Seeger 2001). With all of them it is the full predictor."""
    columns = kernel(x.double().flatten(1), x[landmarks].double().flatten(1))
    return torch.linalg.lstsq(columns, wanted.double(), driver="gelsd").solution


# How kernels compare ---------------------------------------------------------------------------------


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """1 - <K1, K2> / (|K1| |K2|): 0 for the same kernel at any scale. ValueError for sizes that differ, and for 0."""
    if one.shape != other.shape:
        raise ValueError(f"kernels of different size: {tuple(one.shape)} and {tuple(other.shape)}")
    one, other = one.double().flatten(), other.double().flatten()
    if not (one.any() and other.any()):
        raise ValueError("a kernel that is zero everywhere is like no other")
    return 1 - float(one @ other / (one.norm() * other.norm()))


def leading(matrix: Tensor, count: int) -> Spectrum:
    """The ``count`` largest eigenvalues and their vectors, by Lanczos steps where they are few."""
    if not 1 <= count <= len(matrix):
        raise ValueError(f"{count} eigenvalues asked of a matrix of {len(matrix)}")
    matrix = matrix.double()
    if 4 * count > len(matrix):
        return Spectrum(*(part.flip(-1)[..., :count] for part in torch.linalg.eigh(matrix)))
    found = eigsh(matrix.numpy(), count, which="LA", v0=torch.ones_like(matrix[0]).numpy())
    return Spectrum(*(torch.from_numpy(part.copy()).flip(-1) for part in found))


def top_mass(matrix: Tensor, count: int = 20) -> float:
    """Share of the sum of squared eigenvalues that the ``count`` largest have: between count/N and 1."""
    return float(leading(matrix, count).values.square().sum() / matrix.double().square().sum())


def overlap(one: Tensor, other: Tensor) -> float:
    """Of two subspaces, given by orthonormal columns (N, k): |U'V|^2 / k, 1 for the same, k/N by chance."""
    return float((one.T @ other).square().sum() / one.shape[1])


def centred(matrix: Tensor) -> Tensor:
    """H K H, with H = I - 11'/N."""
    return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()


def alignment(matrix: Tensor, wanted: Tensor) -> float:
    """Centred alignment of a kernel (N, N) with targets (N, C): 1 where it is their own YY' (Cortes et al. 2012)."""
    return 1 - kernel_distance(centred(matrix), centred((wanted @ wanted.T).to(matrix)))
