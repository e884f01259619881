"""Collapse measures against closed forms, against the definition written out, and against their symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import nclib as nc
from nclib.measures.exact import WithinPass, combined
from nclib.measures.means import BLOCK, MeansPass

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))
DEVICES = ["cpu", CUDA]
SHAPES = [(2, 1), (2, 7), (3, 2), (3, 20), (10, 9), (10, 64), (100, 99), (100, 150)]  # (C, d) with room for a simplex
MEASURES = {"nc1", "nc1_per_class", "equinorm", "equiangle", "ncc_accuracy", "leapt", "cdnv"}
OF_WEIGHT = {"weight_equinorm", "weight_equiangle", "nc3", "nc4", "accuracy"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rotation(d: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def simplex(C: int, d: int, radius: float = 1.0) -> torch.Tensor:
    """A simplex ETF (C, d) about 0, for d >= C - 1: coordinates of the centred unit vectors in their own span."""
    centred = torch.eye(C, dtype=torch.float64) - 1 / C
    axes = torch.linalg.svd(centred).Vh[: C - 1]
    corners = torch.zeros(C, d, dtype=torch.float64)
    corners[:, : C - 1] = centred @ axes.T * math.sqrt(C / (C - 1))
    return radius * corners


def exact_noise(d: int, sigma: float) -> torch.Tensor:
    """2d points of mean exactly 0 and covariance exactly sigma^2 I: plus and minus each axis."""
    axes = sigma * math.sqrt(d) * torch.eye(d, dtype=torch.float64)
    return torch.cat([axes, -axes])


def noisy_simplex(C: int, d: int, radius: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    noise = exact_noise(d, sigma)
    labels = torch.arange(C).repeat_interleave(len(noise))
    return simplex(C, d, radius)[labels] + noise.repeat(C, 1), labels


def random_features(C=4, d=6, n=15, seed=0, spread=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features about random means, every class there, classes of unequal size."""
    labels = torch.cat([torch.arange(C).repeat(3), torch.randint(0, C, (C * n,), generator=generator(seed))])
    return 2 * normal(C, d, seed=seed + 1)[labels] + spread * normal(len(labels), d, seed=seed + 2) + 0.5, labels


def assert_same(a: dict, b: dict, tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), name


# The definition written out -----------------------------------------------------------------------


def by_definition(h, y, W, b, C) -> dict[str, float]:
    """Every measure from its formula: d x d covariances, pinv, loops over samples and pairs."""
    mu = torch.stack([h[y == c].mean(0) for c in range(C)])
    mu_G = h.mean(0)
    centred = mu - mu_G
    sigma_W = sum(torch.outer(x - mu[c], x - mu[c]) for x, c in zip(h, y)) / len(h)
    sigma_B = sum(torch.outer(m, m) for m in centred) / C
    pairs = [(c, k) for c in range(C) for k in range(C) if c != k]
    variance = [(h[y == c] - mu[c]).square().sum(1).mean() for c in range(C)]

    def equinorm(v):
        return torch.tensor([x.norm() for x in v]).std() / torch.tensor([x.norm() for x in v]).mean()

    def equiangle(v):
        return sum(abs(v[c] @ v[k] / (v[c].norm() * v[k].norm()) + 1 / (C - 1)) for c, k in pairs) / len(pairs)

    nearest = torch.stack([(mu - x).norm(dim=1).argmin() for x in h])
    closest = torch.stack([((centred @ (x - mu_G)) / centred.norm(dim=1)).argmax() for x in h])
    network = torch.stack([(W @ x + b).argmax() for x in h])
    nc1 = torch.trace(sigma_W @ torch.linalg.pinv(sigma_B, rtol=1e-12))
    found = {
        "nc1": nc1,
        "nc1_per_class": nc1 / C,
        "equinorm": equinorm(centred),
        "equiangle": equiangle(centred),
        "cdnv": sum((variance[c] + variance[k]) / (2 * (mu[c] - mu[k]).square().sum()) for c, k in pairs) / len(pairs),
        "ncc_accuracy": (nearest == y).double().mean(),
        "leapt": (closest != y).double().mean(),
        "weight_equinorm": equinorm(W),
        "weight_equiangle": equiangle(W),
        "nc3": (W / W.norm() - centred / centred.norm()).square().sum(),
        "nc4": (nearest != network).double().mean(),
        "accuracy": (network == y).double().mean(),
    }
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("C", "d"), [(2, 3), (3, 2), (4, 30), (7, 4), (10, 12)])
def test_every_measure_agrees_with_its_definition_written_out(C, d, device):
    h, y = random_features(C, d, seed=C)
    W, b = normal(C, d, seed=7), normal(C, seed=8)
    found = nc.measure(h.to(device), y.to(device), W.to(device), b.to(device))
    assert_same(found, by_definition(h, y, W, b, C), 1e-8)


