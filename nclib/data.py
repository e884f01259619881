"""Data sets as tensors: images kept as they are stored, converted to [0, 1] by the batch."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .checks import check_images, check_labels
from .runtime import home

_STATISTICS = {  # per-channel mean and standard deviation of the training pixels
    "digits": ((0.3054,), (0.3763,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenette": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
DATASETS = tuple(_STATISTICS)
PARTS = ("train_images", "train_labels", "test_images", "test_labels")  # what an .npz file must hold


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
        return self._statistics[0]

    @property
    def std(self) -> tuple[float, ...]:
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], ...]:
        if self.name in _STATISTICS:
            return _STATISTICS[self.name]
        x = pixels(self.train.images).double()
        return tuple(x.mean((0, 2, 3)).tolist()), tuple(x.std((0, 2, 3)).clamp_min(1e-3).tolist())

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
    downloaded once, through torchvision, in ``root``, else in the variable ``NCLIB_DATA``, else in ``~/.cache/nclib``;
    or the path of one's own: an ``.npz`` file or an image folder (``read``), relative to the checkout.
    ``per_class`` and ``test_per_class`` images of each class are kept in either split, drawn by ``seed``; None: all.
    Raises ValueError for an unknown name or more images than a class has; FileNotFoundError, in one line, where files
    are missing and cannot be fetched.
    """
    if name not in DATASETS and not (home() / name).exists():
        raise ValueError(f"unknown dataset {name!r}; choose one of {', '.join(DATASETS)}, or give a path")
    if name not in DATASETS:
        data = read(home() / name)
    elif name == "digits":
        data = _digits()
    else:
        explicit = root or os.environ.get("NCLIB_DATA")
        if explicit and not Path(explicit).is_dir():
            raise FileNotFoundError(f"data folder {str(explicit)!r} does not exist; make it, or unset NCLIB_DATA")
        data = _torchvision(name, Path(explicit) if explicit else _cache())
    return subset(data, per_class, test_per_class, seed)


def subset(data: Dataset, per_class: int | None = None, test_per_class: int | None = None, seed: int = 0) -> Dataset:
    """Class-balanced subsets of either split, as in ``load``."""
    if per_class is not None:
        data = replace(data, train=_balanced(data, "train", per_class, seed))
    if test_per_class is not None:
        data = replace(data, test=_balanced(data, "test", test_per_class, seed))
    return data


def _cache() -> Path:
    try:
        return Path.home() / ".cache" / "nclib"
    except RuntimeError:  # no home folder
        raise FileNotFoundError("there is no home folder to keep data in: set NCLIB_DATA to one") from None


def _balanced(data: Dataset, split: str, per_class: int, seed: int) -> Split:
    images, labels = getattr(data, split)
    smallest = int(labels.bincount(minlength=data.num_classes).min())
    if not 0 < per_class <= smallest:
        raise ValueError(
            f"{per_class} images per class asked of {data.name}'s {split} split: its smallest class has {smallest}"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
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


# One's own data ----------------------------------------------------------------------------------


def dataset(train, test=None, name: str = "own", class_names=None) -> Dataset:
    """A ``Dataset`` from two splits; without ``test`` the training split stands for both.

    A split is a pair (images, labels) of tensors or arrays, a torch ``Dataset`` of such pairs, or a ``DataLoader``.
    Images are uint8, or float in [0, 1]: (N, C, H, W), (N, H, W, C) with one or three channels, or (N, H, W).
    ValueError, in one line, for anything else, for splits that do not fit together, and for a class without an image.
    """
    train = split(train)
    test = train if test is None else split(test)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"images differ: {tuple(train.images.shape[1:])} to train, {tuple(test.images.shape[1:])} to test"
        )
    names = tuple(class_names or map(str, range(int(train.labels.max()) + 1)))
    for part in (train, test):
        check_labels(part.labels, len(part.images), len(names))
    if len(missing := (train.labels.bincount(minlength=len(names)) == 0).nonzero()):
        raise ValueError(f"class {names[int(missing[0])]} has no training image")
    return Dataset(name, train, test, names)


def split(source) -> Split:
    """Images and labels from a pair, a torch ``Dataset`` or a ``DataLoader`` (see ``dataset``)."""
    if isinstance(source, Split):
        return source
    if isinstance(source, DataLoader):
        source = tuple(torch.cat(parts) for parts in zip(*source))
    elif isinstance(source, TorchDataset):
        source = tuple(zip(*(source[i] for i in range(len(source)))))
        source = torch.stack([_tensor(image) for image in source[0]]), torch.as_tensor(source[1])
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        raise ValueError(f"a split is a pair (images, labels), a Dataset or a DataLoader, not {type(source).__name__}")
    images, labels = _tensor(source[0]), check_labels(source[1], len(source[0]))
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must be (N, C, H, W), not {tuple(images.shape)}")
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2).contiguous()
    return Split(images if images.dtype == torch.uint8 else check_images(images.float()), labels)


def read(path: Path) -> Dataset:
    """The data set in an ``.npz`` file (``PARTS``), or in a folder: ``train/<class>/*``, ``test/<class>/*``.

    ValueError, in one line, for a file that cannot be read, a part that is missing, and images of several sizes.
    """
    if path.is_dir():
        return _folder(path)
    try:
        with np.load(path, allow_pickle=False) as kept:
            parts = {name: kept[name] for name in PARTS if name in kept}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npz file of arrays: {error}") from None
    if missing := [name for name in PARTS if name not in parts]:
        raise ValueError(f"{path} has no {missing[0]}; it must hold {', '.join(PARTS)}")
    pairs = [(parts[f"{part}_images"], parts[f"{part}_labels"]) for part in ("train", "test")]
    return dataset(*pairs, name=path.stem)


def _folder(path: Path) -> Dataset:
    from torchvision.datasets import ImageFolder

    read = []
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise ValueError(f"{path} has no folder {part!r}; it must hold train/<class>/ and test/<class>/")
        read.append(ImageFolder(path / part))
    sizes = {image.size for part in read for image, _ in part}
    if len(sizes) > 1:
        raise ValueError(
            f"{path}: images of {len(sizes)} sizes, {min(sizes)} to {max(sizes)}: bring them to one size first"
        )
    if read[0].classes != read[1].classes:
        raise ValueError(f"{path}: train has classes {', '.join(read[0].classes)}, test {', '.join(read[1].classes)}")
    return dataset(*map(split, read), name=path.name, class_names=read[0].classes)


def _tensor(image) -> Tensor:
    if isinstance(image, (Tensor, np.ndarray)):
        return torch.as_tensor(image)
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(image)
