"""The paper's claims (Su et al. 2024). Thresholds were fixed before any run, and do not move."""

from collections.abc import Callable

from .claims import Claim, Condition, Lookup

FLAT = 0.02  # accuracies that differ by less count as equal (C7 and C8)
STANDARD, ADVERSARIAL = "standard", "adversarial"


def _share(model: str, measure: str, **where) -> Callable[[Lookup], float]:
    """Last epoch over first epoch."""
    return lambda v: v(model, measure, **where) / v(model, measure, epoch=1, **where)


def _attacked(measure: str) -> Callable[[Lookup], float]:
    """Attacked over clean, standard training."""
    return lambda v: v(STANDARD, measure, view="untargeted") / v(STANDARD, measure)


def _below(value: Callable[[Lookup], float], bound: float) -> Callable[[Lookup], bool]:
    return lambda v: value(v) < bound


def _above(value: Callable[[Lookup], float], bound: float) -> Callable[[Lookup], bool]:
    return lambda v: value(v) > bound


def _falls(name: str, model: str, measure: str, comparison: str, threshold: float, log=False, **where) -> Condition:
    share = _share(model, measure, **where)
    return Condition(f"{name}, last / first epoch", share, comparison, threshold, "it falls", _below(share, 1), log)


C1 = Claim("C1", "Standard training collapses on clean data", "collapse", "fig-collapse-curves", (
    Condition("train accuracy", lambda v: v(STANDARD, "accuracy"), "≥", 0.999,
              "it rises", _above(_share(STANDARD, "accuracy"), 1)),
    _falls("NC1", STANDARD, "nc1", "≤", 0.1, log=True),
    _falls("equinorm", STANDARD, "equinorm", "<", 1),
    _falls("equiangle", STANDARD, "equiangle", "<", 1),
    Condition("NC4", lambda v: v(STANDARD, "nc4"), "≤", 0.001, "it falls",
              lambda v: v(STANDARD, "nc4") < v(STANDARD, "nc4", epoch=1)),
))  # fmt: skip

C2 = Claim("C2", "A small attack destroys the simplex", "attacks", "fig-attack-epsilon", (
    Condition("accuracy under PGD", lambda v: v(STANDARD, "accuracy", view="untargeted"), "≤", 0.1,
              "below the clean one", _below(_attacked("accuracy"), 1)),
    Condition("NC1, attacked / clean", _attacked("nc1"), "≥", 10, "it grows", _above(_attacked("nc1"), 1), log=True),
    Condition("equiangle, attacked / clean", _attacked("equiangle"), "≥", 2,
              "it grows", _above(_attacked("equiangle"), 1)),
))  # fmt: skip


def _noise(name: str, view: str) -> tuple[Condition, Condition]:
    def ratio(v: Lookup) -> float:
        return v(STANDARD, "nc1", view=view) / v(STANDARD, "nc1", view="untargeted")

    def above_attacked(v: Lookup) -> bool:
        return v(STANDARD, "accuracy", view=view) > v(STANDARD, "accuracy", view="untargeted")

    return (
        Condition(f"accuracy, {name} noise", lambda v: v(STANDARD, "accuracy", view=view), "≥", 0.95,
                  "above the attacked one", above_attacked),
        Condition(f"NC1, {name} noise / PGD", ratio, "≤", 0.1, "below one", _below(ratio, 1), log=True),
    )  # fmt: skip


C3 = Claim("C3", "Noise of the same size does not", "attacks", "fig-attack-epsilon",
           (*_noise("sign", "sign"), *_noise("Gaussian", "gaussian")))  # fmt: skip


def _approach(v: Lookup) -> float:
    return v(STANDARD, "target_angle", view="targeted") / v(STANDARD, "target_angle", view="clean")


C4 = Claim("C4", "Attacked points leap to other vertices", "attacks", "fig-attack-leap", (
    Condition("angle to the target's vertex, attacked / clean", _approach, "≤", 0.5, "it falls", _below(_approach, 1)),
    Condition("share leapt to another vertex", lambda v: v(STANDARD, "centers_leapt", view="untargeted"), "≥", 0.5,
              "above the clean one",
              lambda v: v(STANDARD, "centers_leapt", view="untargeted") > v(STANDARD, "leapt")),
))  # fmt: skip

