"""The tangent kernel (Tsilivis & Kempe 2022): claims, and a sentence for each verdict.

Thresholds were fixed before any run. The claims that the paper does not make say "(ours)"; K12 was added later, and
says so.
"""

from math import log

import pandas as pd

from ..claims import Claim, Condition, Lookup, at_least, at_most, of, ratio

STANDARD, ADVERSARIAL = "standard", "adversarial"
TEST = dict(split="test")
FLOOR, USEFUL = 0.05, 0.3  # accuracies: of a feature that is not robust, of one that is useful
SETTLED = 0.1  # share of the whole way to the last kernel


def spearman(one: pd.Series, other: pd.Series) -> float:
    """Rank correlation of two series; 0 where one is constant."""
    found = pd.Series(one).reset_index(drop=True).rank().corr(pd.Series(other).reset_index(drop=True).rank())
    return 0.0 if pd.isna(found) else float(found)


def layers(v: Lookup, model: str, measure: str = "accuracy", view: str = "clean", split: str = "test") -> pd.Series:
    """A measure by block (column ``layer``), in order. KeyError where there is none."""
    r = v.records
    r = r[(r.model == model) & (r.measure == measure) & (r["view"] == view) & (r["split"] == split)]
    if r.value.notna().sum() == 0:
        raise KeyError(f"{model}: {measure} by block ({view})")
    return r.groupby("layer", sort=False).value.mean()


def widths(v: Lookup) -> list[int]:
    """The widths of the lazy networks in the records. KeyError where there are none."""
    names = v.records.model[v.records.model.str.startswith("lazy ")].unique()
    if not len(names):
        raise KeyError("lazy networks")
    return sorted(int(name.split()[1]) for name in names)


def under(v: Lookup, kind: str, width: int, view: str) -> float:
    """A network's test accuracy on one view."""
    return v(f"{kind} {width}", "accuracy", view=view, **TEST)


def fooled(v: Lookup, kind: str, width: int) -> float:
    """What the kernel's attack costs beyond noise of its size."""
    return under(v, kind, width, "sign") - under(v, kind, width, "kernel")


def share(v: Lookup, kind: str, width: int) -> float:
    """The same, as a share of what the white-box attack costs beyond noise. KeyError where that is nothing."""
    damage = under(v, kind, width, "sign") - under(v, kind, width, "white box")
    if damage <= 0:
        raise KeyError(f"{kind} {width}: the white box does no more than noise")
    return fooled(v, kind, width) / damage


def _wide(v: Lookup) -> int:
    return widths(v)[-1]


def blocks(v: Lookup, view: str = "own") -> pd.Series:
    """Test accuracy of the blocks of eigenvectors, the first one left out: it names one class and no other."""
    return layers(v, "block", view=view).iloc[1:]


def order(v: Lookup) -> float:
    """Rank correlation of place in the spectrum with robustness relative to usefulness."""
    relative = (blocks(v) / blocks(v, "clean").where(lambda a: a > 0)).fillna(0)
    return spearman(range(len(relative)), relative)


def brittle(v: Lookup) -> float:
    """The least accuracy under its own attack of a later block that is useful; 1 where none is."""
    robust = blocks(v).iloc[1:][blocks(v, "clean").iloc[1:] >= USEFUL]
    return float(robust.min()) if len(robust) else 1.0


def early(v: Lookup) -> float:
    """What the best moment of the flow is ahead of its end, in accuracy under attack."""
    accuracy = layers(v, "flow", view="own")
    return float(accuracy.iloc[:-1].max() - accuracy.iloc[-1])


def halving(model: str):
    """Rank correlation of a block's place in the first kernel's spectrum with the epoch that halves its residual."""

    def value(v: Lookup) -> float:
        epochs = layers(v, model, "half_life", split="train")
        return spearman(range(len(epochs)), epochs)

    return value


def course(v: Lookup, model: str, measure: str, view: str = "clean") -> pd.Series:
    """A measure by epoch, the first one (0) included."""
    return pd.Series({e: v(model, measure, epoch=e, view=view) for e in [0, *v.epochs(model)]})


def settled(v: Lookup, model: str, view: str = "clean") -> float:
    """t*: the first epoch from which the kernel stays within a tenth of its way to the last one."""
    left = course(v, model, "distance", view)
    away = left[left > SETTLED * left.iloc[0]]
    return float(left.index[min(left.index.get_loc(away.index[-1]) + 1, len(left) - 1)]) if len(away) else 0.0


def _pace(v: Lookup, view: str) -> float:
    """log t* in adversarial over standard training: below 0 where the first settles earlier."""
    return log(max(settled(v, ADVERSARIAL, view), 0.5) / max(settled(v, STANDARD, view), 0.5))


def _agree(v: Lookup) -> float:
    clean, attacked = _pace(v, "clean"), _pace(v, "attacked")
    return float((clean > 0) - (clean < 0)) * float((attacked > 0) - (attacked < 0))


