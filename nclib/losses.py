"""Losses by name: logits (N, C) and labels (N,) to values (N,), larger for a worse model."""

from functools import partial
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the label's: positive where the model errs (Carlini & Wagner 2017)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -inf).amax(1) - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): the margin, blind to the logits' scale.

    Divides by first minus third logit. Of two classes the margin itself: first minus second is its own size.
    """
    if logits.shape[1] == 2:
        return margin(logits, y)
    ranked = logits.topk(3, dim=1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2]).clamp_min(1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """DLR towards a target (Croce & Hein 2020, eq. 9): target's minus label's logit, blind to the logits' scale.

    Divides by first minus the mean of third and fourth logit, of three classes by first minus last. Of two the gap
    itself, as in ``dlr``.
    """
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return gap
    ranked = logits.topk(min(4, logits.shape[1]), dim=1).values
    return gap / (ranked[:, 0] - ranked[:, 2:].mean(1)).clamp_min(1e-12)


def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), the divergence of TRADES (Zhang et al. 2019, eq. 5)."""
    log_p, log_q = F.log_softmax(reference, 1), F.log_softmax(logits, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)  # in logarithms: F.kl_div's gradient is NaN where p underflows


def focal(logits: Tensor, y: Tensor, gamma: float = 3.0) -> Tensor:
    """Cross-entropy, weighted down where the label is likely: -(1 - p)^gamma log p (Lin et al. 2017, eq. 4)."""
    entropy = F.cross_entropy(logits, y, reduction="none")
    unlikely = (-(-entropy).expm1()).clamp_min(torch.finfo(entropy.dtype).tiny)  # a power of 0 may have no gradient
    return unlikely**gamma * entropy


def squared(logits: Tensor, y: Tensor, target: float = 1.0) -> Tensor:
    """Half the squared distance of the logits to ``target`` times the label's unit vector."""
    return (logits - target * F.one_hot(y, logits.shape[1])).square().sum(1) / 2


LOSSES = {"ce": partial(F.cross_entropy, reduction="none"), "margin": margin, "dlr": dlr, "kl": kl}
