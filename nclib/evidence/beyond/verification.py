"""Robustness proved pixel by pixel (Tran et al. 2021): claims, and a sentence for each verdict.

Views are sets of darkened images: "full" (one predicate, from the clean image to no ink), "small" (one predicate, next
to no ink), "own" (a predicate for every pixel). Layers are methods: "area 0.5" is the star half of whose neurons, by
the rule "area", got no program.
"""

from ..claims import Claim, Condition, Value, at_least, at_most, of, ratio


def _claim(id: str, text: str, figure: str, *conditions: Condition) -> Claim:
    return Claim(id, text, "verification", f"fig-verification-{figure}", conditions)


def _of(model: str, measure: str, layer: str, view: str = "full") -> Value:
    return of(model, measure, split="test", layer=layer, view=view)


def _minus(one: Value, other: Value) -> Value:
    return lambda v: one(v) - other(v)


def _above_zero(name: str, value: Value) -> Condition:
    return Condition(name, value, ">", 0.0, "above 0", lambda v: value(v) > 0)


def _time(model: str, share: str) -> Value:
    return ratio(_of(model, "cpu", f"area {share}"), _of(model, "cpu", "area 0"))


def _rv(model: str, layer: str, view: str = "full") -> Value:
    return _of(model, "rv", layer, view)


def _gap(model: str, one: str, other: str, view: str = "full") -> Value:
    return _minus(_rv(model, one, view), _rv(model, other, view))


def _lead(measure: str, layer: str, view: str) -> Value:
    return _minus(_of("average", measure, layer, view), _of("dilated", measure, layer, view))


def _fall_of_unknown(v) -> float:
    """Relative fall of unknown pixels by the margin rule, mean of three networks."""
    pairs = [[_of(m, "unknown", f"area 0{rule}")(v) for rule in ("", ", margins")] for m in NETS]
    return sum(1 - after / before if before else 0.0 for before, after in pairs) / len(pairs)


NETS = ("average", "dilated", "deep")
PROVED = "area 0, programs"

CLAIMS: tuple[Claim, ...] = (
    _claim(
        "A1",
        "Relaxing saves time",
        "shares",
        at_most("average: time at share 1 / at share 0", _time("average", "1"), 0.5, log=True, way=1),
        at_most("average: time at share 0.5 / at share 0", _time("average", "0.5"), 0.9, log=True, way=1),
        at_most("dilated: time at share 1 / at share 0", _time("dilated", "1"), 0.5, log=True, way=1),
        at_most("dilated: time at share 0.5 / at share 0", _time("dilated", "0.5"), 0.9, log=True, way=1),
    ),
    _claim(
        "A3",
        "Relaxing costs proofs",
        "shares",
        at_least("average: steps of the share that do not raise RV", _of("average", "falling", "area"), 0.9),
        at_least("average: RV at share 0 - at share 1", _gap("average", "area 0", "area 1"), 0.05),
    ),
    _claim(
        "A4",
        "At half the programs, the largest triangles are the best choice",
        "shares",
        at_least("average: RV by area - at random", _gap("average", "area 0.5", "random 0.5"), 0.005),
        at_least("dilated: RV by area - at random", _gap("dilated", "area 0.5", "random 0.5"), 0.005),
        at_least("maximum: RV by area - at random", _gap("maximum", "area 0.5", "random 0.5"), 0.005),
    ),
    _claim(
        "A5",
        "Max pooling is worse to verify",
        "nets",
        at_least("RV, average - maximum", _minus(_rv("average", "area 0"), _rv("maximum", "area 0")), 0.02),
        _above_zero(
            "time at share 0.5 / at 0, maximum - average", _minus(_time("maximum", "0.5"), _time("average", "0.5"))
        ),
    ),
    _claim(
        "A6",
        "Transposed convolutions beat dilated ones",
        "nets",
        at_least("mean IoU, average - dilated", _lead("miou", "network", "clean"), -0.02, way=-0.02),
        at_least("exact RV, small set, average - dilated", _lead("rv", "line", "small"), 0.01),
        at_least(
            "time, dilated / average",
            ratio(_of("dilated", "cpu", "area 0"), _of("average", "cpu", "area 0")),
            2.0,
            log=True,
            way=1,
        ),
    ),
    _claim(
        "A7",
        "Few ReLU layers are easier to verify",
        "nets",
        at_least("unknown share, deep - average", _of("deep", "unknown_more", "area 0"), 0.05),
        at_least("time, deep / average", _of("deep", "cpu_more", "area 0"), 2.0, log=True, way=1),
    ),
    _claim(
        "A8",
        "More attacked pixels: lower RV, a steady RS",
        "size",
        _above_zero("smallest fall of RV from one count to the next", _of("average", "fall", "area 0", "small")),
        at_most("largest RS / smallest", _of("average", "rs_ratio", "area 0", "small"), 2.0, log=True),
    ),
    _claim(
        "A9",
        "(ours) Comparing scores over the box proves more, without a program",
        "ladder",
        at_least("relative fall of unknown pixels, mean of three networks", _fall_of_unknown, 0.1),
    ),
    _claim(
        "A10",
        "(ours) Programs for the scores' differences finish the job",
        "ladder",
        at_most("exact RV - proven RV", _gap("average", "line", PROVED), 0.05),
    ),
    _claim(
        "A11",
        "(ours) A set with one predicate needs no stars",
        "line",
        Condition(
            "time, exact line / star",
            ratio(_of("average", "cpu", "line"), _of("average", "cpu", "area 0")),
            "<",
            1.0,
            "any",
            lambda v: True,
            log=True,
        ),
        at_least("robust share of what the star leaves unknown", _of("average", "cleared", "area 0"), 0.5),
    ),
    _claim(
        "A12",
        "(ours) A ladder of bounds, and a fully relaxed star below a zonotope",
        "ladder",
        _above_zero("RV, zonotope - intervals", _gap("average", "zonotope", "intervals")),
        at_least("CROWN - zonotope", _gap("average", "CROWN", "zonotope"), 0.0),
        at_least("star with programs - CROWN", _gap("average", PROVED, "CROWN"), 0.0),
        at_least("zonotope - star at share 1", _gap("average", "zonotope", "area 1, margins"), 0.02),
    ),
    _claim(
        "A13",
        "(ours) Attack and proof meet",
        "bracket",
        at_most("RV after PGD - proven RV", _gap("average", "PGD", PROVED, "own"), 0.05),
    ),
    _claim(
        "A14",
        "(ours) Cones, batches and known multipliers make a program ten times cheaper",
        "routes",
        at_least("time of a plain program / of ours", _of("average", "factor", "programs"), 10.0, log=True, way=1),
        at_most("largest difference of the bounds", _of("average", "gap", "programs"), 1e-6),
    ),
)

