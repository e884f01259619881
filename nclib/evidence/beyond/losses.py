"""Are all losses created equal (Zhou et al. 2022): claims, and a sentence for each verdict.

Thresholds were fixed before any run. The window of robust accuracies in which L7 and L9 look is that of cross-entropy:
outside it the losses are all near their clean accuracy, or all near zero.
"""

from collections.abc import Callable

from ..claims import Claim, Condition, Lookup, Value, at_least, at_most, of, ratio

LOSSES = {"ce": "cross-entropy", "smoothing": "label smoothing", "focal": "focal", "squared": "squared error"}
CORNERS = ("narrow, short", "narrow, long", "wide, short", "wide, long")
SADDLES = ("zero", "two merged", "five pairs", "two groups")
WINDOW = (0.2, 0.8)  # of cross-entropy's robust accuracy
TEST = dict(split="test")


def network(loss: str, training: str = "standard") -> str:
    """What a network trained with a loss is called in records."""
    return training if loss == "ce" else f"{training}, {loss}"


def free(loss: str) -> str:
    """What the unconstrained features model with a loss is called in records."""
    return f"free features, {loss}"


def _over(pick: Callable, measure: str, *views: str) -> Value:
    """The largest or smallest figure of the free features over losses and views."""
    return lambda v: pick(v(free(loss), measure, view=view) for loss in LOSSES for view in views)


def _against(measure: str, other: str, *views: str) -> Value:
    """The smallest ratio of two figures of the free features over losses and views."""
    return lambda v: min(
        v(free(loss), measure, view=view) / v(free(loss), other, view=view) for loss in LOSSES for view in views
    )


def _spread(v: Lookup, measure: str, view: str = "clean", training: str = "standard") -> float:
    """Largest minus smallest over the losses."""
    values = [v(network(loss, training), measure, view=view, **TEST) for loss in LOSSES]
    return max(values) - min(values)


def _window(v: Lookup) -> list[str]:
    """The budgets at which cross-entropy keeps neither almost all nor almost nothing. KeyError where there are none."""
    inside = [
        e
        for e in v.views(network("ce"), "robust_accuracy")
        if WINDOW[0] <= v("standard", "robust_accuracy", view=e, **TEST) <= WINDOW[1]
    ]
    if not inside:
        raise KeyError("no budget leaves cross-entropy between 0.2 and 0.8")
    return inside


def _largest_spread(v: Lookup) -> float:
    return max(_spread(v, "robust_accuracy", e) for e in _window(v))


def _flattery(v: Lookup) -> float:
    """What plain PGD leaves standing and the worst of several attacks does not, of the loss that it flatters most."""
    return max(
        v(network(loss), "pgd_accuracy", view=e, **TEST) - v(network(loss), "robust_accuracy", view=e, **TEST)
        for loss in LOSSES
        for e in _window(v)
    )


def _gap(v: Lookup, corner: str) -> float:
    """Largest distance of a loss's test accuracy from cross-entropy's, at one corner of the grid."""
    accuracy = {loss: v(network(loss), "grid_accuracy", view=corner, **TEST) for loss in LOSSES}
    return max(abs(accuracy["ce"] - value) for value in accuracy.values())


def _closing(v: Lookup) -> float:
    return _gap(v, CORNERS[-1]) / max(_gap(v, CORNERS[0]), 1e-9)


def _collapses(loss: str, name: str) -> tuple[Condition, ...]:
    """C1's rule."""
    model = network(loss)

    def share(measure: str) -> Value:
        return ratio(of(model, measure), of(model, measure, epoch=1))

    return (
        Condition(f"{name}: train accuracy", of(model, "accuracy"), "≥", 0.999, "it rises",
                  lambda v: share("accuracy")(v) > 1),
        at_most(f"{name}: NC1, last / first epoch", share("nc1"), 0.1, log=True, way=1),
        *(
            Condition(f"{name}: {measure}, last / first epoch", share(measure), "<", 1, "it falls",
                      lambda v, measure=measure: share(measure)(v) < 1)
            for measure in ("equinorm", "equiangle")
        ),
        Condition(f"{name}: NC4", of(model, "nc4"), "≤", 0.001, "it falls",
                  lambda v: v(model, "nc4") < v(model, "nc4", epoch=1)),
    )  # fmt: skip


