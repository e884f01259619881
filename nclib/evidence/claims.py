"""The judge: conditions with fixed thresholds, and verdicts on records alone.

A condition is one figure of one seed's records and its threshold. Over seeds it is judged by the mean and its 95 %
t-interval: with three seeds or more it is *met* or *missed* where the whole interval lies on one side of the threshold,
and *open* where the interval straddles it; with fewer, the mean decides. A claim *holds* where every condition is met,
*fails* where one is missed and points the wrong way, holds *in part* where all that are missed point the right way, is
*too close to call* where none is missed and some are open, and *not run* where a record is missing, or a ratio is one
to nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan
from operator import ge, gt, le, lt
from statistics import fmean

import pandas as pd

from ..seeds import ENOUGH, interval, jackknife

VERDICTS = ("holds", "holds in part", "too close to call", "fails", "not run")
COMPARISONS = {"≤": le, "<": lt, "≥": ge, ">": gt}


class Lookup:
    """Values from the records of one chapter under one profile: the mean over the seeds that are in them.

    A model's last epoch is taken, of each seed its own, unless another is asked for.

    KeyError where nothing was recorded; ValueError where one seed has two values, as runs with other parameters are
    never averaged.
    """

    def __init__(self, records: pd.DataFrame):
        self.records = records

    def __call__(
        self, model: str, measure: str, epoch: int | None = None, *, split="train", view="clean", layer="features"
    ) -> float:
        rows = self._rows[model, measure, split, view, layer]
        last: dict[int, int] = defaultdict(int)
        for at, seed, _ in rows:
            last[seed] = max(at, last[seed])
        found = [(seed, value) for at, seed, value in rows if at == (last[seed] if epoch is None else epoch)]
        return _mean(found, f"{model}: {measure} ({split}, {view}, {layer})")

    def epochs(self, model: str) -> list[int]:
        """The epochs that a model was measured at, the untrained network (0) aside. KeyError where it was not."""
        found = self.records.epoch[self.records.model == model]
        if found.empty:
            raise KeyError(model)
        return sorted(int(epoch) for epoch in found.unique() if epoch)

    def layers(self, model: str, view: str, measure: str = "centers_ncc_accuracy") -> pd.Series:
        """A measure on test data by layer of the network, in order of depth, pixels left out."""
        r = self.records
        found = r[(r.model == model) & (r["view"] == view) & (r.measure == measure) & (r.split == "test")]
        found, name = found[found.layer != "pixels"], f"{model}: layers ({view})"
        if found.empty:
            raise KeyError(name)
        return found.groupby("layer", sort=False).apply(lambda of: _mean(zip(of.seed, of.value), name))

    def views(self, model: str, measure: str) -> list[str]:
        """The views that a measure of a model has, as they were recorded. KeyError where there are none."""
        r = self.records
        found = r["view"][(r.model == model) & (r.measure == measure)].unique()
        if not len(found):
            raise KeyError(f"{model}: {measure}")
        return list(found)

    @cached_property
    def _rows(self) -> dict[tuple, list[tuple]]:
        """Epoch, seed and value of every record, by what it is a figure of: claims ask thousands of times."""
        rows, r = defaultdict(list), self.records
        columns = ("model", "measure", "split", "view", "layer", "epoch", "seed", "value")
        for *of, epoch, seed, value in zip(*(r[column].to_numpy(object) for column in columns)):
            rows[tuple(of)].append((epoch, seed, value))
        return rows


def _mean(pairs: Iterable[tuple[int, float]], name: str) -> float:
    """The mean over seeds of pairs (seed, value); a figure without a value was not measured."""
    values: dict[int, set[float]] = defaultdict(set)
    for seed, value in pairs:
        if not isnan(value):
            values[seed].add(value)
    if not values:
        raise KeyError(name)
    if any(len(of_seed) > 1 for of_seed in values.values()):
        raise ValueError(f"{name}: one seed has several values, of runs with other parameters: keep them apart")
    return fmean(value for (value,) in values.values())


class Case:
    """The records of one chapter under one profile, to be asked of one seed or of several together."""

    def __init__(self, records: pd.DataFrame):
        self.seeds = sorted(records.seed.dropna().unique())
        self._records, self._lookups = records, {}

    def of(self, *seeds: int) -> Lookup:
        """The lookup of these seeds, made once."""
        if seeds not in self._lookups:
            self._lookups[seeds] = Lookup(self._records[self._records.seed.isin(seeds)])
        return self._lookups[seeds]


@dataclass(frozen=True)
class Condition:
    """A figure, the comparison with its threshold that is asked for, and when it points the right way.

    ``value`` gives the figure of one seed; ``right`` tests, on the mean over seeds, whether the figure points the right
    way, which ``way`` says in words. Ratios that live on a logarithmic scale are averaged and bounded there (``log``).
    A figure of all seeds together (``pooled``: the spread of means, say) is bounded by the jackknife.
    """

    name: str
    value: Callable[[Lookup], float]
    comparison: str
    threshold: float
    way: str
    right: Callable[[Lookup], bool]
    log: bool = False
    pooled: bool = False

    @property
    def rule(self) -> str:
        """What is asked, in words: the same figure and threshold that are judged."""
        return f"{self.name} {self.comparison} {self.threshold:g}"

    def holds_at(self, value: float) -> bool:
        """Does a value lie on the side of the threshold that is asked for?"""
        return COMPARISONS[self.comparison](value, self.threshold)


Value = Callable[[Lookup], float]


def of(model: str, measure: str, **where) -> Value:
    """The figure of one record: ``Lookup``'s arguments."""
    return lambda v: v(model, measure, **where)


