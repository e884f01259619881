"""The Square attack (Andriushchenko et al. 2020): random search that asks for logits and never for a gradient."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..checks import check_attack, check_finite, check_logits, check_samples, needed
from ..losses import margin
from ..models import in_mode
from .pgd import direction

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: the window's area halves there
SHARE = 0.8  # of the image, the first window's area


@torch.no_grad()
def square(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, epsilon: float = 8 / 255, queries: int = 500,
    norm: str = "linf", generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Attack labels y of images x (N, C, H, W) with changes in random windows, kept where the margin grows.

    Blind to gradients, so neither saturation nor rounding hides a point from it. Returns points within epsilon and
    within [0, 1], classified wrongly where that was met. The model is in eval mode meanwhile. Errors as in ``pgd``.
    """
    check_attack(epsilon, norm, steps=queries)
    x, y = check_samples(model, x, y)
    if not epsilon or not len(x):
        return x
    shape, images = x.shape, x.view(len(x), *[1] * (4 - x.ndim), *x.shape[1:]) if x.ndim < 4 else x
    moved = _stripes if norm == "linf" else _tiles
    change = _window if norm == "linf" else _moved_mass
    best = _fit(images, moved(images, epsilon, generator), epsilon, norm)
    with in_mode(model, "eval"):
        logits = check_logits(model(best.view(shape)), len(x), needed(y))
        worst = margin(check_finite("the model's answer to x", logits), y)
        for query in range(1, queries):
            left = (worst < 0).nonzero().flatten()
            if not len(left):
                break
            side = _side(images, query / queries)
            delta = change(best[left] - images[left], epsilon, side, generator)
            tried = _fit(images[left], delta, epsilon, norm)
            values = margin(check_logits(model(tried.view(-1, *shape[1:]))), y[left])
            better = values > worst[left]
            worst[left[better]], best[left[better]] = values[better], tried[better]
    return best.view(shape)


def _side(images: Tensor, progress: float) -> int:
    halvings = sum(10_000 * progress > h for h in HALVINGS)
    return max(round((SHARE / 2**halvings * images[0, 0].numel()) ** 0.5), 1)


def _fit(images: Tensor, delta: Tensor, epsilon: float, norm: str) -> Tensor:
    delta = delta.clamp(-epsilon, epsilon) if norm == "linf" else epsilon * direction(delta, norm)
    return (images + delta).clamp(0, 1)


def _signs(shape, like: Tensor, generator: Generator | None) -> Tensor:
    return like.new_empty(shape).uniform_(-1, 1, generator=generator).sign()


def _stripes(images: Tensor, epsilon: float, generator: Generator | None) -> Tensor:
    """Vertical stripes of random colours in the corners of the cube."""
    n, c, _, w = images.shape
    return epsilon * _signs((n, c, 1, w), images, generator).expand_as(images)


def _corners(n: int, size: int, side: int, like: Tensor, generator: Generator | None) -> Tensor:
    """Where n windows of a side begin: (n,)."""
    return (like.new_empty(n).uniform_(generator=generator) * (size - side + 1)).long()


def _mask(delta: Tensor, side: int, generator: Generator | None) -> Tensor:
    """A window of its own for each image, (n, 1, h, w)."""
    n, _, h, w = delta.shape
    spans = []
    for size in (h, w):
        start, place = _corners(n, size, min(side, size), delta, generator), torch.arange(size, device=delta.device)
        spans.append((place >= start[:, None]) & (place < start[:, None] + side))
    return (spans[0][:, :, None] & spans[1][:, None, :])[:, None]


def _window(delta: Tensor, epsilon: float, side: int, generator: Generator | None) -> Tensor:
    """A window of each image set to a random corner of the cube."""
    n, c, _, _ = delta.shape
    return torch.where(_mask(delta, side, generator), epsilon * _signs((n, c, 1, 1), delta, generator), delta)


def _bump(mask: Tensor) -> Tensor:
    """Within a window (n, 1, h, w), a hill that falls from its middle to its edges, of length 1."""
    out = mask.to(torch.get_default_dtype())
    for axis in (2, 3):
        inside = mask.any(5 - axis, keepdim=True).cumsum(axis) * mask
        inside = torch.minimum(inside, inside.amax((2, 3), keepdim=True) + 1 - inside)
        out = out * inside
    return direction(out, "l2")


def _tiles(images: Tensor, epsilon: float, generator: Generator | None) -> Tensor:
    """Random signs on five times five tiles."""
    n, c, h, w = images.shape
    tiles = _signs((n, c, min(5, h), min(5, w)), images, generator)
    return torch.nn.functional.interpolate(tiles, (h, w), mode="nearest")


def _moved_mass(delta: Tensor, epsilon: float, side: int, generator: Generator | None) -> Tensor:
    """The change within one window of each image moved to another one, as a hill of random sign by channel."""
    side = max(side, 3) | 1
    here, there = _mask(delta, side, generator), _mask(delta, side, generator)
    both = (delta * (here | there)).square().sum((1, 2, 3), keepdim=True)
    spare = (epsilon**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    hill = _bump(here).to(delta) * _signs((len(delta), delta.shape[1], 1, 1), delta, generator)
    hill = direction(hill + direction(delta * here, "l2"), "l2") * (both + spare).sqrt()
    return torch.where(here, hill, torch.where(there, torch.zeros_like(delta), delta))