SAID: dict[str, dict[str, str]] = {
    "A1": {
        "holds": "Relaxing saves time, as much as was set.",
        "holds in part": "Relaxing saves time, less than was set.",
        "fails": "Relaxing does not save time in every network.",
        "about": "relaxing saves time",
    },
    "A3": {
        "holds": "It costs proofs.",
        "holds in part": "It costs proofs, fewer than was set.",
        "fails": "It costs no proofs here.",
        "about": "relaxing costs proofs",
    },
    "A4": {
        "holds": "Spending the programs on the largest triangles beats drawing the neurons by lot.",
        "holds in part": "Spending the programs on the largest triangles gains something over drawing the neurons by "
        "lot, on the mean over seeds, but less than was set.",
        "fails": "On some network, spending the programs on the largest triangles is no better than drawing the "
        "neurons by lot.",
        "about": "the largest triangles are the best choice",
    },
    "A5": {
        "holds": "With max pooling less can be proved, and relaxing saves less.",
        "holds in part": "With max pooling less is proved or less is saved, not as much as was set.",
        "fails": "In at least one of the two respects max pooling is not worse to verify.",
        "about": "max pooling is worse to verify",
    },
    "A6": {
        "holds": "The network with a transposed convolution is as accurate as the dilated one, more robust, and "
        "cheaper to verify.",
        "holds in part": "The network with a transposed convolution has the better of the dilated one, "
        "not in all respects by what was set.",
        "fails": "In at least one of the three respects the network with a transposed convolution does not beat the "
        "dilated one.",
        "about": "transposed convolutions beat dilated ones",
    },
    "A7": {
        "holds": "With more ReLU layers more pixels stay unknown, at more than twice the cost.",
        "holds in part": "With more ReLU layers more stays unknown or the cost is higher, on the mean over seeds, by "
        "less than was set.",
        "fails": "In at least one of the two respects the network with more ReLU layers is not harder to verify.",
        "about": "few ReLU layers are easier to verify",
    },
    "A8": {
        "holds": "The more pixels are attacked, the fewer are robust; the harm for each attacked pixel keeps its "
        "order.",
        "holds in part": "The more pixels are attacked, the fewer are robust; the harm for each attacked pixel does "
        "not keep within the bounds that were set.",
        "fails": "More attacked pixels do not always leave fewer robust ones.",
        "about": "more attacked pixels leave fewer robust ones at a steady rate",
    },
    "A9": {
        "holds": "Comparing scores by their difference settles pixels that ranges leave open, as many as was set, and "
        "solves no program.",
        "holds in part": "Comparing scores by their difference settles pixels that ranges leave open, fewer than was "
        "set.",
        "fails": "Comparing scores by their difference settles no more than ranges do.",
        "about": "comparing scores over the box proves more",
    },
    "A10": {
        "holds": "Programs for these differences prove almost all that is true.",
        "holds in part": "Programs for these differences leave more open than was set.",
        "fails": "Programs for these differences do not finish the job.",
        "about": "programs for the differences finish the job",
    },
    "A11": {
        "holds": "For a set with one predicate the exact answer costs less than the enclosure, and it clears most "
        "of what the enclosure leaves unknown.",
        "holds in part": "For a set with one predicate the exact answer is at hand, with less to gain than was set.",
        "fails": "For a set with one predicate the exact answer is at hand, but clears none of what the enclosure "
        "leaves unknown.",
        "about": "the set with one predicate needs no stars",
    },
    "A12": {
        "holds": "From intervals over zonotopes and CROWN to stars with programs each step proves at least as much, "
        "and a star without programs stands below a plain zonotope.",
        "holds in part": "The ladder of bounds has the order that was expected, but some step is smaller than was set.",
        "fails": "The ladder of bounds does not have the order that was expected.",
        "about": "the ladder of bounds has the order that was expected",
    },
    "A13": {
        "holds": "Proof from below and attack from above leave a narrow gap.",
        "holds in part": "Proof from below and attack from above leave a wider gap than was set.",
        "fails": "Proof from below and attack from above do not meet.",
        "about": "attack and proof meet",
    },
    "A14": {
        "holds": "The programs as solved here cost a tenth of plain ones, or less, and give the same bounds.",
        "holds in part": "The programs as solved here are cheaper than plain ones, by less than was set.",
        "fails": "The programs as solved here are no cheaper than plain ones.",
        "about": "cones, batches and known multipliers make programs ten times cheaper",
    },
}
