"""Spheres: the manifold against its geometry, minima and saddles against closed forms, and an independent library."""

from math import cos, log, sin

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from nclib.evidence.beyond.sphere import NEVER, at_enough, lead, masking, passed
from nclib.evidence.claims import Lookup
from nclib.evidence.records import COLUMNS
from nclib.models import UnitLength
from nclib.neighbours import sphere
from nclib.neighbours.sphere import Spheres, descent, gradient, hessian, hessian_product, lowest, project, retract


def point(p: Spheres, seed: int = 0) -> torch.Tensor:
    return p.random(1, seed)[0]


def tangent(X: torch.Tensor, seed: int = 1) -> torch.Tensor:
    V = project(X, torch.randn(X.shape, generator=torch.Generator().manual_seed(seed), dtype=X.dtype))
    return V / V.norm()


def end(f, X, **options):
    *_, last = descent(f, X, **options)
    return last


SMALL = Spheres(num_classes=4, d=6, n=2, tau=3.0)


# The manifold ------------------------------------------------------------------------------------


def test_ten_thousand_steps_stay_on_the_spheres():
    X, generator = point(SMALL), torch.Generator().manual_seed(0)
    assert torch.equal(retract(X, 0.0), X / X.norm(dim=-1, keepdim=True))
    for _ in range(10_000):
        X = retract(X, 0.3 * torch.randn(X.shape, generator=generator, dtype=X.dtype))
    torch.testing.assert_close(X.norm(dim=-1), torch.ones(len(X), dtype=X.dtype), rtol=0, atol=1e-15)


def test_the_retraction_follows_the_geodesic_to_second_order():
    """cos(t |v|) x + sin(t |v|) v / |v|: a tenth of the step, a thousandth of the distance."""
    x, v = (F.normalize(torch.randn(1, 5, dtype=torch.float64)) for _ in range(2))
    v = project(x, v)
    length = float(v.norm())
    gaps = [float((retract(x, t * v) - cos(t * length) * x - sin(t * length) * v / length).norm()) for t in (0.1, 0.01)]
    assert gaps[0] / gaps[1] == pytest.approx(1000, rel=0.02)


def test_the_gradient_is_tangent_and_that_of_the_normalised_loss():
    X = point(SMALL)
    G = gradient(SMALL, X)
    assert (X * G).sum(-1).abs().max() < 1e-15
    through = torch.func.grad(lambda Y: SMALL(F.normalize(Y, dim=-1)))(X)
    torch.testing.assert_close(G, through, rtol=0, atol=1e-15)


def test_the_hessian_is_self_adjoint_and_bends_as_f_does_along_geodesics():
    X = point(SMALL)
    u, v = tangent(X, 1), tangent(X, 2)
    Hu, Hv = (hessian_product(SMALL, X, w) for w in (u, v))
    assert abs(float((Hu * v).sum() - (Hv * u).sum())) < 1e-15
    speed, t = v.norm(dim=-1, keepdim=True), 1e-3
    along = [SMALL((s * speed).cos() * X + (s * speed).sin() * v / speed) for s in (-t, 0.0, t)]
    assert float(along[0] - 2 * along[1] + along[2]) / t**2 == pytest.approx(float((Hv * v).sum()), abs=1e-6)
    torch.testing.assert_close((hessian(SMALL, X) @ v.flatten()).view_as(v), Hv, rtol=0, atol=1e-14)


