"""Named views of a data set: the same images clean, attacked or noisy, with the labels to group by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..attacks import pgd as attacks
from ..checks import check_attack, check_count, check_images, check_labels
from ..compute import choose, full_precision
from ..data import Dataset, pixels

VIEWS = ("clean", "untargeted", "targeted", "sign", "gaussian", "sphere")
NOISE_EPSILON = 8 / 255  # the authors' pixel noise beside an l2 attack, whatever its budget


@dataclass(frozen=True)
class View:
    """Images (N, C, H, W) in [0, 1] or uint8, and the labels (N,) to group them by.

    The targeted view is grouped by its *target* classes (y + 1) mod C: "accuracy" there is the attack's success.
    """

    name: str
    images: Tensor
    labels: Tensor
    split: str = "train"

    def __len__(self):
        return len(self.labels)


def views(
    model, data: Dataset, epsilon: float = 8 / 255, norm: str = "linf", step: float | None = None, steps: int = 10,
    names: Sequence[str] | None = None, split: str = "train", start: str | None = "uniform", precision: str = "auto",
    seed: int = 0, batch: int = 512,
) -> list[View]:  # fmt: skip
    """The paper's views of one split (Su et al. 2024, section 3), clean first.

    ``untargeted`` and ``targeted`` PGD (step epsilon / 4 unless given); ``sign`` and ``gaussian`` noise of
    size epsilon in every pixel (8/255 where the norm is l2, as the authors have it); ``sphere``, for l2
    only, noise of the attack's own l2 length. ``names`` picks some. The attack sees the model in eval mode.
    ValueError for an unknown view, split or norm, or epsilon < 0, before any work.
    """
    check_attack(epsilon, norm, start=start, steps=steps)
    names = [names] if isinstance(names, str) else names or [n for n in VIEWS if norm == "l2" or n != "sphere"]
    if unknown := set(names) - set(VIEWS):
        raise ValueError(f"unknown view {sorted(unknown)[0]!r}; choose from {', '.join(VIEWS)}")
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; choose train or test")
    check_count("batch", batch)
    if not isinstance(data, Dataset):
        raise ValueError(f"data must be a Dataset, as nc.load or nc.dataset give it, not {type(data).__name__}")
    images, labels = getattr(data, split)
    images = images if images.dtype == torch.uint8 else check_images(images)
    labels = check_labels(labels, len(images), data.num_classes)
    device = next(iter(model.parameters() if isinstance(model, torch.nn.Module) else ()), images).device
    compute, labels = choose(precision, device, images.shape[-1]), labels.to(device)
    shifted, size = (labels + 1) % data.num_classes, epsilon if norm == "linf" else NOISE_EPSILON
    options = dict(epsilon=epsilon, step=step, steps=steps, norm=norm, start=start, mode="eval")
    makers = {
        "untargeted": lambda x, y, g: attacks.pgd(model, x, y, generator=g, **options),
        "targeted": lambda x, y, g: attacks.pgd(model, x, y, generator=g, targeted=True, **options),
        "sign": lambda x, y, g: attacks.sign_noise(x, size, g),
        "gaussian": lambda x, y, g: attacks.gaussian_noise(x, size, g),
        "sphere": lambda x, y, g: attacks.sphere_noise(x, epsilon, g),
    }
    made = []
    for name in names:
        group = shifted if name == "targeted" else labels
        if name == "clean":
            made.append(View(name, images.to(device), labels, split))
            continue
        generator = Generator(device).manual_seed(int(seed))
        with compute.autocast(), full_precision():
            parts = [
                makers[name](compute.lay_out(pixels(x.to(device))), y, generator)
                for x, y in zip(images.split(batch), group.split(batch))
            ]
        made.append(View(name, torch.cat(parts).contiguous(), group, split))
    return made
