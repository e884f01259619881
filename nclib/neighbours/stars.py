"""ImageStars: sets of images that affine layers map exactly and other layers enclose (Tran et al. 2021).

A star is {c + sum_i a_i V_i : A a <= d, lower <= a <= upper}, with the centre c and the generators V_i shaped like
images. What it proves holds for every point of the set: bounds come from duals, which are valid however a solver ends.
"""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import floor

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array, hstack, vstack
from torch import Generator, Tensor, nn
from torch.func import functional_call

from .programs import maximise

AFFINE = (nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, nn.BatchNorm2d)
RULES = ("random", "area", "range", "bound")
BLOCK = 16  # generators, or rows of a canvas, that are worked on at once: all together may fill gigabytes


@dataclass(frozen=True)
class Star:
    """An ImageStar: ``images`` (1 + p, C, H, W), the centre and p generators; the box of the predicates, (p,) each;
    the rows of A (m, p) and d (m,), and the predicate that each row came with, its owner (m,). All in float64.

    ``lines``: of every layer that brought predicates, the rows that enclose each by two lines at most, one from above
    and one from below. ``counts`` tallies what was solved on the way: "programs", "failed".
    """

    images: Tensor
    lower: Tensor
    upper: Tensor
    A: csr_array
    d: np.ndarray
    owner: np.ndarray
    lines: tuple[np.ndarray, ...] = ()
    counts: Counter = field(default_factory=Counter)

    @property
    def predicates(self) -> int:
        return len(self.lower)

    def at(self, a: Tensor) -> Tensor:
        """Points (N, C, H, W) of predicates (N, p); that they are in the set is the caller's to see to."""
        return self.images[0] + torch.tensordot(a.to(self.images), self.images[1:], 1)


def box(centre: Tensor, generators: Tensor, lower: float = 0.0, upper: float = 1.0) -> Star:
    """The star {centre + sum_i a_i generators_i : lower <= a_i <= upper}: centre (C, H, W), generators (p, C, H, W).

    ValueError for what is not finite, or where lower > upper.
    """
    images = torch.cat([centre[None], generators]).double()
    if not (images.isfinite().all() and lower <= upper):
        raise ValueError(f"a star needs finite images and lower <= upper, not {lower} and {upper}")
    count, none = len(generators), np.zeros(0)
    ends = (torch.full((count,), float(end), dtype=torch.float64) for end in (lower, upper))
    return Star(images, *ends, csr_array((0, count)), none, none.astype(int))


def lifted(net: nn.Sequential) -> nn.Sequential:
    """The network in float64, as a copy, a softmax over the classes at its end left out. ValueError for what stars
    cannot pass exactly, and for weights that are not finite."""
    layers = [deepcopy(layer).double() for layer in net]
    last = layers[-1] if layers else None
    if isinstance(last, nn.Softmax2d) or (isinstance(last, nn.Softmax) and last.dim in (1, -3)):
        layers.pop()
    for layer in layers:
        kind = type(layer).__name__
        if not all(tensor.isfinite().all() for tensor in layer.state_dict().values()):
            raise ValueError(f"{kind} has weights that are not finite")
        if not isinstance(layer, (*AFFINE, nn.ReLU, nn.MaxPool2d)):
            known = ", ".join(c.__name__ for c in (*AFFINE, nn.ReLU, nn.MaxPool2d))
            raise ValueError(f"no rule for the layer {kind}; stars pass {known}")
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            raise ValueError(f"{kind} pads by {layer.padding_mode!r}; only zeros are known")
        if isinstance(layer, nn.BatchNorm2d) and (layer.training or not layer.track_running_stats):
            raise ValueError("batch norm must be in eval mode, with running statistics: call net.eval() first")
        if isinstance(layer, nn.MaxPool2d):
            plain = (layer.kernel_size, 0, 1, False)
            if (layer.stride, layer.padding, layer.dilation, layer.ceil_mode) != plain or type(plain[0]) is not int:
                raise ValueError("max pooling must have a square window, its stride, and no padding")
    return nn.Sequential(*layers).eval().requires_grad_(False)


