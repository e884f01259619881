"""Stars prove nothing that is false, and what is exact is exact: closed forms, corners, grids, samples, other tools."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.sparse import csr_array
from torch import nn

from nclib.neighbours import bounds, programs, scenes, stars, verdicts
from nclib.neighbours.scenes import CANVAS, digits_of

torch.set_num_threads(1)
METHODS = ("ranges", "margins", "programs")


def small_net(seed=0, pool=nn.AvgPool2d, classes=3, depth=2):
    """A segmentation network of 4x4 pixels with two or three ReLU layers, and transposed and dilated convolutions."""
    torch.manual_seed(seed)
    more = [nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.ReLU()] if depth > 2 else []
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), pool(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *more]
    return stars.lifted(nn.Sequential(*layers, nn.ConvTranspose2d(4, classes, 4, 2, 1)).double())


def small_set(seed=0, predicates=3, size=0.6):
    """An image of 4x4 pixels, and a box about it."""
    draw = torch.Generator().manual_seed(seed)
    centre = torch.rand(1, 4, 4, generator=draw, dtype=torch.float64)
    generators = torch.randn(predicates, 1, 4, 4, generator=draw, dtype=torch.float64)
    return stars.box(centre, generators, 0.0, size)


def points(star, count=200, seed=0):
    """Random points of an input set, all its corners among them."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.rand(count, star.predicates, generator=draw, dtype=torch.float64)
    corners = torch.tensor(list(product((0.0, 1.0), repeat=star.predicates)), dtype=torch.float64)
    return star.at(star.lower + (star.upper - star.lower) * torch.cat([a, corners]))


def reference_of(net, star):
    return net(star.at(star.lower[None])).argmax(1)[0]


def verdict_by(method, out, reference):
    if method == "ranges":
        return verdicts.by_ranges(*stars.ranges(out), reference)
    return (verdicts.by_margins if method == "margins" else verdicts.by_programs)(out, reference)


def contradictions(verdict, scores, reference):
    """Pixels whose verdict one of the outputs (N, C, H, W) contradicts."""
    own = scores.gather(1, reference.expand(len(scores), 1, -1, -1))
    others = scores.scatter(1, reference.expand(len(scores), 1, -1, -1), -torch.inf).amax(1, keepdim=True)
    lost, won = (own <= others).any(0)[0], (own >= others).any(0)[0]
    return int(((verdict == 1) & lost).sum() + ((verdict == -1) & won).sum())


# Exactness ----------------------------------------------------------------------------------------


