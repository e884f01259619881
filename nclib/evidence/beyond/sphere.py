"""Collapse on the sphere (Yaras et al. 2022): claims, and a sentence for each verdict."""

from ..claims import Claim, Condition, Lookup, Value, at_least, at_most, of, ratio

NEVER = 2.0  # share of the epochs that a figure which is never reached counts as
SPHERE, HIGHEST, PUBLISHED, TEXT, ORDINARY = "sphere, tau 1", "sphere, tau 50", "published", "text", "ordinary"
ALL = ", all images"  # of a network that was trained on all of them, and not on few
POINTS, FREE, DECAY = "spheres", "free lengths", "decay 0.005"  # the unconstrained features model; its decayed twin
MIDDLE, ENOUGH_FOOLED = (0.2, 0.8), 0.2  # budgets that tell networks apart; that fool enough points to look at


def _worst(measure: str) -> Value:
    """The largest value over the temperatures."""

    def worst(v: Lookup) -> float:
        found = [v(POINTS, measure, view=view) for view in v.views(POINTS, measure) if view.startswith("tau ")]
        if not found:
            raise KeyError(f"{POINTS}: {measure}")
        return max(found)

    return worst


N1 = Claim("N1", "On the spheres descent from random starts collapses, at every temperature", "sphere",
           "fig-sphere-tau", (
    at_most("(f − f*) / f*, worst", _worst("gap"), 1e-3, way=1),
    at_most("NC1, worst", _worst("nc1"), 1e-4, way=1),
    at_most("NC2, worst", _worst("nc2"), 1e-2, way=1),
    at_most("NC3, worst", _worst("nc3"), 1e-2, way=1),
))  # fmt: skip


def passed(v: Lookup, baseline: str, measure: str = "nc1_per_class", model: str = SPHERE) -> float:
    """The first kept epoch at which a model has a baseline's final value, as a share of all; NEVER where there is none.

    Of several seeds the slowest.
    """
    shares = []
    for _, records in v.records.groupby("seed"):
        seed = Lookup(records)
        goal, epochs = seed(baseline, measure), seed.epochs(model)
        reached = [epoch for epoch in epochs if seed(model, measure, epoch=epoch) <= goal]
        shares.append(min(reached) / max(epochs) if reached else NEVER)
    if not shares:
        raise KeyError(f"{model}: {measure}")
    return max(shares)


def _sooner(name: str, baseline: str, what: str) -> Claim:
    condition = at_most("share of the epochs to the baseline's final NC1, slowest seed",
                        lambda v: passed(v, baseline), 0.5, way=1, pooled=True)  # fmt: skip
    text = f"Normalised features (temperature 1) collapse sooner than the baseline {what}"
    return Claim(f"N2 {name}", text, "sphere", "fig-sphere-speed", (condition,))


N2U = Claim("N2u", "So they do in the unconstrained features model", "sphere", "fig-sphere-steps", (
    at_most("iterations to collapse, spheres / free lengths with decay 0.005",
            ratio(of(POINTS, "iterations", view="constant step"), of(FREE, "iterations", view=DECAY)), 0.5, way=1),
))  # fmt: skip

N3 = Claim("N3", "Every other critical point is a strict saddle: all classes at one point, and merged ones", "sphere",
           "fig-sphere-saddle", (
    at_most("|λ_min − closed form|, all equal", of(POINTS, "lowest_gap", view="all equal"), 1e-6, way=1e-3),
    at_most("|gradient|, merged", of(POINTS, "gradient", view="merged"), 1e-8, way=1e-3),
    Condition("λ_min, merged", of(POINTS, "lowest", view="merged"), "<", 0, "below zero",
              lambda v: v(POINTS, "lowest", view="merged") < 0),
    at_least("λ_min / λ_max at collapse", of(POINTS, "lowest_share", view="collapse"), -1e-8, way=-1e-8),
))  # fmt: skip