def _robust_nc1(loss: str, name: str, kind: str, view: str) -> Condition:
    model = network(loss, "adversarial")
    share = ratio(of(model, "nc1", view=view), of(model, "nc1", view=view, epoch=1))
    return at_most(f"{name}: NC1 {kind}, last / first epoch", share, 0.3, log=True, way=1)


DESCENTS = ("L-BFGS", "heavy ball")

CLAIMS: tuple[Claim, ...] = (
    Claim("L1", "Every loss collapses", "losses", "fig-losses-collapse", tuple(
        condition for loss, name in LOSSES.items() for condition in _collapses(loss, name)
    )),
    Claim("L2", "Every loss ends at one geometry", "losses", "fig-losses-collapse", tuple(
        at_most(f"{name}: {shown}", of(network(loss), measure), 0.2, way=1)
        for loss, name in LOSSES.items()
        for shown, measure in (("simplex gap of W", "gap_weight"), ("simplex gap of W and means", "gap_dual"))
    )),
    Claim("L3", "Equal on test data", "losses", "fig-losses-equal", (
        at_most("spread of test accuracy over losses", lambda v: _spread(v, "accuracy"), 0.01, way=0.02, pooled=True),
    )),
    Claim("L3b", "The gap to cross-entropy closes with width and length", "losses", "fig-losses-equal", (
        at_most("largest gap, wide and long / narrow and short", _closing, 0.5, way=1, pooled=True),
    )),
    Claim("L4", "Free features: descent from random starts reaches the closed form", "losses", "fig-losses-descent", (
        at_most("worst (f − f*) / f*", _over(max, "excess", *DESCENTS), 1e-6, way=1e-3),
        at_most("worst NC1 per class", _over(max, "nc1_per_class", *DESCENTS), 1e-4, way=1e-2),
        at_most("worst simplex gap of W", _over(max, "gap_weight", *DESCENTS), 1e-2, way=0.1),
        at_most("worst simplex gap of W and means", _over(max, "gap_dual", *DESCENTS), 1e-2, way=0.1),
    )),
    Claim("L5", "Free features: the other critical points are strict saddles", "losses", "fig-losses-saddle", (
        at_most("largest gradient", _over(max, "gradient", *SADDLES), 1e-8, way=1e-4),
        at_least("smallest (f − f*) / f*", _over(min, "excess", *SADDLES), 1e-3),
        Condition("largest λmin at a saddle", _over(max, "lowest", *SADDLES), "<", 0, "below 0",
                  lambda v: _over(max, "lowest", *SADDLES)(v) < 0),
        at_least("smallest λmin / theory's bound", _against("lowest", "bound", *SADDLES), 0.9),
        at_least("λmin / λmax at the minimum", _against("lowest", "highest", "minimum"), -1e-8, way=-1e-4),
    )),
    Claim("L6", "(ours) The focal loss's landscape is not globally benign", "losses", "fig-losses-focal", (
        at_most("gradient at zero, 100 classes", of(free("focal"), "gradient", view="trap"), 1e-8, way=1e-4),
        at_least("(f − f*) / f* there", of(free("focal"), "excess", view="trap"), 1e-3),
        at_least("λmin there", of(free("focal"), "lowest", view="trap"), 0.0),
    )),
    Claim("L7", "(ours) Equal under attack", "losses", "fig-losses-equal", (
        at_most("largest spread of robust accuracy over losses, where cross-entropy keeps 0.2 to 0.8", _largest_spread,
                0.05, way=0.05, pooled=True),
    )),
    Claim("L8", "(ours) Equal after adversarial training with each loss", "losses", "fig-losses-robust", (
        at_most("spread of robust accuracy over losses, training budget",
                lambda v: _spread(v, "robust_accuracy", "training budget", "adversarial"), 0.05, way=0.05, pooled=True),
        *(
            _robust_nc1(loss, name, kind, view)
            for loss, name in LOSSES.items()
            for kind, view in (("clean", "clean"), ("perturbed", "untargeted"))
        ),
    )),
    Claim("L9", "(ours) Plain PGD flatters some losses", "losses", "fig-losses-equal", (
        at_least("largest lead of plain PGD's accuracy over the worst of several attacks, same budgets", _flattery,
                 0.05, pooled=True),
    )),
)  # fmt: skip

