"""A verdict for every pixel: proven robust (1), proven attacked (-1), unknown (0); and what is measured of a map.

The reference is the network's own map of the clean image. A pixel is robust where the reference class wins at every
point of the set, attacked where it wins at none; an enclosure shows that for one rival on the whole set.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Generator, Tensor, nn

from .bounds import crown, line, touched
from .programs import SLACK, maximise
from .stars import BLOCK, Star, box, ranges

BRIGHT = 150 / 255  # pixels brighter than this are attacked


def darkened(image: Tensor, count: int, size: float, joint: bool = True) -> Star:
    """The set of images (1, H, W) whose first ``count`` bright pixels, in reading order, are darkened.

    ``joint``: one predicate, all lose the same share, between 1 - size and all of their ink; the clean image is in the
    set only for size 1. Else a predicate for each, which loses at most ``size`` of its ink. Where no pixel is bright
    the star has no predicate. ValueError for another shape, values outside [0, 1], a count below 1, or a size that is
    not above 0 and at most 1.
    """
    if image.ndim != 3 or len(image) != 1 or not ((image >= 0) & (image <= 1)).all():
        raise ValueError(f"an image must be (1, H, W) with values in [0, 1], not {tuple(image.shape)}")
    if count < 1:
        raise ValueError(f"at least one pixel must be attacked, not {count}")
    if not 0 < size <= 1:
        raise ValueError(f"the size must be above 0 and at most 1, not {size}")
    places = (image.flatten() > BRIGHT).nonzero()[:count, 0]
    each = torch.zeros(len(places), image.numel(), dtype=torch.float64)
    each[torch.arange(len(places)), places] = -image.flatten().double()[places]
    noise = each.view(-1, *image.shape)
    if joint and len(places):
        return box(image, noise.sum(0, keepdim=True), 1 - size, 1.0)
    return box(image, noise, 0.0, size)


def by_ranges(low: Tensor, high: Tensor, reference: Tensor) -> Tensor:
    """Verdicts (H, W) from bounds (C, H, W) of every class's score alone, as the paper's tool has them: a class is
    possible where its upper bound reaches the largest lower bound."""
    own = F.one_hot(reference, len(low)).permute(2, 0, 1).bool()
    possible = ~(high < low.amax(0) - SLACK)
    return torch.where((possible == own).all(0), 1, torch.where((possible & own).any(0), 0, -1))


def margins(star: Star, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (C, H, W), by the box, of the reference's score over every class's own; +inf for itself."""
    found = []
    for images, own in zip(star.images.split(BLOCK, 2), reference.split(BLOCK)):
        apart = images.gather(1, own.expand(len(images), 1, -1, -1)) - images
        found.append(ranges(replace(star, images=apart)))
    low, high = (torch.cat(bounds, 1).scatter(0, reference[None], float("inf")) for bounds in zip(*found))
    return low, high


def by_margins(star: Star, reference: Tensor) -> Tensor:
    """Verdicts (H, W) from the scores' differences over the box: what two scores share cancels. No program."""
    return _settled(*margins(star, reference))


def _settled(low: Tensor, high: Tensor) -> Tensor:
    return torch.where((low > SLACK).all(0), 1, torch.where((high < -SLACK).any(0), -1, 0))


def by_programs(star: Star, reference: Tensor) -> Tensor:
    """``by_margins``, and then a program for every margin that is not positive over the box, the worst one first,
    until a class is left that could win. The programs are counted in ``star.counts``."""
    low, high = margins(star, reference)
    verdict = _settled(low, high)
    places = (verdict == 0).nonzero()
    while len(places):
        worst = low[:, *places.T].argmin(0)
        forms = star.images[:, worst, *places.T] - star.images[:, reference[*places.T], *places.T]
        low[worst, *places.T] = -torch.from_numpy(maximise(star, forms.T.numpy(), -SLACK))
        places = places[low[worst, *places.T] > SLACK]
        done = (low[:, *places.T] > SLACK).all(0)
        verdict[*places[done].T] = 1
        places = places[~done]
    return verdict


def by_crown(net: nn.Sequential, star: Star, reference: Tensor) -> Tensor:
    """Verdicts (H, W) by CROWN: robust or unknown. Of a pixel that the set cannot move the scores are known."""
    scores = net(star.images[:1])[0]
    low = scores.gather(0, reference[None]) - scores
    places = touched(net, (star.images[1:] != 0).any(0)).any(0).flatten().nonzero()[:, 0]
    other, pixel = torch.meshgrid(torch.arange(len(scores)), places, indexing="ij")
    entries = torch.stack([reference.flatten()[pixel], other]) * reference.numel() + pixel  # the reference's, and c's
    rows, signs = np.tile(np.arange(other.numel()), 2), np.repeat([1.0, -1.0], other.numel())
    forms = csr_array((signs, (rows, entries.flatten().numpy())), shape=(other.numel(), scores.numel()))
    low.flatten(1)[:, places] = crown(net, star, forms)[1].view(other.shape)
    return (low.scatter(0, reference[None], float("inf")) > SLACK).all(0).long()