def _gain(v: Lookup) -> float:
    return v(SPHERE, "accuracy", split="test") - v(TEXT, "accuracy", split="test")


N4 = Claim("N4", "Normalised features generalise better", "sphere", "fig-sphere-speed", (
    Condition("test accuracy, temperature 1 − text's baseline", _gain, "≥", 0.01, "0 or above",
              lambda v: _gain(v) >= 0),
))  # fmt: skip

N5 = Claim("N5", "(ours) The network meets the floor of a ReLU, not the sphere's minimum", "sphere",
           "fig-sphere-floor", (
    at_most("train loss / floor", of(SPHERE + ALL, "loss_over_floor"), 1.02, way=1.1),
    at_least("smallest cosine of class means, not centred", of(SPHERE + ALL, "raw_cosine"), -0.01, way=-0.05),
))  # fmt: skip


def _budgets(v: Lookup, model: str, measure: str) -> dict[str, float]:
    """A measure on test images by budget, the smallest first."""
    views = [view for view in v.views(model, measure) if view.startswith("epsilon ")]
    return {view: v(model, measure, view=view, split="test") for view in sorted(views, key=lambda w: float(w[8:]))}


def lead(measure: str, model: str = SPHERE + ALL, other: str = ORDINARY + ALL) -> Value:
    """The least lead in accuracy over the ordinary network, of the budgets that leave the latter in ``MIDDLE``."""

    def least(v: Lookup) -> float:
        middle = [w for w, a in _budgets(v, other, "robust_accuracy").items() if MIDDLE[0] <= a <= MIDDLE[1]]
        if not middle:
            raise KeyError(f"{other}: no budget leaves it between {MIDDLE[0]:g} and {MIDDLE[1]:g}")
        return min(v(model, measure, view=w, split="test") - v(other, measure, view=w, split="test") for w in middle)

    return least


N6 = Claim("N6", "(ours) The sphere at temperature 1 is more robust than the ordinary network (longer and transferred "
           "attacks were added after a first look)", "sphere", "fig-sphere-robust", (
    at_least("robust accuracy, lead at budgets that leave the ordinary one .2 to .8", lead("robust_accuracy"), 0.05),
    at_least("the same under longer and transferred attacks", lead("robust_longer"), 0.05),
))  # fmt: skip


def at_enough(measure: str, model: str = SPHERE + ALL) -> Value:
    """A measure of the fooled points at the smallest budget that fools ``ENOUGH_FOOLED`` of the images."""

    def found(v: Lookup) -> float:
        enough = [view for view, share in _budgets(v, model, "fooled").items() if share >= ENOUGH_FOOLED]
        if not enough:
            raise KeyError(f"{model}: no budget fools {ENOUGH_FOOLED:g} of the images")
        return v(model, measure, view=enough[0], split="test")

    return found


N7 = Claim("N7", "(ours) Attacked features leap to other vertices of the sphere (which budget: made precise after a "
           "first look)", "sphere", "fig-sphere-leaps", (
    at_least("share of the fooled closest to another vertex", at_enough("leapt"), 0.5, way=0.1),
    at_most("median angle to it / to their own", ratio(at_enough("leap_angle"), at_enough("own_angle")), 0.5, way=1),
))  # fmt: skip


def masking(model: str) -> Value:
    """By how much plain PGD of cross-entropy flatters a network, at the one budget that it was tried at."""

    def difference(v: Lookup) -> float:
        plain, worst = (_budgets(v, model, name) for name in ("plain_accuracy", "robust_accuracy"))
        if not plain:
            raise KeyError(f"{model}: plain_accuracy")
        return min(plain[view] - worst[view] for view in plain)

    return difference


N8 = Claim("N8", "(ours) Masking grows with the temperature (few images, one budget: made precise after a first look)",
           "sphere", "fig-sphere-robust", (
    at_least("plain PGD − worst of several, temperature 50", masking(HIGHEST), 0.05),
    at_most("the same, temperature 1", masking(SPHERE), 0.02, way=0.05),
))  # fmt: skip