def test_pymanopt_has_the_same_gradient_hessian_and_minimum():
    pymanopt = pytest.importorskip("pymanopt")
    p = Spheres(4, 6, 2, 1.0)
    manifold = pymanopt.manifolds.Oblique(p.d, p.num_classes * (1 + p.n))  # columns where we have rows

    @pymanopt.function.pytorch(manifold)
    def cost(Y):
        return p(Y.T)

    problem, X = pymanopt.Problem(manifold, cost), point(p)
    V = tangent(X)
    theirs = problem.riemannian_gradient(X.T.numpy()), problem.riemannian_hessian(X.T.numpy(), V.T.numpy())
    for ours, their in zip((gradient(p, X), hessian_product(p, X, V)), theirs):
        np.testing.assert_allclose(ours.T.numpy(), their, rtol=0, atol=1e-14)
    found = pymanopt.optimizers.TrustRegions(verbosity=0, max_iterations=60).run(
        problem, initial_point=X.T.numpy().copy()
    )
    assert found.cost == pytest.approx(sphere.minimum(4, 1.0), abs=1e-10)


# Minima ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.1, 1.0, 5.0, 100.0])
def test_the_simplex_has_the_closed_minimum_and_no_descent_goes_below(tau):
    p = Spheres(10, 12, 2, tau)
    best = sphere.minimum(10, tau)
    assert float(p(p.collapsed())) == pytest.approx(best, rel=1e-12) and best > 0
    X, value = end(p, p.random(2, 0), iterations=900)
    assert float((value / best - 1).min()) > -1e-12 and float((value / best - 1).max()) < 1e-8
    assert max(p.collapse(x)["nc2"] for x in X) < 2e-3


def test_the_floor_is_an_orthogonal_frame_with_a_simplex_about_it():
    """And no start with features >= 0 goes below it."""
    p = Spheres(5, 7, 1, 2.0)
    H = torch.eye(5, 7, dtype=torch.float64)
    W = retract(H - H.mean(0))
    assert float(p(torch.cat([W, H]))) == pytest.approx(sphere.floor(5, 2.0), rel=1e-14)
    assert sphere.floor(5, 2.0) > 1.2 * sphere.minimum(5, 2.0)

    def non_negative(X):
        W, H = p.split(X)
        return p(torch.cat([W, F.normalize(H.square(), dim=-1)], dim=-2))

    _, value = end(non_negative, p.random(5, 1))
    assert float((value / sphere.floor(5, 2.0) - 1).abs().max()) < 1e-9


def test_the_loss_is_cross_entropy_and_keeps_its_digits_where_that_has_none():
    for tau in (0.5, 5.0):
        p = Spheres(10, 12, 3, tau)
        W, H = p.split(point(p))
        torch.testing.assert_close(p(point(p)), F.cross_entropy(tau * H @ W.T, p.labels), rtol=1e-12, atol=0)
    steep = Spheres(10, 12, 1, 100.0)
    W, H = steep.split(steep.collapsed())
    assert F.cross_entropy(100 * H @ W.T, steep.labels) == 0
    assert float(steep(steep.collapsed())) == pytest.approx(5.004e-48, rel=1e-3)


def test_closed_forms_as_figures():
    known = {1.0: (1.376935, 1.419869), 5.0: (0.0342017, 0.0452325), 10.0: (1.34499e-4, 2.37862e-4)}
    for tau, (best, floor) in known.items():
        assert sphere.minimum(10, tau) == pytest.approx(best, rel=3e-6)
        assert sphere.floor(10, tau) == pytest.approx(floor, rel=3e-6)


def test_rotations_and_names_of_classes_change_nothing():
    X = point(SMALL)
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    W, H = SMALL.split(X)
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.cat([W[order], H.view(4, 2, 6)[order].flatten(0, 1)])
    for other in (X @ Q, renamed):
        torch.testing.assert_close(SMALL(other), SMALL(X), rtol=1e-13, atol=0)
    torch.testing.assert_close(SMALL.entropy(2 * W, H, 1.5), SMALL(X), rtol=1e-13, atol=0)


def test_five_classes_in_a_plane_make_a_pentagon():
    p = Spheres(5, 2, 2, 5.0)
    X, value = end(p, p.random(4, 0))
    W = p.split(X[value.argmin()])[0]
    cosines = (W @ W.T)[0].sort().values
    torch.testing.assert_close(cosines, torch.tensor([cos(0.8 * np.pi)] * 2 + [cos(0.4 * np.pi)] * 2 + [1.0]).double())
    assert float(value.min()) == pytest.approx(0.061486, abs=1e-6)