def test_an_affine_network_is_exact():
    """Ranges are the smallest and the largest over all corners; generators go through the layer's matrix."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.running_mean[:], norm.running_var[:] = torch.randn(3), torch.rand(3) + 0.5
    norm.weight.data[:], norm.bias.data[:] = torch.randn(3), torch.randn(3)
    layers = [nn.Conv2d(1, 3, 3, padding=2, dilation=2), norm, nn.AvgPool2d(2), nn.ConvTranspose2d(3, 2, 4, 2, 1)]
    net, star = stars.lifted(nn.Sequential(*layers).double().eval()), small_set(predicates=5)
    corners = points(star, 0)
    out, values = stars.reach(net, star), net(corners)
    low, high = stars.ranges(out)
    assert (low - values.amin(0)).abs().max() < 1e-12 and (high - values.amax(0)).abs().max() < 1e-12
    matrix = torch.autograd.functional.jacobian(net, torch.zeros(1, 1, 4, 4, dtype=torch.float64)).view(32, 16)
    assert torch.allclose(out.images[1:].flatten(1), star.images[1:].flatten(1) @ matrix.T, atol=1e-12)
    interval = bounds.intervals(net, star)
    assert (interval[0] <= low + 1e-12).all() and (interval[1] >= high - 1e-12).all()


def neuron(low=-1.0, high=3.0):
    """One neuron x = low + (high - low) a, its ReLU y, and x itself on a second channel, moved up to pass."""
    layer = nn.Conv2d(1, 2, 1)
    layer.weight.data[:], layer.bias.data[:] = high - low, torch.tensor([low, low + 10.0])
    net = stars.lifted(nn.Sequential(layer, nn.ReLU()))
    return stars.reach(net, stars.box(torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1)))


@pytest.mark.parametrize("p,q", [(1, 0), (-1, 0), (1, -0.5), (-1, 0.5), (2, -3), (-2, 1), (0, 1)])
def test_the_triangle_of_one_neuron_by_hand(p, q):
    """max p y + q x over the triangle with corners (l, 0), (0, 0), (u, u)."""
    out = neuron()
    y, x = out.images[:, 0, 0, 0], out.images[:, 1, 0, 0] - torch.tensor([10.0, 0, 0])
    by_hand = max(p * b + q * a for a, b in [(-1, 0), (0, 0), (3, 3)])
    assert stars.maximise(out, (p * y + q * x)[None].numpy())[0] == pytest.approx(by_hand, abs=2e-9)


def test_share_one_solves_no_program_and_share_zero_is_the_same_by_every_rule():
    net, star = small_net(1), small_set(1)
    loose = stars.reach(net, star, 1.0)
    assert loose.counts["programs"] == 0
    tight = [stars.reach(net, star, 0.0, rule, torch.Generator().manual_seed(0)) for rule in stars.RULES]
    assert tight[0].counts["programs"] > 0 and all(out.counts["failed"] == 0 for out in tight)
    for out in tight[1:]:
        for one, other in zip(stars.ranges(tight[0]), stars.ranges(out)):
            assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize(
    "n,share,count", [(5, 0.5, 3), (7, 0.5, 4), (4, 0.25, 3), (3, 1.0, 0), (3, 0.0, 3), (0, 0.5, 0)]
)
def test_half_a_neuron_is_rounded_up(n, share, count):
    low, high = -torch.arange(1.0, n + 1), torch.arange(1.0, n + 1).flip(0)
    for rule in stars.RULES:
        above, below = stars.ranked(low, high, share, rule, torch.Generator().manual_seed(0))
        assert int(above.sum() + below.sum()) == 2 * count
        if rule != "bound":
            assert torch.equal(above, below)


def test_each_rule_takes_what_it_says():
    low, high = torch.tensor([-1.0, -4.0, -2.0, -0.1]), torch.tensor([6.0, 1.0, 3.5, 5.0])
    assert stars.ranked(low, high, 0.75, "area", None)[0].nonzero().flatten().tolist() == [2]
    assert stars.ranked(low, high, 0.75, "range", None)[0].nonzero().flatten().tolist() == [0]
    above, below = stars.ranked(low, high, 0.5, "bound", None)  # 6, 5, 4, 3.5
    assert above.tolist() == [True, False, True, True] and below.tolist() == [False, True, False, False]


def test_max_pooling_passes_a_sure_leader_and_encloses_the_rest():
    star = small_set(3, size=0.2)
    low, high = stars.ranges(star)
    out = stars.max_pool(nn.MaxPool2d(2), star)
    values = nn.MaxPool2d(2)(points(star, 500))
    for one, other in ((stars.ranges(out)[0], values.amin(0)), (-stars.ranges(out)[1], -values.amax(0))):
        assert (one <= other + 1e-12).all()
    windows = torch.nn.functional.unfold(torch.stack([low, high]), 2, stride=2)
    sure = (windows[0].amax(0) >= windows[1].topk(2, dim=0).values[1]).sum()
    assert out.predicates - star.predicates <= 4 - int(sure) + 1 and len(star.d) == 0


# Programs -----------------------------------------------------------------------------------------


def plain(out, forms):
    ends = np.stack([out.lower.numpy(), out.upper.numpy()], axis=1)
    found = [linprog(-f[1:], out.A.toarray(), out.d, bounds=ends, method="highs") for f in forms]
    return np.array([f[0] - done.fun for f, done in zip(forms, found)])


@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_programs_on_cones_are_the_plain_ones_and_certified(pool, share):
    out = stars.reach(small_net(2, pool, depth=3), small_set(2), share)
    forms = out.images.flatten(1).T.numpy()
    forms = np.concatenate([forms, -forms, np.diff(forms, axis=0)])
    ours, theirs = stars.maximise(out, forms), plain(out, forms)
    assert np.abs(ours - theirs).max() < 1e-6 and (ours >= theirs - 1e-9).all()


def test_the_second_relu_layer_of_a_line_needs_no_solver():
    """On a line its programs are the maxima of concave functions of one variable, whose bends are known: another way
    to the same bounds. What y_i may be, between max(0, x_i) and the upper face, is chosen for each i by its sign."""
    net, star = small_net(4), small_set(4, predicates=1, size=1.0)
    first = stars.relu(stars.affine(net[0], star), 0.0, "range")
    middle = stars.affine(net[3], stars.affine(net[2], first))
    forms = middle.images.flatten(1).T.numpy()
    rows = {int(k): [] for k in first.owner}
    for r, k in enumerate(first.owner):
        rows[int(k)].append((first.A[[r], :].toarray()[0], first.d[r]))
    lines = {}  # predicate -> (x and upper face, as constant and slope in the darkening)
    for k, ((below, d_below), (above, d_above)) in rows.items():
        lines[k] = ((-d_below, below[0]), (d_above, -above[0]))
    bends = [-c / g for (c, g), _ in lines.values()] + [0.0, 1.0]
    bends = np.clip(bends, 0, 1)
    best = []
    for form in forms:
        value = form[0] + form[1] * bends
        for k, ((c, g), (fc, fg)) in lines.items():
            w = form[1 + k]
            value = value + w * (fc + fg * bends if w > 0 else np.maximum(0, c + g * bends))
        best.append(value.max())
    assert np.abs(stars.maximise(middle, forms) - best).max() < 1e-8


@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_lines_settle_a_program_would_settle_too(pool, share):
    """They bound the optimum, CROWN's own bounds where their slopes are the same, and spare programs of every kind."""
    net, star = small_net(2, pool, depth=3), small_set(2)
    out = stars.reach(net, star, share)
    forms = out.images.flatten(1).T.numpy()
    forms = np.concatenate([forms, -forms, np.diff(forms, axis=0)])
    best, lines = stars.maximise(out, forms), programs._by_lines(out, forms)
    assert (lines >= best - 1e-9).all() and (lines < programs._by_box(out, forms) - 1e-6).any()
    enough, before = float(np.median(best)), out.counts["programs"]
    quick = stars.maximise(out, forms, enough)
    assert (out.counts["programs"] - before) < 0.9 * len(forms) and (quick >= best - 1e-9).all()
    assert np.abs(quick - best)[best >= enough].max() < 1e-7 and ((quick < enough) == (best < enough)).all()


