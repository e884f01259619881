"""The loop: what a step costs, and what the options change."""

import math

import numpy as np
import pytest
import torch
from tiny import fit, weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nclib as nc
from nclib.compute import choose
from nclib.training import epochs
from nclib.training.recipe import DECAYED, Recipe

# What a step costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("training, forwards, units", [("standard", 1, 3), ("adversarial", 11, 23), ("trades", 13, 27)])
def test_no_work_is_wasted(training, forwards, units):
    """Forward-units of one step: a forward pass is 1, a backward to the input 1, one to input and weights 2.

    Counted in multiply-adds of convolutions and matrix products, so a backward that went to the weights during the
    attack would show. A training pass does not need the gradient of its own input: one stem less for each.
    """
    recipe = Recipe(training=training)
    data = nc.load("digits", per_class=2)
    model = epochs.network(recipe, data).train()
    x, y = data.train
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as bare, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as stem, torch.no_grad():
        model.stem(x)
    calls.clear()
    with FlopCounterMode(display=False) as counter:
        loss, _ = epochs.batch_loss(model, recipe, x, y, torch.Generator().manual_seed(0))
        loss.backward()
    trained = 2 if training == "trades" else 1
    assert len(calls) == forwards
    assert counter.get_total_flops() == units * bare.get_total_flops() - trained * stem.get_total_flops()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("training", ["standard", "adversarial", "trades"])
def test_every_weight_learns_in_low_precision(training):
    """The attack's passes run under the same autocast as the update: no cached, detached weight may reach it."""
    recipe = Recipe(training=training, steps=2)
    data = nc.load("digits", per_class=2)
    model = epochs.network(recipe, data).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = epochs.batch_loss(model, recipe, *data.train, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# What the options change --------------------------------------------------------------------------


def modes_in_a_step(**options):
    recipe = Recipe(steps=2, **options)
    data = nc.load("digits", per_class=2)
    model = epochs.network(recipe, data)
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append(model.training))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    epochs.train_epoch(model, optimizer, recipe, data.train, choose("float32", "cpu"), 0)
    return seen


def test_batch_norm_mode_during_the_attack():
    assert modes_in_a_step(training="adversarial") == [False, False, True]
    assert modes_in_a_step(training="adversarial", attack_batchnorm="train") == [True, True, True]
    assert modes_in_a_step(training="trades") == [False, False, False, True, True]
    assert modes_in_a_step(training="trades", attack_batchnorm="train") == [True, True, True, True, True]
    assert modes_in_a_step(training="trades", trades_batchnorm="published") == [False] * 5
    released = dict(trades_batchnorm="published", attack_batchnorm="train")
    assert modes_in_a_step(training="trades", **released) == [False] * 5


def test_published_trades_never_trains_its_batch_norm(tmp_path):
    published, fixed = (fit(tmp_path, training="trades", trades_batchnorm=b) for b in ("published", "fixed"))
    for name, tensor in weights(published).items():
        if "running_mean" in name:
            assert torch.equal(tensor, torch.zeros_like(tensor)) and weights(fixed)[name].abs().max() > 0.01
        if "running_var" in name:
            assert torch.equal(tensor, torch.ones_like(tensor)) and (weights(fixed)[name] - 1).abs().max() > 0.01


def test_statistics_averaged_anew(tmp_path):
    plain, again = (fit(tmp_path, training="adversarial", reestimate=r) for r in (False, True))
    a, b = weights(plain), weights(again)
    for name in a:
        assert torch.equal(a[name], b[name]) != ("running" in name or "tracked" in name), name
    x, _ = nc.load("digits", per_class=10).train
    h = again.model.stem(again.model.normalize(x))  # what enters the first batch norm
    torch.testing.assert_close(b["block1.bn1.running_mean"], h.mean((0, 2, 3)))
    torch.testing.assert_close(b["block1.bn1.running_var"], h.var((0, 2, 3)))
    # The batches are of one size: a short last one would count too much.
    model = epochs.network(Recipe(), nc.load("digits"))
    images, before = nc.load("digits").train.images[:720], [m.training for m in model.modules()]
    epochs.reestimate_statistics(model, images, batch=500)
    h = model.stem(model.normalize(images)).mean((0, 2, 3))
    torch.testing.assert_close(model.block1.bn1.running_mean, h)
    assert [m.training for m in model.modules()] == before and model.block1.bn1.momentum == 0.1


