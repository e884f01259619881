"""Attacks: what pgd promises, and robustness numbers that saturation cannot fool."""

import math
from itertools import product

import pytest
import torch
from conftest import accuracy
from torch import Generator, nn

import nclib as nc
from nclib.attacks.pgd import project
from nclib.checks import STARTS
from nclib.losses import LOSSES, kl
from nclib.models import in_mode, statistics_kept

BALLS = [("linf", 0.2, 0.05), ("l2", 1.0, 0.25)]


@pytest.fixture(scope="module")
def net(trained):
    """The small network with 200 test images and their labels."""
    return trained, *nc.load("digits", test_per_class=20).test


def sized(x_adv, x, norm):
    delta = (x_adv - x).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.double().norm(dim=1)


def seeded(seed=0) -> Generator:
    return Generator().manual_seed(seed)


# The ball and the box ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm, epsilon, step", BALLS)
@pytest.mark.parametrize("loss, start", [pair for pair in product(LOSSES, STARTS) if pair != ("kl", None)])
def test_every_attack_stays_in_the_ball_and_in_the_box(net, norm, epsilon, step, loss, start):
    model, x, y = net
    x_adv = nc.pgd(model, x[:50], y[:50], epsilon, step, 5, norm, loss=loss, start=start, generator=seeded())
    size = sized(x_adv, x[:50], norm)
    assert size.max() <= epsilon + 1e-6
    right = model(x[:50]).argmax(1) == y[:50]  # DLR is flat where the label already comes third
    assert right.sum() > 40 and size[right].min() > step / 2
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("norm, epsilon, step", BALLS)
def test_every_loss_lowers_accuracy_and_targets_are_reached(net, norm, epsilon, step):
    model, x, y = net
    options = dict(epsilon=epsilon, step=step, norm=norm)
    clean = accuracy(model, x, y)
    assert clean > 0.9
    for loss in LOSSES:
        x_adv = nc.pgd(model, x, y, loss=loss, generator=seeded(), **options)
        assert accuracy(model, x_adv, y) < clean - 0.4, loss
    goal = (y + 1) % 10
    for loss, share in {"ce": 0.5, "margin": 0.5, "dlr": 0.1}.items():  # DLR's divisor works against a target
        x_adv = nc.pgd(model, x, goal, targeted=True, loss=loss, generator=seeded(), **options)
        assert accuracy(model, x_adv, goal) > accuracy(model, x, goal) + share, loss


@pytest.mark.parametrize("norm, epsilon, step", BALLS)
def test_epsilon_may_differ_by_sample(net, norm, epsilon, step):
    model, x, y = (part[:20] if torch.is_tensor(part) else part for part in net)
    budgets = torch.linspace(0, epsilon, 20)
    x_adv = nc.pgd(model, x, y, budgets, budgets / 4, norm=norm, generator=seeded())
    size = sized(x_adv, x, norm)
    assert (size <= budgets + 1e-6).all() and (size[1:] > 0.5 * budgets[1:]).all()
    assert torch.equal(x_adv[0], x[0])
    alone = nc.pgd(model, x[7:8], y[7:8], float(budgets[7]), float(budgets[7] / 4), norm=norm, start=None)
    among = nc.pgd(model, x, y, budgets, budgets / 4, norm=norm, start=None)[7:8]
    torch.testing.assert_close(among, alone, atol=1e-5, rtol=0)


def test_zero_epsilon_returns_the_input_itself(net):
    model, x, y = net
    for norm, _, _ in BALLS:
        assert nc.pgd(model, x, y, epsilon=0, norm=norm) is x
        assert nc.pgd(model, x, y, epsilon=0.0, norm=norm) is x
        assert torch.equal(nc.pgd(model, x, y, epsilon=torch.zeros(len(x)), norm=norm), x)


def test_projection_uses_the_whole_l2_budget_inside_the_box():
    x = torch.zeros(1, 1, 1, 2)
    delta = torch.tensor([[[[-3.0, 4.0]]]])
    assert torch.equal(project(delta, x, torch.tensor(0.5), "l2"), torch.tensor([[[[0.0, 0.5]]]]))
    assert torch.equal(project(delta, x, 0.5, "linf"), torch.tensor([[[[0.0, 0.5]]]]))
    inside = torch.tensor([[[[0.1, 0.2]]]])
    assert torch.equal(project(inside, x, 0.5, "l2"), inside)