def test_centres_of_another_view_agree_with_their_definition_written_out():
    (h, y), (other, z) = random_features(5, 8, seed=1), random_features(5, 8, seed=40)
    W, b = normal(5, 8, seed=7), normal(5, seed=8)
    found = nc.measure(h, y, W, b, centers=nc.class_means(other, z))
    nu = torch.stack([other[z == c].mean(0) for c in range(5)])
    tilde = nu - other.mean(0)
    about = torch.stack([torch.outer(x - nu[c], x - nu[c]) for x, c in zip(h, y)]).mean(0)
    nearest = torch.stack([(nu - x).norm(dim=1).argmin() for x in h])
    closest = torch.stack([torch.cosine_similarity(tilde, (x - other.mean(0))[None]).argmax() for x in h])
    network = (h @ W.T + b).argmax(1)
    assert found["centers_nc1"] == pytest.approx(float(torch.trace(about @ torch.linalg.pinv(tilde.T @ tilde / 5))))
    assert found["centers_ncc_accuracy"] == pytest.approx(float((nearest == y).double().mean()))
    assert found["centers_leapt"] == pytest.approx(float((closest != y).double().mean()))
    assert found["centers_nc4"] == pytest.approx(float((nearest != network).double().mean()))


def test_centres_from_the_samples_own_means_change_nothing():
    h, y = random_features()
    found = nc.measure(h, y, normal(4, 6), centers=nc.class_means(h, y))
    for name in ("nc1", "ncc_accuracy", "leapt", "nc4"):
        assert found["centers_" + name] == pytest.approx(found[name], rel=1e-12)


# Closed forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("C", "d"), SHAPES)
def test_perfect_collapse_measures_zero_everywhere(C, d, device):
    corners = simplex(C, d, radius=3.0).to(device)
    labels = torch.arange(C, device=device).repeat(4)
    found = nc.measure(corners[labels], labels, corners)
    assert found.pop("accuracy") == found.pop("ncc_accuracy") == 1
    assert set(found) == (MEASURES | OF_WEIGHT) - {"accuracy", "ncc_accuracy"}
    assert max(map(abs, found.values())) < 1e-13


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sigma", [1e-6, 0.1, 3.0])
@pytest.mark.parametrize(("C", "d"), SHAPES)
def test_isotropic_noise_about_a_simplex_has_the_closed_form(C, d, sigma, device):
    radius = 1.7
    h, y = noisy_simplex(C, d, radius, sigma)
    found = nc.measure(h.to(device), y.to(device))
    assert found["nc1"] == pytest.approx(sigma**2 * (C - 1) ** 2 / radius**2, rel=1e-9)
    assert found["nc1_per_class"] == pytest.approx(found["nc1"] / C, rel=1e-15)
    assert found["cdnv"] == pytest.approx(d * sigma**2 * (C - 1) / (2 * C * radius**2), rel=1e-9)
    assert max(found["equinorm"], found["equiangle"]) < 1e-12


@pytest.mark.parametrize("C", [3, 10, 100])
def test_orthonormal_weights_miss_the_simplex_angle_by_one_over_c_minus_one(C):
    assert float(nc.equiangle(torch.eye(C))) == pytest.approx(1 / (C - 1), rel=1e-12)
    assert float(nc.equinorm(torch.eye(C))) == 0


def test_equinorm_is_the_unbiased_deviation_over_the_mean():
    assert float(nc.equinorm(torch.diag(torch.tensor([1.0, 2.0, 3.0])))) == pytest.approx(1 / 2)


@pytest.mark.parametrize("C", [3, 10])
def test_nc3_of_orthonormal_weights_is_their_global_part(C):
    # |W/sqrt(C) - M~/sqrt(C-1)|^2 = 2 - 2 tr(I - 11^T/C) / sqrt(C (C-1)), where M~ is I - 11^T/C.
    h, y = torch.eye(C, dtype=torch.float64), torch.arange(C)
    assert nc.measure(h, y, torch.eye(C))["nc3"] == pytest.approx(2 - 2 * math.sqrt((C - 1) / C), rel=1e-12)


