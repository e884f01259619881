"""nclib: measure, attack, train and look into networks whose last layer collapses to a simplex.

Everything public is loaded on first use: ``nclib.figures`` draws, and trainers never wait for it.
"""

from importlib import import_module

from . import nobody

nobody.settle()

__version__ = "0.2.0"

_PLACES = {  # public name -> its module, and its name there
    "load": "data:load", "dataset": "data:dataset", "pixels": "data:pixels",
    "build": "models:build", "Normalize": "models:Normalize",
    "choose": "compute:choose",
    "dlr": "losses:dlr", "margin": "losses:margin", "pgd": "attacks.pgd:pgd",
    "gaussian_noise": "attacks.pgd:gaussian_noise", "sign_noise": "attacks.pgd:sign_noise",
    "sphere_noise": "attacks.pgd:sphere_noise", "apgd": "attacks.apgd:apgd", "square": "attacks.square:square",
    "accuracy": "attacks.robust:accuracy",
    "robust_accuracy": "attacks.robust:robust_accuracy", "robust_mask": "attacks.robust:robust_mask",
    "attack": "attacks.zoo:attack", "Recipe": "training.recipe:Recipe", "Run": "training.store:Run",
    "fit": "training.store:fit", "fit_all": "training.store:fit_all",
    "reestimate_statistics": "training.epochs:reestimate_statistics", "ClassMeans": "measures.means:ClassMeans",
    "class_means": "measures.means:class_means", "cosines": "measures.simplex:cosines",
    "equiangle": "measures.simplex:equiangle", "equinorm": "measures.simplex:equinorm",
    "leap_matrix": "measures.simplex:leap_matrix", "measure": "measures.exact:measure",
    "simplex_gap": "measures.simplex:simplex_gap",
    "similarity": "measures.simplex:similarity", "View": "measures.views:View", "views": "measures.views:views",
    "collapse": "measures.layers:collapse", "propagate": "measures.layers:propagate",
    "features": "measures.layers:features", "first_pass": "measures.layers:first_pass",
    "layer_names": "measures.layers:layer_names", "ncc_head": "measures.layers:ncc_head",
    "history": "measures.history:history", "boundary": "measures.boundary:boundary",
    "minimal_epsilon": "measures.boundary:minimal_epsilon", "page": "evidence.pages:page",
    "glue": "evidence.pages:glue", "prose": "evidence.pages:prose", "records": "evidence.records",
    "ledger": "evidence.ledger",
    "findings": "evidence.findings", "figures": "figures",
}  # fmt: skip
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    found = import_module(f".{module}", __name__)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