def test_starts_are_distributed_as_they_say():
    x, flat = torch.full((4000, 1, 4, 4), 0.5), nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    y = torch.zeros(4000, dtype=torch.int64)

    def start(name, norm):
        return nc.pgd(flat, x, y, 0.3, steps=0, norm=norm, start=name, generator=seeded()) - x

    box = start("uniform", "linf").flatten()
    assert abs(box.mean()) < 0.003 and box.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    inside = start("uniform", "l2").flatten(1).norm(dim=1) / 0.3
    assert (inside**16).mean().item() == pytest.approx(0.5, abs=0.02)  # uniform in volume: radius^d is uniform
    assert (inside**16).std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    radial = start("radial", "l2").flatten(1).norm(dim=1) / 0.3
    assert radial.mean().item() == pytest.approx(0.5, abs=0.02)
    assert radial.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    assert start("gaussian", "linf").std().item() == pytest.approx(0.001, rel=0.02)
    assert torch.equal(start(None, "l2"), torch.zeros_like(x))


def test_senseless_attacks_are_refused(net):
    model, x, y = net
    for words, options in {
        "unknown norm 'l7'; choose one of linf, l2": dict(norm="l7"),
        "unknown loss 'hinge'": dict(loss="hinge"),
        "unknown start 'corner'": dict(start="corner"),
        "unknown mode 'sleep'": dict(mode="sleep"),
        "epsilon must be 0 or more": dict(epsilon=-0.1),
        "steps must be 0 or more": dict(steps=-1),
        "one per sample": dict(epsilon=torch.ones(3)),
        "choose a random start": dict(loss="kl", start=None),
    }.items():
        with pytest.raises(ValueError, match=words):
            nc.pgd(model, x, y, **options)
    with pytest.raises(ValueError, match="epsilon must be 0 or more"):
        nc.pgd(model, x, y, epsilon=math.nan)
    with pytest.raises(ValueError, match=r"x must be float pixels in \[0, 1\], not torch.uint8"):
        nc.pgd(model, x.mul(255).byte(), y)


# The model and the input are handed back as they came ---------------------------------------------


