"""The claims on losses are judged by their fixed thresholds: at them, beyond them, and where a record is missing."""

import pandas as pd
import pytest

from nclib.evidence import records
from nclib.evidence.beyond.losses import CLAIMS, CORNERS, LOSSES, SADDLES, free, network
from nclib.evidence.claims import judge

SEEDS = (1, 2, 3)


def row(model, measure, value, view="clean", split="test", epoch=10, seed=1):
    return dict(profile="digits", chapter="losses", model=model, recipe="abc", seed=seed, epoch=epoch, split=split,
                layer="features", view=view, measure=measure, value=value)  # fmt: skip


def verdict(claim_id, rows):
    (claim,) = [claim for claim in CLAIMS if claim.id == claim_id]
    return judge(claim, pd.DataFrame(rows, columns=records.COLUMNS)).verdict


def by_loss(measure, values, training="standard", **where):
    """One value for each loss, the same for every seed."""
    return [
        row(network(loss, training), measure, value, seed=seed, **where)
        for loss, value in zip(LOSSES, values)
        for seed in SEEDS
    ]


@pytest.mark.parametrize("last, expected", [(0.99, "holds"), (0.985, "holds in part"), (0.97, "fails")])
def test_l3_at_and_around_its_thresholds(last, expected):
    assert verdict("L3", by_loss("accuracy", (0.999, 0.995, 0.995, last))) == expected


def test_l3_asks_for_the_spread_of_means_and_not_for_the_mean_of_spreads():
    """Each loss is best once: every seed's spread is 0.04, that of the means nearly zero."""
    rows = [
        row(network(loss), "accuracy", 0.95 + 0.04 * (k % 3 == seed - 1), seed=seed)
        for k, loss in enumerate(list(LOSSES)[:3])
        for seed in SEEDS
    ] + [row(network("squared"), "accuracy", 0.95 + 0.04 / 3, seed=seed) for seed in SEEDS]
    assert verdict("L3", rows) in ("holds", "too close to call")


def test_a_loss_that_was_not_run_leaves_the_claim_not_run():
    assert verdict("L3", by_loss("accuracy", (0.99, 0.99, 0.99))) == "not run"


@pytest.mark.parametrize("best, expected", [(0.55, "holds"), (0.6, "fails")])
def test_l7_looks_where_cross_entropy_is_neither_near_one_nor_near_zero(best, expected):
    rows = by_loss("robust_accuracy", (0.51, 0.52, 0.52, best), view="0.1")
    rows += by_loss("robust_accuracy", (0.85, 0.5, 0.5, 0.5), view="0.05")  # outside the window
    rows += by_loss("robust_accuracy", (0.15, 0.5, 0.5, 0.5), view="0.2")
    assert verdict("L7", rows) == expected


def test_l7_is_not_run_where_no_budget_lies_in_the_window():
    assert verdict("L7", by_loss("robust_accuracy", (0.85, 0.5, 0.5, 0.5), view="0.1")) == "not run"


@pytest.mark.parametrize("lead, expected", [(0.06, "holds"), (0.03, "holds in part"), (0.0, "fails")])
def test_l9_asks_for_one_loss_that_plain_pgd_flatters(lead, expected):
    rows = by_loss("robust_accuracy", (0.5, 0.5, 0.5, 0.5), view="0.1")
    rows += by_loss("pgd_accuracy", (0.5, 0.5, 0.5 + lead, 0.5), view="0.1")
    assert verdict("L9", rows) == expected


@pytest.mark.parametrize("wide, expected", [(0.05, "holds"), (0.08, "holds in part"), (0.12, "fails")])
def test_l3b_compares_two_corners_of_the_grid(wide, expected):
    gaps = dict.fromkeys(CORNERS, 0.3) | {CORNERS[0]: 0.1, CORNERS[-1]: wide}
    rows = [
        row(network(loss), "grid_accuracy", 0.5 - gap * (loss == "focal"), view=corner)
        for corner, gap in gaps.items()
        for loss in LOSSES
    ]
    assert verdict("L3b", rows) == expected