def test_stacked_starts_descend_as_they_do_alone():
    starts = SMALL.random(2, 3)
    together, _ = end(SMALL, starts, iterations=30)
    alone, _ = end(SMALL, starts[1], iterations=30)
    torch.testing.assert_close(together[1], alone)


# Saddles -----------------------------------------------------------------------------------------


def test_the_point_where_all_are_equal_has_its_closed_eigenvalue():
    u, v = point(SMALL)[:2]
    for P, multiplicity in ((torch.stack([u, u]), 15), (torch.stack([u, v]), 12)):
        X = SMALL.tied(P, [0, 0, 0, 0])
        assert gradient(SMALL, X).abs().max() < 1e-14 and float(SMALL(X)) == pytest.approx(log(4))
        values = torch.linalg.eigvalsh(hessian(SMALL, X))
        assert float(values[0]) == pytest.approx(-3 / (4 * 2**0.5), abs=1e-12)
        assert int((values < values[0] + 1e-9).sum()) == multiplicity


@pytest.mark.parametrize("groups, pairs", [([0, 0, 1, 2], 1), ([0, 0, 1, 1], 2)])
def test_every_merged_pair_has_its_directions_down_and_lanczos_finds_the_lowest(groups, pairs):
    start = point(SMALL)[: 2 * (max(groups) + 1)]
    P, _ = end(lambda P: SMALL(SMALL.tied(P, groups)), start, tol=1e-10)
    X = SMALL.tied(P, groups)
    assert gradient(SMALL, X).norm() < 1e-8
    values = torch.linalg.eigvalsh(hessian(SMALL, X))
    assert int((values < -1e-6 * values[-1]).sum()) == pairs * (SMALL.d - 1)
    value, direction = lowest(SMALL, X)
    assert value == pytest.approx(float(values[0]), abs=1e-11)
    torch.testing.assert_close(hessian_product(SMALL, X, direction), value * direction, rtol=0, atol=1e-9)
    _, escaped = end(SMALL, retract(X, 1e-3 * direction))
    assert float(escaped) == pytest.approx(sphere.minimum(4, 3.0), rel=1e-9)


def test_the_minimum_has_no_direction_down():
    values = torch.linalg.eigvalsh(hessian(SMALL, SMALL.collapsed()))
    assert values[0] > -1e-12 * values[-1]


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0, -1.0, float("nan")])
def test_a_temperature_is_above_0(tau):
    for ask in (lambda: Spheres(3, 3, tau=tau), lambda: sphere.minimum(3, tau), lambda: sphere.floor(3, tau)):
        with pytest.raises(ValueError, match="tau must be above 0, not"):
            ask()


def test_bad_points_are_refused_in_one_line():
    X = point(SMALL)
    with pytest.raises(ValueError, match="row 3 has length 0: it has no direction"):
        retract(X, -X * (torch.arange(len(X)) == 3)[:, None])
    with pytest.raises(ValueError, match=r"rows are not of unit length \(1.2\): call retract first"):
        gradient(SMALL, 1.2 * X)
    with pytest.raises(ValueError, match=r"rows are not of unit length \(1.2\)"):
        list(descent(SMALL, 1.2 * X))
    with pytest.raises(ValueError, match="no simplex of 10 classes in 5 dimensions"):
        Spheres(10, 5).collapsed()


# The network's part ------------------------------------------------------------------------------


def test_unit_length_is_blind_to_scale_and_survives_zero():
    h = torch.randn(7, 5, dtype=torch.float64)
    layer = UnitLength(4.0)
    torch.testing.assert_close(layer(h).norm(dim=1), torch.full((7,), 4.0).double())
    torch.testing.assert_close(layer(100 * h), layer(h))
    assert not layer(torch.zeros(1, 5)).any()


