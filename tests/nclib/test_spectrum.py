"""The 1/n regulariser against its closed forms, its literal loop and finite differences; what it is compared with."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import nclib as nc
from nclib.evidence.beyond.spectrum import CLAIMS
from nclib.evidence.claims import judge
from nclib.evidence.records import COLUMNS
from nclib.neighbours import spectrum

TAU = 10


def with_variances(e, N=400, seed=0):
    """Activations (N, D) whose covariance is diagonal, with exactly these variances, about a mean that is not 0."""
    torch.manual_seed(seed)
    D = len(e)
    Q = torch.linalg.qr(F.pad(torch.randn(N, D, dtype=torch.float64), (1, 0), value=1.0)).Q[:, 1:]  # centred
    return Q * (torch.as_tensor(e, dtype=torch.float64) * (N - 1)).sqrt() + 3.0


def law(D=40, alpha=1.0):
    return torch.arange(1, D + 1, dtype=torch.float64) ** -alpha


def eye(D=40):
    return torch.eye(D, dtype=torch.float64)


def rotation(D=40):
    return torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q


def literal(h, v, start, alpha):
    """The released loop: batch covariance, a variance for each direction, sorted, then one term at a time."""
    centred = h - h.mean(0)
    covariance = centred.T @ centred / (len(h) - 1)
    covariance = (covariance + covariance.T) / 2
    e = torch.stack([column @ covariance @ column for column in v.T.to(h)]).sort(descending=True).values
    anchor, total = e[start].detach(), 0.0
    for n in range(start + 1, len(e)):
        if e[n] > 0:
            ratio = e[n] / (anchor * ((start + 1) / (n + 1)) ** alpha)
            total = total + (ratio - 1) ** 2 + F.relu(ratio - 1)
    return total / len(e)


# The penalty -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_it_is_zero_on_the_law_and_nowhere_else(alpha):
    assert spectrum.penalty(with_variances(law(alpha=alpha)), eye(), TAU, alpha) < 1e-10
    assert spectrum.penalty(with_variances(law(alpha=alpha + 0.1)), eye(), TAU, alpha) > 1e-4
    for n in (TAU + 1, 25, 39):
        tail = law(alpha=alpha)
        tail[n] *= 0.97
        assert spectrum.penalty(with_variances(tail), eye(), TAU, alpha) > 1e-6


def test_the_first_variances_never_matter():
    free = law()
    free[:TAU] = torch.linspace(50, 7, TAU)
    assert spectrum.penalty(with_variances(free), eye(), TAU) < 1e-10


@pytest.mark.parametrize("ratio", [0.0625, 0.5, 1.05, 1.09])
def test_a_tail_in_one_ratio_to_the_law_has_a_closed_value(ratio):
    """A ratio up to (s + 1) / s, beyond which the tail would overtake the anchor."""
    D, s = 40, TAU + 1
    e = law(D)
    e[s:] *= ratio
    expected = (D - s) / D * ((ratio - 1) ** 2 + max(ratio - 1, 0))
    assert spectrum.penalty(with_variances(e), eye(), TAU) == pytest.approx(expected, rel=1e-9)


def test_what_leaves_the_penalty_unchanged():
    torch.manual_seed(1)
    h = torch.randn(150, 40, dtype=torch.float64) @ torch.randn(40, 40, dtype=torch.float64)
    v, U = spectrum.directions(h), rotation()
    value = float(spectrum.penalty(h, v, TAU))
    others = {
        "scale": (7.0 * h, v), "shift": (h + torch.randn(40, dtype=torch.float64), v), "rotation": (h @ U, U.T @ v),
        "samples": (h[torch.randperm(150)], v), "directions": (h, v[:, torch.randperm(40)]), "signs": (h, -v),
    }  # fmt: skip
    for name, (g, w) in others.items():
        assert spectrum.penalty(g, w, TAU) == pytest.approx(value, rel=1e-9), name
    assert spectrum.penalty(h, rotation(), TAU) != pytest.approx(value, rel=1e-3), "the directions matter"


@pytest.mark.parametrize("N, alpha", [(300, 1.0), (25, 1.0), (300, 2.0)])
def test_it_equals_the_literal_loop_in_value_and_gradient(N, alpha):
    """In float32, with fewer samples than directions too."""
    torch.manual_seed(2)
    h = torch.randn(N, 40) * torch.linspace(2, 0.2, 40)
    v = spectrum.directions(torch.randn(300, 40) * torch.linspace(2, 0.2, 40))
    a, b = h.clone().requires_grad_(), h.clone().requires_grad_()
    fast, slow = spectrum.penalty(a, v, TAU, alpha), literal(b, v, TAU, alpha)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-6)
    (ga,), (gb,) = torch.autograd.grad(fast, a), torch.autograd.grad(slow, b)
    assert (ga - gb).norm() / gb.norm() < 1e-5


def test_directions_without_variance_are_skipped_as_in_the_loop():
    h = with_variances(torch.cat([law(25), torch.zeros(15)]))
    assert spectrum.penalty(h, eye(), TAU) < 1e-10


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(3)
    h = (torch.randn(30, 16, dtype=torch.float64) * torch.linspace(2, 0.3, 16)).requires_grad_()
    v = spectrum.directions(h)
    anchor = float(((h - h.mean(0)) @ v).detach().square().sum(0).sort(descending=True).values[4]) / 29

    def fixed(g):  # the same with the anchor as a number: it has no gradient
        e = (((g - g.mean(0)) @ v).square().sum(0) / 29).sort(descending=True).values
        ratio = e[5:] / (anchor * 5 / torch.arange(6, 17, dtype=torch.float64))
        return ((ratio - 1).square() + (ratio - 1).relu()).sum() / 16

    assert torch.autograd.gradcheck(fixed, h)
    (mine,) = torch.autograd.grad(spectrum.penalty(h, v, tau=4), h)
    (theirs,) = torch.autograd.grad(fixed(h), h)
    assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_no_gradient_reaches_the_first_variances_and_the_anchor():
    h = with_variances(law() ** 2).requires_grad_()
    (gradient,) = torch.autograd.grad(spectrum.penalty(h, eye(), TAU), h)
    assert float(gradient[:, : TAU + 1].abs().max()) == 0 < float(gradient[:, TAU + 1 :].abs().min(0).values.max())


@pytest.mark.parametrize("power", [3.0, 0.0])
def test_descent_on_free_activations_reaches_the_law_from_either_side(power):
    h = (with_variances(law(24, power), N=80) - 3.0).requires_grad_()
    optimiser = torch.optim.Adam([h])
    for step in range(800):
        if step % 25 == 0:
            v = spectrum.directions(h)
        optimiser.param_groups[0]["lr"] = 0.01 * 0.993**step
        optimiser.zero_grad()
        spectrum.penalty(h, v, tau=5).backward()
        optimiser.step()
    assert spectrum.slope(spectrum.variances(h), first=6) == pytest.approx(-1, abs=0.01)


def test_collapse_is_a_loophole():
    """Nine directions for ten classes: the anchor is 0, everything is skipped, and there is no slope to fit."""
    h = torch.zeros(200, 40, dtype=torch.float64)
    h[:, :10] = eye(10).repeat(20, 1)  # ten classes, each in one point, their mean not 0: rank 9
    assert float(spectrum.penalty(h, eye(), TAU)) == 0
    with pytest.raises(ValueError, match="no slope: only 9 directions carry variance"):
        spectrum.slope(spectrum.variances(h))
    with pytest.raises(ValueError, match="only 9 directions carry variance, and the law is anchored at number 11"):
        spectrum.directions(h, anchor=11)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(tau=38), "tau 38 leaves nothing to regularise in 40 dimensions; choose 0 to 37"),
        (dict(tau=-1), "tau -1 leaves nothing"),
        (dict(alpha=0.0), "alpha must be above 0, not 0.0"),
        (dict(v=eye(39)), r"directions must be \(40, 40\) for activations \(400, 40\), not \(39, 39\)"),
        (dict(v=eye()[:, :20]), r"not \(40, 20\)"),
        (dict(h=with_variances(law())[:1]), "two samples or more, not 1"),
        (dict(h=with_variances(law()) * float("nan")), "NaN or infinity"),
    ],
)
def test_a_penalty_that_means_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spectrum.penalty(**dict(h=with_variances(law()), v=eye()) | change)


# Variances, slope --------------------------------------------------------------------------------


def test_variances_are_those_along_the_directions_and_sum_to_the_trace():
    torch.manual_seed(4)
    h = torch.randn(80, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
    own = (h @ spectrum.directions(h)).var(0)
    assert torch.allclose(own.sort(descending=True).values, spectrum.variances(h))
    assert (h @ rotation(20)).var(0).sum() == pytest.approx(float(h.var(0).sum()))
    with pytest.raises(ValueError, match="activations must be"):
        spectrum.variances(h[:1])
    with pytest.raises(ValueError, match="NaN or infinity"):
        spectrum.directions(h / 0)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_slope_is_exact_on_a_power_law_and_blind_to_scale(power):
    for scale in (1.0, 1e-6, 1e6):
        assert spectrum.slope(scale * law(60, power)) == pytest.approx(-power, abs=1e-9)
    bent = law(60, power)
    bent[30:] = 1e-12  # rounding
    assert spectrum.slope(bent) == pytest.approx(-power, abs=1e-9)
    assert spectrum.slope(torch.cat([law(10, 5), law(60, power)[10:]]), 11, 40) == pytest.approx(-power, abs=1e-9)


def test_a_slope_needs_three_points():
    assert spectrum.slope(law(13)) == pytest.approx(-1)
    with pytest.raises(ValueError, match="the fit begins at rank 11"):
        spectrum.slope(law(12))
    with pytest.raises(ValueError, match="descending, the largest first"):
        spectrum.slope(law(20).flip(0))


# Whitening ---------------------------------------------------------------------------------------


def whitened(seed=0):
    torch.manual_seed(seed)
    x = torch.rand(300, 1, 4, 4, dtype=torch.float64)
    net = spectrum.mlp((1, 4, 4), 3, width=6, depth=2, whiten=1).double()
    spectrum.freeze(net, x)
    return net.eval(), x


def test_whitened_training_data_have_second_moments_one():
    """About 0 and not about the mean; what the jitter takes away is jitter R^-1 R^-T."""
    torch.manual_seed(0)
    t, layer = torch.randn(300, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 1, spectrum.Whiten(6)
    y, inverse = layer(t), layer.fit(t)
    assert torch.allclose(y.T @ y / 300, eye(6), atol=1e-3) and float(y.mean(0).norm()) > 0.1
    assert torch.allclose(y.T @ y / 300, eye(6) - 1e-5 * inverse @ inverse.T, atol=1e-12)
    factor = torch.linalg.cholesky(t.T @ t / 300 + 1e-5 * eye(6))
    assert torch.allclose(y, torch.linalg.solve_triangular(factor, t.T, upper=False).T)


def test_a_frozen_whitening_sees_one_image_at_a_time_and_a_batch_dependent_one_does_not():
    net, x = whitened()
    with torch.no_grad():
        assert torch.allclose(net(x[:1]), net(x[:50])[:1], atol=1e-12)
        net.train()
        assert not torch.allclose(net(x[:20])[:1], net(x[:50])[:1], atol=1e-3)


def test_the_radius_is_that_of_the_network_in_eval_mode_and_leaves_its_mode():
    net, x = whitened()
    y = net(x).argmax(1)
    radius = spectrum.linear_radius(net, x, y)
    net.train()
    assert torch.equal(spectrum.linear_radius(net, x, y), radius) and net.training


def test_freezing_renews_the_factor_and_hands_the_network_back_in_its_mode():
    net, x = whitened()
    before = net.whiten.inverse.clone()
    net.train()
    spectrum.freeze(net, x / 2)
    assert net.training and not torch.allclose(before, net.whiten.inverse)


def test_too_few_samples_cannot_whiten():
    few = torch.randn(4, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="4 samples cannot whiten 8 dimensions with jitter 0"):
        spectrum.Whiten(8, jitter=0.0).fit(few)
    assert spectrum.Whiten(8).fit(few).isfinite().all()


# The Jacobian, the radius, saturation ------------------------------------------------------------


def test_the_jacobian_penalty_of_a_linear_network_is_half_its_squared_length_on_average():
    torch.manual_seed(5)
    W, x = torch.randn(3, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    many = x.expand(2000, 8)
    draws = torch.stack([spectrum.jacobian_penalty(x @ W.T, x, generator) for _ in range(2000)]).detach()
    assert abs(draws.mean() - W.square().sum() / 2) < 3 * draws.std() / 2000**0.5
    assert spectrum.jacobian_penalty(many @ W.T, many, generator) == pytest.approx(float(draws.mean()), rel=0.1)


def test_the_jacobian_penalty_is_what_automatic_jacobians_give():
    torch.manual_seed(6)
    net = spectrum.mlp((1, 3, 3), 4, width=5).double()
    x = torch.rand(6, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    exact = torch.func.vmap(torch.func.jacrev(lambda image: net(image[None])[0]))(x).square().sum() / 6 / 2
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([spectrum.jacobian_penalty(net(x), x, generator).detach() for _ in range(500)])
    assert abs(draws.mean() - exact) < 4 * draws.std() / 500**0.5
    spectrum.jacobian_penalty(net(x), x).backward()
    assert float(net.layer1[0].weight.grad.abs().max()) > 0, "it can be trained on"


def test_the_linearised_radius_of_a_linear_network_is_exact():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -1, 2, 0], [0, 0, 0, 0]]))
    x, y = torch.tensor([[[[1.0, 0.2]], [[0.4, 9]]]], dtype=torch.float64).reshape(1, 1, 2, 2), torch.tensor([0])
    assert float(spectrum.linear_radius(net, x, y)) == pytest.approx((1 - 0.2 + 0.8) / 4)
    assert float(spectrum.linear_radius(net, x, 1 - y)) == pytest.approx(-1.6 / 4)
    moved = x - 0.4 * torch.tensor([1.0, -1, 1, 0]).reshape(1, 1, 2, 2)
    assert net(moved).diff().item() == pytest.approx(0, abs=1e-6), "there is the boundary"


def test_saturation():
    assert spectrum.saturated(torch.zeros(5, 4)) == 0 and spectrum.saturated(torch.ones(5, 4)) == 1
    assert spectrum.saturated(torch.tensor([[0.995, -0.995, 0.98, 0.0]])) == 0.5


# Training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    data = nc.load("digits", per_class=20)
    return data, nc.pixels(data.train.images), data.train.labels


def trained(digits, steps=12, width=20, net_options=None, **options):
    data, x, y = digits
    net = spectrum.mlp(data.shape, 10, width, **(net_options or {}))
    return net, spectrum.train(net, x, y, steps, 3e-3, refresh=4, **options)


def test_without_the_regulariser_training_is_plain_adam_bit_for_bit(digits):
    data, x, y = digits
    net, path = trained(digits, beta=0.0, keep=5)
    plain = spectrum.mlp(data.shape, 10, 20)
    optimiser = torch.optim.Adam(plain.parameters(), 3e-3, amsgrad=True, fused=True)
    for _ in range(12):
        optimiser.zero_grad()
        F.cross_entropy(plain(x).T.contiguous()[None], y[None]).backward()
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters()))
    assert [kept.step for kept in path] == [5, 10, 12]
    with torch.no_grad():
        assert path[-1].loss == pytest.approx(float(F.cross_entropy(net(x), y)), rel=1e-5)
    assert all(torch.equal(value, path[-1].state[name]) for name, value in net.state_dict().items())
    assert not torch.equal(path[0].state["head.weight"], path[-1].state["head.weight"])


@pytest.mark.parametrize("options", [dict(beta=5.0), dict(batch=64, beta=1.0, layers=(0, 1)), dict(jacobian=0.1)])
def test_one_seed_gives_one_network(digits, options):
    net = dict(depth=2, whiten=1) if "layers" in options else {}
    first, second = (trained(digits, net_options=net, **options)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    if "batch" in options:
        other = trained(digits, net_options=net, seed=1, **options)[0]
        assert not torch.equal(first.head.weight, other.head.weight)


def test_the_regulariser_brings_the_spectrum_of_a_network_closer(digits):
    slopes = []
    for beta in (0.0, 5.0):
        net, _ = trained(digits, steps=120, beta=beta)
        slopes.append(spectrum.slope(spectrum.variances(spectrum.freeze(net, digits[1])[1][-1]), last=18))
    assert abs(slopes[1] + 1) < abs(slopes[0] + 1)


def test_batch_norm_and_relu_are_there_and_initialisation_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    net = spectrum.mlp((1, 4, 4), 3, 7, depth=2, activation="relu", batchnorm=True, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [type(part).__name__ for part in net.layer2] == ["Linear", "ReLU", "BatchNorm1d"]
    assert net.layer1[2] is not net.layer2[2] and len(list(net.parameters())) == 10
    logits, hidden = spectrum.walk(net, torch.rand(5, 1, 4, 4))
    assert logits.shape == (5, 3) and [h.shape for h in hidden] == [(5, 7), (5, 7)]


def test_the_worst_of_several_attacks_is_no_better_than_one(digits):
    net, _ = trained(digits, steps=60)
    x, y = digits[1][:100], digits[2][:100]
    strength = dict(epsilon=0.1, steps=10, generator=torch.Generator().manual_seed(0))
    worst = nc.robust_accuracy(net, x, y, **strength)
    for loss in ("ce", "dlr"):
        moved = nc.pgd(net, x, y, step=0.02, loss=loss, **strength)
        assert worst <= nc.accuracy(net, moved, y) + 0.02


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda d: trained(d, beta=-1.0), "beta must be 0 or more, not -1.0"),
        (lambda d: trained(d, beta=1.0, layers=(1,)), "layer 1 of a network of 1; choose -1 to 0"),
        (lambda d: trained(d, batch=1), "a batch of two or more, not 1"),
        (lambda d: trained(d, beta=1.0, width=12), "tau 10 leaves nothing to regularise in 12 dimensions"),
        (
            lambda d: spectrum.mlp(d[0].shape, 10, 20, activation="gelu"),
            "unknown activation 'gelu'; choose one of tanh",
        ),
        (lambda d: spectrum.mlp(d[0].shape, 10, 20, whiten=2), "whiten must be a layer from 1 to 1, or 0 for none"),
    ],
)
def test_bad_input_is_told_in_one_line(digits, call, message):
    with pytest.raises(ValueError, match=message) as told:
        call(digits)
    assert "\n" not in str(told.value)


def test_a_batch_smaller_than_the_width_is_warned_of_once(digits):
    with pytest.warns(UserWarning, match="a batch of 16 cannot show the variance of 20 directions") as told:
        trained(digits, beta=1.0, batch=16)
    assert len(told) == 1


# Claims ------------------------------------------------------------------------------------------


def record(model, value, measure="accuracy", view="worst", split="test", seed=1, epoch=800, layer="features"):
    return dict(profile="digits", chapter="spectrum", model=model, recipe=None, seed=seed, epoch=epoch, split=split,
                layer=layer, view=view, measure=measure, value=value)  # fmt: skip


def train_record(model, measure, value, **more):
    return record(model, value, measure, "clean", "train", **more)


def judged(claim_id, rows):
    (claim,) = (claim for claim in CLAIMS if claim.id == claim_id)
    return judge(claim, pd.DataFrame(rows, columns=COLUMNS))


@pytest.mark.parametrize(
    "law, vanilla, verdict",
    [
        (-1.14, -2.0, "holds"),
        (-0.86, -2.0, "holds"),
        (-1.2, -2.0, "holds in part"),
        (-1.1, -1.4, "holds in part"),
        (-2.1, -2.0, "fails"),
    ],
)
def test_s1_asks_for_the_law_and_for_a_way_to_it(law, vanilla, verdict):
    rows = [train_record("β = 5", "slope", law), train_record("vanilla", "slope", vanilla)]
    rows.append(train_record("β = 5", "slope", -9.0, layer="layer1"))
    assert judged("S1", rows).verdict == verdict


@pytest.mark.parametrize(
    "pgd, worst, transfer, verdict",
    [
        (0.31, 0.3, 0.5, "holds"),
        (0.36, 0.3, 0.5, "holds in part"),
        (0.5, 0.2, 0.5, "fails"),
        (0.31, 0.3, 0.25, "fails"),
    ],
)
def test_s5_compares_gains_under_one_attack_and_under_several(pgd, worst, transfer, verdict):
    rows = [record("vanilla", 0.2), record("vanilla", 0.22, view="pgd"), record("β = 5", worst)]
    rows += [record("β = 5", pgd, view="pgd"), record("β = 5", transfer, view="transfer")]
    assert judged("S5", rows).verdict == verdict


def test_s6_compares_at_equal_accuracy_and_asks_for_the_order_of_the_means():
    def rows(*nc1, equal=1.0):
        models = ("vanilla", "β = 1", "β = 5")
        return [train_record(m, "nc1", v) for m, v in zip(models, nc1)] + [
            train_record("vanilla, equal accuracy", "nc1", equal, epoch=300)
        ]

    assert judged("S6", rows(1, 3, 5)).verdict == "holds"
    assert judged("S6", rows(1, 3, 5, equal=2.0)).verdict == "holds in part"
    assert judged("S6", rows(1, 6, 5)).verdict == "holds in part"
    assert judged("S6", rows(9, 6, 5)).verdict == "fails"
    assert judged("S6", rows(1, 3, 5)[:-1]).verdict == "not run", "never equal in accuracy"


def test_s7_compares_with_the_better_of_the_other_laws():
    rows = [record("β = 5", 0.3), record("β = 5, α = 0.5", 0.2)]
    assert judged("S7", [*rows, record("β = 5, α = 2", 0.25)]).verdict == "holds"
    assert judged("S7", [*rows, record("β = 5, α = 2", 0.295)]).verdict == "holds in part"
    assert judged("S7", [*rows, record("β = 5, α = 2", 0.38)]).verdict == "fails"


def test_s8_ranks_networks_of_every_seed_as_they_ended_shallow_and_deep_apart():
    rows = []
    for seed in (1, 2, 3):
        for place, model in enumerate(("vanilla", "β = 1", "β = 5", "Jacobian")):
            value = 0.1 * place + 0.01 * seed
            rows += [record(model, value, seed=seed), record(f"deep, {model}", value, seed=seed)]
            rows += [record(m, value**2, "linear_radius", "clean", seed=seed) for m in (model, f"deep, {model}")]
        rows += [record("vanilla", 0.9, seed=seed, epoch=40), record("vanilla, equal loss", 0.8, seed=seed)]
        rows.append(record("vanilla, equal loss", 0.0, "linear_radius", "clean", seed=seed))
    found = judged("S8", rows)
    assert found.verdict == "holds" and [f.mean for f in found.findings] == [1.0, 1.0]
    for row in rows:
        if row["model"].startswith("deep") and row["view"] == "worst":
            row["value"] = -row["value"]
    found = judged("S8", rows)
    assert found.verdict == "fails" and [f.mean for f in found.findings] == [1.0, -1.0]


def test_s9_is_not_run_where_the_vanilla_network_was_never_at_that_loss():
    rows = [record("β = 5", 0.3), record("vanilla", 0.2)]
    assert judged("S9", rows).verdict == "not run"
    for early, verdict in ((0.24, "holds"), (0.28, "holds in part"), (0.34, "fails")):
        assert judged("S9", [*rows, record("vanilla, equal loss", early, epoch=200)]).verdict == verdict