def state(model):
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return modes, flags, grads, {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(before, after):
    assert before[:2] == after[:2]
    for was, now in zip(before[2], after[2]):
        assert (was is None and now is None) or torch.equal(was, now)
    assert all(torch.equal(before[3][k], after[3][k]) for k in before[3])


def untrained(training: bool) -> nn.Sequential:
    """A network with mixed modes, mixed flags and some gradients."""
    torch.manual_seed(3)
    model = nc.build("preactresnet8", (1, 8, 8), 10, (0.3,), (0.4,), 4)
    model(torch.rand(8, 1, 8, 8)).sum().backward()
    model.train(training)
    model.block1.train(not training)
    model.stem.weight.requires_grad_(False)
    model.head.weight.grad = None
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("loss", ["ce", "kl"])
@pytest.mark.parametrize("mode", [None, "eval"])
def test_the_model_is_handed_back_as_it_came(training, loss, mode):
    model, x, y = untrained(training), torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    before, kept = state(model), x.clone()
    x_adv = nc.pgd(model, x, y, loss=loss, mode=mode)
    assert_same(before, state(model))
    assert torch.equal(x, kept) and not x.requires_grad and x.grad is None
    assert not x_adv.requires_grad and x_adv.data_ptr() != x.data_ptr()


def test_the_mode_asked_for_is_the_mode_used():
    model, x, y = untrained(False), torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    seen = []
    model.features.register_forward_hook(lambda m, *_: seen.append((m.training, model.block1.training)))
    nc.pgd(model, x, y, steps=3, mode=None)
    assert seen == [(False, True)] * 3
    seen.clear()
    nc.pgd(model, x, y, steps=3, mode="eval")
    assert seen == [(False, False)] * 3
    seen.clear()
    before = state(model)
    nc.pgd(model, x, y, steps=3, mode="train")
    assert seen == [(True, True)] * 3
    modes, flags, _, tensors = state(model)
    assert (modes, flags) == before[:2]
    counted = [k for k in tensors if k.endswith("num_batches_tracked")]
    assert counted and all(tensors[k] == before[3][k] + 3 for k in counted)  # its statistics have moved
    assert all(torch.equal(v, before[3][k]) for k, v in tensors.items() if "running" not in k and k not in counted)


def test_modes_come_back_after_an_error():
    model = untrained(True)
    before = state(model)
    model.head.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    for mode in (None, "eval"):
        with pytest.raises(RuntimeError, match="broken"):
            nc.pgd(model, torch.rand(4, 1, 8, 8), torch.arange(4), mode=mode)
        assert_same(before, state(model))


def test_a_plain_function_can_be_attacked():
    x, y = torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    weight = torch.randn(16, 3, dtype=torch.float64)
    x_adv = nc.pgd(lambda v: v.flatten(1) @ weight, x, y, 0.1, 0.1, 1, start=None, loss="margin", mode="eval")
    assert x_adv.dtype == torch.float64 and 0 < (x_adv - x).abs().max() <= 0.1 + 1e-9


def test_the_callers_context_does_not_matter(net):
    model, x, y = net
    options = dict(epsilon=0.2, step=0.05, start=None)
    plain = nc.pgd(model, x, y, **options)
    with torch.no_grad():
        assert torch.equal(nc.pgd(model, x, y, **options), plain)
        assert not torch.is_grad_enabled()
    asking = x.clone().requires_grad_()
    assert torch.equal(nc.pgd(model, asking, y, **options), plain) and asking.grad is None
    last = nc.pgd(model, x.contiguous(memory_format=torch.channels_last), y, **options)
    assert sized(last, plain, "linf").mean() < 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        low = nc.pgd(model, x, y, **options)
    assert low.dtype == torch.float32 and sized(low, x, "linf").max() <= 0.2 + 1e-6
    assert accuracy(model, low, y) <= accuracy(model, plain, y) + 0.05


def test_one_generator_one_result(net):
    model, x, y = net
    for norm, epsilon, step in BALLS:
        made = [nc.pgd(model, x, y, epsilon, step, 2, norm, generator=seeded(s)) for s in (1, 1, 2)]
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    nc.pgd(model, x, y, 0.1, generator=seeded())
    assert torch.equal(torch.rand(3), expected)  # the global random state is not drawn from


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pgd_on_cuda(net):
    model, x, y = net
    model, generator = nn.Sequential(model).to("cuda"), Generator("cuda").manual_seed(0)
    try:
        x_adv = nc.pgd(model, x.cuda(), y.cuda(), 0.2, 0.05, generator=generator)
        assert x_adv.is_cuda and sized(x_adv, x.cuda(), "linf").max() <= 0.2 + 1e-6
        assert accuracy(model, x_adv, y.cuda()) < 0.5
    finally:
        model.cpu()


# Losses -------------------------------------------------------------------------------------------


def test_losses_by_hand():
    logits, y = torch.tensor([[4.0, 1.0, 3.0], [0.0, 5.0, 1.0]]), torch.tensor([0, 2])
    torch.testing.assert_close(nc.margin(logits, y), torch.tensor([-1.0, 4.0]))
    torch.testing.assert_close(nc.dlr(logits, y), torch.tensor([-1 / 3, 4 / 5]))
    torch.testing.assert_close(nc.dlr(7 * logits, y), nc.dlr(logits, y))
    torch.testing.assert_close(nc.dlr(logits[:, :2], torch.tensor([0, 0])), torch.tensor([-3.0, 5.0]))
    p, q = torch.softmax(logits, 1), torch.softmax(logits.flip(1), 1)
    torch.testing.assert_close(kl(logits, logits.flip(1)), (q * (q / p).log()).sum(1))
    assert kl(logits, logits).abs().max() < 1e-6


# Robustness numbers that can be believed -----------------------------------------------------------


class Scaled(nn.Module):
    """A model with its logits multiplied: the same predictions, hence the same robustness."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


FACTORS = (1, 5, 20, 100)


@pytest.mark.expensive
@pytest.mark.parametrize("norm, epsilon", [("linf", 0.06), ("l2", 0.4)])
def test_robust_accuracy_does_not_see_the_scale_of_logits(net, norm, epsilon):
    model, x, y = net[0], net[1][::4], net[2][::4]
    found = [nc.robust_accuracy(Scaled(model, k), x, y, epsilon, norm, generator=seeded()) for k in FACTORS]
    assert 0.1 < found[0] < accuracy(model, x, y) - 0.1  # a budget at which something can move
    assert found == [found[0]] * len(FACTORS)


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.2), ("l2", 1.5)])
def test_plain_cross_entropy_does_see_it(net, norm, epsilon):
    """The trap that robust_accuracy avoids: the same network looks robust once its logits are large."""
    model, x, y = net
    fooled = []
    for k in FACTORS:
        network = Scaled(model, k)
        fooled.append(accuracy(network, nc.pgd(network, x, y, epsilon, epsilon / 4, norm=norm, start=None), y))
    assert fooled[0] < 0.1 and fooled[-1] > 0.4
    honest = nc.robust_accuracy(Scaled(model, 100), x, y, epsilon, norm, generator=seeded())
    assert honest <= fooled[0]


def test_l2_steps_do_not_underflow(net):
    """Squares of these gradients are 0 in float32, their direction is the same."""
    model, x, y = net
    options = dict(epsilon=1.0, step=0.25, norm="l2", loss="margin", start=None)
    plain = nc.pgd(model, x, y, **options)
    torch.testing.assert_close(nc.pgd(Scaled(model, 2.0**-100), x, y, **options), plain, atol=1e-5, rtol=0)


@pytest.mark.expensive
def test_robust_accuracy_is_the_worst_of_several_attacks(net):
    model, x, y = net[0], net[1][::4], net[2][::4]
    for norm, epsilon in (("linf", 0.06), ("l2", 0.4)):
        stood = nc.robust_mask(model, x, y, epsilon, norm, generator=seeded())
        assert stood.dtype == torch.bool and stood.shape == y.shape
        options = dict(epsilon=epsilon, step=epsilon / 8, steps=20, norm=norm)
        for loss in ("ce", "dlr", "margin"):
            x_adv = nc.pgd(model, x, y, loss=loss, generator=seeded(), **options)
            assert stood.float().mean() <= accuracy(model, x_adv, y) + 0.005, loss
        assert nc.robust_accuracy(model, x, y, epsilon, norm, generator=seeded()) == int(stood.sum()) / len(stood)
    assert nc.robust_accuracy(model, x, y, 0.0) == nc.accuracy(model, x, y)
    with pytest.raises(ValueError, match="no samples"):
        nc.robust_accuracy(model, x[:0], y[:0])


def test_robust_accuracy_leaves_the_model_alone_and_runs_under_no_grad():
    model, x, y = untrained(True), torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    before = state(model)
    with torch.no_grad():
        parts = nc.robust_mask(model, x, y, 0.1, steps=2, batch=5, generator=seeded())
    assert_same(before, state(model))
    assert parts.shape == (12,)


def test_accuracy_by_hand_and_in_batches(net):
    model, x, y = net
    assert nc.accuracy(lambda v: v, torch.eye(4), torch.tensor([0, 1, 0, 3])) == 0.75
    assert nc.accuracy(model, x, y, batch=30) == pytest.approx(accuracy(model, x, y))
    assert torch.is_grad_enabled()


# Noise ---------------------------------------------------------------------------------------------


def test_noise_has_the_size_it_says():
    x, epsilon = torch.full((64, 3, 16, 16), 0.5), 8 / 255
    sign, gaussian = nc.sign_noise(x, epsilon, seeded()) - x, nc.gaussian_noise(x, epsilon, seeded()) - x
    torch.testing.assert_close(sign.abs(), torch.full_like(x, epsilon))
    assert abs(sign.sign().mean()) < 0.02
    assert gaussian.std().item() == pytest.approx(epsilon, rel=0.02)
    sphere = nc.sphere_noise(x, 0.5, seeded()) - x
    torch.testing.assert_close(sphere.flatten(1).norm(dim=1), torch.full((64,), 0.5))
    for noise in (nc.sign_noise, nc.gaussian_noise, nc.sphere_noise):
        dark = noise(torch.zeros(8, 1, 4, 4), 0.7, seeded())
        assert dark.min() == 0 and 0 < dark.max() <= 1
        assert torch.equal(dark, noise(torch.zeros(8, 1, 4, 4), 0.7, seeded()))


def test_statistics_are_kept_where_that_is_asked_and_move_in_train_mode():
    model = nn.BatchNorm2d(2)
    with statistics_kept(model):
        model(torch.rand(4, 2, 3, 3))
        assert model.num_batches_tracked == 1
    assert model.num_batches_tracked == 0 and torch.equal(model.running_mean, torch.zeros(2))
    with in_mode(model.eval(), "train"):
        model(torch.rand(4, 2, 3, 3))
    assert model.num_batches_tracked == 1 and not model.training