def test_lines_with_the_slopes_of_crown_are_crown():
    """With the first layer's bounds, which both have, forms of the second layer's input are bounded alike."""
    net, star = small_net(3), small_set(3)
    known, _ = bounds.crown(net, star)
    middle = stars.reach(nn.Sequential(*list(net)[:4]), star, 1.0)
    forms = middle.images.flatten(1).T.numpy()
    low, high = (bound.flatten().numpy() for bound in known[1])
    assert np.abs(programs._by_lines(middle, forms) - high).max() < 1e-8
    assert np.abs(-programs._by_lines(middle, -forms) - low).max() < 1e-8


def test_a_star_is_the_same_whether_lines_spare_programs_or_not(monkeypatch):
    net, star = small_net(2, depth=3), small_set(2)
    quick = stars.reach(net, star)
    monkeypatch.setattr(programs, "_by_lines", programs._by_box)
    plainly = stars.reach(net, star)
    assert quick.counts["programs"] < plainly.counts["programs"]
    assert quick.predicates == plainly.predicates
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(stars.ranges(quick), stars.ranges(plainly)))


def test_a_program_that_fails_leaves_the_box(monkeypatch):
    net, star = small_net(1), small_set(1)
    loose = stars.reach(net, star, 1.0)
    monkeypatch.setattr(programs, "linprog", lambda *a, **k: type("Failed", (), {"status": 4}))
    out = stars.reach(net, star, 0.0)
    assert out.counts["failed"] == out.counts["programs"] > 0
    assert (
        contradictions(verdicts.by_programs(out, reference_of(net, star)), net(points(star)), reference_of(net, star))
        == 0
    )
    # What needed no solver may still be tighter than the box.
    assert (stars.ranges(out)[1] <= stars.ranges(loose)[1] + 1e-9).float().mean() > 0.5


def test_multipliers_that_are_not_optimal_still_bound(monkeypatch):
    """The certificate holds for any multipliers: here the solver's are spoilt."""
    real = programs.linprog

    def spoilt(*a, **k):
        done = real(*a, **k)
        done.ineqlin.marginals = done.ineqlin.marginals * np.random.default_rng(0).uniform(
            0, 2, len(done.ineqlin.marginals)
        )
        return done

    net, star = small_net(1), small_set(1)
    tight = stars.reach(net, star, 0.0)
    forms = tight.images.flatten(1).T.numpy()
    best = plain(tight, forms)
    monkeypatch.setattr(programs, "linprog", spoilt)
    assert (stars.maximise(tight, forms) >= best - 1e-9).all()
    reference = reference_of(net, star)
    verdict = verdicts.by_programs(stars.reach(net, star, 0.0), reference)
    assert contradictions(verdict, net(points(star)), reference) == 0


@pytest.mark.parametrize("nonsense", [np.nan, np.inf, -np.inf])
def test_multipliers_that_are_no_numbers_prove_nothing(monkeypatch, nonsense):
    """A solver that says it is done, and hands back no numbers: at a = 1 the second class wins by 0.05."""
    real = programs.linprog

    def broken(*a, **k):
        done = real(*a, **k)
        done.ineqlin.marginals = np.full(len(done.ineqlin.marginals), nonsense)
        return done

    layers = [nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.ReLU(), nn.Conv2d(1, 2, 1)]
    values = ([1.0, -1.0], [-0.5, 0.5]), ([2.0, -1.0], [-0.9]), ([0.0, 1.0], [0.05, 0.0])
    for layer, (weight, bias) in zip(layers[::2], values):
        layer.weight.data = torch.tensor(weight).view(layer.weight.shape)
        layer.bias.data = torch.tensor(bias)
    net, star = stars.lifted(nn.Sequential(*layers)), stars.box(torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1))
    first = torch.zeros(1, 1, dtype=torch.long)
    assert verdicts.by_line(net, star, first) == 0
    monkeypatch.setattr(programs, "linprog", broken)
    out = stars.reach(net, star, 0.0)
    assert out.counts["programs"] > 0
    for verdict in (verdicts.by_ranges(*stars.ranges(out), first), verdicts.by_margins(out, first)):
        assert verdict == 0
    assert verdicts.by_programs(out, first) == 0


def test_ranges_that_are_no_numbers_prove_nothing():
    low, high = (torch.full((3, 1, 1), float("nan")) for _ in range(2))
    assert verdicts.by_ranges(low, high, torch.zeros(1, 1, dtype=torch.long)) == 0


@pytest.mark.parametrize("softmax", [nn.Softmax(1), nn.Softmax(-3), nn.Softmax2d()])
def test_a_softmax_over_the_classes_at_the_end_changes_no_verdict(softmax):
    convolution = nn.Conv2d(1, 2, 1)
    assert len(stars.lifted(nn.Sequential(convolution, softmax))) == 1
    for net in (nn.Sequential(convolution, softmax, nn.Conv2d(2, 2, 1)), nn.Sequential(convolution, nn.Softmax(-1))):
        with pytest.raises(ValueError, match="no rule for the layer Softmax"):
            stars.lifted(net)


# Order, where order is a theorem ------------------------------------------------------------------


