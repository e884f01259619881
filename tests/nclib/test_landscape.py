"""The unconstrained features model against closed forms, finite differences, dense Hessians and its symmetries."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nclib as nc
from nclib.losses import focal, squared
from nclib.neighbours import landscape
from nclib.neighbours.landscape import LOSSES, UFM, certificate, gradient, hessian, hessian_product, lbfgs, minimum

SMALL = dict(C=4, d=6, n=3)
TABLE = {  # f*, s and the lowest eigenvalue at zero, for C 10, d 12, n 5, lw 5e-3, lh 1e-3, lb 1e-2
    "ce": (0.282396243, 5.252273, -0.041766059),
    "smoothing": (0.500288035, 4.510859, -0.039532341),
    "focal": (0.145052623, 2.866654, -0.054659429),
    "squared": (0.044370050, 0.95, -0.041766059),
}
PAIR = [0, 0, 1, 2]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits_and_labels(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * normal(40, 10, seed=seed), torch.arange(40) % 10


# The losses ---------------------------------------------------------------------------------------


def test_idle_options_give_cross_entropy_and_smoothing_is_the_frameworks_own():
    z, y = logits_and_labels()
    entropy = F.cross_entropy(z, y, reduction="none")
    assert torch.allclose(focal(z, y, gamma=0.0), entropy, rtol=1e-14)
    assert torch.equal(UFM("smoothing", smoothing=0.0).losses(z, y), entropy)
    log_p, a = F.log_softmax(z, 1), 0.05
    by_hand = -(1 - a) * log_p.gather(1, y[:, None])[:, 0] - a * log_p.mean(1)
    assert torch.allclose(UFM("smoothing", smoothing=a).losses(z, y), by_hand, rtol=1e-12)


def test_squared_error_with_the_authors_target_and_weight_is_the_mean_over_samples_and_classes():
    z, y = logits_and_labels()
    theirs = F.mse_loss(z, 15.0 * F.one_hot(y, 10))
    assert float(UFM("squared", target=15.0, weight=0.2).losses(z, y).mean()) == pytest.approx(float(theirs), rel=1e-13)
    assert float(squared(z, y, 15.0).mean() * 0.2) == pytest.approx(float(theirs), rel=1e-13)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_the_focal_gradient_is_kappa_times_that_of_cross_entropy(gamma):
    z, y = logits_and_labels()
    z.requires_grad_()
    (ours,) = torch.autograd.grad(focal(z, y, gamma).sum(), z)
    (entropy,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), z)
    p = F.softmax(z.detach(), 1).gather(1, y[:, None])
    kappa = torch.tensor([landscape.kappa(float(q), gamma) for q in p])[:, None]
    assert (kappa > 0).all() and torch.allclose(ours, kappa * entropy, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_the_focal_gradient_is_finite_where_the_network_is_certain(gamma):
    z = torch.tensor([[200.0, 0.0, 0.0], [20.0, 0.0, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(focal(z, torch.tensor([0, 0]), gamma).sum(), z)
    assert slope.isfinite().all() and (slope[0] == 0).all()


def test_an_attack_with_the_focal_loss_takes_the_steps_of_cross_entropy():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 20), torch.nn.Tanh(), torch.nn.Linear(20, 4))
    model, x, y = model.double(), torch.rand(30, 1, 4, 4, dtype=torch.float64), torch.arange(30) % 4
    x.requires_grad_()
    (a,) = torch.autograd.grad(focal(model(x), y).sum(), x)
    (b,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    assert (a.sign() != b.sign()).double().mean() < 0.01


# Closed forms against descent ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_the_closed_form_has_the_reference_values(loss):
    found, (f, s, _) = minimum(UFM(loss)), TABLE[loss]
    assert found.f == pytest.approx(f, abs=1e-9) and found.s == pytest.approx(s, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_reaches_the_closed_form_and_goes_never_below(loss):
    model = UFM(loss, **SMALL)
    best = minimum(model)
    for seed in range(10 if loss == "ce" else 4):
        theta = lbfgs(model, model.start((0.1, 1.0, 3.0)[seed % 3], seed))
        assert -1e-12 <= float(model(theta)) / best.f - 1 <= 1e-8
    W, H, b = model.split(theta)
    means = nc.class_means(H, model.labels).means
    assert nc.measure(H, model.labels)["nc1_per_class"] < 1e-8
    assert max(float(nc.simplex_gap(W, W)), float(nc.simplex_gap(W, means))) < 1e-4
    assert float(model.lw * W.square().sum()) == pytest.approx(float(model.lh * H.square().sum()), rel=1e-6)
    length = (model.C - 1) * best.s * math.sqrt(model.lh * model.n / model.lw)
    if loss != "squared":  # a strong decay of the bias lets W carry the logits' mean too
        assert float(W.square().sum()) == pytest.approx(length, rel=1e-5)
        assert float(b.std()) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_momentum_ends_where_quasi_newton_does(loss):
    model = UFM(loss, **SMALL)
    *_, theta = landscape.heavy_ball(model, torch.stack([model.start(0.5, seed) for seed in range(3)]), 1500)
    assert float((model(theta) / minimum(model).f - 1).max()) < 1e-6


def test_smoothing_is_cross_entropy_at_a_higher_price():
    smooth = UFM("smoothing", smoothing=0.2)
    dear = UFM("ce", lw=(smooth.c + 0.02) ** 2 / (smooth.n * smooth.lh))
    assert dear.c == pytest.approx(smooth.c + 0.02, rel=1e-14)
    assert minimum(smooth).s == pytest.approx(minimum(dear).s, abs=1e-10)
    assert minimum(smooth).f == pytest.approx(minimum(dear).f, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_classes_and_the_price_count(loss):
    a, b = minimum(UFM(loss, n=5, lw=5e-3, lh=1e-3)), minimum(UFM(loss, n=1, lw=5e-3, lh=5e-3))
    assert a.f == pytest.approx(b.f, rel=1e-12) and a.s == pytest.approx(b.s, rel=1e-7)


@pytest.mark.parametrize("lb", [1e-3, 0.015, 0.05, 1.0])
def test_squared_error_on_both_sides_of_the_biass_threshold(lb):
    model = UFM("squared", C=4, d=5, n=2, lb=lb)
    theta = lbfgs(model, model.start(1.0, 1))
    assert float(model(theta)) == pytest.approx(minimum(model).f, rel=1e-9)
    assert model.split(theta)[2].tolist() == pytest.approx([minimum(model).bias] * 4, abs=1e-5)


def test_squared_error_of_the_authors_in_the_regime_of_a_strong_bias_decay():
    model = UFM("squared", C=4, d=5, n=2, target=15.0, weight=0.5, lb=0.1)
    assert float(model(lbfgs(model, model.start(1.0, 0)))) == pytest.approx(minimum(model).f, rel=1e-9)


def test_squared_error_is_continuous_where_its_regimes_meet():
    model = UFM("squared")
    threshold = model.C * model.c / (1 - model.C * model.c)
    below, above = (minimum(UFM("squared", lb=threshold * share)) for share in (1 - 1e-9, 1 + 1e-9))
    assert below.f == pytest.approx(above.f, abs=1e-9) and below.bias == pytest.approx(above.bias, abs=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_curve_of_the_scale_is_the_models_value_at_a_simplex(loss):
    """A simplex built by hand: W and H balanced, the bias at its best."""
    model, s = UFM(loss, C=4, d=4, n=2), 1.7
    centred = torch.eye(4, dtype=torch.float64) - 1 / 4
    balance = (model.lh * model.n / model.lw) ** 0.25
    W, H = s**0.5 * balance * centred, (s**0.5 / balance * centred)[model.labels]
    bias = 1 / (4 * (1 + model.lb)) if loss == "squared" else 0.0
    theta = torch.cat([W.flatten(), H.flatten(), torch.full((4,), bias, dtype=torch.float64)])
    assert float(model(theta)) == pytest.approx(float(landscape.on_the_simplex(model, s)), rel=1e-12)


def test_with_a_hundred_classes_the_focal_minimum_is_found_beyond_the_valley_at_zero():
    best = minimum(UFM("focal", C=100, d=100, n=1, lw=0.011399, lh=0.011399))
    assert (best.f, best.s) == (pytest.approx(4.38187, abs=1e-5), pytest.approx(2.5644, abs=1e-4))


# Saddles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_has_the_lowest_eigenvalue_of_theory_by_both_methods(loss):
    model = UFM(loss)
    zero = landscape.zero(model)
    assert float(gradient(model, zero).norm()) < 1e-15
    found = landscape.lowest(model, zero)[0]
    assert found == pytest.approx(TABLE[loss][2], abs=1e-9)
    assert found == pytest.approx(landscape.curvature_bound(model, zero), abs=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_lanczos_agrees_with_the_dense_hessian_and_zero_has_every_direction_of_theory(loss):
    model = UFM(loss, **SMALL)
    zero = landscape.zero(model)
    values = torch.linalg.eigvalsh(hessian(model, zero))
    assert landscape.lowest(model, zero)[0] == pytest.approx(float(values[0]), abs=1e-10)
    assert int((values < values[0] + 1e-9).sum()) == (model.C - 1) * model.d


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("groups", [PAIR, [0, 0, 1, 1]])
def test_merged_classes_rest_above_the_minimum_on_a_strict_saddle(loss, groups):
    model = UFM(loss, **SMALL)
    theta = landscape.merged(model, groups)
    slope = gradient(model, theta)
    assert float(slope.norm()) < 1e-8 and float(model(theta)) > 1.01 * minimum(model).f
    assert torch.equal(model.split(theta)[0][0], model.split(theta)[0][1])
    lowest = float(torch.linalg.eigvalsh(hessian(model, theta))[0])
    assert lowest <= 0.9 * landscape.curvature_bound(model, theta) < 0 and certificate(model, theta) > 1.01
    if loss != "focal":  # merging is exactly as unstable as doing nothing
        assert lowest == pytest.approx(landscape.curvature_bound(model, landscape.zero(model)), abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_certificate_is_one_at_the_minimum_where_no_eigenvalue_is_negative(loss):
    model = UFM(loss, **SMALL)
    theta = lbfgs(model, model.start(1.0, 2))
    values = torch.linalg.eigvalsh(hessian(model, theta))
    assert certificate(model, theta) == pytest.approx(1, abs=1e-5)
    assert float(values[0]) >= -1e-8 * float(values[-1])


def test_the_lowest_eigenvector_leads_down_to_the_minimum():
    model = UFM("ce", **SMALL)
    saddle = landscape.merged(model, PAIR)
    _, direction = landscape.lowest(model, saddle)
    assert float(model(lbfgs(model, saddle + 1e-3 * direction))) == pytest.approx(minimum(model).f, rel=1e-9)


def test_a_distance_grows_off_a_saddle_at_the_rate_of_theory():
    model = UFM("ce", **SMALL)
    saddle = landscape.merged(model, PAIR)
    value, direction = landscape.lowest(model, saddle)
    path = torch.stack(list(landscape.heavy_ball(model, saddle + 1e-10 * direction, 45)))
    apart = (path - saddle) @ direction
    assert float(apart[45] / apart[35]) == pytest.approx(landscape.growth(value) ** 10, rel=1e-3)


def test_a_hundred_classes_hold_the_focal_loss_at_zero():
    model = UFM("focal", C=100, d=100, n=1, lw=0.011399, lh=0.011399)
    zero = landscape.zero(model)
    assert float(model(zero)) > 1.01 * minimum(model).f and certificate(model, zero) < 1
    price = landscape.kappa(0.01, 3.0) / 100
    assert landscape.lowest(model, zero)[0] == pytest.approx(model.c - price, abs=1e-10)


# Derivatives and symmetries -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_hessian_products_match_differences_of_the_gradient_and_the_functional_hessian(loss):
    model = UFM(loss, C=3, d=3, n=2)
    theta, v = model.start(1.0, 3), model.start(1.0, 4)
    product, step = hessian_product(model, theta, v), 1e-5
    difference = (gradient(model, theta + step * v) - gradient(model, theta - step * v)) / (2 * step)
    assert torch.allclose(product, difference, atol=1e-6)
    reference = torch.autograd.functional.hessian(model, theta)
    assert torch.allclose(product, reference @ v, atol=1e-12)
    assert torch.allclose(hessian(model, theta), reference, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_turning_and_renaming_leave_the_value_alone(loss):
    model = UFM(loss, **SMALL)
    theta = model.start(1.0, 5)
    W, H, b = model.split(theta)
    Q = torch.linalg.qr(normal(6, 6, seed=6)).Q
    order = torch.tensor([2, 0, 3, 1])
    renamed = H.view(4, 3, 6)[order].flatten(0, 1)
    for parts in ((W @ Q, H @ Q, b), (W[order], renamed, b[order])):
        assert float(model(torch.cat([p.flatten() for p in parts]))) == pytest.approx(float(model(theta)), rel=1e-13)


@pytest.mark.parametrize("loss", LOSSES[:3])
def test_a_constant_on_all_logits_is_free_where_the_bias_is(loss):
    model = UFM(loss, lb=0.0, **SMALL)
    theta = model.start(1.0, 7)
    moved = theta.clone()
    moved[-4:] += 2.5
    assert float(model(moved)) == pytest.approx(float(model(theta)), rel=1e-13)


def test_several_thetas_at_once_are_each_their_own():
    model = UFM("focal", **SMALL)
    several = torch.stack([model.start(1.0, seed) for seed in range(3)])
    assert torch.allclose(model(several), torch.stack([model(theta) for theta in several]), rtol=1e-14)
    assert torch.allclose(gradient(model, several)[1], gradient(model, several[1]), rtol=1e-12)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(loss="hinge"), "unknown loss 'hinge'; choose one of ce, smoothing, focal, squared"),
        (dict(gamma=-1.0), "gamma must be 0 or more, not -1.0"),
        (dict(smoothing=1.0), r"smoothing must lie in \[0, 1\), not 1.0"),
        (dict(target=0.0), "target must be above 0, not 0.0"),
        (dict(lw=0.0), "lw must be above 0, not 0.0"),
        (dict(C=1), "C must be 2 or more, not 1"),
        (dict(lb=math.nan), "lb must be 0 or more, not nan"),
    ],
)
def test_a_model_that_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UFM(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(loss="ce", lw=0.04, lh=0.0721), r"c = 0.1201 >= 1/C = 0.1, the minimum is W = H = 0"),
        (dict(loss="smoothing", smoothing=0.96), r"weight decay too strong: c = 0.005 >= \(1 - smoothing\)/C = 0.004"),
        (dict(loss="squared", target=0.04), "c = 0.005 >= weight target/C = 0.004"),
        (dict(loss="focal", lw=0.2, lh=0.2), "weight decay too strong: c = 0.4472, the minimum is W = H = 0"),
        (dict(loss="ce", d=5), "no simplex of 10 classes in 5 dimensions: d must be 9 or more"),
    ],
)
def test_where_there_is_no_simplex_the_closed_form_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        minimum(UFM(**options))


def test_vectors_and_groups_of_other_sizes_are_refused():
    model = UFM("ce", **SMALL)
    with pytest.raises(ValueError, match="theta has 5 entries, expected 100"):
        model(torch.zeros(5))
    with pytest.raises(ValueError, match="groups must give 4 classes a group each, not 3"):
        landscape.merged(model, [0, 0, 1])


def test_the_growth_of_no_curvature_is_none():
    with pytest.raises(ValueError, match=r"along positive curvature, 0\.01"):
        landscape.growth(0.01)
    assert landscape.growth(0.0) == pytest.approx(1) and landscape.growth(-0.041766) == pytest.approx(1.1767, abs=1e-3)
    assert np.isclose(landscape.kappa(0.3, 0.0), 1)
