"""What comes in is looked at once, at the door: images, labels and what a model answers."""

import warnings
from math import isfinite
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from .losses import LOSSES

NORMS = ("linf", "l2")
STARTS = ("uniform", "radial", "gaussian", None)
FLAT = 0.1  # share of images without a gradient from which a warning is due


def check_count(name: str, value, least: int = 1) -> int:
    """A whole number of ``least`` or more."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be {least} or more and whole, not {value!r}")
    return int(value)


def check_size(name: str, value, many: bool = False) -> None:
    """A finite number of 0 or more, or, where there may be ``many``, a tensor of them."""
    numbers = value.detach().flatten().tolist() if torch.is_tensor(value) else [value]
    if len(numbers) != 1 and not many:
        raise ValueError(f"{name} must be one number, not {len(numbers)}")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number) or number < 0:
            raise ValueError(f"{name} must be 0 or more and finite, not {number!r}")


def check_attack(epsilon, norm="linf", loss="ce", start: str | None = "uniform", steps=1, many: bool = False) -> None:
    """One clear ValueError for an attack that means nothing; ``many``: epsilon may be one number per sample."""
    for name, value, choices in (("norm", norm, NORMS), ("loss", loss, LOSSES), ("start", start, STARTS)):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(str, choices))}")
    if loss == "kl" and start is None:
        raise ValueError("loss 'kl' has no gradient at x itself; choose a random start")
    check_size("epsilon", epsilon, many)
    check_count("steps", steps, 0)
    most = max(epsilon.detach().flatten().tolist(), default=0) if torch.is_tensor(epsilon) else epsilon
    if norm == "linf" and most > 1:
        raise ValueError(f"pixels lie in [0, 1], so epsilon is at most 1 in linf, not {most}: 8/255?")


def check_targets(targets: Tensor, y: Tensor) -> Tensor:
    """One class for each of the labels y (N,), on their device, and not the label itself."""
    targets = check_labels(targets, len(y)).to(y.device)
    if len(same := (targets == y).nonzero()):
        raise ValueError(f"the target of sample {int(same[0])} is its own label")
    return targets


def check_stored(images: Tensor) -> Tensor:
    """Images as they are kept, bytes or floats."""
    if not torch.is_tensor(images) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        kind = images.dtype if torch.is_tensor(images) else type(images).__name__
        raise ValueError(f"images must be a tensor of bytes (uint8) or floats, not {kind}")
    return images


def check_images(x: Tensor) -> Tensor:
    """Float pixels in [0, 1], detached; ValueError, in one line, for anything else."""
    if not torch.is_tensor(x) or not x.is_floating_point():
        kind = x.dtype if torch.is_tensor(x) else type(x).__name__
        raise ValueError(f"x must be float pixels in [0, 1], not {kind}; see nclib.pixels")
    if x.is_inference():
        x = x.clone()  # made under torch.inference_mode: no gradient could pass
    if x.numel():
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= 0 and high <= 1):
            check_finite("x", x)
            raise ValueError(
                f"pixels must lie in [0, 1], and x lies in [{low:.3g}, {high:.3g}]: attack pixels, and put the"
                " normalisation into the model: torch.nn.Sequential(nc.Normalize(mean, std), model)"
            )
    return x.detach() if x.requires_grad else x


def as_model(model, x: Tensor) -> Tensor:
    """Images in the floating type of a model's weights: a double-precision model is fed double precision."""
    weights = (p for p in model.parameters() if p.is_floating_point()) if isinstance(model, nn.Module) else ()
    return x.to(next((p.dtype for p in weights), x.dtype))


def check_labels(y: Tensor, count: int, classes: int | None = None) -> Tensor:
    """One class of 0, 1, ... for each of ``count`` samples, as int64 (count,); ValueError, in one line, otherwise."""
    try:
        y = torch.as_tensor(y.astype("int64") if getattr(getattr(y, "dtype", None), "kind", "") in ("i", "u") else y)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"labels must be integers, not {type(y).__name__}") from None
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {y.dtype}")
    if y.shape != (count,):
        raise ValueError(f"labels must be one per sample, of shape ({count},), not {tuple(y.shape)}")
    if count and (wrong := int(y.min())) < 0:
        raise ValueError(f"labels must be 0 or more, not {wrong}")
    if count and classes is not None and (wrong := int(y.max())) >= classes:
        raise ValueError(f"labels go up to {wrong}, but the model has {classes} classes")
    return y.long()


