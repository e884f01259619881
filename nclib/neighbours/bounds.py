"""Bounds beside the stars': intervals, zonotopes, CROWN, the exact line of a set with one predicate, and PGD.

All take a network as ``stars.lifted`` gives it and a star without rows, {c + sum_i a_i V_i : lower <= a <= upper}.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from .stars import Star, affine, linear, ranges


def intervals(net: nn.Sequential, star: Star) -> tuple[Tensor, Tensor]:
    """Bounds (C, H, W) of every output by interval arithmetic (IBP)."""
    low, high = ranges(star)
    for layer in net:
        if isinstance(layer, nn.ReLU | nn.MaxPool2d):
            low, high = layer(low[None])[0], layer(high[None])[0]
        else:
            middle, radius = layer(((low + high) / 2)[None])[0], linear(layer, ((high - low) / 2)[None], torch.abs)[0]
            low, high = middle - radius, middle + radius
    return low, high


def zonotope(net: nn.Sequential, star: Star) -> Star:
    """The zonotope of DeepZ around every output: a star without rows. For a neuron that straddles 0 a parallelogram,
    y = u x / (u - l) + e with 0 <= e <= -u l / (u - l). ValueError for max pooling."""
    for layer in net:
        if isinstance(layer, nn.MaxPool2d):
            raise ValueError("zonotopes here know no max pooling")
        if not isinstance(layer, nn.ReLU):
            star = affine(layer, star)
            continue
        low, high = ranges(star)
        live = (low < 0) & (high > 0)
        slope = torch.where(live, high / (high - low), (low >= 0).double())
        new, count = torch.zeros(int(live.sum()), *live.shape, dtype=torch.float64), star.predicates + int(live.sum())
        new[torch.arange(len(new)), *live.nonzero(as_tuple=True)] = 1
        ends = torch.zeros(len(new), dtype=torch.float64), (-slope * low)[live]
        lower, upper = (torch.cat(both) for both in zip((star.lower, star.upper), ends))
        images = torch.cat([star.images * slope, new])
        star = replace(star, images=images, lower=lower, upper=upper, A=csr_array((0, count)))
    return star


def touched(net: Iterable[nn.Module], mask: Tensor) -> Tensor:
    """The outputs (C, H, W) of affine and ReLU layers that a change of the marked inputs can reach."""
    for layer in net:
        mask = mask if isinstance(layer, nn.ReLU) else linear(layer, mask[None].double(), torch.abs)[0] > 0
    return mask


def _step(layers: nn.Sequential, centre: Tensor, mask: Tensor, part: int) -> tuple[Tensor, Tensor, Tensor]:
    """Affine layers between the values that a set moves, the marked ones, before (n) and after (m): offset (m,), matrix
    (m, n), and the marks after. What is fixed goes into the offset."""
    after, columns = touched(layers, mask), []
    for some in mask.flatten().nonzero().split(part):
        images = torch.zeros(len(some), mask.numel(), dtype=torch.float64).scatter_(1, some, 1).view(-1, *mask.shape)
        for layer in layers:
            images = linear(layer, images)
        columns.append(images[:, after])
    matrix = torch.cat([centre.new_zeros(0, int(after.sum())), *columns]).T.contiguous()
    return layers(centre.masked_fill(mask, 0))[0][after], matrix, after


def crown(
    net: nn.Sequential, star: Star, forms: csr_array | None = None, part: int = 256
) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """CROWN: bounds (C, H, W) twice for the input of every ReLU, and, for linear forms (n, C H W) of the output, a
    sparse array, their lower bounds (n,).

    Lower slopes are 1 where u > -l, else 0. The network is cut down to the values that the set can move, matrices
    between its ReLUs, and ``part`` forms go back through them at once: more are faster, and take more memory.
    ValueError for max pooling.
    """
    if any(isinstance(layer, nn.MaxPool2d) for layer in net):
        raise ValueError("CROWN here knows no max pooling")
    ends = [-1, *(i for i, layer in enumerate(net) if isinstance(layer, nn.ReLU)), len(net)]
    first, *later = (net[start + 1 : end] for start, end in pairwise(ends))
    centre, mask = first(star.images[:1]), touched(first, (star.images[1:] != 0).any(0))
    offset, matrix = (
        centre[0][mask],
        reduce(lambda images, layer: linear(layer, images), first, star.images[1:])[:, mask].T,
    )
    chain, known = [], []

    def lowest(constant: Tensor, forms: Tensor) -> Tensor:
        """Lower bounds of constants (n,) and forms (n, m) of what the newest ReLU gives."""
        for offset, matrix, low, high in reversed(chain):
            live = (low < 0) & (high > 0)
            upper = torch.where(live, high / (high - low), (low >= 0).double())
            lower = torch.where(live, (high > -low).double(), upper)
            up = forms.clamp(min=0)
            down = forms - up
            constant = constant - down @ (upper * low * live)
            forms = up.mul_(lower).add_(down.mul_(upper))
            constant, forms = constant + forms @ offset, forms @ matrix
        return constant + torch.minimum(forms * star.lower, forms * star.upper).sum(1)

    def all_lowest(constant: Tensor, forms: Tensor) -> Tensor:
        return torch.cat([lowest(*some) for some in zip(constant.split(part), forms.split(part))])

    for layers in later:
        low, high = all_lowest(offset, matrix), -all_lowest(-offset, -matrix)
        known.append(tuple(centre[0].masked_scatter(mask, bound) for bound in (low, high)))
        chain.append((offset, matrix, low, high))
        after = centre.relu()
        centre = layers(after)
        offset, matrix, mask = _step(layers, after, mask, part)
    if forms is None:
        return known, None
    constant = torch.from_numpy(forms @ centre[0].masked_scatter(mask, offset).flatten().numpy())
    forms = forms[:, mask.flatten().numpy()]
    blocks = (forms[k : k + part] @ matrix.numpy() for k in range(0, len(constant), part))
    low = [lowest(some, torch.from_numpy(block)) for some, block in zip(constant.split(part), blocks)]
    return known, torch.cat([constant[:0], *low])


def line(net: nn.Sequential, star: Star) -> tuple[Tensor, Tensor]:
    """The exact output on a set with one predicate: knots (K,), and the outputs there (K, C, H, W), straight between.

    Layer by layer a knot is put wherever a neuron changes sign, or two elements of a window change places.
    ValueError for a star with several predicates.
    """
    if star.predicates != 1:
        raise ValueError(f"the exact line is for one predicate, not {star.predicates}")
    knots = torch.cat([star.lower, star.upper])
    values = star.at(knots[:, None])
    for layer in net:
        if isinstance(layer, nn.ReLU):
            knots, values = _split(knots, values, values)
        elif isinstance(layer, nn.MaxPool2d):
            windows = F.unfold(values.flatten(0, 1)[:, None], layer.kernel_size, stride=layer.kernel_size)
            pairs = torch.combinations(torch.arange(windows.shape[1]))
            apart = (windows[:, pairs[:, 0]] - windows[:, pairs[:, 1]]).view(len(knots), -1)
            knots, values = _split(knots, values, apart)
        values = layer(values)
    return knots, values


def _split(knots: Tensor, values: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Knots and values with new ones where an entry of ``signs`` (K, ...) passes through zero between two knots."""
    before, after = signs[:-1].flatten(1), signs[1:].flatten(1)
    piece, entry = ((before * after) < 0).nonzero(as_tuple=True)
    share = before[piece, entry] / (before[piece, entry] - after[piece, entry])
    finer = torch.cat([knots, torch.lerp(knots[piece], knots[piece + 1], share)]).unique()
    left = (torch.searchsorted(knots, finer, right=True) - 1).clamp(0, len(knots) - 2)
    share = ((finer - knots[left]) / (knots[left + 1] - knots[left])).nan_to_num(0.0)  # of no length: the point
    share = share.view(-1, *[1] * (values.ndim - 1))
    return finer, torch.lerp(values[left], values[left + 1], share)
