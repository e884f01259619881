"""Scenes: two or three digits on an empty canvas, a class for every pixel, and small networks that read them."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..data import load, pixels

INK = 0.25  # from this ink on a pixel belongs to its digit
CANVAS = {"digits": (16, 24, 5), "mnist": (64, 84, 10)}  # height, width, digits that may stand on it
SPLITS = ("train", "test")
NETWORKS = ("average", "maximum", "dilated", "deep")


def _choice(name: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")


def digits_of(dataset: str, split: str) -> tuple[Tensor, Tensor]:
    """The digits that a split's scenes are made of: images (N, h, w) in [0, 1], classes (N,). No digit is in both.

    Of scikit-learn's 8x8 digits, a permutation's first three quarters make training scenes; MNIST has its own split.
    """
    _choice("dataset", dataset, CANVAS)
    _choice("split", split, SPLITS)
    data, classes = load(dataset), CANVAS[dataset][2]
    if dataset == "mnist":
        images, labels = data.train if split == "train" else data.test
        images = pixels(images)[:, 0]
    else:
        images, labels = (torch.cat(both) for both in zip(data.train, data.test))
        images, labels = images[labels < classes, 0], labels[labels < classes]
        order = torch.randperm(len(labels), generator=Generator().manual_seed(0))
        cut = 3 * len(order) // 4
        kept = order[:cut] if split == "train" else order[cut:]
        images, labels = images[kept], labels[kept]
    return images, labels


def scenes(dataset: str, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Scenes (count, 1, H, W) in [0, 1] and the class of every pixel (count, H, W); the last class is background.

    Two or three digits in boxes that do not overlap, each placed uniformly at random; after 60 misses a digit is left
    out (after the set M2NIST, with an overlap rule of our own). ValueError for an unknown data set or split, or no
    scene; FileNotFoundError where MNIST is missing.
    """
    if count < 1:
        raise ValueError(f"at least one scene must be asked for, not {count}")
    images, classes = digits_of(dataset, split)
    height, width, background = CANVAS[dataset]
    draw = partial(_draw, Generator().manual_seed(1 + SPLITS.index(split)))
    side = images.shape[-1]
    x, y = torch.zeros(count, 1, height, width), torch.full((count, height, width), background)
    for scene in range(count):
        taken: list[tuple[int, int]] = []
        for _ in range(2 + draw(2)):
            digit = draw(len(classes))
            for _ in range(60):
                top, left = draw(height - side + 1), draw(width - side + 1)
                if all(abs(top - row) >= side or abs(left - column) >= side for row, column in taken):
                    box = (scene, slice(top, top + side), slice(left, left + side))
                    x[:, 0][box] = images[digit]
                    y[box][images[digit] >= INK] = classes[digit]
                    taken.append((top, left))
                    break
    return x, y


def _draw(generator: Generator, below: int) -> int:
    return int(torch.randint(below, (1,), generator=generator))


def network(name: str, dataset: str, seed: int) -> nn.Sequential:
    """A fresh segmentation network, scenes (N, 1, H, W) to logits (N, classes, H, W).

    "average" pools twofold and goes back up by a transposed convolution; "maximum" pools by the maximum; "dilated"
    stays at full resolution; "deep" has two ReLU layers more, on the small canvas the later ones narrower. On MNIST's
    canvas all are larger. ValueError for another name or data set.
    """
    _choice("network", name, NETWORKS)
    _choice("dataset", dataset, CANVAS)
    torch.manual_seed(seed)
    classes, small = CANVAS[dataset][2] + 1, dataset == "digits"
    pool = nn.MaxPool2d if name == "maximum" else nn.AvgPool2d

    def conv(i, o, kernel, dilation=1):
        return [nn.Conv2d(i, o, kernel, padding=dilation * (kernel // 2), dilation=dilation), nn.ReLU()]

    def smooth():
        return nn.AvgPool2d(3, 1, 1)

    if name == "dilated" and small:
        layers = [*conv(1, 6, 3), smooth(), *conv(6, 16, 5, 2), smooth(), nn.Conv2d(16, classes, 1)]
    elif name == "dilated":
        layers = [*conv(1, 6, 5), smooth(), *conv(6, 8, 5, 2), smooth(), *conv(8, 16, 5, 4), smooth()]
        layers.append(nn.Conv2d(16, classes, 1))
    elif small:
        first, wide, second = (conv(6, 6, 3), 8, conv(8, 8, 3)) if name == "deep" else ([], 16, [])
        layers = [*conv(1, 6, 3), *first, pool(2), *conv(6, wide, 5), *second]
        layers.append(nn.ConvTranspose2d(wide, classes, 4, 2, 1))
    else:
        second, third = (conv(16, 16, 3), conv(32, 32, 3)) if name == "deep" else ([], [])
        layers = [*conv(1, 6, 5), pool(2), *conv(6, 16, 5), *second, pool(2), *conv(16, 32, 5), *third]
        layers.append(nn.ConvTranspose2d(32, classes, 6, 4, 1))
    return nn.Sequential(*layers)


def trained(name: str, dataset: str, seed: int, scenes_seen: int, steps: int, batch: int) -> dict[str, Tensor]:
    """Weights of a network after ``steps`` of Adam (learning rate up to 0.02 in one cycle) on training scenes.

    Cross-entropy per pixel, each class weighted by the inverse root of its share.
    """
    x, y = scenes(dataset, "train", scenes_seen)
    model, draw = network(name, dataset, seed), Generator().manual_seed(seed)
    share = y.flatten().bincount(minlength=CANVAS[dataset][2] + 1) / y.numel()
    weight = share.clamp_min(1e-6).rsqrt()
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=steps)
    for _ in range(steps):
        some = torch.randint(len(x), (batch,), generator=draw)
        loss = F.cross_entropy(model(x[some]), y[some], weight=weight / weight.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.state_dict()


def iou(found: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over the classes of intersection over union of two maps, classes in neither left out; 0 ≤ IoU ≤ 1."""
    both = [((found == c) & (truth == c)).sum() / ((found == c) | (truth == c)).sum() for c in range(classes)]
    return float(torch.stack(both).double().nanmean())
