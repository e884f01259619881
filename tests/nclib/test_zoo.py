"""The attack zoo, and witnesses for the lean PGD: advertorch and foolbox."""

import copy
import warnings

import pytest
import torch
from conftest import accuracy
from torch import nn

import nclib as nc
from nclib.attacks.zoo import TARGETED, zoo

WITNESS = {"linf": ("LinfPGDAttack", 0.2, 0.05), "l2": ("L2PGDAttack", 1.0, 0.25)}
QUICK = {  # options that keep the slow ones short, and budgets at which the weak ones bite
    "CarliniWagnerL2Attack": dict(max_iterations=40, binary_search_steps=4, initial_const=1, learning_rate=0.05),
    "ElasticNetL1Attack": dict(max_iterations=40, binary_search_steps=4, initial_const=10, learning_rate=0.1),
    "GradientAttack": dict(eps=2.0),
    "FGM": dict(eps=2.0),
    "L1PGDAttack": dict(eps=12, eps_iter=2.0),
    "L2BasicIterativeAttack": dict(eps=1.5, eps_iter=0.3),
    "L2MomentumIterativeAttack": dict(eps=1.5, eps_iter=0.1),
    "L2PGDAttack": dict(eps=1.5, eps_iter=0.3),
    "LBFGSAttack": dict(max_iterations=10, batch_size=24),
    "LinfSPSAAttack": dict(eps=0.3, lr=0.1, nb_iter=10, nb_sample=64),
    "LocalSearchAttack": dict(round_ub=30, p=10.0),
    "SinglePixelAttack": dict(),
    "SparseL1DescentAttack": dict(eps=12.0, eps_iter=2.0),
    **{name: dict(n_iter=10) for name in ("FABAttack", "L1FABAttack", "L2FABAttack", "LinfFABAttack")},
}


@pytest.fixture(scope="module")
def net(trained):
    """The small network with 100 test images and their labels."""
    return trained, *nc.load("digits", test_per_class=10).test


# Witnesses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", WITNESS)
def test_lean_pgd_agrees_with_advertorch(net, norm, targeted):
    """Bit for bit in l-infinity. In l2 in float64: in float32 ten steps amplify single roundings to about 1e-6."""
    model, x, y = net
    if norm == "l2":
        model, x = copy.deepcopy(model).double(), x.double()
    name, epsilon, step = WITNESS[norm]
    goal = (y + 1) % 10 if targeted else y
    options = dict(eps=epsilon, eps_iter=step, nb_iter=10, rand_init=False, targeted=targeted)
    theirs = nc.attack(name, model, x, goal, **options)
    ours = nc.pgd(model, x, goal, epsilon, step, 10, norm, targeted, start=None)
    moved = (ours - x).flatten(1).norm(dim=1)
    assert (moved > 0.9 * epsilon).all()
    if norm == "linf":
        assert torch.equal(ours, theirs)
    else:
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", WITNESS)
def test_lean_pgd_agrees_with_foolbox(net, norm):
    """On images away from 0 and 1 for l2, where foolbox clips to the box after the ball and we before."""
    with warnings.catch_warnings(action="ignore"):
        foolbox = pytest.importorskip("foolbox")
    model, x, y = net
    _, epsilon, step = WITNESS[norm]
    if norm == "l2":
        epsilon, step = 0.25, 0.06
        x = 0.3 + 0.4 * x
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    witness = kind(rel_stepsize=step / epsilon, steps=10, random_start=False)
    theirs = witness(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=[epsilon])[1][0]
    ours = nc.pgd(model, x, y, epsilon, step, 10, norm, start=None)
    if norm == "l2":
        assert (ours - x).abs().max() > 0.05 and ours.min() > 0 and ours.max() < 1
    # Their step is rel_stepsize * epsilon, which rounds otherwise than ours.
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


# The adapter --------------------------------------------------------------------------------------


@pytest.mark.expensive
@pytest.mark.parametrize("name", zoo())
def test_every_attack_of_the_zoo_runs_and_bites(net, name):
    model, x, y = net[0], net[1][:24], net[2][:24]
    torch.manual_seed(0)
    targeted = name in TARGETED
    goal = (y + 1) % 10 if targeted else y
    x_adv = nc.attack(name, model, x, goal, targeted, **QUICK.get(name, {}))
    assert x_adv.shape == x.shape and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert accuracy(model, x_adv, y) < accuracy(model, x, y)
    if targeted:
        assert accuracy(model, x_adv, goal) > 0.5