# Claims ------------------------------------------------------------------------------------------


def table(*rows) -> Lookup:
    names = ["model", "measure", "value", "view", "split", "seed", "epoch"]
    frame = pd.DataFrame([dict(zip(names, row)) | {"layer": "features"} for row in rows], columns=COLUMNS)
    return Lookup(frame)


def test_the_epoch_of_passing_is_that_of_the_slowest_seed():
    rows = [("base", "nc1", 0.1, "clean", "train", seed, 10) for seed in (1, 2)]
    rows += [("net", "nc1", value, "clean", "train", 1, epoch) for epoch, value in ((1, 1.0), (4, 0.1), (10, 0.01))]
    late = [("net", "nc1", value, "clean", "train", 2, epoch) for epoch, value in ((1, 1.0), (4, 0.2), (10, 0.05))]
    assert passed(table(*rows[:1], *rows[2:]), "base", "nc1", "net") == 0.4
    assert passed(table(*rows, *late), "base", "nc1", "net") == 1.0
    never = [(*row[:2], 0.2, *row[3:]) for row in late]
    assert passed(table(*rows, *never), "base", "nc1", "net") == NEVER


def test_robustness_is_compared_only_where_the_ordinary_network_can_tell():
    def at(model, *values):
        budgets = ("epsilon 0.05", "epsilon 0.1", "epsilon 0.2")
        return [(model, "robust_accuracy", v, b, "test", 1, 5) for b, v in zip(budgets, values)]

    value = lead("robust_accuracy", "net", "base")
    assert value(table(*at("base", 0.9, 0.5, 0.1), *at("net", 0.1, 0.7, 0.0))) == pytest.approx(0.2)
    assert value(table(*at("base", 0.8, 0.5, 0.2), *at("net", 0.9, 0.7, 0.1))) == pytest.approx(-0.1)
    with pytest.raises(KeyError, match="no budget leaves it between"):
        value(table(*at("base", 0.9, 0.85, 0.1), *at("net", 0.9, 0.7, 0.1)))


def test_leaps_are_asked_for_at_the_smallest_budget_that_fools_enough():
    rows = []
    for budget, fooled, angle in (("epsilon 0.15", 0.6, 3.0), ("epsilon 0.05", 0.1, 30.0), ("epsilon 0.1", 0.2, 10.0)):
        rows += [("net", "fooled", fooled, budget, "test", 1, 5), ("net", "leap_angle", angle, budget, "test", 1, 5)]
    assert at_enough("leap_angle", "net")(table(*rows)) == 10.0
    with pytest.raises(KeyError, match=r"no budget fools 0\.2"):
        at_enough("leap_angle", "net")(table(*rows[2:4]))


def test_masking_is_plain_minus_worst():
    both = [("net", m, v, "epsilon 0.1", "test", 1, 5) for m, v in (("plain_accuracy", 0.5), ("robust_accuracy", 0.4))]
    assert masking("net")(table(*both)) == pytest.approx(0.1)
    with pytest.raises(KeyError, match="plain_accuracy"):
        masking("other")(table(*both))


def test_a_hot_loss_is_finite_and_a_cold_one_keeps_its_digits():
    problem = sphere.Spheres(4, 4, 2, 1000.0)
    X = problem.random(2)
    W, H = problem.split(X)
    z = 1000.0 * H @ W.mT
    exact = torch.nn.functional.cross_entropy(z.flatten(0, 1), problem.labels.repeat(2), reduction="none")
    torch.testing.assert_close(problem(X), exact.view(2, -1).mean(1))
    assert sphere.gradient(problem, X[0]).isfinite().all()
    assert 0 < float(sphere.Spheres(4, 4, 2, 30.0)(sphere.Spheres(4, 4, 2, 30.0).collapsed())) < 1e-16
