"""Auto-PGD and Square: the ball, the algorithm's own rules, and AutoAttack as a witness."""

import pytest
import torch
from conftest import accuracy
from torch import Generator, nn

import nclib as nc
from nclib.attacks import robust
from nclib.attacks.apgd import checkpoints
from nclib.attacks.pgd import project

BALLS = [("linf", 0.2), ("l2", 1.0)]


def seeded(seed=0) -> Generator:
    return Generator().manual_seed(seed)


def sized(delta, norm):
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).double().norm(dim=1)


@pytest.fixture(scope="module")
def net(trained):
    return trained, *nc.load("digits", test_per_class=8).test


@pytest.mark.parametrize("norm, epsilon", BALLS)
@pytest.mark.parametrize("attack", ["apgd", "targeted", "square"])
def test_the_ball_and_the_box_are_kept_and_the_model_is_left_alone(net, norm, epsilon, attack):
    model, x, y = net
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.train()
    if attack == "square":
        x_adv = nc.square(model, x, y, epsilon, queries=100, norm=norm, generator=seeded())
    else:
        targets = (y + 1) % 10 if attack == "targeted" else None
        x_adv = nc.apgd(model, x, y, epsilon, steps=10, norm=norm, targets=targets, generator=seeded())
    assert model.training and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    model.eval()
    assert sized(x_adv - x, norm).max() <= epsilon + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    assert accuracy(model, x_adv, y) < accuracy(model, x, y) - 0.2
    again = nc.apgd(model, x, y, epsilon, steps=10, norm=norm, generator=seeded(1))
    assert torch.equal(again, nc.apgd(model, x, y, epsilon, steps=10, norm=norm, generator=seeded(1)))


def test_checkpoints_are_the_papers():
    """22 % of all steps, then spans that shrink by 3 % of all, down to 6 %."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99, 105]


@pytest.mark.parametrize("norm, epsilon", BALLS)
def test_on_a_linear_model_the_best_point_is_the_closed_forms(norm, epsilon):
    """The margin of a linear model is largest where the gradient's corner, or direction, meets the ball."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.full((5, 1, 8, 8), 0.5), torch.zeros(5, dtype=torch.int64)
    nn.init.constant_(model[1].bias[:1], 100.0)  # nothing is fooled, so every step is made
    w = model[1].weight[1] - model[1].weight[0]
    best = epsilon * (w.sign() if norm == "linf" else w / w.norm())
    x_adv = nc.apgd(model, x, y, epsilon, steps=60, norm=norm, loss="margin", generator=seeded())
    gained = ((x_adv - x).flatten(1) @ w).mean()
    torch.testing.assert_close(gained, best @ w, rtol=2e-3, atol=0)


def test_the_step_is_halved_where_a_larger_one_overshoots():
    """A narrow peak within a wide ball: a fixed step of a quarter of the ball circles it."""
    peak = torch.full((1, 1, 8, 8), 0.5) + 0.03 * torch.randn(1, 1, 8, 8, generator=seeded())
    model = lambda a: torch.stack([(a - peak).square().flatten(1).sum(1) + 1, torch.zeros(len(a))], 1)  # noqa: E731
    x, y = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    loss = lambda a: float(model(a)[:, 0].mean() - 1)  # noqa: E731
    fixed = loss(nc.pgd(model, x, y, epsilon=0.3, steps=60, loss="margin", generator=seeded()))
    adaptive = loss(nc.apgd(model, x, y, epsilon=0.3, steps=60, loss="margin", generator=seeded()))
    assert adaptive < fixed / 20


@pytest.mark.parametrize("norm, epsilon", BALLS)
def test_it_begins_where_it_is_told(net, norm, epsilon):
    """A point of a larger ball is brought into the smaller one before the first step."""
    model, x, y = net
    far = nc.apgd(model, x, y, 3 * epsilon, steps=5, norm=norm, generator=seeded())
    assert sized(far - x, norm).max() > epsilon + 0.1
    near = nc.apgd(model, x, y, epsilon, steps=0, norm=norm, start=far)
    torch.testing.assert_close(near, x + project(far - x, x, epsilon, norm))
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        nc.apgd(model, x, y, epsilon, steps=1, norm=norm, start=far + 2)
    with pytest.raises(ValueError, match="start must be one point for each image"):
        nc.apgd(model, x, y, epsilon, steps=1, norm=norm, start=far[:, :, :1, :1])


