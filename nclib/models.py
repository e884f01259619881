"""The paper's networks as a walk of named stages: normalize -> stem -> ... -> features -> head.

Every network is one ``nn.Sequential``. Its first stage normalises, so attacks live in pixel space;
its last two are ``features`` (N, d), non-negative after a ReLU and average pooling, and the linear
``head``. Layer propagation is a walk over its children.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_count
from .known import NETWORKS, named

HEADS = ("linear", "sphere", "rows", "decayed", "simplex")


class Normalize(nn.Module):
    """(x - mean) / std by channel, for pixels in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not min(std) > 0:
            raise ValueError(f"mean and std must be one number per channel, std above 0, not {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def plain(model):
    """A model as it was before torch.compile wrapped it: hooks on its layers are heard. ValueError for no module."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"a {type(model).__name__} has no layers to listen to: give an nn.Module")
    return getattr(model, "_orig_mod", model)


class PreActBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), the identity kept clear (He et al. 2016, Figure 4e)."""

    def __init__(self, inside: int, outside: int, stride: int = 1, preactivate: bool = True):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside) if preactivate else None
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.stride = stride
        same = stride == 1 and inside == outside
        self.shortcut = None if same else nn.Conv2d(inside, outside, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = x if self.bn1 is None else self.bn1(x).relu()
        # Thinned by a pool of one pixel: a strided 1x1 convolution of under 8 channels, channels last, writes past its
        # memory on CPUs without AVX-512 (oneDNN, issue 6035).
        skip = x if self.shortcut is None else self.shortcut(F.avg_pool2d(a, 1, self.stride))
        return skip + self.conv2(self.bn2(self.conv1(a)).relu())


def _features(*before: nn.Module) -> nn.Sequential:
    return nn.Sequential(*before, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def preactresnet(channels, num_classes, width, mean, std, blocks: Sequence[int], large: bool) -> nn.Sequential:
    """Pre-activation ResNet of ``len(blocks)`` groups; width doubles and size halves from group to group."""
    stages = OrderedDict(normalize=Normalize(mean, std))
    if large:
        wide = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        stages["stem"] = nn.Sequential(wide, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    else:
        stages["stem"] = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    inside = width
    for group, count in enumerate(blocks):
        for index in range(count):
            first, outside = index == 0, width * 2**group
            block = PreActBlock(inside, outside, 2 if first and group else 1, not (large and first and group == 0))
            stages[f"block{len(stages) - 1}"] = block
            inside = outside
    stages["features"] = _features(nn.BatchNorm2d(inside), nn.ReLU())
    stages["head"] = nn.Linear(inside, num_classes)
    model = nn.Sequential(stages)
    if large:  # the small network keeps torch's own initialisation, as the authors' does
        _he_normal(model, "fan_out")
    return model


def vgg11(channels, num_classes, width, mean, std, large: bool) -> nn.Sequential:
    """VGG-11 with batch norm and one linear layer on the pooled features."""
    stages = OrderedDict(normalize=Normalize(mean, std))
    inside, plan = channels, (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8)
    for factor in plan:
        if factor == "M":
            _, last = stages.popitem()
            stages[f"block{len(stages)}"] = nn.Sequential(*last, nn.MaxPool2d(2))
            continue
        conv, inside = nn.Conv2d(inside, width * factor, 3, padding=1), width * factor
        stages[f"block{len(stages)}"] = nn.Sequential(conv, nn.BatchNorm2d(inside), nn.ReLU())
    stages["features"] = _features(nn.MaxPool2d(2)) if large else _features()
    stages["head"] = nn.Linear(inside, num_classes)
    model = nn.Sequential(stages)
    _he_normal(model, "fan_out" if large else "fan_in")
    nn.init.normal_(model.head.weight, std=0.01)
    nn.init.zeros_(model.head.bias)
    return model


def _he_normal(model: nn.Module, fan: str) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class UnitLength(nn.Module):
    """temperature h / |h| by row: features on a sphere (Yaras et al. 2022). A row of zeros stays one."""

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, h: Tensor) -> Tensor:
        return self.temperature * F.normalize(h)


@torch.no_grad()
def unit_rows_(head: nn.Linear) -> None:
    """Scale every row of a linear layer's weight (C, d) to length 1, in place."""
    head.weight.copy_(F.normalize(head.weight))


def _with_head(model: nn.Sequential, head: str, temperature: float) -> nn.Sequential:
    if head == "sphere":
        model.features.append(UnitLength(temperature))
        model.head.bias = None
    if head in ("sphere", "rows"):
        unit_rows_(model.head)
    if head == "simplex":
        model.head = _simplex_head(model.head)
    return model


def _simplex_head(head: nn.Linear) -> nn.Linear:
    """A layer whose rows (C, d) are a simplex of unit vectors, turned at random, and stay so (Zhu et al. 2021)."""
    C, d = head.weight.shape
    if d < C:
        raise ValueError(f"a simplex of {C} classes, turned at random, needs {C} features or more, not {d}")
    fixed = nn.Linear(d, C, bias=False).requires_grad_(False)
    turned = torch.linalg.qr(torch.randn(d, C)).Q
    fixed.weight.copy_(F.normalize(torch.eye(C) - 1 / C) @ turned.T)
    return fixed


preactresnet8 = partial(preactresnet, blocks=(1, 1, 1))
preactresnet18 = partial(preactresnet, blocks=(2, 2, 2, 2))


def build(
    architecture: str, shape, num_classes: int, mean, std, width: int = 64, head: str = "linear", temperature: float = 1
) -> nn.Sequential:
    """A freshly initialised network for images of ``shape`` (channels, height, width).

    ``head``: "linear"; "rows" of unit length; "sphere": features and rows of unit length, times ``temperature``;
    "simplex": rows fixed at a simplex.
    Images above 64 pixels get the authors' ImageNette variant (a strided stem). Initialisation draws
    from torch's global generator. Raises ValueError for an unknown architecture or too small an image.
    """
    if architecture not in NETWORKS:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(NETWORKS)}")
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; choose one of {', '.join(HEADS)}")
    check_count("width", width), check_count("num_classes", num_classes, 2)
    (channels, height, _), entry = shape, NETWORKS[architecture]
    if len(mean) != channels:
        raise ValueError(f"mean has {len(mean)} numbers, the images {channels} channels")
    if height < entry.smallest:
        raise ValueError(f"architecture {architecture!r} needs images of {entry.smallest} pixels or more, not {height}")
    model = named(entry.maker)(channels, num_classes, width, mean, std, large=height > 64)
    return _with_head(model, head, temperature)


@contextmanager
def in_mode(model, mode: str):
    """Run a model in "eval" or "train" mode, and hand it back in its own, module by module. Other callables pass."""
    if mode not in ("eval", "train"):
        raise ValueError(f"unknown mode {mode!r}; choose one of eval, train, None")
    modes = {m: m.training for m in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        if modes:
            model.train(mode == "train")
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def statistics_kept(model):
    """Run a model in its own mode, and put back the batch-norm statistics that training mode moves."""
    moving = isinstance(model, nn.Module) and any(m.training for m in model.modules())
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()] if moving else []
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
