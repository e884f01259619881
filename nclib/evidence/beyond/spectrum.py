"""A 1/n spectrum (Nassar et al. 2020): claims, and a sentence for each verdict.

The thresholds were fixed before any run, but for S9, which was added after first runs of one network. Accuracy is on
test images; "worst" is robust accuracy under the worst of several attacks, "pgd" under one, both at the page's budget.
"""

from ..claims import Claim, Condition, Lookup, Value, at_least

VANILLA, LAW, WEAK = "vanilla", "β = 5", "β = 1"
FLAT, STEEP, JACOBIAN = "β = 5, α = 0.5", "β = 5, α = 2", "Jacobian"
DEEP, LAST, EVERY, WHITE = "deep", "deep, last layer", "deep, every layer", "deep, last layer, whitened"
EQUAL_LOSS, EQUAL_ACCURACY = "vanilla, equal loss", "vanilla, equal accuracy"


def _accuracy(model: str, view: str = "worst") -> Value:
    return lambda v: v(model, "accuracy", view=view, split="test")


def _lead(model: str, other: str, view: str = "worst") -> Value:
    """Accuracy of one network over that of another."""
    return lambda v: _accuracy(model, view)(v) - _accuracy(other, view)(v)


def _off(model: str) -> Value:
    """Distance of a spectrum's slope from -1."""
    return lambda v: abs(v(model, "slope") + 1)


def _masked(v: Lookup) -> float:
    """What the regulariser gains under one attack and not under the worst of several."""
    return _lead(LAW, VANILLA, "pgd")(v) - _lead(LAW, VANILLA)(v)


def _growth(v: Lookup) -> float:
    return v(LAW, "nc1") / v(EQUAL_ACCURACY, "nc1")


def _order(v: Lookup) -> float:
    nc1 = [v(model, "nc1") for model in (VANILLA, WEAK, LAW)]
    return _spearman(nc1, range(3))


def _special(v: Lookup) -> float:
    return _accuracy(LAW)(v) - max(_accuracy(FLAT)(v), _accuracy(STEEP)(v))


def _predicted(deep: bool) -> Value:
    """Rank correlation, over networks of every seed, of the linearised radius with robust accuracy."""

    def correlation(v: Lookup) -> float:
        found = v.records[v.records.model.str.startswith("deep") == deep]
        found = found[(found.split == "test") & ~found.model.str.startswith("vanilla, ")]
        networks = found.set_index(["model", "seed", "epoch"])
        radius = networks[networks.measure == "linear_radius"].value.rename("radius")
        robust = networks[(networks.measure == "accuracy") & (networks["view"] == "worst")].value.rename("robust")
        both = radius.to_frame().join(robust, how="inner").dropna()
        if len(both) < 3:
            raise KeyError("linear_radius")
        return _spearman(both.radius, both.robust)

    return correlation


def _spearman(a, b) -> float:
    import pandas as pd

    a, b = (pd.Series(list(values)).rank() for values in (a, b))
    return float(a.corr(b)) if a.nunique() > 1 and b.nunique() > 1 else 0.0


CLAIMS: tuple[Claim, ...] = (
    Claim("S1", "The regulariser reaches the 1/n law", "spectrum", "fig-spectrum-law", (
        Condition("slope's distance from −1, β = 5", _off(LAW), "≤", 0.15, "closer than vanilla",
                  lambda v: _off(LAW)(v) < _off(VANILLA)(v)),
        at_least("the same, vanilla", _off(VANILLA), 0.5),
    )),
    Claim("S2", "A 1/n spectrum makes a network robust", "spectrum", "fig-spectrum-robust", (
        at_least("robust accuracy, β = 5 − vanilla", _lead(LAW, VANILLA), 0.05),
        at_least("clean accuracy, β = 5 − vanilla", _lead(LAW, VANILLA, "clean"), -0.01, way=-0.05),
    )),
    Claim("S3", "What happens in intermediate layers matters", "spectrum", "fig-spectrum-depth", (
        at_least("robust accuracy, last layer regularised − the same with the second whitened",
                 _lead(LAST, WHITE), 0.05),
    )),
    Claim("S4", "Regularising every layer is better than the last alone", "spectrum", "fig-spectrum-depth", (
        at_least("robust accuracy, every layer − vanilla", _lead(EVERY, DEEP), 0.05),
        at_least("robust accuracy, every layer − last layer", _lead(EVERY, LAST), 0.03),
    )),
    Claim("S4b", "It is as good as Jacobian regularisation", "spectrum", "fig-spectrum-robust", (
        at_least("robust accuracy, β = 5 − Jacobian", _lead(LAW, JACOBIAN), -0.02, way=-0.02),
    )),
    Claim("S5", "(ours) The gain is not gradient masking", "spectrum", "fig-spectrum-robust", (
        Condition("gain under cross-entropy PGD − gain under the worst of several", _masked, "≤", 0.02,
                  "some gain is left", lambda v: _lead(LAW, VANILLA)(v) > 0),
        at_least("accuracy under the vanilla network's attack − under its own",
                 lambda v: _accuracy(LAW, "transfer")(v) - _accuracy(LAW)(v), 0),
    )),
    Claim("S6", "(ours) The law works against collapse", "spectrum", "fig-spectrum-collapse", (
        at_least("NC1, β = 5 / vanilla at equal train accuracy", _growth, 5, log=True, way=1),
        at_least("rank correlation of NC1 with β", _order, 1, pooled=True),
    )),
    Claim("S7", "(ours) 1/n is the best of the laws", "spectrum", "fig-spectrum-robust", (
        at_least("robust accuracy, α = 1 − the better of α = 0.5 and 2", _special, 0.01),
    )),
    Claim("S8", "(ours) What counts is the linearised radius", "spectrum", "fig-spectrum-radius", (
        at_least("rank correlation with robust accuracy, one hidden layer", _predicted(False), 0.9, pooled=True),
        at_least("the same, three hidden layers", _predicted(True), 0.9, pooled=True),
    )),
    Claim("S9", "(ours, added after first runs) The gain is more than that of training less", "spectrum",
          "fig-spectrum-loss", (
        at_least("robust accuracy, β = 5 − vanilla stopped at the same train loss", _lead(LAW, EQUAL_LOSS), 0.05),
    )),
)  # fmt: skip