def test_nc3_of_the_opposite_simplex_is_four():
    h, y = simplex(5, 8), torch.arange(5)
    assert nc.measure(h, y, -h)["nc3"] == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize("C", [3, 10])
def test_on_a_line_nc1_counts_that_line_and_angles_are_0_or_180_degrees(C):
    # d = 1 < C - 1: Sigma_B is the variance of the means, and every cosine is 1 or -1.
    sigma, places = 0.01, torch.arange(C, dtype=torch.float64).square()
    labels = torch.arange(C).repeat_interleave(2)
    noise = sigma * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(C)
    found = nc.measure((places[labels] + noise)[:, None], labels)
    assert found["nc1"] == pytest.approx(sigma**2 / float(places.var(correction=0)), rel=1e-9)
    right = int((places > places.mean()).sum())
    apart = 2 * right * (C - right)
    gaps = (C * (C - 1) - apart) * C / (C - 1) + apart * (C - 2) / (C - 1)
    assert found["equiangle"] == pytest.approx(gaps / (C * (C - 1)), rel=1e-12)


@pytest.mark.parametrize(("C", "d"), [(10, 4), (100, 50)])
def test_too_few_dimensions_for_a_simplex_leave_equiangle_above_its_floor(C, d):
    # Welch: the squared cosines of C unit vectors sum to C^2/d at least. A gap x is at most C/(C-1), so that
    # mean |x| >= mean x^2 (C-1)/C >= (rms cos - 1/(C-1))^2 (C-1)/C.
    means = normal(C, d)
    found = nc.measure(means, torch.arange(C))
    rms = math.sqrt((C**2 / d - C) / (C * (C - 1)))
    assert found["equiangle"] >= (rms - 1 / (C - 1)) ** 2 * (C - 1) / C > 0.001


def test_nc1_of_few_dimensions_uses_every_direction_there_is():
    # Means that span all of R^d with Sigma_B = s I: tr(Sigma_W Sigma_B^+) = d sigma^2 / s.
    d, sigma = 3, 0.2
    corners = torch.cat([torch.eye(d), -torch.eye(d)]).double()  # 6 classes, Sigma_B = I / 3
    noise = exact_noise(d, sigma)
    labels = torch.arange(2 * d).repeat_interleave(len(noise))
    found = nc.measure(corners[labels] + noise.repeat(2 * d, 1), labels)
    assert found["nc1"] == pytest.approx(d * sigma**2 * d, rel=1e-12)


def test_means_along_nearly_one_line_keep_their_digits():
    # Third class 1e-5 off the line through the others: squaring would leave six digits of NC1.
    corners = torch.tensor([[-1.0, 0.0], [0.5, 1e-5], [0.5, -1e-5]], dtype=torch.float64)
    noise = exact_noise(2, 1e-7)
    labels = torch.arange(3).repeat_interleave(len(noise))
    found = nc.measure(corners[labels] + noise.repeat(3, 1), labels)
    assert found["nc1"] == pytest.approx(1e-14 / 0.5 + 1e-14 / (2e-10 / 3), rel=1e-8)


# Symmetries ---------------------------------------------------------------------------------------

cases = settings(max_examples=15, deadline=None, derandomize=True)
seeds, classes, dimensions = st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 12)
GEOMETRY = sorted(MEASURES | OF_WEIGHT)


def sample(seed: int, C: int, d: int):
    h, y = random_features(C, d, seed=seed)
    return h, y, normal(C, d, seed=seed + 3), normal(C, seed=seed + 4)


@cases
@given(seeds, classes, dimensions)
def test_a_rotation_of_feature_space_changes_nothing(seed, C, d):
    h, y, W, b = sample(seed, C, d)
    Q = rotation(d, seed)
    assert_same(nc.measure(h @ Q, y, W @ Q, b), nc.measure(h, y, W, b), 1e-8)


@cases
@given(seeds, classes, dimensions, st.floats(-20, 20))
def test_the_scale_of_the_features_changes_nothing(seed, C, d, exponent):
    h, y, W, b = sample(seed, C, d)
    k = 10.0**exponent
    assert_same(nc.measure(k * h, y, W / k, b), nc.measure(h, y, W, b), 1e-8)


