"""Sentences that state a result, each under the verdict that bears it: the only place where a page's conclusions stand.

A chapter's prose asks for ``{glue:md}`said-c2```, and gets the sentence of C2 that goes with the verdict of that page.
"""

from . import beyond
from .claims import VERDICTS

_OPEN = "Over these seeds it is too close to call whether {}, in every size that was set."
_MISSING = "Whether {}, this page cannot judge: some of what the claim asks for was not run."

SAID = {
    "C1": {
        "holds": "On clean training data the last layer collapses, by every factor that was set.",
        "holds in part": "On clean training data the last layer moves towards collapse, but not as far as was set.",
        "fails": "On this page the last layer does not collapse: some measure points the other way.",
        "about": "the last layer collapses",
    },
    "C2": {
        "holds": "The attack destroys the simplex.",
        "holds in part": "The attack damages the simplex, less than the claim asks for.",
        "fails": "At this size the attack does not destroy the simplex: some measure points the other way.",
        "about": "the attack destroys the simplex",
    },
    "C3": {
        "holds": "Noise of the same size does far less: nearly all images keep their class, and NC1 stays below a "
        "tenth of that under attack.",
        "holds in part": "Noise of the same size does less than the attack, but more than the claim allows.",
        "fails": "Noise of the same size does no less than the attack, by one measure at least.",
        "about": "noise of the same size does less",
    },
    "C4": {
        "holds": "The attacked points cross to the side of other vertices.",
        "holds in part": "The attacked points move towards other vertices, less than the claim asks for.",
        "fails": "The attacked points do not cross to other vertices: some measure points the other way.",
        "about": "the attacked points cross to the side of other vertices",
    },
    "C5": {
        "holds": "Training on attacks lowers NC1 of clean and attacked features by the factor that was set, and brings "
        "their means onto one simplex.",
        "holds in part": "Training on attacks lowers NC1 of clean and attacked features and brings their means "
        "together, not as far as was set.",
        "fails": "Training on attacks does not lower NC1 of clean and of attacked features here, or does not bring "
        "their means closer together.",
        "about": "clean and attacked features move towards collapse, and onto one simplex",
    },
    "C6 published": {
        "holds": "TRADES with batch norm as published does not collapse as adversarial training does.",
        "holds in part": "TRADES with batch norm as published collapses less than adversarial training, "
        "but by less than the factor that was set.",
        "fails": "TRADES with batch norm as published collapses as far as adversarial training, or further.",
        "about": "TRADES as published collapses less",
    },
    "C6 fixed": {
        "holds": "TRADES with batch norm that works does not collapse as adversarial training does.",
        "holds in part": "TRADES with batch norm that works collapses less than adversarial training, "
        "but by less than the factor that was set.",
        "fails": "TRADES with batch norm that works collapses as far as adversarial training, or further.",
        "about": "TRADES with batch norm that works collapses less",
    },
    "C7": {
        "holds": "Under PGD made for the network, the robust network's nearest-class-centre rule is as accurate as the "
        "network, and far more accurate than the standard one's.",
        "holds in part": "Under PGD made for the network, the robust network's nearest-class-centre rule is more "
        "accurate than the standard one's, but not as close to the network, or not as far above, as was set.",
        "fails": "The robust network's nearest-class-centre rule does not carry its robustness.",
        "about": "the rule of a robust network is itself robust",
    },
    "C8": {
        "holds": "End to end, the rules of early layers withstand the attack better than the last layer's, and in the "
        "robust network they do not fall with depth.",
        "holds in part": "End to end, the profiles over depth point the way of the paper, but some size falls short.",
        "fails": "One of the two profiles over depth, the standard network's or the robust one's, does not go the "
        "paper's way on this page.",
        "about": "early layers keep what the last one loses and the robust network's rules do not fall with depth",
    },
    "C8a": {
        "holds": "Attacked for itself, the best early layer still leads the last one by the margin that was set.",
        "holds in part": "Attacked for itself, the best early layer leads the last one by less than was set.",
        "fails": "Attacked for itself, no early layer leads the last one.",
        "about": "an early layer's lead survives an attack of its own",
    },
    **beyond.SAID,
}


def said(claim_id: str, verdict: str) -> str:
    """The sentence of a claim that goes with a verdict. KeyError for a claim without sentences."""
    sentences = SAID[claim_id]
    if verdict in sentences:
        return sentences[verdict]
    return (_OPEN if verdict == VERDICTS[2] else _MISSING).format(sentences["about"])