def _together(v: Lookup) -> float:
    nc1 = course(v, STANDARD, "nc1").map(lambda value: -log(value))
    return spearman(course(v, STANDARD, "alignment"), nc1)


def _kept(model: str):
    return ratio(of(model, "alignment", view="attacked"), of(model, "alignment"))


def _beside(other: str):
    """The kernel's attack less another one, on the widest network of practice."""
    return lambda v: under(v, "practice", _wide(v), "kernel") - under(v, "practice", _wide(v), other)


def _an_attack(v: Lookup) -> bool:
    return fooled(v, "practice", _wide(v)) > 0


def _knows_more(kind: str):
    return lambda v: under(v, kind, _wide(v), "class means") - under(v, kind, _wide(v), "kernel")


def _lead(v: Lookup) -> float:
    return float(blocks(v).iloc[0] - blocks(v).iloc[1:].max())


CLAIMS = (
    Claim("K1", "An attack that trained no network fools lazy ones", "kernel", "fig-kernel-transfer", (
        at_least("accuracy under sign noise − under the kernel's attack, least of all widths",
                 lambda v: min(fooled(v, "lazy", width) for width in widths(v)), 0.3),
    )),
    Claim("K2", "It transfers best where networks are wide and lazy", "kernel", "fig-kernel-transfer", (
        at_least("share of the white box's damage, widest lazy network", lambda v: share(v, "lazy", _wide(v)), 0.8),
        at_least("the same, widest − narrowest",
                 lambda v: share(v, "lazy", _wide(v)) - share(v, "lazy", widths(v)[0]), 0),
        at_least("the same at the widest, lazy − practice",
                 lambda v: share(v, "lazy", _wide(v)) - share(v, "practice", _wide(v)), 0),
    )),
    Claim("K3", "Robust features are those of the largest eigenvalues", "kernel", "fig-kernel-features", (
        at_most("rank correlation of block and relative robustness, own attack", order, -0.9, way=0),
        Condition("robust accuracy, first block past the trivial one − best later one", _lead, ">", 0,
                  "above 0", lambda v: _lead(v) > 0),
    )),
    Claim("K4", "Useful features exist that are not robust", "kernel", "fig-kernel-features", (
        at_most(f"least accuracy under its own attack of a later block with clean accuracy ≥ {USEFUL:g}",
                brittle, FLOOR, way=1),
    )),
    Claim("K5", "Architectures share their leading features", "kernel", "fig-kernel-spectrum", (
        at_least("overlap of the ten leading eigenvectors, one hidden layer | three",
                 of("eigenspaces", "overlap", layer="FC1 | FC3"), 0.8),
        at_least("the same, two hidden layers | convolutional network",
                 of("eigenspaces", "overlap", layer="FC2 | CNN"), 0.5),
    )),
    Claim("K6", "Networks learn the leading eigenspaces first", "kernel", "fig-kernel-residual", tuple(
        at_least(f"rank correlation of block and epoch that halves its residual, {model}", halving(model), 0.9)
        for model in (STANDARD, ADVERSARIAL)
    )),
    Claim("K6b", "Stopped early, the kernel's predictor is more robust", "kernel", "fig-kernel-time", (
        at_least("robust accuracy, best moment − end", early, 0.05),
    )),
    Claim("K7", "Adversarial training becomes lazy earlier", "kernel", "fig-kernel-evolution", (
        at_most("epoch from which the kernel is within a tenth of its way, adversarial / standard",
                lambda v: settled(v, ADVERSARIAL) / max(settled(v, STANDARD), 0.5), 0.5, way=1),
    )),
    Claim("K8", "Adversarial training makes the kernel top-heavier", "kernel", "fig-kernel-evolution", (
        at_most("mass outside the 20 largest eigenvalues at the end, adversarial / standard",
                ratio(of(ADVERSARIAL, "tail_mass"), of(STANDARD, "tail_mass")), 0.5, way=1, log=True),
    )),
    Claim("K9", "(ours) The kernel's alignment with labels survives attack only in adversarial training",
          "kernel", "fig-kernel-alignment", (
        at_most("alignment, attacked / clean, standard", _kept(STANDARD), 0.5, way=1),
        Condition("alignment, attacked / clean, adversarial", _kept(ADVERSARIAL), "≥", 0.8,
                  "above standard training's", lambda v: _kept(ADVERSARIAL)(v) > _kept(STANDARD)(v)),
        at_least("rank correlation over epochs of alignment and −log NC1, standard", _together, 0.9),
    )),
    Claim("K10", "(ours) It is worth a surrogate network, and a hundred queries", "kernel", "fig-kernel-transfer", (
        Condition("accuracy under the kernel's attack − under a surrogate's, widest practice network",
                  _beside("surrogate"), "≤", 0.05, "the kernel's attack costs more than noise", _an_attack),
        Condition("the same − under a square attack of 100 queries", _beside("square 100"), "≤", 0,
                  "the kernel's attack costs more than noise", _an_attack),
    )),
    Claim("K11", "(ours) The answer to K7 does not hinge on the inputs that the kernel is taken on",
          "kernel", "fig-kernel-evolution", (
        Condition("sign of log t*, adversarial / standard, on fixed clean images times that on fresh attacks", _agree,
                  ">", 0, "above 0", lambda v: _agree(v) > 0),
    )),
    Claim("K12", "(ours, added after K10 had been seen) The kernel knows more than the class means",
          "kernel", "fig-kernel-transfer", tuple(
        at_least(f"accuracy under the class means' attack − under the kernel's, widest {kind} network",
                 _knows_more(kind), 0.05)
        for kind in ("practice", "lazy")
    )),
)  # fmt: skip