@cases
@given(seeds, classes, dimensions)
def test_a_translation_changes_nothing_once_the_bias_follows(seed, C, d):
    h, y, W, b = sample(seed, C, d)
    shift = 5 * normal(d, seed=seed + 9)
    assert_same(nc.measure(h + shift, y, W, b - W @ shift), nc.measure(h, y, W, b), 1e-8)


@cases
@given(seeds, classes, dimensions)
def test_the_names_of_the_classes_change_nothing(seed, C, d):
    h, y, W, b = sample(seed, C, d)
    order = torch.randperm(C, generator=generator(seed))
    assert_same(nc.measure(h, order[y], W[order.argsort()], b[order.argsort()]), nc.measure(h, y, W, b), 1e-8)


@cases
@given(seeds, st.integers(1, 40), st.integers(2, 80))
def test_batches_of_any_size_in_any_order_give_the_one_shot_result(seed, first, size):
    h, y = random_features(4, 6, seed=seed)
    centers = nc.class_means(*random_features(4, 6, seed=seed + 50))
    expected = nc.measure(h, y, centers=centers)
    shuffled = torch.randperm(len(h), generator=generator(seed))
    parts = [shuffled[:first], *shuffled[first:].split(size)]
    means = MeansPass(4)
    for part in parts:
        means.update(h[part], y[part])
    passes = WithinPass(means.result()), WithinPass(means.result(), centers)
    for part in reversed(parts):
        for one in passes:
            one.update(h[part], y[part])
    assert_same(combined(*passes), expected, 1e-9)


@cases
@given(seeds, classes, dimensions, st.floats(0.1, 0.9))
def test_contracting_a_class_to_its_mean_lowers_nc1_and_cdnv(seed, C, d, share):
    h, y = random_features(C, d, seed=seed)
    means = nc.class_means(h, y).means
    closer = torch.where((y == 1)[:, None], means[y] + share * (h - means[y]), h)
    before, after = nc.measure(h, y), nc.measure(closer, y)
    assert after["nc1"] < before["nc1"]
    assert after["cdnv"] < before["cdnv"]
    assert after["equiangle"] == pytest.approx(before["equiangle"], rel=1e-9)


@cases
@given(seeds, st.floats(0.0, 3.0))
def test_nc1_grows_as_the_square_of_the_noise(seed, gain):
    h, y = random_features(4, 9, seed=seed)
    means = nc.class_means(h, y).means
    scaled = means[y] + gain * (h - means[y])
    assert nc.measure(scaled, y)["nc1"] == pytest.approx(gain**2 * nc.measure(h, y)["nc1"], rel=1e-9, abs=1e-20)


# NC4 is not NCC accuracy --------------------------------------------------------------------------


def test_a_network_that_errs_with_its_nearest_centres_has_nc4_zero_and_accuracy_zero():
    # As on attacked data: every point sits on another class's clean vertex, and the network says so too.
    corners = simplex(3, 4)
    y = torch.arange(3).repeat(5)
    found = nc.measure(corners[(y + 1) % 3], y, corners, centers=corners)
    assert found["centers_nc4"] == 0
    assert found["accuracy"] == found["centers_ncc_accuracy"] == 0


def test_a_network_wrong_where_the_centres_are_right_has_nc4_one_and_ncc_accuracy_one():
    corners = simplex(3, 4)
    y = torch.arange(3).repeat(5)
    found = nc.measure(corners[y], y, corners.roll(1, 0))
    assert found["nc4"] == found["ncc_accuracy"] == 1
    assert found["accuracy"] == 0


def test_nc4_sees_the_bias():
    h, y = simplex(3, 4)[torch.arange(3).repeat(5)], torch.arange(3).repeat(5)
    assert nc.measure(h, y, simplex(3, 4))["nc4"] == 0
    assert nc.measure(h, y, simplex(3, 4), torch.tensor([0.0, 0.0, 9.0]))["nc4"] == pytest.approx(2 / 3)


def test_nc4_uses_the_uncentred_means_of_unequal_lengths():
    # 0.6 lies closer to the mean 1 by distance, to the long mean 10 by inner product.
    h = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.1], [0.6, 0.0]])
    found = nc.measure(h, torch.tensor([0, 1, 2, 1]), num_classes=3)
    assert found["ncc_accuracy"] == 1


