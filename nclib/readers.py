"""Who reads the data sets that are known by name: each returns training split, test split and class names.

Files that are not there are downloaded; what is missing or damaged after that is named, with what to do about it.
"""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from .data import Split, folder, pictures
from .known import DATASETS

Found = tuple[Split, Split, tuple[str, ...]]


def digits(name: str, root) -> Found:
    """The 1,797 digits that come with scikit-learn, a fifth of them, drawn once by class, to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.tensor(bunch.images / 16.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    parts = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=bunch.target)
    train, test = (Split(images[part], labels[part]) for part in parts)
    return train, test, tuple(map(str, bunch.target_names))


def mnist(name: str, root) -> Found:
    """MNIST and Fashion-MNIST: files without a checksum, whose heads and lengths are known."""
    from torchvision.datasets import MNIST, FashionMNIST

    source, (_, *side) = {"mnist": MNIST, "fashion_mnist": FashionMNIST}[name], DATASETS[name].shape
    where, heads = folder(root) / source.__name__ / "raw", {}
    for part, size in zip(("train", "t10k"), DATASETS[name].sizes):
        heads[f"{part}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, size, *side), size * side[0] * side[1]
        heads[f"{part}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, size), size

    def sound(file: str) -> bool:
        content, (head, length) = (where / file).read_bytes() if (where / file).is_file() else b"", heads[file]
        return content.startswith(head) and len(content) == len(head) + length

    splits = [partial(source, folder(root), train) for train in (True, False)]
    found = _fetched(name, where, source, splits, lambda: [file for file in heads if not sound(file)])
    return *map(_arrays, found), _names(found)


def cifar(name: str, root) -> Found:
    """CIFAR-10 and CIFAR-100: batches whose checksums are known."""
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    where, splits = folder(root) / source.base_folder, [partial(source, folder(root), train) for train in (True, False)]
    sums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    damaged = lambda: [file for file, md5 in sums if not check_integrity(where / file, md5)]  # noqa: E731
    found = _fetched(name, where, source, splits, damaged)
    return *map(_arrays, found), _names(found)


def imagenette(name: str, root) -> Found:
    """ImageNette at 160 pixels, cut to squares: a folder of pictures for each class of each split. Its re-encoded
    subset, 100 and 50 pictures a class, is laid out in the same way; nobody publishes it, and it is never fetched."""
    from torchvision.datasets import Imagenette

    where, parts = folder(root) / "imagenette2-160", ("train", "val")
    places = [f"{part}/{word}" for part in parts for word in Imagenette._WNID_TO_CLASS]

    def empty() -> list[str]:
        return [place for place in places if not next((where / place).glob("*.JPEG"), None)]

    if name != "imagenette" and (lacking := empty()):
        raise FileNotFoundError(
            f"{name}: {where / lacking[0]} is missing or damaged, and this subset is not published: put its pictures"
            " there, set NCLIB_DATA, or take imagenette"
        )

    def whole(part: str, download: bool):
        found = Imagenette(folder(root), part, "160px", download and name == "imagenette")
        if empty():
            raise RuntimeError("a class has no picture")
        return found

    found = _fetched(name, where, Imagenette, [partial(whole, part) for part in parts], empty)
    return *(Split(*pictures(split._samples, DATASETS[name].shape[1])) for split in found), _names(found)


def _fetched(name: str, where: Path, source: type, splits: list[Callable], damaged: Callable[[], list[str]]) -> list:
    """torchvision's two splits, downloaded where they cannot be read; FileNotFoundError naming the file at fault."""
    try:
        try:
            return [split(download=False) for split in splits]
        except Exception:  # a decoder may fail in any way on a damaged file
            return [split(download=True) for split in splits]
    except Exception as error:
        bad = where.joinpath(*damaged()[:1])
        raise FileNotFoundError(
            f"{name}: {bad} is missing or damaged, and could not be downloaded ({type(error).__name__}): take away what"
            f" is there and try again, or put torchvision's {source.__name__} files there, or set NCLIB_DATA"
        ) from None


def _names(found: list) -> tuple[str, ...]:
    return tuple(c if isinstance(c, str) else c[0] for c in found[0].classes)


def _arrays(split) -> Split:
    images = torch.as_tensor(split.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(split.targets, dtype=torch.int64))