def check_samples(model, x: Tensor, y: Tensor, labelled: bool = True) -> tuple[Tensor, Tensor]:
    """Images as a model takes them, and, where they are ``labelled``, their labels on the same device."""
    x = as_model(model, check_images(x))
    if x.dtype.itemsize < 4:
        raise ValueError(
            f"{x.dtype} cannot hold a small perturbation: give images and model in float32, model.float(), and let"
            " torch.autocast compute in less"
        )
    if not labelled:
        return x, y
    y = check_labels(y, len(x)).to(x.device)
    return x, y.clone() if y.is_inference() else y  # as of x: made under torch.inference_mode


def check_logits(output, rows: int | None = None, classes: int = 2) -> Tensor:
    """A model's logits (N, C), single precision at least, from whatever it answers: a tensor, or a tuple, dict or
    dataclass that holds one. ValueError where they are no scores of two classes or more, or not for ``rows`` images
    and at least ``classes`` labels."""
    if isinstance(output, dict) or hasattr(output, "logits"):
        output = (
            output["logits"] if isinstance(output, dict) and "logits" in output else getattr(output, "logits", output)
        )
    if isinstance(output, (tuple, list)) and len(output):
        output = output[0]
    if not torch.is_tensor(output):
        raise ValueError(f"a model must answer with logits (N, classes), not with {type(output).__name__}")
    if output.ndim != 2 or output.shape[1] < 2:
        raise ValueError(
            f"logits must be (N, classes) with two classes or more, not {tuple(output.shape)}:"
            " a single score s is torch.cat([-s, s], 1)"
        )
    if rows not in (None, len(output)):
        raise ValueError(
            f"a model must answer with one row of logits for each image, not with {len(output)} for {rows}"
        )
    if output.shape[1] < classes:
        raise ValueError(f"labels go up to {classes - 1}, but the model has {output.shape[1]} classes")
    return output.to(torch.promote_types(output.dtype, torch.float32))


def needed(y: Tensor) -> int:
    """How many classes a model must have for these labels."""
    return max(int(y.max()) + 1, 2) if len(y) else 2


def slope(value: Tensor, point: Tensor) -> Tensor:
    """The gradient of a number at a point; ValueError where the model has none to give."""
    found = torch.autograd.grad(value, point, allow_unused=True)[0] if value.requires_grad else None
    if found is None:
        raise ValueError(
            "the model's answer has no gradient at x: it is detached, or made outside of torch; try square"
        )
    return found


def check_finite(name: str, values: Tensor) -> Tensor:
    """The values; ValueError naming the first sample (N, ...) that holds NaN or infinity."""
    bad = ~values.detach().isfinite().flatten(1).all(1) if len(values) else values.new_zeros(0, dtype=torch.bool)
    if bad.any():
        raise ValueError(
            f"{name} of sample {int(bad.nonzero()[0])} is NaN or infinite ({int(bad.sum())} of {len(bad)})"
        )
    return values


def masks(model, scaled, x: Tensor, y: Tensor) -> bool:
    """Does a model answer with probabilities, whose logarithm is to be attacked? Warns of all that would make its
    robustness a matter of masking; ``scaled`` is the model without the scale of its logits."""
    logits = check_logits(model(x))
    check_labels(y, len(x), logits.shape[1])
    if not torch.equal(logits, check_logits(model(x))):
        _warn("the model answers at random: one image, two answers; average over its randomness first")
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        _warn("the model answers with probabilities, which saturate: give it without its softmax")
        return True
    with torch.inference_mode(False), torch.enable_grad():
        point = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(scaled(point), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
    if (share := float((gradient.flatten(1) == 0).all(1).float().mean())) >= FLAT:
        _warn(f"{share:.0%} of the images have no gradient at all: attacks that follow one are blind to them")
    return False


def _warn(words: str) -> None:
    warnings.warn(f"robust accuracy cannot be believed: {words}", stacklevel=5)
