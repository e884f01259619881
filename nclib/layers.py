"""The walk through a model's stages: collapse at the last layer, propagation through all of them."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attacks import model_mode
from .data import pixels
from .measures import ClassMeans, MeansPass, WithinPass, similarity, weight_measures
from .views import View

COLUMNS = ["split", "view", "layer", "measure", "value"]


def layer_names(model: nn.Module) -> list[str]:
    """The stages to walk: "pixels", then every child of an ``nn.Sequential`` but ``normalize`` and ``head``."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"{type(model).__name__} is not an nn.Sequential of stages: name its layers (layers=[...])")
    return ["pixels"] + [name for name, _ in model.named_children() if name not in ("normalize", "head")]


@dataclass(frozen=True)
class FirstPass:
    """What one walk over a view leaves: class means by layer, the network's classes (N,), its mean loss."""

    means: dict[str, ClassMeans]
    predicted: Tensor
    loss: float


@torch.no_grad()
def first_pass(
    model: nn.Module, view: View, layers: Sequence[str], num_classes: int, pooled: bool = False, batch: int = 128
) -> FirstPass:
    """Class means of every layer in one walk. Float32, eval mode; unpooled maps are flattened."""
    sums = {name: MeansPass(num_classes) for name in layers}
    predicted, loss = [], 0.0
    for x, y in _batches(view, batch):
        logits = _walk(model, x, layers, pooled, lambda name, h: sums[name].update(h, y))
        predicted.append(logits.argmax(1))
        loss = loss + F.cross_entropy(logits.double(), y, reduction="sum")
    return FirstPass({n: s.result() for n, s in sums.items()}, torch.cat(predicted), float(loss) / len(view))


@torch.no_grad()
def propagate(
    model: nn.Module,
    views: Sequence[View],
    layers: Sequence[str] | None = None,
    num_classes: int | None = None,
    pooled: bool = False,
    batch: int = 128,
) -> pd.DataFrame:
    """Every measure of every view at every layer, exact at any width (Su et al. 2024, section 6).

    Parameters
    ----------
    model : its ``layers`` are names of submodules ("pixels" is the input); by default the stages of an
        ``nn.Sequential``. views : the first one gives the reference class means (clean training data).
    pooled : average feature maps over space first; by default they are flattened.

    Returns a tidy frame: split, view, layer, measure, value. Beside the measures of ``measure``, views
    after the first have ``centers_*`` (their samples about the reference means), ``centers_leapt`` (share closest
    in angle to another class's reference mean) and ``angle``, ``angle_uncentered``, ``distance``, ``shift``
    (class means of the two views; averages over classes, angles in degrees).

    Two walks per view; memory O(C d) per layer beside one batch's activations. Errors as in ``measure``.
    """
    layers = list(layers) if layers is not None else layer_names(model)
    return _table(model, views, layers, num_classes, pooled, batch)


@torch.no_grad()
def collapse(
    model: nn.Module,
    views: Sequence[View],
    layer: str = "features",
    head: str = "head",
    batch: int = 512,
) -> pd.DataFrame:
    """Every measure per view at the features that enter the linear classifier: ``propagate`` at one layer.

    Adds ``loss`` (cross-entropy), ``weight_equinorm``, ``weight_equiangle`` and ``nc3`` of the classifier
    ``head`` against each view's means. For a model of your own, name its ``layer`` and its ``head``.
    """
    weight = model.get_submodule(head).weight
    return _table(model, views, [layer], len(weight), False, batch, weight)


def _table(model, views, layers, num_classes, pooled, batch, weight: Tensor | None = None) -> pd.DataFrame:
    if not views:
        raise ValueError("no views to measure")
    C = num_classes or int(views[0].labels.max()) + 1
    rows, reference = [], None
    for view in views:
        first = first_pass(model, view, layers, C, pooled, batch)
        centers = reference.means if reference else dict.fromkeys(layers)
        within = {name: WithinPass(first.means[name], centers[name]) for name in layers}
        for (x, y), predicted in zip(_batches(view, batch), first.predicted.split(batch)):
            _walk(model, x, layers, pooled, lambda name, h: within[name].update(h, y, predicted))
        for name in layers:
            found = within[name].result()
            if reference:
                compared = similarity(first.means[name], reference.means[name])
                found |= {k: float(torch.as_tensor(v).mean()) for k, v in compared.items()}
            if weight is not None:
                found |= {"loss": first.loss} | weight_measures(weight, first.means[name])
            rows += [(view.split, view.name, name, k, v) for k, v in found.items()]
        reference = reference or first
    return pd.DataFrame(rows, columns=COLUMNS)


@torch.no_grad()
def features(model: nn.Module, images: Tensor, layer: str = "features", batch: int = 512) -> Tensor:
    """Activations of one layer (N, d), flattened, float32, in eval mode."""
    taken = []
    for x in images.split(batch):
        _walk(model, pixels(x), [layer], False, lambda _, h: taken.append(h.flatten(1)))
    return torch.cat(taken)


class NearestCenter(nn.Module):
    """The nearest-class-centre rule as a linear head: logits (N, C) = M~ (h - mu_G) - |m~_c|^2 / 2."""

    def __init__(self, means: ClassMeans):
        super().__init__()
        self.register_buffer("vertices", means.centered.float())
        self.register_buffer("origin", means.global_mean.float())

    def forward(self, h: Tensor) -> Tensor:
        return (h.flatten(1) - self.origin) @ self.vertices.T - self.vertices.square().sum(1) / 2


def ncc_head(model: nn.Sequential, layer: str, means: ClassMeans) -> nn.Sequential:
    """The network cut after ``layer`` with the nearest-class-centre rule on top: what an adaptive attack sees.

    Shares the model's modules. Raises ValueError for a layer that the model does not have.
    """
    names = [name for name, _ in model.named_children()]
    if layer != "pixels" and layer not in names:
        raise ValueError(f"unknown layer {layer!r}; choose one of pixels, {', '.join(names)}")
    prefix = [] if layer == "pixels" else list(model.children())[: names.index(layer) + 1]
    return nn.Sequential(*prefix, NearestCenter(means)).to(means.means.device)


def _batches(view: View, batch: int):
    for x, y in zip(view.images.split(batch), view.labels.split(batch)):
        yield pixels(x), y


def _walk(model: nn.Module, x: Tensor, layers: Sequence[str], pooled: bool, hear: Callable) -> Tensor:
    """One forward pass in eval mode; ``hear(name, activation)`` as each layer speaks. Returns the logits."""

    def tell(name: str, h: Tensor) -> None:
        hear(name, h.mean((2, 3)) if pooled and h.ndim == 4 else h)

    if "pixels" in layers:
        tell("pixels", x)
    with model_mode(model, "eval"), _listening(model, [n for n in layers if n != "pixels"], tell):
        return model(x)


@contextmanager
def _listening(model: nn.Module, layers: Sequence[str], tell: Callable):
    known = dict(model.named_modules())
    if missing := [name for name in layers if name not in known]:
        raise ValueError(f"unknown layer {missing[0]!r}; choose from {', '.join(n for n in known if n)}")
    handles = [known[n].register_forward_hook(lambda _m, _i, h, n=n: tell(n, h)) for n in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
