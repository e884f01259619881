"""The paper's claims as observables with fixed thresholds, judged on records alone.

Thresholds were fixed before any run. A claim *holds* when every condition is met, holds *in part*
when every condition points the right way but some size falls short, *fails* otherwise, and is *not run*
where a record is missing. Values are means over the seeds that were run.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd

GROUND = {"holds": "#cfe8dc", "holds in part": "#fdebc0", "fails": "#f7d3c4", "not run": "#e6e6e6"}
FLAT = 0.02  # accuracies that differ by less count as equal (C7 and C8)


@dataclass(frozen=True)
class Condition:
    """One measured figure and its threshold, whether it is met, and whether the figure points the right way."""

    name: str
    value: float
    threshold: str
    met: bool
    right_way: bool

    def text(self, by_seed: list[float]) -> str:
        """The figure as the ledger prints it, with its range where several seeds give one each."""
        spread = f" [{min(by_seed):.3g} to {max(by_seed):.3g}]" if len(by_seed) > 1 else ""
        return f"{self.name} {self.value:.3g}{spread} ({self.threshold})"


@dataclass(frozen=True)
class Claim:
    """A claim, its chapter and the figure behind it, and the rule that turns records into conditions."""

    id: str
    text: str
    rule: str
    chapter: str
    figure: str
    conditions: Callable[["Lookup"], list[Condition]]


class Lookup:
    """Means over seeds from the records of one profile; KeyError where nothing was recorded."""

    def __init__(self, records: pd.DataFrame):
        self.records = records

    def __call__(self, model: str, measure: str, epoch: int | None = None, **where) -> float:
        return float(self.by_seed(model, measure, epoch, **where).mean())

    def by_seed(self, model: str, measure: str, epoch: int | None = None, **where) -> pd.Series:
        where = {"split": "train", "view": "clean", "layer": "features"} | where
        r = self.records
        r = r[(r.model == model) & (r.measure == measure)]
        for column, value in where.items():
            r = r[r[column] == value]
        r = r[r.epoch == (r.epoch.max() if epoch is None else epoch)]
        if r.empty:
            raise KeyError(f"{model}: {measure} ({', '.join(where.values())})")
        return r.groupby("seed").value.mean()

    def layers(self, model: str, view: str) -> pd.Series:
        """NCC accuracy on attacked test data by layer of the network, in order of depth, pixels left out."""
        r = self.records
        r = r[(r.model == model) & (r.view == view) & (r.measure == "centers_ncc_accuracy")]
        r = r[(r.split == "test") & (r.chapter == "layers") & (r.layer != "pixels")]
        if r.empty:
            raise KeyError(f"{model}: layers ({view})")
        return r.groupby("layer", sort=False).value.mean()


def _at_most(name: str, value: float, threshold: float, right_way: bool) -> Condition:
    return Condition(name, value, f"≤ {threshold:g}", value <= threshold, right_way)


def _at_least(name: str, value: float, threshold: float, right_way: bool) -> Condition:
    return Condition(name, value, f"≥ {threshold:g}", value >= threshold, right_way)


def _collapse(v: Lookup) -> list[Condition]:
    first = {m: v("standard", m, epoch=1) for m in ("accuracy", "nc1", "equinorm", "equiangle", "nc4")}
    last = {m: v("standard", m) for m in first}
    ratio = {m: last[m] / first[m] for m in ("nc1", "equinorm", "equiangle")}
    return [
        _at_least("train accuracy", last["accuracy"], 0.999, last["accuracy"] > first["accuracy"]),
        _at_most("NC1 last/first epoch", ratio["nc1"], 0.1, ratio["nc1"] < 1),
        *(
            Condition(f"{m} last/first epoch", ratio[m], "< 1", ratio[m] < 1, ratio[m] < 1)
            for m in ("equinorm", "equiangle")
        ),
        _at_most("NC4", last["nc4"], 0.001, last["nc4"] < first["nc4"]),
    ]


def _destroyed(v: Lookup) -> list[Condition]:
    accuracy = v("standard", "accuracy", view="untargeted")
    grown = {m: v("standard", m, view="untargeted") / v("standard", m) for m in ("nc1", "equiangle")}
    return [
        _at_most("accuracy under PGD", accuracy, 0.10, accuracy < v("standard", "accuracy")),
        _at_least("NC1 attacked/clean", grown["nc1"], 10, grown["nc1"] > 1),
        _at_least("equiangle attacked/clean", grown["equiangle"], 2, grown["equiangle"] > 1),
    ]


def _noise(v: Lookup) -> list[Condition]:
    out = []
    for noise in ("sign", "gaussian"):
        accuracy = v("standard", "accuracy", view=noise)
        ratio = v("standard", "nc1", view=noise) / v("standard", "nc1", view="untargeted")
        better = accuracy > v("standard", "accuracy", view="untargeted")
        out.append(_at_least(f"accuracy, {noise} noise", accuracy, 0.95, better))
        out.append(_at_most(f"NC1 {noise}/PGD", ratio, 0.1, ratio < 1))
    return out


def _leap(v: Lookup) -> list[Condition]:
    ratio = v("standard", "target_angle", view="targeted") / v("standard", "target_angle", view="clean")
    leapt = v("standard", "centers_leapt", view="untargeted")
    return [
        _at_most("angle to the target's vertex, attacked/clean", ratio, 0.5, ratio < 1),
        _at_least("share leapt to another vertex", leapt, 0.5, leapt > v("standard", "leapt")),
    ]


def _robust_collapse(v: Lookup) -> list[Condition]:
    out = []
    for view in ("clean", "untargeted"):
        ratio = v("adversarial", "nc1", view=view) / v("adversarial", "nc1", epoch=1, view=view)
        out.append(_at_most(f"NC1 last/first epoch, {view}", ratio, 0.3, ratio < 1))
    angle = v("adversarial", "angle", view="untargeted")
    less = angle < v("standard", "angle", view="untargeted")
    return [*out, _at_most("clean–perturbed angle in degrees", angle, 15, less)]


def _trades(batchnorm: str) -> Callable[[Lookup], list[Condition]]:
    def conditions(v: Lookup) -> list[Condition]:
        model, out = f"TRADES ({batchnorm})", []
        for view in ("clean", "untargeted"):
            ratio = v(model, "nc1", view=view) / v("adversarial", "nc1", view=view)
            out.append(_at_least(f"NC1 TRADES/adversarial, {view}", ratio, 3, ratio > 1))
        return out

    return conditions


def _robust_ncc(v: Lookup) -> list[Condition]:
    where = {"view": "untargeted", "split": "test"}
    ncc, accuracy = (v("adversarial", m, **where) for m in ("centers_ncc_accuracy", "accuracy"))
    standard = v("standard", "centers_ncc_accuracy", **where)
    ratio = ncc / standard if standard else float("inf")  # the standard network may be wrong everywhere
    return [
        _at_most("|NCC − network accuracy| under PGD, test", abs(ncc - accuracy), FLAT, ncc >= accuracy / 2),
        _at_least("NCC accuracy adversarial/standard", ratio, 3, ratio > 1),
    ]


def _early_layers(v: Lookup) -> list[Condition]:
    standard, robust = v.layers("standard", "untargeted"), v.layers("adversarial", "untargeted")
    lead, fall = standard[:-1].max() - standard.iloc[-1], -robust.diff().min()
    rises = robust.iloc[-1] >= robust.iloc[0]
    return [
        _at_least("lead of the best early layer over the last", lead, 0.2, lead > 0),
        _at_most("largest fall between layers, adversarial", fall, FLAT, rises),
    ]


def _early_layers_adaptive(v: Lookup) -> list[Condition]:
    standard = v.layers("standard", "adaptive")
    lead = standard[:-1].max() - standard.iloc[-1]
    return [_at_least("lead of the best early layer over the last, adaptive attack", lead, 0.2, lead > 0)]


CLAIMS = (
    Claim("C1", "Standard training collapses on clean data",
          "train accuracy ≥ 0.999; NC1 ≤ 0.1 × first epoch; equinorm and equiangle fall; NC4 ≤ 0.001",
          "collapse", "fig-collapse-curves", _collapse),
    Claim("C2", "A small attack destroys the simplex",
          "untargeted PGD: accuracy ≤ 0.10; NC1 ≥ 10 × clean; equiangle ≥ 2 × clean",
          "attacks", "fig-attack-epsilon", _destroyed),
    Claim("C3", "Noise of the same size does not",
          "sign and Gaussian noise: accuracy ≥ 0.95; NC1 ≤ 0.1 × NC1 under PGD",
          "attacks", "fig-attack-epsilon", _noise),
    Claim("C4", "Attacked points leap to other vertices",
          "targeted: angle to the target's vertex ≤ half of before; ≥ 50 % of untargeted points have leapt",
          "attacks", "fig-attack-leap", _leap),
    Claim("C5", "Adversarial training collapses on clean and perturbed data, onto one simplex",
          "NC1 clean and perturbed ≤ 0.3 × first epoch; clean–perturbed angle ≤ 15°",
          "adversarial-training", "fig-robust-curves", _robust_collapse),
    Claim("C6 published", "TRADES does not collapse (batch norm as published)",
          "NC1 ≥ 3 × adversarial training's, clean and perturbed",
          "adversarial-training", "fig-robust-curves", _trades("published")),
    Claim("C6 fixed", "TRADES does not collapse (batch norm fixed)",
          "NC1 ≥ 3 × adversarial training's, clean and perturbed",
          "adversarial-training", "fig-robust-curves", _trades("fixed")),
    Claim("C7", "The nearest-class-centre rule of a robust network is itself robust",
          "PGD test data: NCC accuracy within 0.02 of the network's; ≥ 3 × standard training's",
          "adversarial-training", "fig-robust-ncc", _robust_ncc),
    Claim("C8", "Earlier layers keep reliable simplices under attack, later ones do not",
          "standard: some layer's NCC accuracy on PGD test data leads the last's by ≥ 0.20; adversarial: rises or flat",
          "layers", "fig-layers-ncc", _early_layers),
    Claim("C8a", "(ours) The early layers' robustness is real, not a failure to transfer",
          "the same lead under an adaptive attack on each layer's own NCC head",
          "layers", "fig-layers-adaptive", _early_layers_adaptive),
)  # fmt: skip


def judge(claim: Claim, records: pd.DataFrame) -> tuple[str, str, int]:
    """Verdict and measured figures of one claim on one profile's records: means over seeds, and their range.

    The third value counts the seeds that have every record of the claim.
    """
    try:
        conditions = claim.conditions(Lookup(records))
    except KeyError:
        return "not run", "", 0
    by_seed = []
    for _, of_seed in records.groupby("seed"):
        with suppress(KeyError):
            by_seed.append([c.value for c in claim.conditions(Lookup(of_seed))])
    measured = "; ".join(c.text([values[i] for values in by_seed]) for i, c in enumerate(conditions))
    if all(c.met for c in conditions):
        verdict = "holds"
    else:
        verdict = "holds in part" if all(c.right_way for c in conditions) else "fails"
    return verdict, measured, len(by_seed)


def verdict(claim_id: str, records: pd.DataFrame) -> str:
    """The verdict on one claim, by its id."""
    return judge(next(claim for claim in CLAIMS if claim.id == claim_id), records)[0]


def ledger(records: pd.DataFrame) -> pd.DataFrame:
    """One row per claim and profile: id, claim, rule, profile, seeds, measured, verdict, chapter, figure."""
    out = []
    for profile, of_profile in records.groupby("profile", sort=False):
        for claim in CLAIMS:
            verdict, measured, seeds = judge(claim, of_profile)
            out.append(
                (claim.id, claim.text, claim.rule, profile, seeds, measured, verdict, claim.chapter, claim.figure)
            )
    columns = ["id", "claim", "rule", "profile", "seeds", "measured", "verdict", "chapter", "figure"]
    return pd.DataFrame(out, columns=columns)


def verdicts(records: pd.DataFrame, chapter: str):
    """The ledger of one chapter as a styled table, verdicts coloured."""
    table = ledger(records)
    shown = table[table.chapter == chapter][["id", "claim", "rule", "measured", "verdict"]]
    return coloured(shown, ["verdict"]).set_table_attributes('class="claims"')


def overview(table: pd.DataFrame):
    """Claims by row, profiles by column, verdicts coloured: from a ``ledger``."""
    wide = table.pivot_table(index=["id", "claim"], columns="profile", values="verdict", aggfunc="first", sort=False)
    wide = wide.fillna("not run").reset_index().rename_axis(columns=None)
    return coloured(wide, list(wide.columns[2:]))


def coloured(table: pd.DataFrame, columns: list[str]):
    """A styled table whose verdicts, in these columns, are coloured."""
    return table.style.hide(axis="index").map(_ground, subset=columns)


def as_markdown(table: pd.DataFrame) -> str:
    """A box per claim, labelled claim-<id>: its rule, and per profile the measured figures and the verdict."""
    out = []
    for claim, rows in table.groupby("id", sort=False):
        first = rows.iloc[0]
        out += [
            f"(claim-{claim.lower().replace(' ', '-')})=",
            f":::{{admonition}} {claim} · {first.claim}",
            ":class: note",
        ]
        out.append(f"Holds when {first.rule}. See [the figure](#{first.figure}).\n")
        for row in rows.itertuples():
            seeds = f", {row.seeds} seed{'s' if row.seeds != 1 else ''}" if row.seeds else ""
            out.append(f"- *{row.profile}*{seeds}: **{row.verdict}**. {row.measured}")
        out.append(":::\n")
    return "\n".join(out)


def _ground(verdict: str) -> str:
    return f"background-color: {GROUND[verdict]}; color: #1a1a1a; white-space: nowrap"