def test_what_is_tighter_is_tighter():
    """Programs within the box; after one ReLU the box within intervals; margins by programs above CROWN's and the
    zonotope's."""
    for seed in range(4):
        net, star = small_net(seed), small_set(seed)
        out = stars.reach(net, star)
        forms = out.images.flatten(1).T.numpy()
        assert (stars.maximise(out, forms) <= stars.ranges(out)[1].flatten().numpy() + 1e-9).all()
        one = nn.Sequential(*list(net)[:4])
        inner, outer = stars.ranges(stars.reach(one, star)), bounds.intervals(one, star)
        assert (inner[0] >= outer[0] - 1e-9).all() and (inner[1] <= outer[1] + 1e-9).all()
        for c, d in ((0, 1), (2, 0)):
            form = torch.zeros(16, 3, 4, 4, dtype=torch.float64)
            form[:, c].view(16, 16).fill_diagonal_(1), form[:, d].view(16, 16).fill_diagonal_(-1)
            lead = (out.images[:, c] - out.images[:, d]).flatten(1).T.numpy()
            best = torch.from_numpy(-stars.maximise(out, -lead))
            zonotope = bounds.zonotope(net, star)
            apart = replace(zonotope, images=(zonotope.images[:, c] - zonotope.images[:, d])[:, None])
            assert (best >= bounds.crown(net, star, csr_array(form.flatten(1).numpy()))[1] - 1e-7).all()
            assert (best >= stars.ranges(apart)[0].flatten() - 1e-7).all()


def test_one_relu_layer_nests_over_the_shares():
    net, star = nn.Sequential(*list(small_net(5))[:2], *list(small_net(5))[3:4]), small_set(5)
    last = None
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        out = stars.reach(net, star, share)
        forms = out.images.flatten(1).T.numpy()
        high = stars.maximise(out, forms)
        assert last is None or (high >= last - 1e-7).all()
        last = high


# CROWN, cut down to what a set can move -----------------------------------------------------------


def corner_set(side=12):
    """Two predicates on the first pixels of a larger image: a small network leaves most of it alone."""
    generators = torch.zeros(2, 1, side, side, dtype=torch.float64)
    generators[0, 0, 0, 0], generators[1, 0, 1, 2] = 1.0, -2.0
    draw = torch.Generator().manual_seed(0)
    return stars.box(torch.rand(1, side, side, generator=draw, dtype=torch.float64), generators, -0.3, 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_crown_is_the_same_in_blocks_and_cut_down(seed, monkeypatch):
    """To 1e-12, however many forms go back at once, and where what is fixed is carried along."""
    net, star = small_net(seed, depth=3), corner_set()
    forms = csr_array(np.random.default_rng(seed).standard_normal((20, 3 * 12 * 12)))
    known, low = bounds.crown(net, star, forms)
    fixed = (known[-1][0] == known[-1][1]).double().mean()
    assert 0.1 < fixed < 0.9
    ways = [bounds.crown(net, star, forms, part=part) for part in (1, 7)]
    monkeypatch.setattr(bounds, "touched", lambda layers, mask: nn.Sequential(*layers)(mask[None].double())[0] < np.inf)
    ways.append(bounds.crown(net, star, forms))
    for other, lower in ways:
        assert (lower - low).abs().max() < 1e-12
        for one, two in zip(known, other):
            assert all((a - b).abs().max() < 1e-12 for a, b in zip(one, two))


def test_crown_of_a_set_without_predicates_is_the_network():
    net, star = small_net(0), stars.box(torch.full((1, 4, 4), 0.5), torch.zeros(0, 1, 4, 4))
    scores = net(star.images)[0]
    assert torch.equal(verdicts.by_crown(net, star, scores.argmax(0)), torch.ones(4, 4, dtype=torch.long))
    assert not verdicts.by_crown(net, star, scores.argmin(0)).any()


def test_crown_proves_on_the_canvas_of_mnist():
    """59,136 scores: all leads as dense forms would need 25 GB. No proof is false, and pixels out of reach are sure."""
    net, image = stars.lifted(scenes.network("average", "mnist", 1)), torch.zeros(1, 64, 84)
    image[0, :2, :2] = 1.0
    net[0].weight *= 50
    star = verdicts.darkened(image, 4, 1.0)
    scores = net(star.at(torch.linspace(0, 1, 21)[:, None]))
    proved = verdicts.by_crown(net, star, scores[0].argmax(0)) == 1
    assert not (proved & (scores.argmax(1) != scores[0].argmax(0)).any(0)).any()
    assert 0.8 < proved.double().mean() < 1 and proved[40:].all()


# Soundness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("depth", [2, 3])
def test_no_point_leaves_an_enclosure_or_contradicts_a_proof(pool, depth):
    for seed in range(3):
        net, star = small_net(seed, pool, depth=depth), small_set(seed, 4)
        scores, reference = net(points(star)), reference_of(net, star)
        broken = verdicts.refuted(net, star, reference, torch.ones(4, 4, dtype=torch.bool), generator=torch.Generator())
        enclosures = [bounds.intervals(net, star)]
        judged = [verdicts.by_ranges(*enclosures[0], reference)]
        if pool is nn.AvgPool2d:
            zonotope = bounds.zonotope(net, star)
            enclosures.append(stars.ranges(zonotope))
            judged += [verdicts.by_margins(zonotope, reference), verdicts.by_crown(net, star, reference)]
            for (low, high), relu in zip(
                bounds.crown(net, star)[0], [i for i, m in enumerate(net) if isinstance(m, nn.ReLU)]
            ):
                inside = nn.Sequential(*list(net)[:relu])(points(star))
                assert (low <= inside.amin(0) + 1e-9).all() and (high >= inside.amax(0) - 1e-9).all()
        for share, rule in product((0.0, 0.5, 1.0), stars.RULES):
            out = stars.reach(net, star, share, rule, torch.Generator().manual_seed(seed))
            enclosures.append(stars.ranges(out))
            judged += [verdict_by(method, out, reference) for method in METHODS]
        for low, high in enclosures:
            assert (scores.amin(0) - low).min() > -1e-9 and (high - scores.amax(0)).min() > -1e-9
        for verdict in judged:
            assert contradictions(verdict, scores, reference) == 0 and not (broken & (verdict == 1)).any()


def test_a_star_holds_its_points():
    """Every output is a point of the star: predicates that satisfy all rows can be read off the activations."""
    net, star = small_net(0), small_set(0)
    out = stars.reach(net, star)
    ends = np.stack([out.lower.numpy(), out.upper.numpy()], axis=1)
    equal = out.images[1:].flatten(1).T.numpy()
    for value in net(points(star, 5))[:8]:
        goal = (value - out.images[0]).flatten().numpy()
        done = linprog(np.zeros(out.predicates), out.A, out.d + 1e-9, equal, goal, bounds=ends, method="highs")
        assert done.status == 0


# The exact line -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
def test_the_line_is_the_network_on_a_grid(pool):
    for seed in range(4):
        net, star = small_net(seed, pool, depth=3), small_set(seed, 1, 1.0)
        knots, scores = bounds.line(net, star)
        grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
        real = net(star.at(grid[:, None]))
        left = (torch.searchsorted(knots, grid, right=True) - 1).clamp(0, len(knots) - 2)
        share = ((grid - knots[left]) / (knots[left + 1] - knots[left])).view(-1, 1, 1, 1)
        assert (torch.lerp(scores[left], scores[left + 1], share) - real).abs().max() < 1e-9
        reference = reference_of(net, star)
        exact = verdicts.by_line(net, star, reference)
        flips = (real.argmax(1) != reference).any(0)
        assert torch.equal(exact == 1, ~flips)
        assert not ((exact == -1) & (real.argmax(1) == reference).any(0)).any()
        out = stars.reach(net, star)
        for verdict in (verdict_by(method, out, reference) for method in METHODS):
            assert not ((verdict == 1) & (exact != 1)).any() and not ((verdict == -1) & (exact != -1)).any()


def test_between_two_knots_a_class_may_win():
    """Three straight scores: the first leads at neither end, and in the middle; then never."""
    net = stars.lifted(nn.Sequential(nn.Conv2d(1, 3, 1)))
    net[0].weight[:, 0, 0, 0], net[0].bias[:] = torch.tensor([0.0, -1, 1]).double(), torch.tensor([0.6, 1, 0]).double()
    star, first = stars.box(torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1)), torch.zeros(1, 1, dtype=torch.long)
    assert verdicts.by_line(net, star, first).item() == 0
    net[0].bias[0] = 0.4
    assert verdicts.by_line(net, star, first).item() == -1


