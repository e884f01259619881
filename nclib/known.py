"""Data sets and networks that are known by name: to add one is to add an entry here, and nothing anywhere else.

Without PyTorch, so that a command can check names: what reads or builds stands as "module:function", and is imported
when it is first asked for.
"""

from importlib import import_module
from typing import NamedTuple


class Data(NamedTuple):
    """``reader``(name, root) returns training and test ``Split`` and class names; it must give what stands beside it:
    one image's shape, how many to train and to test, and mean and standard deviation of the former by channel."""

    reader: str
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    version: int = 1  # raised by hand when it comes to give other images


class Network(NamedTuple):
    """``maker``(channels, num_classes, width, mean, std, large=...) returns an ``nn.Sequential`` of named stages, as
    ``nclib.models`` has it, for images of ``smallest`` pixels or more."""

    maker: str
    smallest: int = 1
    version: int = 1  # raised by hand when it comes to give other weights


DATASETS = {
    "digits": Data("nclib.readers:digits", (1, 8, 8), (1437, 360), (0.3054,), (0.3763,)),
    "mnist": Data("nclib.readers:mnist", (1, 28, 28), (60_000, 10_000), (0.1307,), (0.3081,)),
    "fashion_mnist": Data("nclib.readers:mnist", (1, 28, 28), (60_000, 10_000), (0.2860,), (0.3530,)),
    "cifar10": Data(
        "nclib.readers:cifar", (3, 32, 32), (50_000, 10_000), (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    ),
    "cifar100": Data(
        "nclib.readers:cifar", (3, 32, 32), (50_000, 10_000), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    "imagenette": Data("nclib.readers:imagenette", (3, 160, 160), (9469, 3925), (0.5,) * 3, (0.5,) * 3),
    "imagenette_reencoded": Data("nclib.readers:imagenette", (3, 160, 160), (1000, 500), (0.5,) * 3, (0.5,) * 3),
}
NETWORKS = {
    "preactresnet8": Network("nclib.models:preactresnet8"),
    "preactresnet18": Network("nclib.models:preactresnet18"),
    "vgg11": Network("nclib.models:vgg11", smallest=16),
}


def named(place: str):
    """What stands at "module:name", imported now."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
