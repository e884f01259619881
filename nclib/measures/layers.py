"""The walk through a model's stages: collapse at the last layer, propagation through all of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import as_model, check_count, check_labels, check_logits, check_stored
from ..compute import full_precision
from ..data import pixels
from ..models import in_mode, plain
from .exact import WithinPass, combined, weight_measures
from .means import ClassMeans, MeansPass, as_means, class_means, double
from .simplex import similarity
from .views import View

COLUMNS = ["split", "view", "layer", "measure", "value"]


def layer_names(model: nn.Module) -> list[str]:
    """The stages to walk: "pixels", then every child of an ``nn.Sequential`` but ``normalize`` and ``head``."""
    model = plain(model)
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"{type(model).__name__} is not an nn.Sequential of stages: name its layers (layers=[...])")
    return ["pixels"] + [name for name, _ in model.named_children() if name not in ("normalize", "head")]


class FirstPass(NamedTuple):
    """What one walk over a view leaves: class means by layer, the network's classes (N,), its mean loss."""

    means: dict[str, ClassMeans]
    predicted: Tensor
    loss: float


@torch.no_grad()
def first_pass(
    model: nn.Module, view: View, layers: Sequence[str], num_classes: int, pooled: bool = False, batch: int = 128
) -> FirstPass:
    """Class means of every layer in one walk; float32, eval mode, unpooled maps flattened. Errors as ``propagate``."""
    sums = {name: MeansPass(num_classes) for name in layers}
    logits = [_walk(model, x, layers, pooled, lambda name, h: sums[name].update(h, y)) for x, y in _cut(view, batch)]
    means = {}
    for name in layers:
        with _at(view, name):
            means[name] = sums[name].result()
    return FirstPass(means, torch.cat(logits).argmax(1), _loss(torch.cat(logits), view))


@torch.no_grad()
def propagate(
    model: nn.Module, views: Sequence[View], layers: Sequence[str] | None = None, num_classes: int | None = None,
    pooled: bool = False, batch: int = 128,
) -> pd.DataFrame:  # fmt: skip
    """Every measure of every view at every layer, exact at any width (Su et al. 2024, section 6).

    ``layers`` are names of submodules ("pixels" is the input), by default the stages of an ``nn.Sequential``; feature
    maps (N, c, h, w) are flattened, or averaged over space where ``pooled``. The first of ``views`` gives the reference
    class means (clean training data) and, by its largest label, ``num_classes``.

    Returns a tidy frame: split, view, layer, measure, value. Beside the measures of ``measure``, views after the
    first have ``centers_*`` (their samples about the reference means) and what ``similarity`` says of the two views'
    class means, averaged over classes. Two walks per view; memory O(C (C + d)) per layer beside a batch's activations.
    ValueError, naming view and layer, as ``measure`` has it, and for a layer unknown or not passed once a walk.
    """
    layers = layer_names(model) if layers is None else list(layers)
    C, rows, reference = _classes(views, num_classes), [], {}
    for view in views:
        first = first_pass(model, view, layers, C, pooled, batch)
        passes = {}
        for name in layers:
            with _at(view, name):
                passes[name] = _passes(first.means[name], reference.get(name))
        for (x, y), predicted in zip(_cut(view, batch), first.predicted.split(batch)):
            _walk(model, x, layers, pooled, lambda name, h: [p.update(h, y, predicted) for p in passes[name]])
        accuracy = {"accuracy": float(double(first.predicted == view.labels).mean())}
        for name in layers:
            with _at(view, name):
                found = accuracy | combined(*passes[name]) | _compared(first.means[name], reference.get(name))
            rows += [(view.split, view.name, name, k, v) for k, v in found.items()]
        reference = reference or first.means
    return pd.DataFrame(rows, columns=COLUMNS)