def ratio(top: Value, bottom: Value) -> Value:
    """One figure over another."""
    return lambda v: top(v) / bottom(v)


def at_most(name: str, value: Value, threshold: float, log=False, way: float = inf, pooled=False) -> Condition:
    """A figure that may not exceed its threshold, and points the right way below ``way``."""
    words = "any" if way == inf else f"below {way:g}"
    return Condition(name, value, "≤", threshold, words, lambda v: value(v) < way, log, pooled)


def at_least(name: str, value: Value, threshold: float, log=False, way: float = 0.0, pooled=False) -> Condition:
    """A figure that may not fall short of its threshold, and points the right way above ``way``."""
    return Condition(name, value, "≥", threshold, f"above {way:g}", lambda v: value(v) > way, log, pooled)


@dataclass(frozen=True)
class Claim:
    """A claim, the chapter whose records decide it, the figure that shows it, and its conditions."""

    id: str
    text: str
    chapter: str
    figure: str
    conditions: tuple[Condition, ...]
    floor: Condition | None = None  # where it is missed, the claim says nothing, and the verdict is the word ``below``
    below: str = ""

    @property
    def rule(self) -> str:
        """The conditions in words."""
        floor = f" (where {self.floor.rule}; else: {self.below})" if self.floor else ""
        return "; ".join(condition.rule for condition in self.conditions) + floor

    @property
    def right_way(self) -> str:
        """When each condition points the right way, in words."""
        return "; ".join(f"{condition.name}: {condition.way}" for condition in self.conditions)


@dataclass(frozen=True)
class Finding:
    """A condition as measured: its figure for each seed, their mean, the bounds that judge it, and what follows."""

    condition: Condition
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    status: str
    right_way: bool

    def text(self) -> str:
        """The figure as the ledger prints it: mean, then the 95 % interval, or the two values of two seeds."""
        bounds = ""
        if len(self.values) == 2:
            bounds = " [{:.3g} and {:.3g}]".format(*sorted(self.values))
        elif len(self.values) > 2:
            bounds = f" [{self.low:.3g}, {self.high:.3g}]"
        c, spread = self.condition, max(self.values) - min(self.values)
        mean = 0.0 if abs(self.mean) < 1e-6 * spread else self.mean  # what rounding leaves where seeds cancel
        return f"{c.name} {mean:.3g}{bounds} ({c.comparison} {c.threshold:g}: {self.status})"


@dataclass(frozen=True)
class Judgement:
    """A verdict, the findings behind it, and the number of seeds that have every record of the claim."""

    verdict: str
    findings: tuple[Finding, ...] = ()
    seeds: int = 0

    def measured(self) -> str:
        """All findings in a line."""
        return "; ".join(finding.text() for finding in self.findings)


def judge(claim: Claim, records: pd.DataFrame) -> Judgement:
    """Judge one claim on one profile's records: those of the claim's chapter, seeds paired with themselves."""
    return decide(claim, Case(records[records.chapter == claim.chapter]))


def decide(claim: Claim, case: Case) -> Judgement:
    """Judge one claim on its chapter's case."""
    conditions = claim.conditions + ((claim.floor,) if claim.floor else ())
    values, complete = [], []
    for seed in case.seeds:
        with suppress(KeyError, ZeroDivisionError):
            lookup = case.of(seed)
            found = [(condition.value(lookup), condition.right(lookup)) for condition in conditions]
            values.append([value for value, _ in found])
            complete.append(seed)
    if not values:
        return Judgement("not run")
    findings = tuple(_finding(c, found, case, complete) for c, found in zip(conditions, zip(*values)))
    if claim.floor and findings[-1].status == "missed":
        return Judgement(claim.below, findings, len(values))
    return Judgement(_verdict(findings), findings, len(values))


def _finding(condition: Condition, values: tuple[float, ...], case: Case, seeds: list[int]) -> Finding:
    together = case.of(*seeds)
    if condition.pooled:
        others = [[other for other in seeds if other != seed] for seed in seeds] if len(seeds) > 1 else []
        mean, low, high = jackknife(condition.value(together), [condition.value(case.of(*some)) for some in others])
    else:
        mean, low, high = interval(values, condition.log)
    judged = (low, high) if len(values) >= ENOUGH else (mean,)
    sides = {condition.holds_at(value) for value in judged}
    status = "open" if len(sides) > 1 else "met" if sides == {True} else "missed"
    return Finding(condition, values, mean, low, high, status, bool(condition.right(together)))


def _verdict(findings: tuple[Finding, ...]) -> str:
    missed = [finding for finding in findings if finding.status == "missed"]
    if missed:
        return "holds in part" if all(finding.right_way for finding in missed) else "fails"
    return "too close to call" if any(finding.status == "open" for finding in findings) else "holds"