SAID = {
    "K1": {
        "holds": "Images attacked through the closed form alone, with no network trained, fool lazy networks of every "
        "width far beyond noise.",
        "holds in part": "Images attacked through the closed form alone cost lazy networks more than noise does, but "
        "less than was set.",
        "fails": "Images attacked through the closed form alone cost lazy networks no more than noise.",
        "about": "an attack through the closed form fools lazy networks",
    },
    "K2": {
        "holds": "The transfer is best where the theory lives, in wide and lazy networks.",
        "holds in part": "To wide and lazy networks the attack transfers, with less of the white box's damage than was "
        "set.",
        "fails": "Width and laziness do not order the transfer as the claim asks.",
        "about": "the transfer is best in wide and lazy networks",
    },
    "K3": {
        "holds": "Features are the more robust, the larger their eigenvalues.",
        "holds in part": "Features of larger eigenvalues tend to be more robust, in an order less strict than was set.",
        "fails": "Features of larger eigenvalues are not the more robust ones here, by one measure at least.",
        "about": "features of larger eigenvalues are more robust",
    },
    "K4": {
        "holds": "Useful features that are not robust exist.",
        "holds in part": "The least robust of the useful features keeps more under its attack than was set.",
        "fails": "No later feature is both useful and brittle here.",
        "about": "useful features exist that are not robust",
    },
    "K5": {
        "holds": "Architectures share their leading features; compare the share of a linear kernel, the control.",
        "holds in part": "Leading features overlap less than was set; a tenth is the constant direction's alone.",
        "fails": "Architectures do not share their leading features here.",
        "about": "architectures share their leading features",
    },
    "K6": {
        "holds": "Standard and adversarial training both learn the leading eigenspaces of the first kernel first.",
        "holds in part": "The leading eigenspaces of the first kernel tend to be learned first, in a looser order than "
        "was set.",
        "fails": "In one training at least, the leading eigenspaces of the first kernel are not learned first.",
        "about": "leading eigenspaces are learned first",
    },
    "K6b": {
        "holds": "Stopped early, the closed form is more robust than at its end.",
        "holds in part": "Stopped early, the closed form is more robust than at its end, by less than was set.",
        "fails": "Stopping early gains the closed form no robustness here.",
        "about": "stopping early makes the closed form more robust",
    },
    "K7": {
        "holds": "The kernel of adversarial training settles much earlier than that of standard training.",
        "holds in part": "The kernel of adversarial training settles earlier than that of standard training, by less "
        "than was set.",
        "fails": "Counted in epochs, the kernel of adversarial training does not settle earlier.",
        "about": "the kernel of adversarial training settles earlier",
    },
    "K8": {
        "holds": "Adversarial training ends with the top-heavier kernel.",
        "holds in part": "Adversarial training ends with a kernel that is top-heavier, by less than was set.",
        "fails": "Adversarial training does not end with the top-heavier kernel, and we have no reason to give.",
        "about": "adversarial training ends with the top-heavier kernel",
    },
    "K9": {
        "holds": "Under attack the kernel's alignment with the labels survives in adversarial training only, and in "
        "standard training it grows as features collapse.",
        "holds in part": "Under attack the kernel's alignment with the labels tends to survive better in adversarial "
        "training, short of some size that was set.",
        "fails": "Under attack the kernel's alignment with the labels does not behave as the claim asks.",
        "about": "the kernel's alignment survives attack in adversarial training only",
    },
    "K10": {
        "holds": "Against a network of practice the closed form is worth a surrogate network, and a hundred queries.",
        "holds in part": "Against a network of practice the closed form is an attack, but not worth all that was set, "
        "a surrogate network and a hundred queries.",
        "fails": "Against a network of practice the closed form is no better than noise.",
        "about": "the closed form is worth a surrogate network and a hundred queries",
    },
    "K11": {
        "holds": "That answer is the same on fixed clean images and on fresh attacks.",
        "holds in part": "That answer leans the same way on fixed clean images and on fresh attacks.",
        "fails": "On fixed clean images and on fresh attacks that answer is not one and the same, or it is a tie.",
        "about": "that answer depends on the images",
    },
    "K12": {
        "holds": "The kernel's attack is stronger than that of the class means, on networks of both kinds.",
        "holds in part": "The kernel's attack is stronger than that of the class means, by less than was set.",
        "fails": "On some kind of network the kernel's attack is no stronger than that of the class means.",
        "about": "the kernel's attack is stronger than that of the class means",
    },
}