C5 = Claim("C5", "Adversarial training collapses on clean and perturbed data, onto one simplex",
           "adversarial-training", "fig-robust-curves", (
    _falls("NC1, clean", ADVERSARIAL, "nc1", "≤", 0.3, log=True),
    _falls("NC1, attacked", ADVERSARIAL, "nc1", "≤", 0.3, log=True, view="untargeted"),
    Condition("clean–attacked angle in degrees", lambda v: v(ADVERSARIAL, "angle", view="untargeted"), "≤", 15,
              "below standard training's",
              lambda v: v(ADVERSARIAL, "angle", view="untargeted") < v(STANDARD, "angle", view="untargeted")),
))  # fmt: skip


def _trades(batchnorm: str) -> Claim:
    def condition(name: str, view: str) -> Condition:
        def ratio(v: Lookup) -> float:
            return v(f"TRADES ({batchnorm})", "nc1", view=view) / v(ADVERSARIAL, "nc1", view=view)

        return Condition(f"NC1, TRADES / adversarial, {name}", ratio, "≥", 3, "above one", _above(ratio, 1), log=True)

    return Claim(f"C6 {batchnorm}", f"TRADES does not collapse (batch norm {_AS[batchnorm]})", "adversarial-training",
                 "fig-robust-curves", (condition("clean", "clean"), condition("attacked", "untargeted")))  # fmt: skip


_AS = {"published": "as published", "fixed": "fixed"}


def _rule(model: str, v: Lookup) -> float:
    return v(model, "centers_ncc_accuracy", view="untargeted", split="test")


def _network(v: Lookup) -> float:
    return v(ADVERSARIAL, "accuracy", view="untargeted", split="test")


def _gain(v: Lookup) -> float:
    standard = _rule(STANDARD, v)
    return _rule(ADVERSARIAL, v) / standard if standard else float("inf")  # the standard one may be wrong everywhere


C7 = Claim("C7", "The nearest-class-centre rule of a robust network is itself robust",
           "adversarial-training", "fig-robust-ncc", (
    Condition("|NCC − network| accuracy under PGD, test", lambda v: abs(_rule(ADVERSARIAL, v) - _network(v)), "≤", FLAT,
              "NCC is right at least half as often", lambda v: _rule(ADVERSARIAL, v) >= _network(v) / 2),
    Condition("NCC accuracy, adversarial / standard", _gain, "≥", 3, "above one", _above(_gain, 1)),
))  # fmt: skip


def _lead(view: str) -> Callable[[Lookup], float]:
    def lead(v: Lookup) -> float:
        accuracy = v.layers(STANDARD, view)
        return accuracy.iloc[:-1].max() - accuracy.iloc[-1]

    return lead


def _robust_layers(v: Lookup):
    return v.layers(ADVERSARIAL, "untargeted")


C8 = Claim("C8", "Earlier layers keep reliable simplices under attack, later ones do not", "layers", "fig-layers-ncc", (
    Condition("lead of the best early layer over the last", _lead("untargeted"), "≥", 0.2,
              "above zero", _above(_lead("untargeted"), 0)),
    Condition("largest fall between layers, adversarial", lambda v: -_robust_layers(v).diff().min(), "≤", FLAT,
              "last at least as high as first", lambda v: _robust_layers(v).iloc[-1] >= _robust_layers(v).iloc[0]),
))  # fmt: skip

C8A = Claim("C8a", "(ours) The early layers' robustness is real, not a failure to transfer",
            "layers", "fig-layers-adaptive", (
    Condition("lead of the best early layer over the last, adaptive attack", _lead("adaptive"), "≥", 0.2,
              "above zero", _above(_lead("adaptive"), 0)),
))  # fmt: skip

CLAIMS = (C1, C2, C3, C4, C5, _trades("published"), _trades("fixed"), C7, C8, C8A)
