"""The attack zoo: advertorch's attacks (Ding et al. 2019, arXiv:1902.07623) behind one adapter."""

import importlib
import inspect
import warnings
from functools import cache

import torch
from torch import Tensor, nn

from ..checks import as_model, check_images, check_labels, check_logits
from ..models import in_mode, statistics_kept

LEFT_OUT = ("Attack", "ChooseBestAttack", "FastFeatureAttack")  # bases, and one that takes a guide, not labels
TARGETED = ("JSMA", "JacobianSaliencyMapAttack", "LBFGSAttack")  # y is a target there, whatever the flag says
BATCH = {"JSMA": 8, "JacobianSaliencyMapAttack": 8, "LinfSPSAAttack": 16}  # memory: pixels squared; 64 copies


@cache
def zoo() -> dict[str, type]:
    """advertorch's attack classes by name."""
    gradcheck = importlib.import_module("torch.autograd.gradcheck")
    if not hasattr(gradcheck, "zero_gradients"):  # all that advertorch 0.2.3 misses in today's torch
        gradcheck.zero_gradients = lambda x: None if x.grad is None else x.grad.zero_()
    kinds = vars(importlib.import_module("advertorch.attacks"))
    return {k: v for k, v in sorted(kinds.items()) if k not in LEFT_OUT and hasattr(v, "perturb")}


def attack(name: str, model, x: Tensor, y=None, targeted=False, mode="eval", batch=None, **options) -> Tensor:
    """Attack with one of advertorch's classes by name: ``attack("DDNL2Attack", model, x, y, nb_iter=50)``.

    model : pixels (N, C, H, W) in [0, 1] to logits (N, classes); in ``mode`` ("eval" or "train") and with frozen
        parameters meanwhile. Modes and flags are put back, after an error too.
    y : labels (N,), the targets where ``targeted``; by default the model's own predictions.
    batch : samples at a time (default 256; fewer where memory would explode).
    options : the class's own, budgets as numbers in pixel units; ``num_classes`` is filled in.

    Returns x_adv (N, C, H, W); how far it lies from x is the attack's business. ValueError, listing the choices, for
    an unknown name or option, and for missing targets.
    """
    if name not in zoo():
        raise ValueError(f"unknown attack {name!r}; choose one of {', '.join(zoo())}")
    _, *known = inspect.signature(zoo()[name]).parameters.values()  # the first one is the model
    defaults = {p.name: p.default for p in known if p.name != "targeted"}
    if unknown := set(options) - set(defaults):
        raise ValueError(f"{name} has no option {min(unknown)!r}; choose from {', '.join(defaults)}")
    only = True if name in TARGETED else False if len(defaults) == len(known) else targeted
    if targeted != only:
        raise ValueError(f"{name} knows targeted={only} only")
    if targeted and y is None:
        raise ValueError(f"{name}: a targeted attack needs targets y")
    x = as_model(model, check_images(x)).clone(memory_format=torch.contiguous_format)
    y = None if y is None else check_labels(y, len(x)).to(x.device)
    flags = [(p, p.requires_grad) for p in model.parameters()] if isinstance(model, nn.Module) else []
    guard = in_mode(model, mode) if mode else statistics_kept(model)
    with guard, torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        try:
            for p, _ in flags:
                p.requires_grad_(False)  # advertorch calls backward(), which would fill their gradients
            answer = lambda images: check_logits(model(images))  # noqa: E731
            logits = torch.cat([answer(part).detach() for part in x.split(256)])
            filled = {"num_classes": logits.shape[1], "max_pixels": min(100, x[0, 0].numel()), "targeted": targeted}
            options = {k: v for k, v in filled.items() if k in {p.name for p in known}} | options
            for k, v in options.items():  # advertorch asserts that budgets are floats
                options[k] = float(v) if type(v) is int and type(defaults.get(k)) is float else v
            perturb, size = zoo()[name](answer, **options).perturb, batch or BATCH.get(name, 256)
            parts = zip(x.split(size), (logits.argmax(1) if y is None else y).split(size))
            return torch.cat([perturb(a, b).detach() for a, b in parts])
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