def test_where_no_neuron_bends_the_star_is_exact():
    net, star = small_net(3), small_set(3, 1, 1e-6)
    out, reference = stars.reach(net, star), reference_of(net, star)
    assert out.predicates == 1
    assert torch.equal(verdicts.by_margins(out, reference), verdicts.by_line(net, star, reference))


# Metamorphic relations ----------------------------------------------------------------------------


def test_verdicts_know_no_scale_no_shift_and_no_order_of_classes():
    net, star = small_net(6), small_set(6)
    reference = reference_of(net, star)

    def verdict(net, reference):
        return verdicts.by_programs(stars.reach(net, star), reference)

    plain_one = verdict(net, reference)
    for scale, shift in ((1.0, 3.0), (2.0, 0.0)):
        other = small_net(6)
        other[-1].weight.mul_(scale)
        other[-1].bias.mul_(scale).add_(shift)
        assert torch.equal(verdict(other, reference), plain_one)
    order = torch.tensor([2, 0, 1])
    other = small_net(6)
    other[-1].weight.copy_(net[-1].weight[:, order])
    other[-1].bias.copy_(net[-1].bias[order])
    assert torch.equal(verdict(other, order.argsort()[reference]), plain_one)


def test_a_larger_set_never_proves_more_and_its_halves_never_fewer():
    for seed in range(3):
        net, star = small_net(seed), small_set(seed, 3)
        reference = reference_of(net, star)
        proved = [
            verdicts.by_programs(stars.reach(net, replace(star, upper=star.upper * size)), reference) == 1
            for size in (0.3, 0.6, 1.0)
        ]
        assert not (proved[1] & ~proved[0]).any() and not (proved[2] & ~proved[1]).any()
        halves = []
        for side in ("lower", "upper"):
            ends = getattr(star, side).clone()
            ends[0] = star.upper[0] / 2
            halves.append(verdicts.by_programs(stars.reach(net, replace(star, **{side: ends})), reference) == 1)
        assert not (proved[2] & ~(halves[0] & halves[1])).any()
        fewer = stars.box(star.images[0], star.images[1:3], 0.0, 0.6)
        assert not (proved[2] & (verdicts.by_programs(stars.reach(net, fewer), reference) != 1)).any()


