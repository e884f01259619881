"""Data sets as tensors: images kept as they are stored, converted to [0, 1] by the batch."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .checks import check_images, check_labels, check_stored
from .known import DATASETS, named
from .runtime import home

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
    """A training and a test split, with what a model needs to know of them.

    ``statistics`` are mean and standard deviation of training pixels by channel; None: those of ``train``, measured.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return tuple(self.train.images.shape[1:])

    @property
    def mean(self) -> tuple[float, ...]:
        return self._measured[0]

    @property
    def std(self) -> tuple[float, ...]:
        return self._measured[1]

    @cached_property
    def _measured(self) -> tuple[tuple[float, ...], ...]:
        if self.statistics:
            return self.statistics
        x = pixels(self.train.images).cpu().double()  # which an MPS device does not know
        return tuple(x.mean((0, 2, 3)).tolist()), tuple(x.std((0, 2, 3)).clamp_min(1e-3).tolist())

    def to(self, device) -> "Dataset":
        """The same data set on another device (one copy; batches are cut there)."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def pixels(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 is divided by 255, floats pass through. ValueError for anything else."""
    return images.float().div(255) if check_stored(images).dtype == torch.uint8 else images


def load(
    name: str,
    root: str | Path | None = None,
    per_class: int | None = None,
    test_per_class: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set whole, or class-balanced subsets of its splits.

    ``name`` is one of ``nclib.known.DATASETS``: ``digits`` (1,797 real 8x8 digits) comes with scikit-learn, the others
    are read, or downloaded once, through torchvision, in a ``folder``; or the path of one's own: an ``.npz`` file or an
    image folder (``read``), relative to the checkout.
    ``per_class`` and ``test_per_class`` images of each class are kept in either split, drawn by ``seed``; None: all.
    Raises ValueError for an unknown name or more images than a class has; FileNotFoundError, in one line, where files
    are missing or damaged and cannot be fetched.
    """
    if not isinstance(name, str) or (name not in DATASETS and not (home() / name).exists()):
        raise ValueError(f"unknown dataset {name!r}; choose one of {', '.join(DATASETS)}, or give a path")
    data = _known(name, root) if name in DATASETS else read(home() / name)
    return subset(data, per_class, test_per_class, seed)


def subset(data: Dataset, per_class: int | None = None, test_per_class: int | None = None, seed: int = 0) -> Dataset:
    """Class-balanced subsets of either split, as in ``load``."""
    if per_class is not None:
        data = replace(data, train=_balanced(data, "train", per_class, seed))
    if test_per_class is not None:
        data = replace(data, test=_balanced(data, "test", test_per_class, seed))
    return data


def folder(root: str | Path | None = None) -> Path:
    """Where data sets are kept: ``root``, else the variable ``NCLIB_DATA``, else ``~/.cache/nclib``.

    FileNotFoundError, in one line, where one of the first two is no folder, and where there is no home folder.
    """
    if explicit := root or os.environ.get("NCLIB_DATA"):
        if not Path(explicit).is_dir():
            raise FileNotFoundError(f"data folder {str(explicit)!r} does not exist; make it, or unset NCLIB_DATA")
        return Path(explicit)
    try:
        return Path.home() / ".cache" / "nclib"
    except RuntimeError:
        raise FileNotFoundError("there is no home folder to keep data in: set NCLIB_DATA to one") from None


def _known(name: str, root: str | Path | None) -> Dataset:
    """A data set by its name, if all of it is there."""
    entry = DATASETS[name]
    train, test, classes = named(entry.reader)(name, root)
    for what, part, size in zip(("train", "test"), (train, test), entry.sizes):
        if part.images.shape != (size, *entry.shape) or part.labels.shape != (size,):
            raise FileNotFoundError(
                f"{name}: {len(part.labels)} labels and images {tuple(part.images.shape)} to {what}, not"
                f" {(size, *entry.shape)}: files are missing or damaged; unpack them again, or set NCLIB_DATA"
            )
    return Dataset(name, train, test, classes, (entry.mean, entry.std))


def _balanced(data: Dataset, split: str, per_class: int, seed: int) -> Split:
    images, labels = getattr(data, split)
    smallest = int(labels.bincount(minlength=data.num_classes).min())
    if not isinstance(per_class, Integral) or isinstance(per_class, bool) or not 0 < per_class <= smallest:
        raise ValueError(
            f"{per_class} images per class asked of {data.name}'s {split} split: its smallest class has {smallest}"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(int(seed))).to(labels.device)
    kept = torch.cat([order[labels[order] == c][:per_class] for c in range(data.num_classes)]).sort().values
    return Split(images[kept], labels[kept])


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
    if len(names) < 2:
        raise ValueError("one class only: there is nothing to tell apart")
    for part in (train, test):
        check_labels(part.labels, len(part.images), len(names))
    if len(missing := (train.labels.bincount(minlength=len(names)) == 0).nonzero()):
        raise ValueError(f"class {names[int(missing[0])]} has no training image")
    return Dataset(name, train, test, names)


def as_dataset(data) -> Dataset:
    """One's own data from a ``Dataset``, or from one split or two. ValueError for anything else."""
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, (tuple, list)) or len(data) not in (1, 2):
        raise ValueError("data of one's own are a Dataset, or splits: (train, test), or (train,)")
    return dataset(*data)


