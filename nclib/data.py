"""Data sets as tensors: images kept as they are stored, converted to [0, 1] by the batch."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

_STATISTICS = {  # per-channel mean and standard deviation of the training pixels
    "digits": ((0.3054,), (0.3763,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenette": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
DATASETS = tuple(_STATISTICS)


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8 or float in [0, 1], with labels (N,) int64. Unpacks as a pair."""

    images: Tensor
    labels: Tensor

    def __iter__(self):
        return iter((self.images, self.labels))

    def __len__(self):
        return len(self.labels)

    def to(self, device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, with what a model needs to know of them."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return tuple(self.train.images.shape[1:])

    @property
    def mean(self) -> tuple[float, ...]:
        return _STATISTICS[self.name][0]

    @property
    def std(self) -> tuple[float, ...]:
        return _STATISTICS[self.name][1]

    def to(self, device) -> "Dataset":
        """The same data set on another device (one copy; batches are cut there)."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def pixels(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 is divided by 255, floats pass through."""
    return images.float().div(255) if images.dtype == torch.uint8 else images


def load(
    name: str,
    root: str | Path | None = None,
    per_class: int | None = None,
    test_per_class: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set whole, or class-balanced subsets of its splits.

    ``name`` is one of ``DATASETS``: ``digits`` (1,797 real 8x8 digits) comes with scikit-learn, the others are read, or
    downloaded once, through torchvision, in ``root``, else in the variable ``NCLIB_DATA``, else in ``~/.cache/nclib``.
    ``per_class`` and ``test_per_class`` images of each class are kept in either split, drawn by ``seed``; None: all.
    Raises ValueError for an unknown name or more images than a class has; FileNotFoundError, in one line, where files
    are missing and cannot be fetched.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; choose one of {', '.join(DATASETS)}")
    if name == "digits":
        data = _digits()
    else:
        explicit = root or os.environ.get("NCLIB_DATA")
        if explicit and not Path(explicit).is_dir():
            raise FileNotFoundError(f"data folder {str(explicit)!r} does not exist; make it, or unset NCLIB_DATA")
        data = _torchvision(name, Path(explicit or Path.home() / ".cache" / "nclib"))
    if per_class is not None:
        data = replace(data, train=_balanced(data, "train", per_class, seed))
    if test_per_class is not None:
        data = replace(data, test=_balanced(data, "test", test_per_class, seed))
    return data


def _balanced(data: Dataset, split: str, per_class: int, seed: int) -> Split:
    images, labels = getattr(data, split)
    smallest = int(labels.bincount(minlength=data.num_classes).min())
    if not 0 < per_class <= smallest:
        raise ValueError(
            f"{per_class} images per class asked of {data.name}'s {split} split: its smallest class has {smallest}"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = torch.cat([order[labels[order] == c][:per_class] for c in range(data.num_classes)]).sort().values
    return Split(images[kept], labels[kept])


def _digits() -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.tensor(bunch.images / 16.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=bunch.target)
    splits = (Split(images[part], labels[part]) for part in (train, test))
    return Dataset("digits", *splits, tuple(map(str, bunch.target_names)))


def _torchvision(name: str, root: Path) -> Dataset:
    import torchvision.datasets as tv

    source = {"mnist": tv.MNIST, "fashion_mnist": tv.FashionMNIST, "cifar10": tv.CIFAR10, "cifar100": tv.CIFAR100}
    if name == "imagenette":
        where, what = root / "imagenette2-160", "the 160 px archive"
        splits = [partial(tv.Imagenette, root, split=split, size="160px") for split in ("train", "val")]
    else:
        source = source[name]
        where, what = (
            root / getattr(source, "base_folder", f"{source.__name__}/raw"),
            f"torchvision's {source.__name__}",
        )
        splits = [partial(source, root, train=train) for train in (True, False)]
    try:
        read = [_here_or_fetched(split) for split in splits]
    except Exception as error:
        raise FileNotFoundError(
            f"{name}: files missing or damaged in {where} and the download failed ({type(error).__name__});"
            f" put {what} files there or set NCLIB_DATA"
        ) from None
    classes = tuple(c if isinstance(c, str) else c[0] for c in read[0].classes)
    return Dataset(name, *(_pictures(r) if name == "imagenette" else _arrays(r) for r in read), classes)


def _here_or_fetched(split: Callable):
    try:
        return split(download=False)
    except RuntimeError:
        return split(download=True)


def _arrays(split) -> Split:
    images = torch.as_tensor(split.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(split.targets, dtype=torch.int64))


def _pictures(split, side: int = 160) -> Split:
    from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

    images = [center_crop(resize(pil_to_tensor(image), [side]), [side, side]) for image, _ in split]
    return Split(torch.stack(images), torch.tensor([label for _, label in split]))