SAID: dict[str, dict[str, str]] = {
    "S1": {
        "holds": "The regulariser brings the tail of the spectrum to the 1/n law, from far off.",
        "holds in part": "The regulariser moves the spectrum towards the 1/n law, short of what was set.",
        "fails": "The regulariser does not bring the spectrum closer to the 1/n law.",
        "about": "the spectrum reaches the 1/n law",
    },
    "S2": {
        "holds": "The network with the law is more robust than the one without, and as accurate on clean images.",
        "holds in part": "The network with the law is more robust than the one without, but the gain or its price in "
        "clean accuracy misses what was set.",
        "fails": "The network with the law is not more robust than the one without, or pays for it in clean accuracy.",
        "about": "the law makes a network more robust",
    },
    "S3": {
        "holds": "Whitening a layer below the last, with the law still asked of the last, costs robustness; compare "
        "the control, and the slopes that were reached.",
        "holds in part": "Whitening a layer below the last costs robustness, less than was set.",
        "fails": "Whitening a layer below the last costs no robustness.",
        "about": "the layers below the last matter",
    },
    "S4": {
        "holds": "Regularising every layer beats both the vanilla network and the last layer alone.",
        "holds in part": "Regularising every layer gains, over the vanilla network or over the last layer alone, less "
        "than was set.",
        "fails": "Regularising every layer does not beat both the vanilla network and the last layer alone.",
        "about": "regularising every layer is best",
    },
    "S4b": {
        "holds": "The law is as good as Jacobian regularisation.",
        "holds in part": "The law comes close to Jacobian regularisation.",
        "fails": "Jacobian regularisation makes the more robust network.",
        "about": "the law is as good as Jacobian regularisation",
    },
    "S5": {
        "holds": "The attacks agree on the difference that the law makes, gain or not, and a vanilla network's attack "
        "does not do better: no sign of masked gradients.",
        "holds in part": "A part of the gain is an attack that fails.",
        "fails": "The gain is an attack that fails, or there is none.",
        "about": "the gain is real and no attack that fails",
    },
    "S6": {
        "holds": "The stronger the law is enforced, the less the features collapse, by the factor that was set.",
        "holds in part": "Where the law is enforced the features collapse less, by less than was set.",
        "fails": "Enforcing the law does not keep the features from collapsing, by one measure at least.",
        "about": "the law works against collapse",
    },
    "S7": {
        "holds": "Of the laws tried, 1/n makes the most robust network.",
        "holds in part": "Of the laws tried, 1/n makes the most robust network, by less than was set.",
        "fails": "Of the laws tried, another than 1/n makes the most robust network.",
        "about": "1/n is the best of the laws",
    },
    "S8": {
        "holds": "Across networks, shallow and deep, the linearised radius ranks them as the attacks do.",
        "holds in part": "Across networks the linearised radius goes with robust accuracy, less closely than was set.",
        "fails": "Across shallow or across deep networks, the linearised radius does not go with robust accuracy.",
        "about": "the linearised radius ranks networks as the attacks do",
    },
    "S9": {
        "holds": "The gain is more than what stopping the vanilla network at the same training loss buys.",
        "holds in part": "The gain exceeds what stopping the vanilla network at the same training loss buys, by less "
        "than was set.",
        "fails": "Stopping the vanilla network at the same training loss buys as much, or more.",
        "about": "the gain is more than that of training less",
    },
}