@pytest.mark.parametrize("found, rounds", [([0], 1), ([7, 0], 2), ([7, 7, 7, 7], 3), ([5], 1), ([300], 1)])
def test_another_round_follows_where_the_blind_attack_finds_what_gradients_missed(monkeypatch, found, rounds):
    """At most three rounds, and none after less than one in fifty of the images that gradients had left."""
    count, goals = iter(found), []

    def blind(model, x, y, **options):
        many = next(count)
        return torch.cat([1 - x[:many], x[many:]])

    def climb(model, x, y, epsilon=0.1, steps=0, targets=None, **options):
        goals.append(targets)
        return x

    monkeypatch.setattr(robust, "square", blind)
    monkeypatch.setattr(robust, "apgd", climb)
    x, y = torch.ones(300, 1, 1, 1), torch.ones(300, dtype=torch.int64)
    stood = nc.robust_mask(lambda a: torch.cat([1 - a, a], 1).flatten(1), x, y, 0.1)
    assert 300 - stood.sum() == sum(found[:rounds])
    assert len(goals) == 1 + rounds * len(robust.APPROACH) and goals[0] is None


def test_more_queries_never_give_a_point_back(net):
    model, x, y = net
    few, many = (nc.square(model, x, y, 0.2, queries=q, generator=seeded()) for q in (1, 150))
    assert accuracy(model, many, y) <= accuracy(model, few, y) < accuracy(model, x, y) + 1e-9


@pytest.mark.parametrize("norm, epsilon", BALLS)
def test_robust_accuracy_is_not_above_autoattacks(net, norm, epsilon):
    """The authors' own code as the witness, at a budget that leaves something standing."""
    import pyautoattack

    model, x, y = net
    x, y, epsilon = x[:40], y[:40], epsilon / 3
    ours = nc.robust_accuracy(model, x, y, epsilon, norm, generator=seeded())
    few = ["apgd-ce", "apgd-t", "square"]  # all four, and all images, are for benchmarks/robust.py
    rival = pyautoattack.AutoAttack(
        model, norm=norm.replace("l", "L"), eps=epsilon, seed=0, attacks=few, version="custom"
    )
    rival.square.n_queries = 1000
    theirs = accuracy(model, rival.run_standard_evaluation(x, y)[0], y)
    assert theirs > 0.05 and ours <= theirs + 1 / len(y)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_of_two_classes_robust_accuracy_is_that_of_the_closed_form(scale):
    """The range of two logits is their margin: a search on logits of one range would see nothing fall or rise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = 0.3 + 0.4 * torch.rand(200, 1, 4, 4)
    w = model[1].weight[0] - model[1].weight[1]
    model[1].bias.data = torch.stack([torch.zeros(()), (x.flatten(1) @ w).mean()]).detach()
    y, lead = model(x).argmax(1), (x.flatten(1) @ w - (x.flatten(1) @ w).mean()).abs()
    exact = float((lead > 0.03 * w.abs().sum()).float().mean())
    assert 0.2 < exact < 0.8
    scaled = lambda z: scale * model(z)  # noqa: E731
    assert nc.robust_accuracy(scaled, x, y, 0.03, steps=10, generator=seeded()) == pytest.approx(exact, abs=0.006)
    attacks = {
        "pgd": lambda: nc.pgd(scaled, x, y, 0.03, loss="dlr", generator=seeded()),
        "apgd": lambda: nc.apgd(scaled, x, y, 0.03, loss="dlr", generator=seeded()),
        "targeted": lambda: nc.apgd(scaled, x, y, 0.03, targets=1 - y, generator=seeded()),
    }
    for name, attack in attacks.items():
        assert nc.accuracy(scaled, attack(), y) == pytest.approx(exact, abs=0.011), name


@pytest.mark.parametrize("seed", [10, 19, 34])
def test_a_fooling_point_that_was_met_is_returned(seed):
    """Also where the step is halved, and the search goes back to its best point, just then."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8)).requires_grad_(False)
    model[1].weight.mul_(12)
    x = torch.rand(500, 1, 4, 4)
    y, targets, fooled = model(x).argmax(1), model(x).topk(4, 1).indices[:, 3], torch.zeros(500, dtype=torch.bool)

    def watched(points):
        logits = model(points)
        image = torch.cdist(points.detach().flatten(1), x.flatten(1)).argmin(1)  # balls of 0.1 are far apart
        fooled[image[logits.argmax(1) != y[image]]] = True
        return logits

    found = nc.apgd(watched, x, y, 0.1, steps=20, norm="l2", targets=targets, generator=seeded(seed))
    assert fooled.any() and torch.equal(model(found).argmax(1) != y, fooled)


def test_under_inference_mode_the_answer_is_the_same(net):
    model, x, y = net
    usual = nc.robust_accuracy(model, x[:20], y[:20], 0.1, steps=3, targets=1, generator=seeded())
    with torch.inference_mode():
        made = x[:20] + 0, y[:20] + 0
        assert nc.robust_accuracy(model, *made, 0.1, steps=3, targets=1, generator=seeded()) == usual
