"""The tangent kernel against closed forms, Jacobians, finite differences and gradient descent itself."""

import copy
import json
from itertools import pairwise
from math import acos, cos, pi, sin, sqrt
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

import nclib as nc
from nclib.evidence.beyond import kernel as claims
from nclib.evidence.claims import Lookup
from nclib.neighbours import finite, kernel

D = dict(dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    """Sixty training images and labels, forty test ones, float64."""
    (X, Y), (x, y) = nc.load("digits").train, nc.load("digits").test
    return X[:60].double(), Y[:60], x[:40].double(), y[:40]


@pytest.fixture(scope="module")
def fit(digits):
    """Matrix, its spectrum and the targets of the sixty images, one hidden layer."""
    X, Y, *_ = digits
    K = kernel.relu_kernel(X)
    return K, kernel.spectrum(K), kernel.targets(Y, 10)


def relative(found, wanted) -> float:
    return float((found - wanted).norm() / wanted.norm())


# The closed form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.3, pi / 2, 2.5, pi])
def test_one_hidden_layer_of_unit_vectors_is_the_arc_cosine_kernel(angle):
    x, z = torch.tensor([[1.0, 0.0]], **D), torch.tensor([[cos(angle), sin(angle)]], **D)
    found = float(kernel.relu_kernel(x, z, bias=0.0))
    step, slope = (sin(angle) + (pi - angle) * cos(angle)) / pi, (pi - angle) / pi
    assert found == pytest.approx(2 / 2 * (step + cos(angle) * slope), abs=1e-6)
    if angle == pi / 2:
        assert found == pytest.approx(2 / (pi * 2), abs=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_diagonal_grows_by_one_with_every_layer(depth):
    x = torch.rand(5, 7, **D)
    diagonal = kernel.relu_kernel(x, depth=depth, bias=0.0).diagonal()
    torch.testing.assert_close(diagonal, (depth + 1) * 2 * x.square().sum(1) / 7, rtol=1e-6, atol=0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_neural_tangents_gives_the_same(depth):
    """Its numbers, upper triangle by row; what made them is named in the file."""
    rows = json.loads(Path(__file__).with_name("neural_tangents.json").read_text())["depth"][str(depth)]
    x = torch.tensor([[(7 * i + 3 * j + i * j) % 11 / 11 for j in range(5)] for i in range(6)], **D)
    found = kernel.relu_kernel(x, depth=depth)
    for i, row in enumerate(rows):
        assert found[i, i:].tolist() == pytest.approx(row, abs=1e-6)


def by_hand(x, z, depth, weight=2.0, bias=0.01) -> float:
    """The recursion in plain numbers, angle by angle."""

    def inner(a, b):
        return weight * sum(p * q for p, q in zip(a, b)) / len(a) + bias

    S, A, B = inner(x, z), inner(x, x), inner(z, z)
    T = S
    for _ in range(depth):
        angle = acos(max(-1.0, min(1.0, S / sqrt(A * B))))
        S = weight / 2 * sqrt(A * B) * (sin(angle) + (pi - angle) * cos(angle)) / pi + bias
        T = S + T * weight / 2 * (pi - angle) / pi
        A, B = weight / 2 * A + bias, weight / 2 * B + bias
    return T


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_recursion_in_plain_numbers(depth):
    x = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), **D) - 0.3
    wanted = torch.tensor([[by_hand(a, b, depth) for b in x.tolist()] for a in x.tolist()], **D)
    torch.testing.assert_close(kernel.relu_kernel(x, depth=depth), wanted, rtol=2e-7, atol=2e-7)


def test_symmetric_positive_homogeneous_and_blind_to_rotation():
    x = torch.randn(30, 12, **D)
    K = kernel.relu_kernel(x, depth=2, bias=0.0)
    assert (K - K.T).abs().max() < 1e-12
    values = torch.linalg.eigvalsh(K)
    assert values[0] >= -1e-10 * values[-1]
    torch.testing.assert_close(kernel.relu_kernel(3 * x, depth=2, bias=0.0), 9 * K, rtol=1e-9, atol=1e-9)
    turn = torch.linalg.qr(torch.randn(12, 12, **D)).Q
    for moved in (x @ turn, x[:, torch.randperm(12)]):
        assert (kernel.relu_kernel(moved, depth=2, bias=0.0) - K).abs().max() < 1e-6


def test_memory_is_a_choice_and_changes_nothing():
    x, z = torch.rand(23, 6, **D), torch.rand(9, 6, **D)
    torch.testing.assert_close(kernel.relu_kernel(x, z, rows=5), kernel.relu_kernel(x, z), rtol=0, atol=1e-14)
    joint = kernel.relu_kernel(torch.cat([x, z]))
    torch.testing.assert_close(kernel.relu_kernel(x, z), joint[:23, 23:], rtol=0, atol=1e-12)


def plain(sizes, seed):
    """In tangent parametrisation, drawn freely."""
    torch.manual_seed(seed)
    layers = [finite.Scaled(a, b) for a, b in pairwise(sizes)]
    parts = (part for layer in layers[1:] for part in (nn.ReLU(), layer))
    return nn.Sequential(layers[0], *parts).double()


@pytest.mark.parametrize("depth", [1, 2])
def test_finite_networks_approach_it_as_one_over_the_root_of_their_width(depth):
    x = torch.rand(8, 20, generator=torch.Generator().manual_seed(1), **D)
    limit, errors, crossed = kernel.relu_kernel(x, depth=depth), [], []
    for width in (64, 256, 1024):
        found = [finite.empirical_kernel(plain([20, *[width] * depth, 2], seed), x) for seed in range(16)]
        own = [relative(K[:, c, :, c], limit) for K in found for c in range(2)]
        other = [float(K[:, c, :, c - 1].norm() / limit.norm()) for K in found for c in range(2)]
        errors.append(float(torch.tensor(own).square().mean().sqrt()))
        crossed.append(float(torch.tensor(other).square().mean().sqrt()))
    for series in (errors, crossed):
        assert 2.4 < series[0] / series[2] < 6.5, series  # 4 in the mean
    assert errors[2] < 0.12


def test_networks_that_start_at_zero_have_the_same_limit():
    x = torch.rand(8, 20, **D)
    for depth in (1, 3):
        net = finite.mlp([20, *[1024] * depth, 10], 0, lazy=True).double()
        assert net(x).abs().max() < 1e-10
        found = finite.empirical_kernel(net, x, trace=True) / 10
        assert relative(found, kernel.relu_kernel(x, depth=depth)) < 0.15


# A network at hand --------------------------------------------------------------------------------


def chain(lazy=False, bias=True):
    net = finite.mlp([6, 10, 8, 3], 0, lazy)
    if not bias:
        for layer in net:
            layer.bias = None
    return net.double()


@pytest.mark.parametrize("lazy,bias", [(False, True), (False, False), (True, True)])
def test_layer_by_layer_is_the_whole_jacobian(lazy, bias):
    net, x, z = chain(lazy, bias), torch.randn(7, 6, **D), torch.randn(5, 6, **D)
    wanted = finite.jacobian_kernel(net, x, z)
    torch.testing.assert_close(finite.empirical_kernel(net, x, z), wanted, rtol=0, atol=1e-12)
    diagonal = wanted.diagonal(dim1=1, dim2=3).sum(2)
    torch.testing.assert_close(finite.empirical_kernel(net, x, z, trace=True), diagonal, rtol=0, atol=1e-12)
    joint = finite.empirical_kernel(net, torch.cat([x, z]))
    torch.testing.assert_close(joint[:7, :, 7:], wanted, rtol=0, atol=1e-12)


def test_no_hidden_layer_is_the_linear_kernel():
    x = torch.randn(6, 11, **D)
    net = nn.Sequential(finite.Scaled(11, 1)).double()
    found = finite.empirical_kernel(net, x)[:, 0, :, 0]
    torch.testing.assert_close(found, kernel.linear_kernel(x), rtol=0, atol=1e-12)


def test_jacobians_of_a_strided_padded_convolution():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double()
    x = torch.randn(4, 1, 8, 8, **D)
    rows = []
    for image in x:
        for c in range(2):
            net.zero_grad()
            net(image[None])[0, c].backward()
            rows.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    J = torch.stack(rows)
    torch.testing.assert_close(finite.jacobian_kernel(net, x).reshape(8, 8), J @ J.T, rtol=0, atol=1e-12)


def test_activations_in_place_and_frozen_networks_are_no_trap():
    net, x = chain(), torch.randn(4, 6, **D)
    wanted = finite.empirical_kernel(net, x)
    inplace = nn.Sequential(*(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m for m in copy.deepcopy(net)))
    inplace.requires_grad_(False)
    assert torch.equal(finite.empirical_kernel(inplace, x), wanted)
    assert not wanted.requires_grad and all(p.grad is None for p in net.parameters())


def test_its_gradient_is_that_of_finite_differences():
    net, x, z = chain(), torch.randn(1, 6, **D), torch.randn(3, 6, **D)
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(finite.empirical_kernel(net, at, z, trace=True).sum(), at)
    step, along = 1e-6, torch.randn(1, 6, **D)
    ahead, behind = (finite.empirical_kernel(net, x + s * step * along, z, trace=True).sum() for s in (1, -1))
    assert float((slope * along).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_lazy_networks_start_at_zero_and_training_is_deterministic_and_apart():
    (X, Y), seeds = nc.load("digits", per_class=5).train, [3, 8]
    assert finite.mlp([64, 10, 12, 10], 1, lazy=True)(X).abs().max() < 1e-5

    def trained(which):
        nets = [finite.mlp([64, 16, 10], seed) for seed in which]
        finite.train(nets, X, Y, which, epochs=3, lr=0.1, batch=25)
        return nets

    together = trained(seeds)
    alone = [trained([seed])[0] for seed in seeds]
    for a, b, again in zip(together, alone, trained(seeds)):
        for p, q, r in zip(a.parameters(), b.parameters(), again.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
            assert torch.equal(p, r)
    assert not torch.equal(together[0](X), together[1](X))


def test_training_side_by_side_is_plain_sgd():
    X, Y = nc.load("digits", per_class=5).train
    net = finite.mlp([64, 16, 10], 0)
    plain = copy.deepcopy(net)
    epochs = []
    finite.train([net], X, Y, [7], epochs=2, lr=0.2, batch=20, watch=epochs.append)
    draw = torch.Generator().manual_seed(7)
    for _ in range(2):
        for index in torch.randperm(len(X), generator=draw).split(20):
            plain.zero_grad()
            nn.functional.cross_entropy(plain(X[index]), Y[index]).backward()
            with torch.no_grad():
                for p in plain.parameters():
                    p -= 0.2 * p.grad
    assert epochs == [0, 1, 2]
    for p, q in zip(net.parameters(), plain.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


# What a kernel predicts ----------------------------------------------------------------------------


def test_it_interpolates_and_time_runs_from_nothing_to_all(fit):
    K, found, Y = fit
    alpha = kernel.coefficients(found, Y)
    assert (K @ alpha - Y).abs().max() < 1e-10
    assert kernel.coefficients(found, Y, time=0.0).abs().max() == 0
    torch.testing.assert_close(kernel.coefficients(found, Y, time=1e9), alpha)
    left = [float((K @ kernel.coefficients(found, Y, time=t) - Y).norm()) for t in (0, 0.01, 0.1, 1, 10, 100)]
    assert left == sorted(left, reverse=True) and left[-1] < left[0]


def test_features_sum_to_the_predictor_and_do_not_meet(fit):
    K, found, Y = fit
    blocks = [(1, 1), (2, 10), (11, 30), (31, 60)]
    parts = [K @ kernel.coefficients(found, Y, block=block) for block in blocks]
    torch.testing.assert_close(sum(parts), K @ kernel.coefficients(found, Y), rtol=0, atol=1e-9)
    for i, a in enumerate(parts):
        for b in parts[:i]:
            assert (a.T @ b).abs().max() < 1e-9


def test_signs_and_rotations_of_eigenvectors_change_no_feature(fit):
    _, (values, vectors), Y = fit
    level = values.clone()
    level[1:4] = values[2]  # a degenerate space
    turn = torch.linalg.qr(torch.randn(3, 3, **D)).Q
    flipped, turned = vectors * torch.randn(60, **D).sign(), vectors.clone()
    turned[:, 1:4] = vectors[:, 1:4] @ turn
    wanted = kernel.coefficients(kernel.Spectrum(level, vectors), Y, block=(2, 4))
    for other in (flipped, turned):
        found = kernel.coefficients(kernel.Spectrum(level, other), Y, block=(2, 4))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_gradient_descent_on_the_linearised_network_is_the_closed_form(digits):
    """f(x) + df(x)/dtheta (w - theta), trained by its own gradient: (I - rate K)^t, and at small rates the flow."""
    X, Y, x, _ = digits
    X, x, net = X[:12], x[:5], finite.mlp([64, 20, 10], 2, lazy=True).double()
    start = {name: p.detach() for name, p in net.named_parameters()}
    wanted, w, rate, steps = kernel.targets(Y[:12], 10), {n: p.clone() for n, p in start.items()}, 0.002, 60

    def linearised(weights, images):
        shift = {name: weights[name] - p for name, p in start.items()}
        out, change = jvp(lambda p: functional_call(net, p, (images,)), (start,), (shift,))
        return out + change

    for _ in range(steps):
        w = {name: p.requires_grad_() for name, p in w.items()}
        loss = (linearised(w, X) - wanted).square().sum() / 2
        slopes = torch.autograd.grad(loss, list(w.values()))
        w = {name: (p - rate * g).detach() for (name, p), g in zip(w.items(), slopes)}
    K = finite.empirical_kernel(net, X).reshape(120, 120)
    cross = finite.empirical_kernel(net, x, X).reshape(50, 120)
    values, vectors = kernel.spectrum(K)
    filters = (1 - (1 - rate * values) ** steps) / values
    predicted = cross @ (vectors @ (filters * (vectors.T @ wanted.flatten())))
    torch.testing.assert_close(linearised(w, x).flatten(), predicted, rtol=0, atol=1e-8)
    flow = cross @ kernel.coefficients(kernel.Spectrum(values, vectors), wanted.reshape(-1, 1), time=rate * steps)
    assert relative(flow[:, 0], predicted) < 0.05


def test_gradients_of_the_predictor(digits, fit):
    X, _, x, _ = digits
    _, found, Y = fit
    for exact in (kernel.relu_kernel, lambda a, b: kernel.relu_kernel(a, b, depth=3)):
        rule = kernel.predictor(exact, X, kernel.coefficients(found, Y), dtype=torch.float64)
        at, along = x[:3].clone().requires_grad_(), torch.randn(3, 1, 8, 8, **D)
        (slope,) = torch.autograd.grad(rule(at)[:, 1].sum(), at)
        step = 1e-5
        with torch.no_grad():
            change = (rule(x[:3] + step * along) - rule(x[:3] - step * along))[:, 1] / (2 * step)
        torch.testing.assert_close((slope * along).flatten(1).sum(1), change, rtol=1e-6, atol=1e-6)
    for dtype in (torch.float32, torch.float64):  # where arccos has an infinite slope
        rule = kernel.predictor(kernel.relu_kernel, X, kernel.coefficients(found, Y), dtype=dtype)
        at = X[:5].to(dtype).requires_grad_()
        assert torch.autograd.grad(rule(at).square().sum(), at)[0].isfinite().all()


def test_a_single_feature_has_a_scale_that_an_attack_can_see(digits, fit):
    X, _, x, y = digits
    _, found, Y = fit
    for block in (None, (2, 10), (31, 60)):
        rule = kernel.predictor(kernel.relu_kernel, X, kernel.coefficients(found, Y, block))
        logits = rule(X)
        assert float((logits.amax(1) - logits.amin(1)).mean()) == pytest.approx(10, rel=1e-4)
        plain = kernel.predictor(kernel.relu_kernel, X, kernel.coefficients(found, Y, block), span=None)
        assert torch.equal(plain(x).argmax(1), rule(x).argmax(1))
        moved = nc.pgd(rule, x.float(), y, epsilon=0.1, step=0.025, steps=5, start=None)
        assert nc.accuracy(rule, moved, y) < nc.accuracy(rule, x.float(), y)


def test_all_landmarks_are_the_full_predictor(digits, fit):
    X, _, x, _ = digits
    _, found, Y = fit
    full = kernel.coefficients(found, Y)
    order = torch.randperm(60)
    alpha = kernel.nystroem(kernel.relu_kernel, X, Y, order)
    cross = kernel.relu_kernel(x, X)
    torch.testing.assert_close(cross[:, order] @ alpha, cross @ full, rtol=1e-6, atol=1e-8)
    fewer = [relative(cross[:, :m] @ kernel.nystroem(kernel.relu_kernel, X, Y, torch.arange(m)), cross @ full)
             for m in (10, 30, 59)]  # fmt: skip
    assert fewer == sorted(fewer, reverse=True)


# How kernels compare --------------------------------------------------------------------------------


def test_distance_mass_overlap_and_alignment_at_their_ends():
    a, b = (m @ m.T for m in torch.randn(2, 40, 6, **D))
    assert kernel.kernel_distance(a, a) == pytest.approx(0, abs=1e-12) == kernel.kernel_distance(a, 7 * a)
    assert 0 <= kernel.kernel_distance(a, b) <= 1
    assert kernel.kernel_distance(a, b) == pytest.approx(kernel.kernel_distance(b, a))
    assert kernel.top_mass(a, 6) == pytest.approx(1) and 3 / 40 < kernel.top_mass(a, 3) < 1
    assert kernel.top_mass(torch.eye(40, **D), 10) == pytest.approx(10 / 40)
    full = kernel.leading(a, 40)
    torch.testing.assert_close(kernel.leading(a, 5).values, full.values[:5])
    assert kernel.overlap(kernel.leading(a, 5).vectors, full.vectors[:, :5]) == pytest.approx(1)
    assert kernel.overlap(full.vectors[:, :5], full.vectors[:, 5:10]) == pytest.approx(0, abs=1e-10)
    Y = kernel.targets(torch.arange(40) % 4, 4)
    assert kernel.alignment(Y @ Y.T + 3, Y) == pytest.approx(1) == kernel.alignment(5 * Y @ Y.T, Y)
    assert kernel.alignment(torch.eye(40, **D), Y) == pytest.approx((3 / 39) ** 0.5)
    noisy = Y @ Y.T + 1e-4 * torch.eye(40, **D)
    span = torch.linalg.svd(Y, full_matrices=False).U[:, :3]
    assert kernel.overlap(kernel.leading(kernel.centred(noisy), 3).vectors, span) == pytest.approx(1)


# Bad input ------------------------------------------------------------------------------------------

IMAGES = torch.rand(4, 6, **D)
PSD = IMAGES @ IMAGES.T + torch.eye(4, **D)
FOUND, WANTED = kernel.spectrum(PSD), kernel.targets(torch.arange(4) % 2, 2)


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: kernel.relu_kernel(IMAGES, IMAGES[:, :5]), "images must be alike: 6 pixels of torch.float64 and 5"),
        (lambda: kernel.relu_kernel(IMAGES, IMAGES.float()), "and 6 pixels of torch.float32"),
        (lambda: kernel.relu_kernel(IMAGES, depth=0), "depth counts hidden layers, 1 or more, not 0"),
        (lambda: kernel.relu_kernel(IMAGES, weight=0.0), "bias one of 0 or more, not 0.0"),
        (lambda: kernel.relu_kernel(IMAGES / 0 * 0), "NaN or infinite pixels"),
        (lambda: kernel.relu_kernel(IMAGES * torch.tensor([[1.0], [1], [0], [1]]), bias=0.0),
         "image 2 is all zero: the kernel has no angle there; set bias > 0"),
        (lambda: kernel.spectrum(IMAGES[:, :4]), "not a kernel matrix: (4, 4), and not symmetric"),
        (lambda: kernel.spectrum(PSD - 3 * torch.eye(4)), "not a kernel matrix: eigenvalue"),
        (lambda: kernel.coefficients(kernel.spectrum(kernel.relu_kernel(IMAGES[[0, 1, 2, 1]])), WANTED),
         "singular kernel: images 1 and 3 coincide, or nearly: add jitter"),
        (lambda: kernel.targets(torch.tensor([0, 3]), 3), "labels run from 0 to 2: not 3"),
        (lambda: kernel.coefficients(FOUND, WANTED, time=-1.0), "time must be 0 or more and finite, not -1.0"),
        (lambda: kernel.coefficients(FOUND, WANTED, block=(0, 2)), "a block lies within 1 and 4"),
        (lambda: kernel.coefficients(FOUND, WANTED, block=(3, 2)), "not (3, 2)"),
        (lambda: kernel.coefficients(FOUND, WANTED, block=(1, 5)), "not (1, 5)"),
        (lambda: kernel.top_mass(PSD, 5), "5 eigenvalues asked of a matrix of 4"),
        (lambda: kernel.kernel_distance(PSD, PSD[:3, :3]), "kernels of different size: (4, 4) and (3, 3)"),
        (lambda: kernel.kernel_distance(PSD, 0 * PSD), "zero everywhere is like no other"),
        (lambda: finite.empirical_kernel(nn.Sequential(nn.Conv2d(1, 2, 3)), torch.rand(2, 1, 4, 4)),
         "no layerwise kernel for Conv2d: linear layers and activations; see jacobian_kernel"),
        (lambda: finite.empirical_kernel(chain(), IMAGES, limit=1000), "kernel too large: 1.2e+03 bytes exceed"),
        (lambda: finite.jacobian_kernel(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), IMAGES),
         "batch norm in train mode mixes images: call model.eval() first"),
        (lambda: finite.mlp([6, 9, 3], 0, lazy=True), "lazy networks have hidden layers of even width, not 9"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_coinciding_images_are_fine_with_a_jitter():
    found = kernel.spectrum(kernel.relu_kernel(IMAGES[[0, 1, 2, 1]]), jitter=1e-6)
    assert kernel.coefficients(found, WANTED).isfinite().all()


# Claims ---------------------------------------------------------------------------------------------

SPECIFIED = {  # fixed before any run, and written down apart from the code
    "K1": "≥ 0.3", "K2": "≥ 0.8, ≥ 0, ≥ 0", "K3": "≤ -0.9, > 0", "K4": "≤ 0.05", "K5": "≥ 0.8, ≥ 0.5",
    "K6": "≥ 0.9, ≥ 0.9", "K6b": "≥ 0.05", "K7": "≤ 0.5", "K8": "≤ 0.5", "K9": "≤ 0.5, ≥ 0.8, ≥ 0.9",
    "K10": "≤ 0.05, ≤ 0", "K11": "> 0", "K12": "≥ 0.05, ≥ 0.05",
}  # fmt: skip


def records(**series):
    """Records of one seed: for each name, values by block (a dict) or by epoch (a list)."""
    rows = []
    for name, values in series.items():
        model, measure, view, split = name.split("__")
        keyed = values if isinstance(values, dict) else dict(enumerate(values))
        for key, value in keyed.items():
            where = dict(layer=key, epoch=0) if isinstance(values, dict) else dict(layer="features", epoch=key)
            rows.append(dict(model=model, measure=measure, view=view, split=split, seed=1, value=value) | where)
    return Lookup(pd.DataFrame(rows))


def test_no_threshold_has_moved():
    found = {c.id: ", ".join(f"{x.comparison} {x.threshold:g}" for x in c.conditions) for c in claims.CLAIMS}
    assert found == SPECIFIED and "added after K10" in claims.CLAIMS[-1].text


def test_a_kernel_has_settled_where_it_stays_within_a_tenth():
    v = records(standard__distance__clean__train=[1.0, 0.05, 0.2, 0.1, 0.02, 0.0],
                adversarial__distance__clean__train=[1.0, 0.9, 0.8, 0.7, 0.3, 0.0])  # fmt: skip
    assert claims.settled(v, "standard") == 3 and claims.settled(v, "adversarial") == 5


def test_features_are_ranked_without_the_trivial_block():
    clean, own = {"1": 0.1, "2": 0.9, "3": 0.6, "4": 0.4}, {"1": 0.1, "2": 0.5, "3": 0.2, "4": 0.04}
    v = records(block__accuracy__clean__test=clean, block__accuracy__own__test=own)
    assert claims.order(v) == pytest.approx(-1) and claims.brittle(v) == 0.04
    nothing = records(block__accuracy__clean__test=clean, block__accuracy__own__test=dict.fromkeys(own, 0.0))
    assert claims.order(nothing) == 0, "ties alone rank nothing"
    weak = records(block__accuracy__clean__test=dict.fromkeys(own, 0.2), block__accuracy__own__test=own)
    assert claims.brittle(weak) == 1, "none of these is useful"


def test_a_share_of_no_damage_is_not_run():
    one = {"features": 0.9}
    v = records(**{f"lazy 8__accuracy__{view}__test": one for view in ("sign", "kernel", "white box")})
    with pytest.raises(KeyError, match="lazy 8: the white box does no more than noise"):
        claims.share(v, "lazy", 8)
    assert claims.widths(v) == [8] and claims.fooled(v, "lazy", 8) == 0


def test_of_a_singular_kernel_time_filters_what_there_is():
    """Fewer pixels than images: most eigenvalues are 0 but for rounding, and their filter is the limit, time."""
    torch.manual_seed(0)
    x = torch.rand(30, 6, **D) * 255
    K, wanted = kernel.linear_kernel(x, bias=0.0), kernel.targets(torch.arange(30) % 3, 3)
    for time in (0.1, 100.0):
        alpha = kernel.coefficients(kernel.spectrum(K), wanted, time=time)
        U, s, _ = torch.linalg.svd(x, full_matrices=False)
        values = kernel.WEIGHT / 6 * s.square()  # those that are not 0, from the images alone
        rest = wanted - U @ (U.T @ wanted)
        exact = U @ ((-torch.expm1(-time * values) / values)[:, None] * (U.T @ wanted)) + time * rest
        torch.testing.assert_close(alpha, exact, rtol=1e-6, atol=1e-9 * time)


SAME = nn.Linear(6, 6)


def layerwise(*layers):
    return finite.empirical_kernel(nn.Sequential(*layers), IMAGES.float())


@pytest.mark.parametrize("call, words", [
    (lambda n: finite.train(n, IMAGES, None, [0], 1, 0.1, loss="mse"), "unknown loss 'mse'; choose one of ce"),
    (lambda n: finite.train(n, IMAGES, None, [0, 1], 1, 0.1), "one seed for each network: not 2 for 1"),
    (lambda n: finite.train([nn.Sequential(*n[0], nn.Tanh())], IMAGES, None, [0], 1, 0.1), "without Tanh"),
    (lambda n: layerwise(*n[0], nn.Dropout(0.5)), "Dropout in train"), (lambda n: layerwise(SAME, SAME), "used twice"),
    (lambda n: layerwise(*n[0], nn.Softmax(0)), "for Softmax"),
    (lambda n: kernel.relu_kernel(IMAGES, bias=-1.0), "bias one of 0 or more, not 2.0 and -1.0"),
    (lambda n: kernel.linear_kernel(IMAGES, weight=float("nan")), "weight is a variance above 0"),
    (lambda n: kernel.coefficients(FOUND, WANTED, time=float("inf")), "0 or more and finite, not inf; None is the end"),
])  # fmt: skip
def test_what_would_be_another_number_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call([finite.mlp([6, 4, 2], seed=0)])