CLAIMS: tuple[Claim, ...] = (
    N1,
    _sooner("published", PUBLISHED, "as released"),
    _sooner("text", TEXT, "as the text has it"),
    _sooner("ordinary", ORDINARY, "of ordinary weight decay"),
    N2U, N3, N4, N5, N6, N7, N8,
)  # fmt: skip


def _sooner_said(baseline: str) -> dict[str, str]:
    return {
        "holds": f"With temperature 1 the network has the final NC1 of {baseline} by half of the epochs, or sooner.",
        "holds in part": f"With temperature 1 the network comes to the final NC1 of {baseline}, but not within half of "
        "the epochs.",
        "fails": f"With temperature 1 the network does not come to the final NC1 of {baseline} on every seed.",
        "about": f"temperature 1 collapses sooner than {baseline}",
    }


SAID: dict[str, dict[str, str]] = {
    "N1": {
        "holds": "On the spheres descent collapses from every start that was tried, at every temperature.",
        "holds in part": "On the spheres descent comes close to collapse, not as close as was set for every start.",
        "fails": "On the spheres some start did not lead to collapse.",
        "about": "descent on the spheres collapses from every start",
    },
    "N2 published": _sooner_said("the baseline as released"),
    "N2 text": _sooner_said("the text's baseline"),
    "N2 ordinary": _sooner_said("ordinary weight decay"),
    "N2u": {
        "holds": "Without a network, too, the spheres need at most half of the iterations, each side at the best of "
        "the steps that were tried.",
        "holds in part": "Without a network the spheres need fewer iterations, yet more than half of them, each side "
        "at the best of the steps that were tried.",
        "fails": "Without a network the spheres need no fewer iterations, each side at the best of the steps that were "
        "tried.",
        "about": "the spheres need fewer iterations without a network",
    },
    "N3": {
        "holds": "The other critical points that were tried are strict saddles, and the minimum is not one.",
        "holds in part": "The other critical points that were tried look like strict saddles, but some figure misses "
        "the precision that was set.",
        "fails": "Some critical point that was tried is not the strict saddle that theory asks for.",
        "about": "the other critical points are strict saddles",
    },
    "N4": {
        "holds": "The normalised network is more accurate on test images, by the margin that was set.",
        "holds in part": "The normalised network is no less accurate on test images, but short of the margin.",
        "fails": "The normalised network is not more accurate on test images.",
        "about": "normalised features generalise better",
    },
    "N5": {
        "holds": "The network ends at the floor that non-negative features allow, above the sphere's own minimum.",
        "holds in part": "The network ends near the floor that non-negative features allow, not as near as was set.",
        "fails": "The network does not end at the floor that non-negative features allow.",
        "about": "the network meets the floor of non-negative features",
    },
    "N6": {
        "holds": "At temperature 1 the network is more robust than the ordinary one under every attack tried.",
        "holds in part": "At temperature 1 the network keeps a lead in robustness that is smaller than was set.",
        "fails": "At temperature 1 the network is not more robust than the ordinary one.",
        "about": "the sphere at temperature 1 is more robust",
    },
    "N7": {
        "holds": "Features that fool the network leap: they lie close to another vertex and far from their own.",
        "holds in part": "Features that fool the network leave their vertex, but do not come as close to another as "
        "was set.",
        "fails": "Features that fool the network do not leap to other vertices, by one measure at least.",
        "about": "features that fool the network leap to other vertices",
    },
    "N8": {
        "holds": "Plain PGD flatters the network of temperature 50 and not that of temperature 1.",
        "holds in part": "Plain PGD flatters temperature 50 by less than was set, or temperature 1 by more: that "
        "masking grows with the temperature does not show.",
        "fails": "Plain PGD does not flatter the networks as the temperature would have it.",
        "about": "masking grows with the temperature",
    },
}