@torch.no_grad()
def collapse(
    model: nn.Module, views: Sequence[View], layer: str | None = None, head: str | None = None, batch: int = 512,
    keep: dict[str, Tensor] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Every measure per view at the features that enter the linear classifier: ``propagate`` at one layer, in one walk.

    The classifier is found by itself, as the linear layer whose output the logits are, and its input is heard; or name
    it (``head``), or the ``layer`` whose output enters it. Adds ``loss`` (cross-entropy, nats), ``weight_equinorm``,
    ``weight_equiangle`` and ``nc3`` of the classifier against each view's means; C is the rows of its weight. Holds one
    view's features (N, d) instead of walking twice; ``keep``, a dict, is given those of all views by name, the last of
    one name. Errors as in ``propagate``, and ValueError where the classifier on these features gives other logits.
    """
    _classes(views, None)
    model = plain(model)
    head = head or head_name(model, views[0])
    if head not in dict(model.named_modules()):
        raise ValueError(f"unknown head {head!r}; choose from {', '.join(n for n, _ in model.named_modules() if n)}")
    weight = model.get_submodule(head).weight
    seen = ((view, *outputs(model, view, layer, batch, head)) for view in views)
    if keep is not None:
        seen = list(seen)
        keep.update({view.name: h for view, h, _ in seen})
    return last_layer(weight, seen, layer or "features")


@torch.no_grad()
def head_name(model: nn.Module, view: View) -> str:
    """The name of the linear layer whose output is a network's logits. ValueError where there is none."""
    linear = {name: module for name, module in plain(model).named_modules() if isinstance(module, nn.Linear)}
    heard = {}
    x, _ = next(_cut(view, 2))
    with ExitStack() as hooks:
        for name, module in linear.items():
            hooks.callback(module.register_forward_hook(lambda _m, _i, h, name=name: heard.update({name: h})).remove)
        logits = _walk(model, x, [], False, lambda name, h: None)
    found = [name for name, h in heard.items() if h.shape == logits.shape and torch.equal(h.to(logits), logits)]
    if not found:
        raise ValueError(f"no linear layer of this {type(model).__name__} gives its logits: name it (head=...)")
    return found[-1]


def last_layer(weight: Tensor, seen: Iterable[tuple[View, Tensor, Tensor]], layer: str = "features") -> pd.DataFrame:
    """``collapse`` from what a network made of each view: the view, its features (N, d) and its logits (N, C)."""
    rows, reference = [], None
    for view, h, logits in seen:
        with _at(view, layer):
            means, predicted = class_means(h, view.labels, len(weight)), logits.argmax(1)
            passes = _passes(means, reference)
            for one in passes:
                one.update(h, view.labels, predicted)
            found = {"accuracy": float(double(predicted == view.labels).mean())} | combined(*passes)
            found |= _compared(means, reference) | {"loss": _loss(logits, view)} | weight_measures(weight, means)
        rows += [(view.split, view.name, layer, k, v) for k, v in found.items()]
        reference = reference or means
    return pd.DataFrame(rows, columns=COLUMNS)


@torch.no_grad()
def features(model: nn.Module, images: Tensor, layer: str | None = None, batch: int = 512) -> Tensor:
    """What enters the classifier, or a layer's activations: (N, d), flattened, float32, in eval mode.

    ValueError for an unknown layer.
    """
    view = View("", images, torch.zeros(len(images), dtype=torch.int64))
    return outputs(model, view, layer, batch)[0]


class NearestCenter(nn.Module):
    """The nearest-class-centre rule as a linear head: logits (N, C) = M~ (h - mu_G) - |m~_c|^2 / 2."""

    def __init__(self, means: ClassMeans):
        super().__init__()
        self.register_buffer("vertices", means.centered.float())
        self.register_buffer("origin", means.global_mean.float())

    def forward(self, h: Tensor) -> Tensor:
        h = h.flatten(1)
        if h.shape[1] != len(self.origin):
            raise ValueError(f"the layer has {h.shape[1]} features, its class means {len(self.origin)}")
        h = h.to(torch.promote_types(h.dtype, self.vertices.dtype))
        vertices = self.vertices.to(h)
        return (h - self.origin.to(h)) @ vertices.T - vertices.square().sum(1) / 2


def ncc_head(model: nn.Sequential, layer: str, means: ClassMeans) -> nn.Sequential:
    """The network cut after ``layer`` with the nearest-class-centre rule on top: what an adaptive attack sees.

    Shares the model's modules; ``means`` are those of the unpooled layer. ValueError for a layer that is no stage.
    """
    names = ["pixels"] + [name for name, _ in model.named_children()]
    if layer not in names:
        raise ValueError(f"unknown layer {layer!r}; choose one of {', '.join(names)}")
    stages = list(model.children())[: names.index(layer)]
    return nn.Sequential(*stages, NearestCenter(as_means(means)).to(next(model.parameters()).device))


def _classes(views: Sequence[View], num_classes: int | None) -> int:
    if isinstance(views, View) or not all(isinstance(view, View) for view in views):
        raise ValueError("views must be a list of View, as nc.views gives it")
    if not views or not len(views[0]):
        raise ValueError("no samples to measure" if views else "no views to measure")
    return int(views[0].labels.max()) + 1 if num_classes is None else num_classes


def _passes(means: ClassMeans, reference: ClassMeans | None) -> list[WithinPass]:
    """A second pass about a view's own means, and, where there is a reference view, one about that view's."""
    return [WithinPass(means, centers) for centers in ([None] if reference is None else [None, reference])]


def _compared(means: ClassMeans, reference: ClassMeans | None) -> dict[str, float]:
    compared = {} if reference is None else similarity(means, reference)
    return {name: float(torch.as_tensor(value).mean()) for name, value in compared.items()}


def _loss(logits: Tensor, view: View) -> float:
    if (largest := int(view.labels.max())) >= logits.shape[1]:
        have = f"the network has {logits.shape[1]} classes"
        raise ValueError(f"{view.split} {view.name}: labels up to {largest}, but {have}")
    logits = double(logits)
    return float(F.cross_entropy(logits, view.labels.to(logits.device).long()))


@torch.no_grad()
def outputs(
    model: nn.Module, view: View, layer: str | None = None, batch: int = 512, head: str | None = None
) -> tuple[Tensor, Tensor]:
    """Features (N, d) and logits (N, C) of a view, in float32 and eval mode: of ``layer``, else what enters ``head``.

    With a head, ValueError where it does not make the logits of the features.
    """
    model, taken, logits = plain(model), [], []
    if layer is None:
        head = head or head_name(model, view)
    for x, _ in _cut(view, batch):  # a copy: the next module may work in place
        hear = lambda _, h: taken.append(h.flatten(1).clone())  # noqa: E731
        logits.append(_walk(model, x, [layer or head], False, hear, entering=layer is None))
        if head and len(taken) == 1:
            _check_head(model, head, layer, taken[0], logits[0])
    return torch.cat(taken), torch.cat(logits)


def _check_head(model: nn.Module, head: str, layer: str | None, h: Tensor, logits: Tensor) -> None:
    W, b = (getattr(model.get_submodule(head), name, None) for name in ("weight", "bias"))
    fits = W is not None and W.shape == (logits.shape[1], h.shape[1])
    made = F.linear(h.to(W), W, b).to(logits) if fits else None
    if made is None or not torch.allclose(made, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        which = f"layer {layer!r}" if layer else "what enters it"
        raise ValueError(f"head {head!r} does not make the logits of {which}: name another layer or head, or neither")


def _cut(view: View, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    if len(view.images) != len(view.labels) or not len(view):
        raise ValueError(f"{view.split} {view.name}: {len(view.images)} images, {len(view.labels)} labels")
    labels = check_labels(view.labels, len(check_stored(view.images)))
    for x, y in zip(view.images.split(check_count("batch", batch)), labels.split(batch)):
        yield pixels(x), y


@contextmanager
def _at(view: View, layer: str):
    """A ValueError from inside says which view and layer it comes from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{view.split} {view.name}, layer {layer}: {error}") from None


def _walk(
    model: nn.Module, x: Tensor, layers: Sequence[str], pooled: bool, hear: Callable, entering: bool = False
) -> Tensor:
    """One forward pass in eval mode; ``hear(name, activation)`` as each layer speaks, or, ``entering``, is spoken to.

    Returns the logits.
    """
    model = plain(model)
    modules, heard = dict(model.named_modules()) | {"pixels": nn.Identity()}, []
    if missing := [name for name in layers if name not in modules]:
        raise ValueError(f"unknown layer {missing[0]!r}; choose from {', '.join(name for name in modules if name)}")

    def tell(name: str, h: Tensor) -> None:
        heard.append(name)
        hear(name, h.mean((2, 3)) if pooled and h.ndim == 4 else h)

    def listen(name: str):
        if entering:
            return modules[name].register_forward_pre_hook(lambda _module, given: tell(name, given[0]))
        return modules[name].register_forward_hook(lambda _module, _given, h: tell(name, h))

    with in_mode(model, "eval"), torch.autocast(x.device.type, enabled=False), full_precision(), ExitStack() as hooks:
        for name in layers:
            hooks.callback(listen(name).remove)
        logits = check_logits(model(modules["pixels"](as_model(model, x))))
    if wrong := [name for name in layers if heard.count(name) != 1]:
        raise ValueError(f"layer {wrong[0]!r} is passed {heard.count(wrong[0])} times in a walk, not once")
    return logits