def split(source) -> Split:
    """Images and labels from a pair, a torch ``Dataset`` or a ``DataLoader`` (see ``dataset``)."""
    if isinstance(source, Split):
        source = tuple(source)
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
    elif images.shape[1] > 4 and images.shape[3] in (2, 4):
        raise ValueError(
            f"images {tuple(images.shape)} may have their channels last: give (N, C, H, W), or three channels"
        )
    return Split(images if images.dtype == torch.uint8 else check_images(images.float()), labels)


def read(path: Path) -> Dataset:
    """The data set in an ``.npz`` file (``PARTS``), or in a folder: ``train/<class>/*``, ``test/<class>/*``.

    ValueError, in one line that names the file or folder, for what cannot be read, a part that is missing or empty,
    files that are no images, images of several sizes, and whatever ``dataset`` refuses.
    """
    train, test, classes = _folder(path) if path.is_dir() else _archive(path)
    try:
        return dataset(train, test, path.name.removesuffix(".npz"), classes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _archive(path: Path) -> tuple:
    try:
        with np.load(path, allow_pickle=False) as kept:
            parts = {name: kept[name] for name in PARTS if name in kept}
    except Exception as error:  # a decoder may fail in any way on a damaged file
        raise ValueError(f"{path} is no .npz file of arrays: {error}") from None
    if missing := [name for name in PARTS if name not in parts]:
        raise ValueError(f"{path} has no {missing[0]}; it must hold {', '.join(PARTS)}")
    return *((parts[f"{part}_images"], parts[f"{part}_labels"]) for part in ("train", "test")), None


def _folder(path: Path) -> tuple:
    from torchvision.datasets import ImageFolder

    found = {}
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise ValueError(f"{path} has no folder {part!r}; it must hold train/<class>/ and test/<class>/")
        try:
            found[part] = ImageFolder(path / part)
        except FileNotFoundError as error:
            raise ValueError(f"{path / part}: {error}") from None
        files = {f for f in (path / part).glob("*/**/*") if f.is_file() and not f.name.startswith((".", "Thumbs.db"))}
        if other := sorted(files - {Path(file) for file, _ in found[part].samples}):
            raise ValueError(f"{other[0]} is no image of a known kind: save it as PNG or JPEG, or take it away")
    classes = [", ".join(part.classes) for part in found.values()]
    if classes[0] != classes[1]:
        raise ValueError(f"{path}: train has classes {classes[0]}, test {classes[1]}")
    return *(pictures(part.samples) for part in found.values()), found["train"].classes


def pictures(samples: list[tuple[str, int]], side: int | None = None) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8, cut to squares of a ``side`` if given, and labels (N,), from pairs of file and label.

    ValueError, in one line that names the file, for one that cannot be read, is of another size than the first, has
    more than 8 bits a channel, or is transparent anywhere.
    """
    images = [_picture(file, side) for file, _ in samples]
    for (file, _), image in zip(samples, images):
        if image.shape != images[0].shape:
            sizes = " x ".join(map(str, image.shape[1:])), " x ".join(map(str, images[0].shape[1:]))
            raise ValueError(f"{file} has {sizes[0]} pixels, {samples[0][0]} {sizes[1]}: bring all images to one size")
    return torch.stack(images), torch.tensor([label for _, label in samples])


def _picture(file: str, side: int | None) -> Tensor:
    from PIL import Image
    from torchvision.transforms.v2.functional import center_crop, resize

    try:
        with Image.open(file) as opened:
            mode = opened.mode
            image = _tensor(opened.convert("RGBA" if opened.has_transparency_data else "RGB"))
    except Exception as error:  # a decoder may fail in any way on a damaged file
        raise ValueError(
            f"{file} cannot be read as an image ({type(error).__name__}): put a sound one there, or take it away"
        ) from None
    if mode[0] in "IF":
        raise ValueError(f"{file} has pixels of more than 8 bits (mode {mode}): save it with 8 bits a channel")
    if len(image) == 4 and int(image[3].min()) < 255:
        raise ValueError(f"{file} is transparent in places: put its drawing on a ground of its own")
    image = image[:3]
    return center_crop(resize(image, [side]), [side, side]) if side else image


def _tensor(image) -> Tensor:
    if isinstance(image, (Tensor, np.ndarray)):
        return torch.as_tensor(image)
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(image)
