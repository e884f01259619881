"""What this book found: its own findings, each as the claim that bears it has it, in a page's worth.

A finding says what was expected, what its claim's verdict says of it, what was measured, and where it is weakest. Its
figure shows every condition of the claim: mean, 95 % interval over seeds, threshold.
"""

from dataclasses import dataclass
from html import escape
from io import StringIO

import pandas as pd
from IPython.display import HTML

from ..seeds import ENOUGH, words
from .claims import Finding as Measured
from .claims import Judgement, judge
from .ledger import claim_of, tag
from .records import RECORDED
from .sentences import said


@dataclass(frozen=True)
class Finding:
    """A title that says what is asked, the claim that answers, what one would have thought, and the weakest point."""

    title: str
    claim: str
    thought: str
    weakest: str


FINDINGS = (
    Finding("Does TRADES collapse?", "D4",
            "The paper reports that TRADES networks do not collapse as adversarially trained ones do. Theory gives "
            "both one minimiser, and NC1 at the last epoch compares trainings that have fitted differently.",
            "With batch norm that works: as released it is another training, judged apart (D4b). Equal fit is one "
            "number, read off a few measured epochs; narrow networks and few images."),
    Finding("Is collapse on attacks learning by heart?", "D3a",
            "Adversarial training may go on collapsing on its attacked images while robust accuracy on new ones falls. "
            "If that is learning by heart, training images that move should halve the fall.",
            "Images that move are fitted less far in the same epochs: a smaller fall may come from that alone."),
    Finding("Do early layers keep what the last one loses?", "C8a",
            "An attack made for the last layer may leave early layers standing. An attack of their own is another "
            "matter.",
            "The lead is over a last layer that keeps almost nothing. Whether an early layer keeps more than the rule "
            "on the pixels, with no layer at all, the claim does not ask; the chapter shows both."),
    Finding("Do attacked points leap alike in networks that never met?", "D8",
            "Two trainings from other seeds share data, architecture and recipe, and not one weight.",
            "One architecture; a leap that agrees says where the data's classes touch."),
    Finding("Are equal losses equally robust?", "L7",
            "Four losses are reported to end at one geometry and one test accuracy, so why not at one robustness?",
            "One optimiser's settings for all four, none of them tuned."),
    Finding("Is a sphere for features safer?", "N6",
            "Features and classifier rows of length one are reported to collapse sooner. One would think that they are "
            "safer, too.",
            "Decay differs between the two networks that are compared; few images were attacked."),
    Finding("Does the tangent kernel know more than class means?", "K12",
            "An attack through a kernel of infinite width needs no training. If it fools trained networks, one would "
            "think that the kernel knows more of them than class means do.",
            "Added after a related figure had been seen; small images, on which class means are strong."),
    Finding("Is a 1/n spectrum more than stopping early?", "S9",
            "A regulariser that bends the spectrum also slows the fit, and networks that have fitted less may be more "
            "robust for that alone.",
            "The match is by training loss, to within a hundredth; added after first runs."),
    Finding("Is a star worth more than a zonotope?", "A12",
            "Stars are the finer sets, so even relaxed to the full they should prove at least as much.",
            "Small scenes, one family of attacks."),
    Finding("Is a set with one variable worth a star?", "A11",
            "The sets of the published experiments have one variable, so the exact answer is a line to walk along.",
            "Judged on the whole line from the clean image to no ink, which is longer than the published sets: on "
            "those little is left unknown, and there the star is cheap as well. Says nothing of sets with many "
            "variables."),
)  # fmt: skip


def measured(claim_id: str, records: pd.DataFrame, profile: str) -> dict[str, Judgement]:
    """The judgements of one claim, by its id: of this profile first, then of all that have records of its chapter,
    but for a record of this profile that says the same, figure by figure."""
    claim = claim_of(claim_id)
    of_chapter = records[records.chapter == claim.chapter]
    found = {name: judge(claim, rows) for name, rows in of_chapter.groupby("profile", sort=False)}
    mine, recorded = found.pop(profile, Judgement("not run")), found.get(profile + RECORDED)
    if recorded and (recorded.verdict, recorded.measured()) == (mine.verdict, mine.measured()):
        del found[profile + RECORDED]
    return {profile: mine, **found}


def told(finding: Finding, found: dict[str, Judgement], profile: str) -> HTML:
    """A finding in words, as one profile's judgement has it; what other profiles say stands beside."""
    lines = []
    for name, judgement in found.items():
        if name == profile or judgement.seeds:
            words_of = f"<em>On {name}, {words(judgement.seeds)}: {judgement.verdict}.</em>"
            lines.append(f"{words_of} {escape(judgement.measured(), quote=False)}")
    first = f"{finding.thought} <strong>{said(finding.claim, found[profile].verdict)}</strong>"
    last = f"<em>Where it is weakest.</em> {finding.weakest}"
    return HTML("".join(f"<p>{line}</p>" for line in (first, *lines, last)))


def drawn(finding: Finding, found: dict[str, Judgement], profile: str):
    """The conditions of a finding's claim, a panel each: mean and interval over seeds of every profile, threshold."""
    import matplotlib.pyplot as plt  # here, as only a page draws

    from .. import figures

    found = {name: judgement.findings for name, judgement in found.items() if judgement.findings}
    count = max((len(findings) for findings in found.values()), default=0)
    figure, axes = plt.subplots(
        max(count, 1), 1, figsize=(6, 1.1 * max(count, 1) + 0.4), layout="constrained", squeeze=False
    )
    for row, (axis,) in enumerate(axes):
        if not found:
            nothing = f"{claim_of(finding.claim).chapter}: not run"
            axis.text(0.5, 0.5, nothing, ha="center", va="center", transform=axis.transAxes)
            axis.set_axis_off()
            continue
        for place, (name, findings) in enumerate(found.items()):
            _interval(axis, place, findings[row], figures.BLUE if name == profile else "#777777")
        condition = next(iter(found.values()))[row].condition
        axis.axvline(condition.threshold, color="#c0392b", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(found)), list(found))
        axis.set_ylim(-0.6, len(found) - 0.4)
        axis.set_title(condition.rule, loc="left")
    plt.close(figure)
    return figure


def as_html(figure, label: str) -> HTML:
    """A figure as a drawing within a page, which another page can show."""
    figure.savefig(text := StringIO(), format="svg")
    drawing = text.getvalue()
    return HTML(f'<svg role="img" aria-label="{escape(label)}"{drawing[drawing.index("<svg") + len("<svg") :]}')


def _interval(axis, place: int, finding: Measured, color: str) -> None:
    few = len(finding.values) < ENOUGH  # whose range says more than an interval of two
    low, high = (min(finding.values), max(finding.values)) if few else (finding.low, finding.high)
    low, high = min(low, finding.mean), max(high, finding.mean)
    axis.errorbar(
        finding.mean, place, xerr=[[finding.mean - low], [high - finding.mean]], fmt="o", color=color, capsize=3
    )


def page(records: pd.DataFrame, profile: str) -> dict:
    """All that the page of findings shows, by name: a text and a figure for each."""
    out = {}
    for finding in FINDINGS:
        found = measured(finding.claim, records, profile)
        label = f"{finding.title} Mean, interval and threshold of every condition of claim {finding.claim}."
        out[f"text_{tag(finding.claim)}"] = told(finding, found, profile)
        out[f"figure_{tag(finding.claim)}"] = as_html(drawn(finding, found, profile), label)
    return out