# Means of two views -------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 30.0, 90.0, 180.0])
def test_similarity_reads_off_the_angle_between_two_simplices(degrees):
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    a = simplex(3, 2)
    found = nc.similarity(a, a @ turn)
    assert found["angle"].tolist() == pytest.approx([degrees] * 3, rel=1e-9, abs=1e-12)
    assert found["distance"].tolist() == pytest.approx([2 * math.sin(angle / 2)] * 3, rel=1e-9, abs=1e-15)
    assert found["shift"] < 1e-15


def test_similarity_tells_a_shift_of_all_from_a_change_of_shape():
    a, shift = simplex(4, 6) + 2.0, normal(6)
    found = nc.similarity(a, a + shift)
    assert found["shift"] == pytest.approx(float(shift.norm()), rel=1e-12)
    assert found["angle"].max() < 1e-6
    assert found["distance"].max() < 1e-12
    assert found["distance_uncentered"].tolist() == pytest.approx([float(shift.norm())] * 4)
    assert found["angle_uncentered"].min() > 1


def test_similarity_does_not_see_the_scale_in_its_angles():
    a, b = normal(4, 6), normal(4, 6, seed=1)
    assert nc.similarity(1e-20 * a, 1e20 * b)["angle"].tolist() == pytest.approx(nc.similarity(a, b)["angle"].tolist())


def test_similarity_centres_on_the_mean_of_the_samples_not_of_the_classes():
    h, y = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [4.0, 0.0]]), torch.tensor([0, 0, 0, 1])
    assert nc.class_means(h, y).global_mean.tolist() == [1.0, 0.75]


def test_leap_matrix_is_the_identity_where_nothing_moved():
    corners, y = simplex(4, 5), torch.arange(4).repeat(3)
    assert torch.equal(nc.leap_matrix(corners[y], y, corners), torch.eye(4, dtype=torch.float64))