def test_known_bounds_tighten_and_stay_sound():
    net, star = small_net(7, depth=3), small_set(7)
    known, _ = bounds.crown(net, star)
    scores = net(points(star))
    for share in (0.0, 1.0):
        low, high = stars.ranges(stars.reach(net, star, share, known=known))
        assert (scores.amin(0) >= low - 1e-9).all() and (scores.amax(0) <= high + 1e-9).all()


# Measures, sets, scenes ---------------------------------------------------------------------------


def test_measures_of_a_map_by_hand():
    reference = torch.tensor([[0, 0, 1], [0, 1, 1], [2, 2, 2]])
    verdict = torch.tensor([[1, 0, 1], [1, 1, -1], [1, 1, 1]])
    attacked = torch.zeros(3, 3, dtype=torch.bool)
    attacked[0, 1] = attacked[1, 2] = attacked[0, 0] = attacked[2, 2] = True
    found = verdicts.measures(verdict, reference, attacked)
    by_hand = {"rv": 7 / 9, "unknown": 1 / 9, "rs": 0.5, "iou": (2 / 3 + 2 / 3 + 1) / 3, "collateral": 1.0}
    by_hand["iou_tool"] = (2 / 3 + 2 / 3 + 1) / 5
    assert found == pytest.approx(by_hand)
    whole = verdicts.measures(torch.ones(3, 3), reference, attacked)
    assert (whole["rv"], whole["iou"], whole["iou_tool"], whole["rs"]) == (1, 1, 1, 0)
    assert np.isnan(verdicts.measures(verdict, reference, attacked & False)["rs"])


def test_verdicts_of_ranges_by_hand():
    """Three classes at three pixels: sure, lost, open; a tie is open."""
    low = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])[:, None]
    high = torch.tensor([[2.0, 1.0, 1.0, 2.0], [0.5, 3.0, 1.0, 1.0], [0.5, 1.0, 0.5, 0.5]])[:, None]
    assert verdicts.by_ranges(low, high, torch.zeros(1, 4, dtype=torch.long)).tolist() == [[1, -1, 0, 0]]


def test_the_darkened_sets_are_what_they_say():
    x = scenes.scenes("digits", "test", 1)[0][0]
    bright = (x.flatten() > verdicts.BRIGHT).nonzero()[:7, 0]
    joint, small, own = (verdicts.darkened(x, 7, size, kind) for size, kind in ((1, True), (0.1, True), (0.5, False)))
    assert (joint.predicates, small.predicates, own.predicates) == (1, 1, 7)
    none = torch.zeros(1, 1)
    assert torch.equal(joint.at(none)[0], x.double()) and float(joint.lower) == 0 and float(small.lower) == 0.9
    dark = joint.at(none + 1)[0].flatten()
    assert (dark[bright] == 0).all() and int((dark != x.flatten()).sum()) == 7
    half = own.at(torch.full((1, 7), 0.5))[0].flatten()
    assert torch.allclose(half[bright], x.flatten()[bright].double() / 2)


def test_where_nothing_is_bright_nothing_is_attacked():
    net, x = small_net(0), torch.full((1, 4, 4), 0.3)
    star = verdicts.darkened(x, 5, 1.0)
    assert star.predicates == 0
    reference = net(x[None].double()).argmax(1)[0]
    verdict = verdicts.by_programs(stars.reach(net, star), reference)
    assert (verdict == 1).all()
    assert np.isnan(verdicts.measures(verdict, reference, torch.zeros(4, 4, dtype=torch.bool))["rs"])


def test_scenes_keep_their_rules():
    x, y = scenes.scenes("digits", "test", 60)
    again, _ = scenes.scenes("digits", "test", 60)
    assert torch.equal(x, again) and x.shape == (60, 1, 16, 24) and x.min() >= 0 and x.max() <= 1
    assert set(y.unique().tolist()) <= set(range(6)) and torch.equal(y < 5, x[:, 0] >= scenes.INK)
    train, test = (digits_of("digits", split)[0].flatten(1) for split in scenes.SPLITS)
    assert len(train) + len(test) == 901 and not (train[:, None] == test[None]).all(2).any()
    digits = digits_of("digits", "test")[0]
    for scene in x[:10, 0]:  # every scene is two or three whole digits in boxes that do not meet
        left = scene.clone()
        found = 0
        for i, j in product(range(9), range(17)):
            box = scene[i : i + 8, j : j + 8]
            if (box == digits).flatten(1).all(1).any():
                left[i : i + 8, j : j + 8] = 0
                found += 1
        assert 2 <= found <= 3 and left.abs().sum() == 0


def test_networks_answer_for_every_pixel():
    for dataset in CANVAS:
        height, width, digits = CANVAS[dataset]
        for name in scenes.NETWORKS:
            net = scenes.network(name, dataset, 1)
            with torch.no_grad():
                assert net(torch.zeros(1, 1, height, width)).shape == (1, digits + 1, height, width)
            relus = sum(isinstance(layer, nn.ReLU) for layer in net)
            assert relus == (2 if dataset == "digits" else 3) + 2 * (name == "deep")


def test_training_learns_and_repeats():
    first, second = (scenes.trained("average", "digits", 1, 40, 30, 8) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)
    net = scenes.network("average", "digits", 1)
    x, y = scenes.scenes("digits", "train", 40)
    with torch.no_grad():
        before = scenes.iou(net(x).argmax(1), y, 6)
        net.load_state_dict(first)
        assert scenes.iou(net(x).argmax(1), y, 6) > before


