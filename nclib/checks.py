"""What comes in is looked at once, at the door: images, labels and what a model answers. Imports nothing of ours."""

import torch
from torch import Tensor, nn


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
    y = torch.as_tensor(y)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {y.dtype}")
    if y.shape != (count,):
        raise ValueError(f"labels must be one per sample, of shape ({count},), not {tuple(y.shape)}")
    if count and (wrong := int(y.min())) < 0:
        raise ValueError(f"labels must be 0 or more, not {wrong}")
    if count and classes is not None and (wrong := int(y.max())) >= classes:
        raise ValueError(f"labels go up to {wrong}, but the model has {classes} classes")
    return y.long()


def check_logits(output) -> Tensor:
    """A model's logits (N, C), single precision at least, from whatever it answers: a tensor, or a tuple, dict or
    dataclass that holds one. ValueError where they are no scores of two classes or more."""
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
    return output.to(torch.promote_types(output.dtype, torch.float32))


def check_finite(name: str, values: Tensor) -> Tensor:
    """The values; ValueError naming the first sample (N, ...) that holds NaN or infinity."""
    bad = ~values.detach().isfinite().flatten(1).all(1) if len(values) else values.new_zeros(0, dtype=torch.bool)
    if bad.any():
        raise ValueError(
            f"{name} of sample {int(bad.nonzero()[0])} is NaN or infinite ({int(bad.sum())} of {len(bad)})"
        )
    return values