def test_learning_rate_falls_at_a_quarter_and_at_three_eighths(tmp_path, monkeypatch):
    rates, step = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: rates.append(self.param_groups[0]["lr"]) or step(self, *a)
    )
    fit(tmp_path, epochs=16, batch=100)
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.01] * 2 + [0.001] * 10)
    paper = Recipe(epochs=400)
    assert [epochs.learning_rate(paper, e) for e in (99, 100, 149, 150)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_double_precision_stays_double():
    """Logits are cast up to single precision, never down: golden trainings rest on it."""
    recipe = Recipe(training="trades", steps=1)
    data = nc.load("digits", per_class=2)
    model = epochs.network(recipe, data).double()
    loss, x_adv = epochs.batch_loss(model, recipe, data.train.images.double(), data.train.labels, torch.Generator())
    assert loss.dtype == x_adv.dtype == torch.float64


def test_losses_meet_cross_entropy_where_they_must():
    logits, y = torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 5
    entropy = torch.nn.functional.cross_entropy(logits, y)
    for options in (dict(loss="ce"), dict(loss="focal", gamma=0.0), dict(loss="smoothing", smoothing=0.0)):
        torch.testing.assert_close(epochs.objective(Recipe(**options), logits, y), entropy)
    at_target = 3.0 * torch.nn.functional.one_hot(y, 5)
    assert epochs.objective(Recipe(loss="squared", target=3.0), at_target, y) == 0
    assert epochs.objective(Recipe(loss="squared"), torch.zeros(7, 5), y) == 0.5


@pytest.mark.parametrize("head", ["sphere", "rows"])
def test_rows_of_a_normalised_head_stay_of_length_one_and_a_killed_run_goes_on(tmp_path, head):
    run = fit(tmp_path, head=head, temperature=5.0, weight_decay=0.0)
    for model in (run.model, run.at(0), run.at(1)):
        torch.testing.assert_close(model.head.weight.norm(dim=1), torch.ones(10))
    x = run.data.test.images
    if head == "sphere":
        h = nc.features(run.model, x)
        torch.testing.assert_close(h.norm(dim=1), torch.full((len(h),), 5.0))
        assert run.model.head.bias is None and run.model(x).abs().max() <= 5 + 1e-5


def test_a_simplex_head_stands_still_while_features_learn(tmp_path):
    run = fit(tmp_path, head="simplex", training="adversarial")
    before, after = run.at(0).head, run.model.head
    assert nc.simplex_gap(after.weight, after.weight) < 1e-6 and after.bias is None
    torch.testing.assert_close(after.weight.norm(dim=1), torch.ones(10))
    assert torch.equal(before.weight, after.weight) and not torch.equal(run.at(0).stem.weight, run.model.stem.weight)
    other = epochs.network(run.recipe.but(seed=2), run.data).head.weight
    assert not torch.allclose(other, after.weight, atol=0.1)


@pytest.mark.parametrize("mirror, sides", [(False, (16, 24)), (True, (24, 16))])
def test_moved_images_are_windows_of_the_padded_ones(mirror, sides):
    """Every window within an eighth of a side comes up, and no other, in as many mirrored forms as asked for."""
    x = (torch.arange(2 * sides[0] * sides[1]) + 1.0).view(1, 2, *sides)
    reach = sides[0] // 8
    padded, seen = torch.nn.functional.pad(x[0], [reach] * 4), set()
    windows = {}
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            window = padded[:, row : row + sides[0], column : column + sides[1]]
            windows[window.numpy().tobytes()] = row, column, False
            windows[window.flip(2).contiguous().numpy().tobytes()] = row, column, True
    many = epochs.moved(x.expand(2000, -1, -1, -1), torch.Generator().manual_seed(0), mirror)
    for image in many:
        seen.add(windows[image.contiguous().numpy().tobytes()])
    assert len(seen) == (2 * reach + 1) ** 2 * (2 if mirror else 1) and {flip for *_, flip in seen} <= {False, mirror}
    again = epochs.moved(x.expand(2000, -1, -1, -1), torch.Generator().manual_seed(0), mirror)
    assert torch.equal(again, many)


@pytest.mark.parametrize("augmentation", ["shift", "flip"])
def test_augmentation_changes_what_is_trained_on_and_nothing_else(tmp_path, monkeypatch, augmentation):
    asked = []
    real = epochs.moved
    monkeypatch.setattr(epochs, "moved", lambda *a, **k: asked.append(k["mirror"]) or real(*a, **k))
    run = fit(tmp_path, augmentation=augmentation)
    count = len(asked)
    assert count and set(asked) == {augmentation == "flip"}
    nc.history(run), nc.features(run.model, run.data.train.images)
    assert len(asked) == count and torch.equal(run.data.train.images, fit(tmp_path).data.train.images)
    assert not torch.equal(run.model.head.weight, fit(tmp_path).model.head.weight)


@pytest.mark.parametrize("head", DECAYED)
def test_a_decayed_head_pays_for_rows_and_features(head):
    recipe, data = Recipe(head=head, head_decay=0.5), nc.load("digits", per_class=2)
    model = epochs.network(recipe, data).eval()
    plain, _ = epochs.batch_loss(model, recipe.but(head_decay=0.0), *data.train, None)
    loss, _ = epochs.batch_loss(model, recipe, *data.train, None)
    squares = model.head.weight.square().sum() + model[:-1](data.train.images).square().sum()
    torch.testing.assert_close(loss - plain, 0.25 * squares)


def test_a_drop_comes_where_its_share_says_in_decimal():
    """0.55 times 100 is 55 and a bit in binary."""
    for share, epochs_, at in ((0.55, 100, 55), (0.07, 100, 7), (0.14, 50, 7), (0.25, 60, 15), (0.375, 100, 37.5)):
        recipe = Recipe(drops=(share,), epochs=epochs_, lr=1.0)
        rates = [epochs.learning_rate(recipe, epoch) for epoch in range(epochs_)]
        assert rates.index(min(rates)) == math.ceil(at)


def test_every_kind_of_batch_norm_is_averaged_anew():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    images = torch.rand(40, 1, 8, 8)
    epochs.reestimate_statistics(model, images, batch=10)
    torch.testing.assert_close(model[2].running_mean, model[1](images.flatten(1)).mean(0).detach())
    assert model[2].momentum == 0.1