# Bad input ----------------------------------------------------------------------------------------

IMAGE = torch.full((1, 4, 4), 0.9)


def not_finite(layer: nn.Module) -> nn.Module:
    layer.weight.data.fill_(float("nan"))
    return layer


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: stars.reach(small_net(), small_set(), 1.5), r"share must lie in \[0, 1\], not 1.5"),
        (lambda: stars.reach(small_net(), small_set(), float("nan")), r"share must lie in \[0, 1\], not nan"),
        (
            lambda: stars.reach(small_net(), small_set(), 0.5, "areas"),
            "unknown rule 'areas'; choose one of random, area",
        ),
        (lambda: stars.box(IMAGE, IMAGE[None], 1.0, 0.0), "lower <= upper, not 1.0 and 0.0"),
        (lambda: stars.box(IMAGE / 0, IMAGE[None]), "finite images"),
        (lambda: verdicts.darkened(IMAGE, 0, 1.0), "at least one pixel must be attacked, not 0"),
        (lambda: verdicts.darkened(IMAGE, 1, 0.0), "size must be above 0 and at most 1, not 0.0"),
        (lambda: verdicts.darkened(IMAGE, 1, 1.1), "size must be above 0 and at most 1, not 1.1"),
        (lambda: verdicts.darkened(IMAGE[0], 1, 1.0), r"must be \(1, H, W\) with values in \[0, 1\], not \(4, 4\)"),
        (lambda: verdicts.darkened(IMAGE * 2, 1, 1.0), r"values in \[0, 1\]"),
        (lambda: verdicts.darkened(IMAGE * float("nan"), 1, 1.0), r"values in \[0, 1\]"),
        (lambda: stars.lifted(nn.Sequential(nn.Linear(2, 2))), "no rule for the layer Linear; stars pass Conv2d"),
        (
            lambda: stars.lifted(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))),
            "pads by 'reflect'",
        ),
        (lambda: stars.lifted(nn.Sequential(nn.BatchNorm2d(1))), r"eval mode.*net\.eval\(\)"),
        (lambda: stars.lifted(nn.Sequential(not_finite(nn.Conv2d(1, 1, 1)))), "Conv2d has weights that are not finite"),
        (lambda: stars.lifted(nn.Sequential(nn.MaxPool2d(3, 1, 1))), "max pooling must have a square window"),
        (lambda: bounds.line(small_net(), small_set()), "for one predicate, not 3"),
        (lambda: bounds.zonotope(small_net(0, nn.MaxPool2d), small_set()), "know no max pooling"),
        (lambda: bounds.crown(small_net(0, nn.MaxPool2d), small_set()), "knows no max pooling"),
        (
            lambda: verdicts.refuted(small_net(), stars.reach(small_net(), small_set()), IMAGE[0], IMAGE[0]),
            "without rows",
        ),
        (lambda: scenes.scenes("digits", "test", 0), "at least one scene must be asked for, not 0"),
        (lambda: scenes.scenes("m2nist", "test", 1), "unknown dataset 'm2nist'; choose one of digits, mnist"),
        (lambda: scenes.scenes("digits", "val", 1), "unknown split 'val'; choose one of train, test"),
        (lambda: scenes.network("wide", "digits", 1), "unknown network 'wide'; choose one of average, maximum"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_a_canvas_that_pooling_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="5x4 images cannot be pooled by 2 without a rest"):
        stars.max_pool(nn.MaxPool2d(2), stars.box(torch.zeros(1, 5, 4), torch.ones(1, 1, 5, 4)))


def test_too_large_a_star_ends_in_one_line():
    with pytest.raises(MemoryError, match=r"a star of \d+ predicates needs .* GB, more than 1e-06"):
        stars.reach(small_net(), small_set(), memory=1e-6)


def test_the_callers_tensors_and_network_are_left_alone():
    net, star = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), small_set()
    before = star.images.clone()
    out = stars.reach(stars.lifted(net), star)
    assert torch.equal(star.images, before) and star.counts == {} and out.images.dtype == torch.float64
    assert net[0].weight.dtype == torch.float32 and net[0].weight.requires_grad


# Witnesses from elsewhere, where they are installed -----------------------------------------------


def test_marabou_denies_no_proof():
    """A complete verifier on ten small networks: no wrong proof, and a star with programs misses little."""
    core = pytest.importorskip("maraboupy.MarabouCore")
    answers = []
    for seed in range(10):
        net, star = small_net(seed, classes=2), small_set(seed, 3, 0.3)
        reference = reference_of(net, star)
        proved = verdicts.by_programs(stars.reach(net, star), reference) == 1
        for i, j in product(range(4), range(4)):
            holds = marabou(core, net, star, int(reference[i, j]), i, j)
            assert holds or not proved[i, j], "Marabou has a point against a proof"
            answers.append((holds, bool(proved[i, j])))
    assert len(answers) == 160 and 0 < sum(holds for holds, _ in answers) < 160
    assert sum(holds and not proved for holds, proved in answers) <= 8


