"""An attack that asks and follows no gradient: random squares, kept where they help (Andriushchenko et al. 2020)."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..losses import margin
from .pgd import check_attack


@torch.no_grad()
def square_attack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    epsilon: float = 8 / 255,
    queries: int = 100,
    share: float = 0.8,
    generator: Generator | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The l-infinity square attack on images (N, C, H, W) in [0, 1], with ``queries`` answers of the model for each.

    It starts from vertical stripes and sets squares of all channels to a corner of the ball; a square stays where the
    margin grows. Squares shrink from ``share`` of the image as the queries are used up. ``watch`` is called with the
    number of each query and the images so far. ValueError as in ``pgd``, and for fewer than one query.
    """
    check_attack(epsilon)
    if queries < 1:
        raise ValueError(f"queries must be 1 or more, not {queries}")

    def corners(*shape: int) -> Tensor:
        return epsilon * torch.empty(shape, device=x.device).uniform_(-1, 1, generator=generator).sign()

    n, channels, height, width = x.shape
    best = (x + corners(n, channels, 1, width)).clamp(0, 1)
    worst = margin(model(best), y)
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    for query in range(1, queries + 1):
        if watch:
            watch(query, best)
        if query == queries:
            break
        size = height * width * share * (1 - query / queries) ** 2
        side = max(1, min(round(size**0.5), height, width))
        places = torch.rand(2, n, 1, device=x.device, generator=generator)
        top, left = ((places[i] * (extent - side + 1)).long() for i, extent in enumerate((height, width)))
        inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[
            :, None
        ]
        tried = torch.where(inside[:, None], (x + corners(n, channels, 1, 1)).clamp(0, 1), best)
        value = margin(model(tried), y)
        better = value > worst
        best = torch.where(better[:, None, None, None], tried, best)
        worst = torch.where(better, value, worst)
    return best