def linear(layer: nn.Module, images: Tensor, size=lambda weight: weight) -> Tensor:
    """An affine layer without its bias; with ``size=torch.abs``, with its weights' sizes."""
    if isinstance(layer, nn.BatchNorm2d):
        scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
        return images * size(scale)[:, None, None]
    if isinstance(layer, nn.AvgPool2d):
        return layer(images)
    no_bias = {} if layer.bias is None else {"bias": torch.zeros_like(layer.bias)}
    return functional_call(layer, {"weight": size(layer.weight), **no_bias}, images)


def affine(layer: nn.Module, star: Star) -> Star:
    """An affine layer, exactly: all of it on the centre, all but its bias on the generators."""
    centre = layer(star.images[:1])
    images = centre.new_empty(len(star.images), *centre.shape[1:])
    for into, some in zip(images.split(BLOCK), star.images.split(BLOCK)):
        into[:] = linear(layer, some)
    images[:1] = centre
    return replace(star, images=images)


def ranges(star: Star) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (C, H, W) of every value by the predicates' box alone: no program, and A unused."""
    middle, half = (star.upper + star.lower) / 2, (star.upper - star.lower) / 2
    centre, blocks = star.at(middle[None])[0], star.images[1:].split(BLOCK, 2)
    radius = torch.cat([torch.tensordot(half, block.abs(), 1) for block in blocks], 1)
    return centre - radius, centre + radius


