"""Companions: beside each of the paper's claims an observable that closes its loophole, with a threshold of its own.

The paper's thresholds stay as they are. Those here were fixed after a look at the first records of digits and of 400
images of CIFAR-10, and before any run of five seeds or of more images: illustration on digits, and on CIFAR-10, whose
400 are among the later images, a test on new trainings and not on new data.
"""

from .beyond.further import STEADY, since_interpolation
from .claims import Claim, Lookup, at_least, at_most, of, ratio
from .paper import ADVERSARIAL, FLAT, STANDARD


def _best_early(v: Lookup, model: str = STANDARD, view: str = "untargeted") -> float:
    return v.layers(model, view).iloc[:-1].max()


def _angle_at_best(v: Lookup) -> float:
    best = v.layers(STANDARD, "untargeted").iloc[:-1].idxmax()
    return v(STANDARD, "angle", view="untargeted", layer=best)


def _own_attacks(v: Lookup) -> float:
    worst = dict(view="worst", split="test")
    return abs(v(ADVERSARIAL, "centers_ncc_accuracy", **worst) - v(ADVERSARIAL, "accuracy", **worst))


def _retention(v: Lookup) -> float:
    layers = v.layers(STANDARD, "untargeted") / v.layers(STANDARD, "clean")
    return layers.iloc[:-1].max()


def _drawdown(v: Lookup) -> float:
    robust = v.layers(ADVERSARIAL, "untargeted")
    return (robust.cummax() - robust).max()


def _pixels(v: Lookup, view: str = "untargeted") -> float:
    return v(STANDARD, "centers_ncc_accuracy", view=view, split="test", layer="pixels")


def _chance(v: Lookup) -> float:
    """Robust accuracy in units of chance: NC1 over its per-class form is the number of classes."""
    classes = v(ADVERSARIAL, "nc1") / v(ADVERSARIAL, "nc1_per_class")
    return v(ADVERSARIAL, "accuracy", view="untargeted", split="test") * classes


NOISES = (("sign", "sign"), ("Gaussian", "gaussian"))
ATTACKED_TEST = dict(view="untargeted", split="test")

COMPANIONS = (
    Claim("C1", "The terminal phase goes on collapsing", "collapse", "fig-collapse-curves", (
        at_most("NC1, last epoch / interpolation", since_interpolation("nc1"), 0.5, log=True, way=1),
        at_most("NC1 per class", of(STANDARD, "nc1_per_class"), 0.1),
    )),
    Claim("C2", "Attacked points leave the clean simplex", "attacks", "fig-attack-epsilon", (
        at_least("NC1 about the clean means, attacked / clean",
                  ratio(of(STANDARD, "centers_nc1", view="untargeted"), of(STANDARD, "nc1")), 10, log=True, way=1),
    )),
    Claim("C2", "It is not collapse that is fragile", "attacks", "fig-attack-training", STEADY),
    Claim("C3", "Noise leaves the simplex as it is", "attacks", "fig-attack-epsilon", tuple(
        at_most(f"{name}, {noise} noise / clean",
                 ratio(of(STANDARD, measure, view=view), of(STANDARD, measure)), bound, log=measure == "nc1")
        for noise, view in NOISES for name, measure, bound in (("NC1", "nc1", 2), ("equiangle", "equiangle", 1.25))
    )),
    Claim("C4", "Attacked points arrive, as tight as noise", "attacks", "fig-attack-arrival", (
        at_most("NC1 by predicted class, attacked / sign noise by label",
                 ratio(of(STANDARD, "arrival_nc1", view="untargeted"), of(STANDARD, "nc1", view="sign")), 2,
                 log=True),
        at_least("share of fooled points within the clean 95 % cone",
                  of(STANDARD, "arrival_cone", view="untargeted"), 0.5),
    )),
    Claim("C5", "Attacked features are as tight as clean ones", "adversarial-training", "fig-robust-curves", (
        at_most("NC1, attacked / clean, one network",
                 ratio(of(ADVERSARIAL, "nc1", view="untargeted"), of(ADVERSARIAL, "nc1")), 2, log=True),
    )),
    *(
        Claim(f"C6 {kind}", "TRADES does not collapse by itself", "adversarial-training", "fig-robust-curves", (
            at_least("NC1, last epoch / untrained",
                      lambda v, model=f"TRADES ({kind})": v(model, "nc1") / v(model, "nc1", epoch=0), 0.3, log=True),
        ), floor=at_least("train accuracy", of(f"TRADES ({kind})", "accuracy"), 0.95), below="did not train")
        for kind in ("published", "fixed")
    ),
    Claim("C7", "Rule and network answer alike, image by image", "adversarial-training", "fig-robust-ncc", (
        at_most("disagreement of rule and network under PGD, test",
                 of(ADVERSARIAL, "centers_nc4", **ATTACKED_TEST), FLAT),
        at_least("NCC accuracy, adversarial − standard",
                  lambda v: v(ADVERSARIAL, "centers_ncc_accuracy", **ATTACKED_TEST)
                  - v(STANDARD, "centers_ncc_accuracy", **ATTACKED_TEST), 0.2),
    ), floor=at_least("robust accuracy in units of chance", _chance, 2), below="not applicable"),
    Claim("C7", "The rule withstands an attack of its own", "adversarial-training", "fig-robust-ncc", (
        at_most("|rule − network| accuracy, each under the worst attack on itself, test", _own_attacks, 0.05, way=0.2),
    ), floor=at_least("robust accuracy in units of chance", _chance, 2), below="not applicable"),
    Claim("C8", "Early layers know more than controls that learned nothing", "layers", "fig-layers-control", (
        at_least("retention of the best early layer, attacked / clean", _retention, 0.8),
        at_least("lead of the best early layer over the pixels", lambda v: _best_early(v) - _pixels(v), 0.05),
        at_least("lead over an untrained network's best early layer",
                  lambda v: _best_early(v) - _best_early(v, "untrained"), 0.05),
        at_most("largest drawdown over depth, adversarial", _drawdown, FLAT),
    )),
    Claim("C8", "The best early layer's simplex stays in place", "layers", "fig-layers-collapse", (
        at_most("angle between clean and attacked means at that layer, degrees", _angle_at_best, 30, way=90),
    )),
    Claim("C8a", "An early layer withstands an attack of its own better than the pixels", "layers",
          "fig-layers-adaptive", (
        at_least("lead of the best layer over the pixels, adaptive attack",
                  lambda v: v.layers(STANDARD, "adaptive").max() - _pixels(v, "adaptive"), 0.05),
    )),
)  # fmt: skip