def fragile(training: bool):
    model = nc.build("preactresnet8", (1, 8, 8), 10, (0.3,), (0.4,), 4)
    model(torch.rand(8, 1, 8, 8)).sum().backward()
    model.train(training)
    model.block1.train(not training)
    model.stem.weight.requires_grad_(False)
    return model


def state(model):
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return modes, flags, grads, [v.clone() for v in model.state_dict().values()]


def assert_same(before, after):
    assert before[:2] == after[:2]
    for was, now in zip(before[2] + before[3], after[2] + after[3]):
        assert (was is None and now is None) or torch.equal(was, now)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_and_the_input_are_handed_back_as_they_came(training):
    model, x, y = fragile(training), torch.rand(6, 1, 8, 8), torch.arange(6)
    before, kept = state(model), x.clone()
    with torch.no_grad():
        x_adv = nc.attack("LinfPGDAttack", model, x, y, nb_iter=2, eps=0.1)
    assert_same(before, state(model))
    assert torch.equal(x, kept) and x_adv.data_ptr() != x.data_ptr() and not torch.equal(x_adv, x)


def test_flags_and_modes_come_back_when_the_attack_raises():
    model, calls = fragile(True), []
    before = state(model)

    def breaks(*_):
        calls.append(any(p.requires_grad for p in model.parameters()))
        if len(calls) == 3:
            raise RuntimeError("broken")

    model.head.register_forward_hook(breaks)
    with pytest.raises(RuntimeError, match="broken"):
        nc.attack("LinfPGDAttack", model, torch.rand(4, 1, 8, 8), torch.arange(4), eps=0.1)
    assert calls == [False] * 3  # frozen meanwhile
    assert_same(before, state(model))


def test_the_mode_asked_for_is_used():
    model, seen = fragile(False), []
    model.head.register_forward_hook(lambda *_: seen.append(model.training and model.block1.training))
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    nc.attack("LinfPGDAttack", model, x, y, nb_iter=2)
    assert not any(seen)
    nc.attack("LinfPGDAttack", model, x, y, nb_iter=2, mode="train")
    assert seen[-1] and not model.training


def test_convenience(net):
    """Whole numbers as budgets, no labels, channels last, plain functions, and batches that change nothing."""
    model, x, y = net
    options = dict(eps_iter=0.5, nb_iter=3, rand_init=False)
    whole = nc.attack("L2PGDAttack", model, x, y, eps=1, **options)
    assert torch.equal(whole, nc.attack("L2PGDAttack", model, x, y, eps=1.0, **options))
    last = nc.attack("L2PGDAttack", model, x.contiguous(memory_format=torch.channels_last), y, eps=1.0, **options)
    torch.testing.assert_close(last, whole, atol=1e-5, rtol=0)
    parts = nc.attack("L2PGDAttack", model, x, y, eps=1.0, batch=30, **options)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    guessed = nc.attack("L2PGDAttack", model, x, eps=1.0, **options)
    assert torch.equal(guessed, nc.attack("L2PGDAttack", model, x, model(x).argmax(1), eps=1.0, **options))
    for wrapped in (lambda v: model(v), lambda v: (model(v), None)):
        assert torch.equal(nc.attack("L2PGDAttack", wrapped, x, y, eps=1.0, **options), whole)
    double = nc.attack("L2PGDAttack", copy.deepcopy(model).double(), x, y, eps=1.0, **options)
    torch.testing.assert_close(double.float(), whole, atol=1e-4, rtol=0)


def test_mistakes_are_named_in_one_line(net):
    model, x, y = net
    with pytest.raises(ValueError, match=r"unknown attack 'PGD'; choose one of .*DDNL2Attack.*LinfPGDAttack"):
        nc.attack("PGD", model, x, y)
    with pytest.raises(ValueError, match=r"LinfPGDAttack has no option 'epsilon'; choose from .*eps, nb_iter"):
        nc.attack("LinfPGDAttack", model, x, y, epsilon=0.1)
    with pytest.raises(ValueError, match="needs targets"):
        nc.attack("LinfPGDAttack", model, x, targeted=True)
    with pytest.raises(ValueError, match="LinfFABAttack knows targeted=False only"):
        nc.attack("LinfFABAttack", model, x, y, targeted=True)
    with pytest.raises(ValueError, match="JSMA knows targeted=True only"):
        nc.attack("JSMA", model, x, y)


def test_small_memory_attacks_get_small_batches():
    sizes = []

    class Linear(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1)[:, :3]

    x = torch.rand(20, 1, 3, 3)
    nc.attack("JSMA", Linear(), x, torch.arange(20) % 3, targeted=True, gamma=0.3)
    assert sizes[0] == 20 and max(sizes[1:]) == 8
