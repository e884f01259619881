"""Losses by name: logits (N, C) and labels (N,) to values (N,), larger for a worse model."""

from functools import partial
from math import inf

import torch.nn.functional as F
from torch import Tensor


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the label's: positive where the model errs (Carlini & Wagner 2017)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -inf).amax(1) - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): the margin, blind to the logits' scale.

    Divides by first minus third logit; with two classes by first minus second.
    """
    ranked = logits.topk(min(3, logits.shape[1]), dim=1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, -1]).clamp_min(1e-12)


def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), the divergence of TRADES (Zhang et al. 2019, eq. 5)."""
    return F.kl_div(F.log_softmax(logits, 1), F.softmax(reference, 1), reduction="none").sum(1)


LOSSES = {"ce": partial(F.cross_entropy, reduction="none"), "margin": margin, "dlr": dlr, "kl": kl}