SAID: dict[str, dict[str, str]] = {
    "L1": {
        "holds": "All four losses collapse, by every factor that was set.",
        "holds in part": "All four losses move towards collapse, but not every one as far as was set.",
        "fails": "Not every loss collapses here: some measure of some loss points the other way.",
        "about": "all four losses collapse",
    },
    "L2": {
        "holds": "They end at one geometry: classifier and means of each form a simplex, by the authors' measure.",
        "holds in part": "Not every loss ends as near to the simplex as was set.",
        "fails": "They do not end at one geometry: some loss is nowhere near the simplex.",
        "about": "the four losses end at one geometry",
    },
    "L3": {
        "holds": "On test data they are equal.",
        "holds in part": "On test data they are nearly equal, though further apart than was set.",
        "fails": "On test data they are not equal.",
        "about": "the four losses are equal on test data",
    },
    "L3b": {
        "holds": "What separates them from cross-entropy closes with width and length.",
        "holds in part": "What separates them from cross-entropy is smaller in the wide and long corner, by less "
        "than was set, and perhaps by nothing.",
        "fails": "What separates them from cross-entropy does not shrink with width and length.",
        "about": "the gap to cross-entropy closes with width and length",
    },
    "L4": {
        "holds": "With free features, descent from every random start ends at the simplex of the closed form.",
        "holds in part": "With free features, descent comes close to the closed form, short of what was set.",
        "fails": "With free features, some descent does not end at the closed form.",
        "about": "descent of free features ends at the closed form",
    },
    "L5": {
        "holds": "The other critical points that were tried are strict saddles, as unstable as theory says.",
        "holds in part": "The other critical points that were tried look like saddles, but a figure misses its bound.",
        "fails": "Not every other critical point that was tried is a strict saddle.",
        "about": "the other critical points are strict saddles",
    },
    "L6": {
        "holds": "For the focal loss that is not the whole story: with many classes zero can be a valley of its own, "
        "above the global minimum.",
        "holds in part": "For the focal loss a second valley shows, but not with the certainty that was set.",
        "fails": "For the focal loss no valley but the global one was found.",
        "about": "the focal loss has a second valley",
    },
    "L7": {
        "holds": "Under attack the four losses are equal too.",
        "holds in part": "Under attack the four losses are nearly equal.",
        "fails": "Under attack the four losses are not equal.",
        "about": "the four losses are equal under attack",
    },
    "L8": {
        "holds": "Trained on attacks they collapse, and are equally robust at the budget of their training.",
        "holds in part": "Trained on attacks they move towards collapse, not all as far as was set; that they differ "
        "in robustness is not shown.",
        "fails": "Trained on attacks they are not equally robust, or do not collapse.",
        "about": "adversarial training makes the four losses equal",
    },
    "L9": {
        "holds": "And plain PGD flatters some of them: the worst of several attacks finds clearly more.",
        "holds in part": "Plain PGD flatters some of them a little.",
        "fails": "Plain PGD flatters none of them.",
        "about": "plain PGD flatters some losses",
    },
}