def test_leap_matrix_counts_where_the_points_of_each_class_went():
    corners = simplex(3, 4)
    y, went = torch.tensor([0, 0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 2, 0, 1, 0, 2])
    expected = [[0.25, 0.5, 0.25], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    assert nc.leap_matrix(corners[went], y, corners).tolist() == expected


def test_leap_matrix_goes_by_angle_not_by_distance():
    corners = simplex(3, 4)
    h, y = 0.01 * corners[[1, 1, 2]] + 0.002 * corners[0], torch.arange(3)
    assert nc.leap_matrix(h, y, corners).argmax(1).tolist() == [1, 1, 2]


def test_leapt_is_what_the_leap_matrix_has_off_its_diagonal():
    (h, y), other = random_features(spread=3.0), nc.class_means(*random_features(seed=40))
    own, there = nc.class_means(h, y), nc.leap_matrix(h, y, other)
    share = float(own.counts.double() @ (1 - there.diagonal()) / len(y))
    assert nc.measure(h, y, centers=other)["centers_leapt"] == pytest.approx(share, rel=1e-12)
    assert 0.1 < share < 0.95


def test_cosines_of_a_simplex_are_minus_one_over_c_minus_one():
    expected = torch.full((5, 5), -0.25, dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(nc.cosines(simplex(5, 7).float()), expected, atol=1e-7)


# How far two sets of vectors are from one simplex ------------------------------------------------------


@pytest.mark.parametrize("C, d", SHAPES)
def test_simplex_gap_is_zero_on_one_simplex_turned_scaled_and_shifted(C, d):
    a, shift = simplex(C, d) @ rotation(d), normal(d, seed=3)
    assert float(nc.simplex_gap(2 * a, 5 * a)) < 1e-7  # the norm of a difference of near equals: half the digits
    assert float(nc.simplex_gap(2 * a + shift, 5 * a - shift)) < 1e-7
    assert float(nc.simplex_gap(2 * a, 5 * a, centred=False)) < 1e-7


@pytest.mark.parametrize("C", [3, 10, 100])
def test_simplex_gap_of_known_shapes(C):
    line = torch.linspace(-1, 1, C)[:, None] * torch.ones(4)  # rank one
    assert float(nc.simplex_gap(line, line)) == pytest.approx(math.sqrt(2 - 2 / math.sqrt(C - 1)), rel=1e-7)
    corners = simplex(C, C + 1)
    assert float(nc.simplex_gap(corners, -corners)) == pytest.approx(2)
    frame = torch.eye(C)  # about its own mean a simplex; about the origin cos^2 = (C - 1)/C
    assert float(nc.simplex_gap(frame, frame)) < 1e-7
    own = math.sqrt(2 - 2 * math.sqrt((C - 1) / C))
    assert float(nc.simplex_gap(frame, frame, centred=False)) == pytest.approx(own, rel=1e-9)


def test_simplex_gap_is_the_flatness_of_the_spectrum():
    W = normal(6, 9, seed=7)
    e = torch.linalg.eigvalsh((W - W.mean(0)) @ (W - W.mean(0)).T)[1:]  # but for the direction of the mean
    flat = torch.sqrt(2 - 2 * e.sum() / (math.sqrt(5) * e.norm()))
    assert float(nc.simplex_gap(W, W)) == pytest.approx(float(flat), rel=1e-12)


def test_simplex_gap_sees_two_simplices_turned_against_each_other():
    W = simplex(4, 6).float()
    assert float(nc.simplex_gap(W @ rotation(6).float(), W)) > 0.1


def test_simplex_gap_sees_a_common_offset_only_where_nothing_is_centred():
    W, offset = simplex(4, 6), normal(6, seed=2)
    assert (
        float(nc.simplex_gap(W + offset, W + offset))
        < 1e-7
        < 0.1
        < float(nc.simplex_gap(W + offset, W + offset, centred=False))
    )


def test_simplex_gap_refuses_what_has_no_shape():
    W = normal(4, 6)
    with pytest.raises(ValueError, match=r"second vectors of shape \(3, 6\), expected \(4, 6\)"):
        nc.simplex_gap(W, W[:3])
    with pytest.raises(ValueError, match="first vectors of class 2: NaN or infinity"):
        nc.simplex_gap(W.index_fill(0, torch.tensor(2), math.nan), W)
    for flat in (torch.full((4, 6), 0.1), torch.zeros(4, 6)):  # 0.1: nothing but rounding is left about its mean
        with pytest.raises(ValueError, match="all inner products of the two sets of vectors are zero"):
            nc.simplex_gap(W, flat)


# What may go in, and stays as it was --------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_features_are_measured_in_float64(dtype, device):
    h, y = random_features()
    h, W = h.to(device, dtype), normal(4, 6).to(device, dtype)
    assert nc.measure(h, y.to(device), W) == nc.measure(h.double(), y.to(device), W.double())


def test_sums_do_not_lose_a_small_spread_beside_a_large_offset():
    # Float32 sums would lose all of it: the offset is 1e4, the spread 1/64, both exact in float32.
    h, y = noisy_simplex(2, 4, 1.0, 1 / 128)
    h = (torch.round(h * 1024) / 1024 + 1e4).float()
    assert nc.measure(h, y)["nc1"] == pytest.approx(nc.measure(h.double() - 1e4, y)["nc1"], rel=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_feature_maps_in_channels_last_measure_the_same(device):
    h, y = normal(40, 3, 4, 5).to(device), torch.arange(40, device=device) % 4
    found = nc.measure(h.contiguous(memory_format=torch.channels_last), y)
    assert_same(found, nc.measure(h.flatten(1), y), 1e-12)


def test_strided_features_measure_the_same():
    h, y = random_features()
    assert nc.measure(torch.cat([h, h], 1)[:, ::2], y) == nc.measure(torch.cat([h, h], 1)[:, ::2].contiguous(), y)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_do(dtype):
    h, y = random_features()
    assert nc.measure(h, y.to(dtype)) == nc.measure(h, y)


def test_inputs_are_never_changed_and_no_gradient_is_tracked():
    h, y = random_features()
    W, b = normal(4, 6), normal(4)
    inputs = [h.requires_grad_(), y, W.requires_grad_(), b.requires_grad_()]
    copies = [t.detach().clone() for t in inputs]
    means = nc.class_means(h, y)
    nc.measure(h, y, W, b, centers=W)
    results = [means.means, nc.leap_matrix(h, y, means), nc.similarity(W, means)["angle"], nc.cosines(W)]
    results += [nc.equinorm(W), nc.equiangle(W)]
    assert all(torch.equal(t.detach(), copy) for t, copy in zip(inputs, copies))
    assert not any(t.requires_grad for t in results)


class Operations(TorchDispatchMode):
    """The names of the operators that ran."""

    def __enter__(self):
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


HOST = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique_dim", "_unique2", "bincount"}


def test_no_batch_asks_for_a_value_on_the_host():
    h, y = random_features()
    first = MeansPass(4)
    with Operations() as ran:
        first.update(h, y)
    second = WithinPass(first.result(), first.result())
    with Operations() as ran_too:
        second.update(h, y, y)
    assert "index_add_" in ran.names & ran_too.names
    assert not (ran.names | ran_too.names) & HOST
    with Operations() as at_the_end:
        second.result()
    assert at_the_end.names & HOST  # the watch does see a value that leaves


class Largest(TorchDispatchMode):
    """The largest tensor that is made, and the products that are taken, in numbers."""

    def __init__(self):
        super().__init__()
        self.size, self.products = 0, 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        out = call(*args, **(kwargs or {}))
        if torch.is_tensor(out) and not call.is_view:
            self.size = max(self.size, out.numel())
            if call is torch.ops.aten.mm.default:
                self.products += out.numel() * args[0].shape[1]
        return out


@pytest.mark.parametrize("C, d", [(300, 20), (20, 300)])
def test_memory_is_that_of_pairs_of_classes_and_means_however_many_samples(C, d):
    """Many classes in few dimensions among them: no N x C table, and no C x C products for a sample."""
    h, y = random_features(C, d, n=100)
    with Largest() as made:
        nc.measure(h, y, normal(C, d))
        nc.leap_matrix(h, y, nc.class_means(h, y))
    assert made.size <= max(C * C, C * d, BLOCK["cpu"]) < len(h) * max(C, d) / 2
    assert made.products < 6 * len(h) * C * min(C, d) + 6 * len(h) * C * d


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_no_batch_waits_for_cuda():
    h, y = (t.cuda() for t in random_features())
    first = MeansPass(4)
    first.update(h, y)
    second = WithinPass(first.result())
    second.update(h, y, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        first.update(h, y)
        second.update(h, y, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cpu_and_cuda_agree():
    h, y, W, b = sample(3, 10, 64)
    assert_same(nc.measure(h.cuda(), y.cuda(), W.cuda(), b.cuda()), nc.measure(h, y, W, b), 1e-9)


def test_empty_batches_add_nothing():
    h, y = random_features()
    means = MeansPass(4)
    for part in (slice(0, 0), slice(0, 30), slice(30, 30), slice(30, None)):
        means.update(h[part], y[part])
    assert torch.equal(means.result().counts, nc.class_means(h, y).counts)


# Every error, and where ---------------------------------------------------------------------------


def spoilt(value: float) -> torch.Tensor:
    h = random_features()[0].clone()
    h[17, 2] = value
    return h


H, Y = random_features()
W4 = normal(4, 6)
COLLINEAR = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
ERRORS = {
    "nan": (lambda: nc.measure(spoilt(math.nan), Y), "features of sample 17 contain NaN or infinity"),
    "infinity": (lambda: nc.measure(spoilt(-math.inf), Y), "features of sample 17 contain NaN or infinity"),
    "no samples": (lambda: nc.measure(H[:0], Y[:0]), "no samples"),
    "no samples, C known": (lambda: nc.measure(H[:0], Y[:0], num_classes=4), "no samples"),
    "empty class": (lambda: nc.measure(H[Y != 2], Y[Y != 2]), "no samples of class 2"),
    "empty classes": (lambda: nc.measure(H, Y, num_classes=6), "no samples of class 4, 5"),
    "one class": (lambda: nc.measure(H, 0 * Y), "two classes or more, not 1"),
    "label too large": (lambda: nc.measure(H, Y, num_classes=3), r"label of sample \d+ is outside 0..2"),
    "label negative": (lambda: nc.measure(H, Y - 1, num_classes=4), r"label of sample \d+ is outside 0..3"),
    "labels not integers": (lambda: nc.measure(H, Y.float()), "labels .* of torch.float32 do not match"),
    "labels too few": (lambda: nc.measure(H, Y[:-1]), r"features \(72, 6\) and labels \(71,\)"),
    "labels as a column": (lambda: nc.measure(H, Y[:, None]), r"labels \(72, 1\)"),
    "features one-dimensional": (lambda: nc.measure(H[:, 0], Y), r"features \(72,\)"),
    "identical means": (
        lambda: nc.measure(COLLINEAR[[0, 0, 1, 1]], torch.tensor([0, 1, 2, 2])),
        "classes 0 and 1 have identical means: NC1 and CDNV have no value",
    ),
    "identical means up to rounding": (
        lambda: nc.measure(0.1 + torch.tensor([[1.0], [1.0 + 1e-13], [2.0]]).double(), torch.arange(3)),
        "classes 0 and 1 have identical means",
    ),
    "all features zero": (lambda: nc.measure(0 * H, Y), "identical means"),
    "identical centres": (lambda: nc.measure(H, Y, centers=torch.ones(4, 6)), "classes 0 and 1 have identical centers"),
    "mean on the global mean": (lambda: nc.measure(COLLINEAR, torch.arange(3)), "vector of class 1 has length zero"),
    "weight of another shape": (
        lambda: nc.measure(H, Y, W4.T, num_classes=4),
        r"weight of shape \(6, 4\), expected \(4, 6\)",
    ),
    "weight not finite": (lambda: nc.measure(H, Y, W4 / torch.tensor([1, 1, 0, 1])[:, None]), "weight of class 2: NaN"),
    "weight row zero": (lambda: nc.measure(H, Y, W4 * torch.tensor([1, 1, 1, 0])[:, None]), "class 3 has length zero"),
    "bias of another shape": (lambda: nc.measure(H, Y, W4, normal(5)), r"bias of shape \(5,\), expected \(4,\)"),
    "bias not finite": (lambda: nc.measure(H, Y, W4, torch.tensor([0, math.nan, 0, 0])), "bias of class 1: NaN"),
    "centres of another shape": (
        lambda: nc.measure(H, Y, centers=W4[:, :5]),
        r"centers of shape \(4, 5\), expected \(4, 6\)",
    ),
    "centres not finite": (lambda: nc.measure(H, Y, centers=W4 / 0), "centers of class 0: NaN or infinity"),
    "class_means of nothing": (lambda: nc.class_means(H[:0], Y[:0]), "no samples"),
    "similarity of two shapes": (
        lambda: nc.similarity(W4, W4[:3]),
        r"second means of shape \(3, 6\), expected \(4, 6\)",
    ),
    "similarity of one mean": (lambda: nc.similarity(W4[:1], W4[:1]), r"means of shape \(1, 6\), expected \(C, d\)"),
    "similarity of a zero mean": (lambda: nc.similarity(COLLINEAR, COLLINEAR), "class 1 has length zero"),
    "similarity with NaN": (lambda: nc.similarity(W4, W4 * math.nan), "means of class 0: NaN"),
    "leap with other dimensions": (
        lambda: nc.leap_matrix(H, Y, W4[:, :5]),
        r"means of shape \(4, 5\), expected \(4, 6\)",
    ),
    "leap with an empty class": (lambda: nc.leap_matrix(H[Y != 0], Y[Y != 0], W4), "no samples of class 0"),
    "leap to a vertex at the centre": (lambda: nc.leap_matrix(COLLINEAR, torch.arange(3), COLLINEAR), "length zero"),
    "one vector": (lambda: nc.equiangle(W4[:1]), r"vectors of shape \(1, 6\)"),
    "vector zero": (lambda: nc.cosines(COLLINEAR), "vector of class 1 has length zero"),
    "vector not finite": (lambda: nc.equinorm(W4 * math.inf), "vectors of class 0: NaN or infinity"),
    "all vectors zero": (lambda: nc.equinorm(0 * W4), "length zero"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_degenerate_input_gets_one_line_that_says_which_and_where(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_first_bad_sample_is_counted_over_all_batches():
    means = MeansPass(4)
    for part in range(0, 72, 10):
        means.update(spoilt(math.nan)[part : part + 10], Y[part : part + 10])
    with pytest.raises(ValueError, match="sample 17 "):
        means.result()


def test_batches_of_different_width_are_refused():
    means = MeansPass(4)
    means.update(H, Y)
    with pytest.raises(ValueError, match="5 dimensions after batches of 6"):
        means.update(H[:, :5], Y)


def test_a_second_pass_over_fewer_samples_is_refused():
    within = WithinPass(nc.class_means(H, Y))
    within.update(H[:70], Y[:70])
    with pytest.raises(ValueError, match="saw 70 samples, the first 72"):
        within.result()


def test_a_weight_is_any_array_and_a_bias_alone_is_refused():
    classes = int(Y.max()) + 1
    W = torch.randn(classes, H.shape[1], generator=torch.Generator().manual_seed(0))
    assert nc.measure(H, Y, W.numpy()) == nc.measure(H, Y, W)
    with pytest.raises(ValueError, match="a bias without its weight"):
        nc.measure(H, Y, bias=torch.zeros(classes))