def networks(nc1=0.05, training="standard", **changed):
    first = dict(accuracy=0.9, nc1=1.0, equinorm=0.3, equiangle=0.4, nc4=0.2)
    last = dict(accuracy=1.0, nc1=nc1, equinorm=0.1, equiangle=0.1, nc4=0.0) | changed
    return [
        row(network(loss, training), measure, value, view=view, split="train", epoch=epoch)
        for loss in LOSSES
        for epoch, values in ((1, first), (10, last))
        for measure, value in values.items()
        for view in ("clean", "untargeted")
    ]


@pytest.mark.parametrize(
    "changed, expected",
    [({}, "holds"), (dict(nc1=0.11), "holds in part"), (dict(nc1=1.1), "fails"), (dict(equiangle=0.5), "fails"),
     (dict(accuracy=0.99), "holds in part"), (dict(nc4=0.01), "holds in part")],
)  # fmt: skip
def test_l1_is_the_rule_of_c1_for_every_loss(changed, expected):
    assert verdict("L1", networks(**changed)) == expected


@pytest.mark.parametrize("gap, expected", [(0.2, "holds"), (0.3, "holds in part"), (1.1, "fails")])
def test_l2_asks_both_gaps_of_every_loss(gap, expected):
    rows = [row(network(loss), measure, 0.1, split="train") for loss in LOSSES for measure in ("gap_weight",)]
    rows += [row(network(loss), "gap_dual", gap, split="train") for loss in LOSSES]
    assert verdict("L2", rows) == expected


@pytest.mark.parametrize(
    "least, nc1, expected",
    [(0.8, 0.2, "holds"), (0.8, 0.4, "holds in part"), (0.7, 0.2, "fails")],
)
def test_l8_asks_for_robustness_and_for_collapse(least, nc1, expected):
    where = dict(training="adversarial", view="training budget")
    rows = [r for r in by_loss("robust_accuracy", (0.84, 0.84, 0.84, least), **where) if r["seed"] == 1]
    assert verdict("L8", rows + networks(nc1, "adversarial")) == expected


def free_rows(excess=1e-9, lowest=-0.04, bound=-0.04, flat=0.0):
    rows = []
    for loss in LOSSES:
        where = dict(split="train", epoch=0)
        for view in ("L-BFGS", "heavy ball"):
            for measure in ("excess", "nc1_per_class", "gap_weight", "gap_dual"):
                rows.append(row(free(loss), measure, excess, view=view, **where))
        for view in SADDLES:
            values = dict(gradient=1e-10, excess=0.5, lowest=lowest, bound=bound)
            rows += [row(free(loss), measure, value, view=view, **where) for measure, value in values.items()]
        rows += [row(free(loss), "lowest", flat, view="minimum", **where)]
        rows += [row(free(loss), "highest", 1.0, view="minimum", **where)]
    return rows


@pytest.mark.parametrize("excess, expected", [(1e-6, "holds"), (1e-5, "holds in part"), (0.1, "fails")])
def test_l4_at_and_around_its_thresholds(excess, expected):
    assert verdict("L4", free_rows(excess)) == expected


@pytest.mark.parametrize(
    "lowest, bound, flat, expected",
    [(-0.04, -0.04, 0.0, "holds"), (-0.03, -0.04, 0.0, "holds in part"), (0.0, -0.04, 0.0, "fails"),
     (-0.04, -0.04, -1e-3, "fails")],
)  # fmt: skip
def test_l5_asks_for_negative_curvature_and_for_none_at_the_minimum(lowest, bound, flat, expected):
    assert verdict("L5", free_rows(lowest=lowest, bound=bound, flat=flat)) == expected


@pytest.mark.parametrize("lowest, expected", [(1e-4, "holds"), (-1e-4, "fails")])
def test_l6_asks_for_a_valley_that_is_not_the_lowest(lowest, expected):
    values = dict(gradient=1e-12, excess=0.02, lowest=lowest)
    rows = [row(free("focal"), m, v, view="trap", split="train", epoch=0) for m, v in values.items()]
    assert verdict("L6", rows) == expected