def marabou(core, net, star, own, i, j) -> bool:
    """Does the reference lead at pixel (i, j) everywhere? The query by hand: a variable for every value."""
    query, count = core.InputQuery(), star.predicates
    forms = star.images.flatten(1).T  # value = constant + sum over variables
    variables = list(range(count))
    total = [count]
    ends = [(float(low), float(high)) for low, high in zip(star.lower, star.upper)]
    equations, relus = [], []
    shape = star.images.shape[1:]

    def fresh(form, used):
        new = total[0]
        total[0] += 1
        ends.append((-1e3, 1e3))
        equations.append((form, used, new))
        return new

    for layer in net:
        if isinstance(layer, nn.ReLU):
            outs = []
            for form in forms:
                x = fresh(form, variables)
                y = total[0]
                total[0] += 1
                ends.append((0.0, 1e3))
                relus.append((x, y))
                outs.append(y)
            variables = outs
            forms = torch.cat([torch.zeros(len(outs), 1), torch.eye(len(outs))], 1).double()
        else:
            images = forms.T.reshape(-1, *shape)
            images = torch.cat([layer(images[:1]), stars.linear(layer, images[1:])])
            shape = images.shape[1:]
            forms = images.flatten(1).T
    place = i * shape[2] + j
    score = forms.view(shape[0], -1, forms.shape[1])[:, place]
    lead = fresh(score[own] - score[1 - own], variables)
    ends[lead] = (-1e3, 0.0)  # is there a point where it does not lead?
    query.setNumberOfVariables(total[0])
    for variable, (low, high) in enumerate(ends):
        query.setLowerBound(variable, low)
        query.setUpperBound(variable, high)
    for form, used, new in equations:
        equation = core.Equation()
        for weight, variable in zip(form[1:].tolist(), used):
            if weight:
                equation.addAddend(weight, variable)
        equation.addAddend(-1.0, new)
        equation.setScalar(-float(form[0]))
        query.addEquation(equation)
    for x, y in relus:
        core.addReluConstraint(query, x, y)
    options = core.Options()
    options._verbosity = 0
    answer, *_ = core.solve(query, options, "")
    return answer == "unsat"


def test_bound_propagation_agrees():
    """Intervals to rounding; CROWN, whose lower slopes may differ, closely."""
    library = pytest.importorskip("bound_propagation")
    net, star = small_net(1), small_set(1)
    dense, shape = [], star.images.shape[1:]
    first = nn.Linear(star.predicates, shape.numel()).double()
    first.weight.data[:], first.bias.data[:] = star.images[1:].flatten(1).T, star.images[0].flatten()
    dense.append(first)
    for layer in net:
        if isinstance(layer, nn.ReLU):
            dense.append(nn.ReLU())
            continue
        unit = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
        after = layer(torch.zeros(1, *shape, dtype=torch.float64))
        matrix = nn.Linear(shape.numel(), after[0].numel()).double()
        matrix.weight.data[:], matrix.bias.data[:] = stars.linear(layer, unit).flatten(1).T, after.flatten()
        dense.append(matrix)
        shape = after.shape[1:]
    fused = []  # neighbouring linear layers as one, as CROWN there starts from them
    for layer in dense:
        if fused and isinstance(layer, nn.Linear) and isinstance(fused[-1], nn.Linear):
            one = nn.Linear(fused[-1].in_features, layer.out_features).double()
            one.weight.data[:] = layer.weight @ fused[-1].weight
            one.bias.data[:] = layer.weight @ fused[-1].bias + layer.bias
            fused[-1] = one
        else:
            fused.append(layer)
    model = library.BoundModelFactory().build(nn.Sequential(*fused))
    box = library.HyperRectangle(star.lower[None], star.upper[None])
    forms = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    theirs = model.crown(box).concretize().lower[0].detach()
    ours = bounds.crown(net, star, csr_array(forms.flatten(1).numpy()))[1]
    assert (ours - theirs).abs().max() < 0.025, float((ours - theirs).abs().max())
    low, high = stars.ranges(stars.affine(net[0], star))
    interval = (
        library.BoundModelFactory()
        .build(nn.Sequential(*fused[1:]))
        .ibp(library.HyperRectangle(low.flatten()[None], high.flatten()[None]))
    )
    mine = bounds.intervals(
        net[1:], stars.box((low + high) / 2, torch.diag(((high - low) / 2).flatten()).view(-1, *low.shape), -1.0, 1.0)
    )
    # Neighbouring linear layers are one there and two here: theirs is within ours.
    assert (mine[0].flatten() <= interval.lower[0].detach() + 1e-12).all()


def test_a_mask_of_numbers_is_a_mask():
    verdict, reference = torch.tensor([[1, 0], [1, 1]]), torch.zeros(2, 2, dtype=torch.long)
    marks = torch.tensor([[True, False], [False, False]])
    assert verdicts.measures(verdict, reference, marks.long()) == verdicts.measures(verdict, reference, marks)


def test_the_exact_line_of_one_point_is_the_network():
    net = small_net()
    dark = torch.zeros(1, 4, 4)
    for star in (verdicts.darkened(dark, 3, 1.0), stars.box(dark, torch.ones(1, 1, 4, 4), 0.5, 0.5)):
        point = net(star.at(star.lower[None]))[0]
        best = point.argmax(0)
        assert (verdicts.by_line(net, star, best) == 1).all()
        assert (verdicts.by_line(net, star, (best + 1) % len(point)) == -1).all()
    with pytest.raises(ValueError, match="for one predicate, not 3"):
        verdicts.by_line(net, small_set(), reference_of(net, small_set()))
