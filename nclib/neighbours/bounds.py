"""Bounds beside the stars': intervals, zonotopes, CROWN, the exact line of a set with one predicate, and PGD.

All take a network as ``stars.lifted`` gives it and a star without rows, {c + sum_i a_i V_i : lower <= a <= upper}.
"""

from dataclasses import replace

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


def crown(net: nn.Sequential, star: Star, forms: Tensor | None = None, part: int = 128) -> tuple[list, Tensor | None]:
    """CROWN: bounds (C, H, W) twice for the input of every ReLU, and, for linear forms (n, C, H, W) of the output,
    their lower bounds (n,). Lower slopes are 1 where u > -l, else 0. ValueError for max pooling."""
    layers, known = list(net), []
    shapes = [star.images[:1]]
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            raise ValueError("CROWN here knows no max pooling")
        shapes.append(layer(shapes[-1]))

    def lowest(depth: int, forms: Tensor) -> Tensor:
        """Lower bounds of forms of what enters layer ``depth``."""
        constant, relus = 0, len(known)
        for i in reversed(range(depth)):
            if isinstance(layers[i], nn.ReLU):
                relus -= 1
                low, high = known[relus]
                live = (low < 0) & (high > 0)
                upper = torch.where(live, high / (high - low), (low >= 0).double())
                lower = torch.where(live, (high > -low).double(), upper)
                up = forms.clamp(min=0)
                down = forms - up
                constant = constant - down.flatten(1) @ (upper * low * live).flatten()
                forms = up.mul_(lower).add_(down.mul_(upper))
            else:
                x = torch.zeros(len(forms), *shapes[i].shape[1:], dtype=torch.float64, requires_grad=True)
                constant = constant + forms.flatten(1) @ layers[i](x[:1].detach()).flatten()
                (forms,) = torch.autograd.grad(linear(layers[i], x), x, forms)
        weight = forms.flatten(1) @ star.images.flatten(1).T
        box = torch.minimum(weight[:, 1:] * star.lower, weight[:, 1:] * star.upper).sum(1)
        return constant + weight[:, 0] + box

    def all_lowest(depth: int, forms: Tensor) -> Tensor:
        return torch.cat([lowest(depth, some) for some in forms.split(part)])

    prefix = star
    for depth, layer in enumerate(layers):
        if not isinstance(layer, nn.ReLU):
            prefix = prefix if known else affine(layer, prefix)
        elif not known:
            known.append(ranges(prefix))  # nothing was relaxed so far: exact
        else:
            shape = shapes[depth].shape[1:]
            unit = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
            known.append((all_lowest(depth, unit).view(shape), -all_lowest(depth, -unit).view(shape)))
    return known, None if forms is None else all_lowest(len(layers), forms.double())


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
    share = ((finer - knots[left]) / (knots[left + 1] - knots[left])).view(-1, *[1] * (values.ndim - 1))
    return finer, torch.lerp(values[left], values[left + 1], share)