def ranked(low: Tensor, high: Tensor, share: float, rule: str, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Which of n unstable neurons get a program for their upper and lower bound, as two masks (n,).

    n - ``share`` n of them, rounded half away from zero: drawn ("random"), or those with the largest triangle ("area")
    or "range"; "bound" takes the largest 2 (n - share n) of all bounds, whichever neuron they belong to.
    """
    n = len(low)
    count = floor((1 - share) * n + 0.5)
    if rule == "bound":
        largest = torch.cat([high, -low]).argsort(descending=True, stable=True)[: 2 * count]
        chosen = torch.zeros(2 * n, dtype=torch.bool).index_fill(0, largest, True)
        return chosen[:n], chosen[n:]
    scores = {"area": lambda: -low * high, "range": lambda: high - low}
    scores["random"] = lambda: torch.rand(n, generator=generator)
    best = scores[rule]().argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(n, dtype=torch.bool).index_fill(0, best, True)
    return chosen, chosen


def relu(star: Star, share: float, rule: str, generator=None, known=None, memory: float = 2.0) -> Star:
    """ReLU: a neuron whose range straddles 0 becomes a new predicate y in a triangle, y >= 0, y >= x and
    y <= u (x - l) / (u - l). ``known``, bounds from elsewhere (C, H, W) twice, narrow the box's."""
    low, high = (bound.flatten() for bound in ranges(star))
    if known:
        low, high = torch.maximum(low, known[0].flatten()), torch.minimum(high, known[1].flatten())
    open_ = ((low < 0) & (high > 0)).nonzero()[:, 0]
    above, below = ranked(low[open_], high[open_], share, rule, generator)
    forms = star.images.flatten(1).T
    near = high[open_] < -low[open_]  # the upper bound is nearer to 0: it may settle the sign, and spare the other
    for ask_high, ask_low in ((above & near, below & ~near), (above & ~near, below & near)):
        some = open_[ask_high & (low[open_] < 0)]
        high[some] = high[some].minimum(torch.from_numpy(maximise(star, forms[some].numpy(), 0.0)))
        some = open_[ask_low & (high[open_] > 0)]
        low[some] = low[some].maximum(-torch.from_numpy(maximise(star, -forms[some].numpy(), 0.0)))
    live = open_[(low[open_] < 0) & (high[open_] > 0)]
    slope, x = high[live] / (high[live] - low[live]), forms[live]
    face = -slope[:, None] * x
    face[:, 0] += slope * low[live]
    one = range(len(live))
    rows = [(x, one, -1.0), (face, one, 1.0)]  # x - y <= 0 and y - u (x - l) / (u - l) <= 0
    lines = torch.cat([slope > 0.5, torch.ones(len(live), dtype=torch.bool)])  # from below x, or nothing: the end is 0
    ends = torch.zeros(len(live), dtype=torch.float64), high[live]
    return _grown(star, forms.T * (high > 0), star.images.shape[1:], live, ends, rows, lines, memory)


def max_pool(layer: nn.MaxPool2d, star: Star, memory: float = 2.0) -> Star:
    """Max pooling: the element that surely leads its window, or, where none does, a new predicate above them all.
    ValueError where windows do not divide the images."""
    channels, height, width = star.images.shape[1:]
    side, forms = layer.kernel_size, star.images.flatten(1).T
    if height % side or width % side:
        raise ValueError(f"{height}x{width} images cannot be pooled by {side} without a rest")
    low, high = (bound.flatten() for bound in ranges(star))
    place = torch.arange(len(forms), dtype=torch.float64).view(channels, 1, height, width)
    windows = F.unfold(place, side, stride=side).long().transpose(1, 2).flatten(0, 1)  # (windows, side^2)
    best, leader = low[windows].max(1)
    rival = high[windows] > best[:, None]  # others never exceed what the leader reaches
    rival.scatter_(1, leader[:, None], True)
    live = (rival.sum(1) > 1).nonzero()[:, 0]
    base = forms[windows.gather(1, leader[:, None])[:, 0]].T.clone()
    window, element = rival[live].nonzero(as_tuple=True)
    rows, lines = [(forms[windows[live[window], element]], window.numpy(), -1.0)], element == leader[live[window]]
    ends, shape = (best[live], high[windows[live]].amax(1)), (channels, height // side, width // side)
    return _grown(star, base, shape, live, ends, rows, lines, memory)


def _grown(
    star: Star, base: Tensor, shape, places: Tensor, ends: tuple, rows: list, lines: Tensor, memory: float
) -> Star:
    """A star with new predicates at flat ``places``, ``ends`` their box, each row form(a) + sign y <= 0. ``lines``
    marks the rows that are one of a predicate's two lines."""
    old, new = star.predicates, len(places)
    size = (1 + old + new) * base.shape[1] * 8 / 1e9
    if size > memory:
        raise MemoryError(
            f"a star of {old + new} predicates needs {size:.1f} GB, more than {memory:g}: take a smaller set or network"
        )
    images = torch.zeros(1 + old + new, base.shape[1], dtype=torch.float64)
    images[: 1 + old] = base
    images[:, places] = 0
    images[1 + old + torch.arange(new), places] = 1
    parts, limits, owners = [], [star.d], [star.owner]
    for form, owner, sign in rows:
        owner = np.asarray(owner, dtype=int)
        own = csr_array((np.full(len(form), sign), (np.arange(len(form)), owner)), shape=(len(form), new))
        parts.append(hstack([csr_array(form[:, 1:].numpy()), own]))
        limits.append(-form[:, 0].numpy())
        owners.append(old + owner)
    A = vstack([hstack([star.A, csr_array((len(star.d), new))]), *parts]).tocsr()
    lower, upper = (torch.cat([was, end]) for was, end in zip((star.lower, star.upper), ends))
    lines = star.lines + (len(star.d) + lines.nonzero()[:, 0].numpy(),) * (new > 0)
    d, owner = np.concatenate(limits), np.concatenate(owners)
    return Star(images.view(-1, *shape), lower, upper, A, d, owner, lines, star.counts)


def reach(
    net: nn.Sequential, star: Star, share: float = 0.0, rule: str = "range", generator: Generator | None = None,
    known: list | None = None, memory: float = 2.0,
) -> Star:  # fmt: skip
    """A star around every output of the network (``lifted``) on a star, ``share`` of its neurons left without programs.

    0 is the star of the ordinary over-approximation, 1 asks for no program at all; ``rule`` says which neurons get
    one. ``known``: bounds for every ReLU layer. ValueError for a share outside [0, 1] or an unknown rule; MemoryError
    in one line where the generators would need more than ``memory`` GB.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the relaxed share must lie in [0, 1], not {share}")
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
    star, bounds = replace(star, counts=Counter()), iter(known or ())
    for layer in net:
        if isinstance(layer, nn.ReLU):
            star = relu(star, share, rule, generator, next(bounds, None), memory)
        elif isinstance(layer, nn.MaxPool2d):
            star = max_pool(layer, star, memory)
        else:
            star = affine(layer, star)
    return star