def by_line(net: nn.Sequential, star: Star, reference: Tensor, parts: int | None = None) -> Tensor:
    """Verdicts (H, W) of a set with one predicate, exact: 0 where the reference wins at some points only.

    A long line is walked in ``parts``, by default so many that the knots of each fit in memory. A set without
    predicates, or of no length, is a point. ValueError for several predicates.
    """
    if star.predicates > 1:
        raise ValueError(f"the exact line is for one predicate, not {star.predicates}")
    star = star if star.predicates else box(star.images[0], torch.zeros_like(star.images[:1]))  # moves nothing
    parts = parts or 1 + reference.numel() // 700
    ends = torch.linspace(float(star.lower), float(star.upper), 1 + parts, dtype=torch.float64)
    pieces = [replace(star, lower=one[None], upper=other[None]) for one, other in pairwise(ends)]
    found = torch.stack([_by_line(net, piece, reference) for piece in pieces])
    return torch.where((found == 1).all(0), 1, torch.where((found == -1).all(0), -1, 0))


def _by_line(net: nn.Sequential, star: Star, reference: Tensor) -> Tensor:
    _, scores = line(net, star)
    own = reference.expand(len(scores), 1, -1, -1)
    lead = (scores.gather(1, own) - scores).scatter(1, own, float("inf"))
    robust = (lead > 0).all(1).all(0)
    open_ = (~robust & (lead.amin(1) < 0).all(0)).nonzero()  # the reference leads at no knot; between two of them?
    start, end = lead[:-1, :, *open_.T], lead[1:, :, *open_.T]
    cross = (start / (start - end)).nan_to_num(0.0)
    first = torch.where(end > start, cross, torch.where(start >= 0, 0.0, 2.0)).amax(1)
    last = torch.where(end < start, cross, torch.where(end >= 0, 1.0, -1.0)).amin(1)
    between = (first.clamp_min(0) <= last.clamp_max(1)).any(0)
    verdict = robust.long()
    verdict[*open_[~between].T] = -1
    return verdict


def refuted(
    net: nn.Sequential,
    star: Star,
    reference: Tensor,
    where: Tensor,
    steps: int = 20,
    generator: Generator | None = None,
) -> Tensor:
    """Pixels (H, W) that a point of the set takes from the reference: PGD on the predicates' box, a start and a path of
    its own for every pixel of the mask ``where``. A star with rows is refused: its box is larger than the set."""
    if len(star.d):
        raise ValueError("points are drawn from the box of a star without rows: the input set")
    rows, columns = where.nonzero(as_tuple=True)
    one, low, high = torch.arange(len(rows)), star.lower, star.upper
    a = low + (high - low) * torch.rand(len(rows), star.predicates, generator=generator, dtype=torch.float64)
    found, own = torch.zeros_like(reference, dtype=torch.bool), reference[rows, columns]
    for step in range(steps + 1 if len(rows) else 0):
        a.requires_grad_()
        scores = net(star.at(a))
        here = scores[one, :, rows, columns]
        lead = here[one, own] - here.scatter(1, own[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(lead.sum(), a)
        found |= (scores.argmax(1) != reference).any(0)
        a = a.detach() - (high - low) * (1 - step / (steps + 1)) / 2 * gradient.sign()
        a = torch.minimum(torch.maximum(a, low), high)
    return found


def measures(verdict: Tensor, reference: Tensor, attacked: Tensor) -> dict[str, float]:
    """Measures of a map of verdicts (H, W); ``attacked`` (H, W) marks the pixels that the set moves.

    rv: the robust share; unknown: the undecided share; rs: pixels not proven robust for each attacked one (NaN where
    none is); iou: the robust share of each class of the reference, their mean; iou_tool: the same with "unknown" and
    "attacked" as two more classes, which count 0 where they occur, as the paper's tool has it; collateral: rv without
    the attacked pixels.
    """
    robust, attacked = verdict == 1, attacked.bool()
    count = int(attacked.sum())
    shares = [robust[reference == c].double().mean() for c in reference.unique()]
    extra = sum(bool((verdict == v).any()) for v in (0, -1))
    return {
        "rv": float(robust.double().mean()),
        "unknown": float((verdict == 0).double().mean()),
        "rs": int((~robust).sum()) / count if count else float("nan"),
        "iou": float(torch.stack(shares).mean()),
        "iou_tool": float(torch.stack(shares).sum() / (len(shares) + extra)),
        "collateral": float(robust[~attacked].double().mean()),
    }
