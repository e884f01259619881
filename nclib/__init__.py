"""nclib: measure, attack, train and look into networks whose last layer collapses to a simplex."""

import sys
from importlib import import_module

if sys.argv[:1] != ["-m"]:  # python -m nclib only starts kernels, and would wait longest for what they alone need
    from . import claims, records
    from .attacks import (
        accuracy,
        dlr,
        gaussian_noise,
        margin,
        pgd,
        robust_accuracy,
        sign_noise,
        sphere_noise,
        withstands,
    )
    from .compute import choose
    from .data import load, pixels
    from .layers import collapse, features, first_pass, layer_names, ncc_head, propagate
    from .measures import ClassMeans, class_means, cosines, equiangle, equinorm, leap_matrix, measure, similarity
    from .models import build
    from .parallel import fit_all
    from .recipe import Recipe
    from .train import Run, fit, reestimate_statistics
    from .views import View, views
    from .zoo import attack


def __getattr__(name: str):
    if name == "figures":  # on first use: a third of the time that the import would take, and trainers never draw
        return import_module(".figures", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "figures"})
