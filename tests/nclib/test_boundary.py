"""The smallest budget that fools a network, against closed forms and through a training."""

import copy
import math

import pytest
import torch
from tiny import fit
from torch import nn

import nclib as nc
from nclib.measures import boundary as boundaries


class Linear(nn.Module):
    """Two classes of ten pixels: logits (z, -z), z = w (x - 1/2) + b."""

    def __init__(self):
        super().__init__()
        self.w = torch.linspace(-1, 1, 10) + 0.05

    def forward(self, x):
        z = (x.flatten(1) - 0.5) @ self.w.to(x) + 0.2
        return torch.stack([z, -z, -100 * torch.ones_like(z)], dim=1)


@pytest.fixture
def case():
    model, x = Linear(), 0.5 + 0.1 * torch.rand(20, 1, 1, 10, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    return model, x, logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs() / 2


@pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2)])
def test_of_a_linear_rule_it_is_the_margin_over_the_dual_norm(case, norm, dual):
    """Of a linear rule the boundary is |z| / ||w|| away, in the dual norm, as long as the box does not bind."""
    model, x, y, z = case
    exact = z / model.w.norm(p=dual)
    found = nc.minimal_epsilon(model, x, y, norm, steps=20, halvings=10)
    inside = exact < 0.3
    assert inside.sum() > 10
    assert torch.allclose(found[inside], exact[inside], rtol=0.02)


def test_wrong_images_are_at_zero_and_those_that_nothing_fools_at_the_whole_box(case):
    model, x, y, _ = case
    assert (nc.minimal_epsilon(model, x, 1 - y) == 0).all()
    deaf = nn.Sequential(nn.Flatten(), nn.Linear(10, 2))
    nn.init.zeros_(deaf[1].weight)
    nn.init.zeros_(deaf[1].bias)
    zeros = torch.zeros(len(x), dtype=torch.long)
    assert (nc.minimal_epsilon(deaf, x, zeros) == 1).all()
    assert torch.allclose(nc.minimal_epsilon(deaf, x, zeros, "l2"), torch.tensor(10**0.5))


def test_a_bad_norm_or_number_of_steps_is_named(case):
    model, x, y, _ = case
    with pytest.raises(ValueError, match="unknown norm 'l1'; choose one of"):
        nc.minimal_epsilon(model, x, y, "l1")
    with pytest.raises(ValueError, match="steps must be 0 or more and whole, not -1"):
        nc.minimal_epsilon(model, x, y, steps=-1)


def test_through_a_training_it_is_the_median_of_the_first_test_images_and_measured_once(tmp_path, monkeypatch):
    run = fit(tmp_path)
    found = nc.boundary(run, steps=2, per_class=3)
    assert (
        list(found.epoch) == run.epochs and set(found.measure) == {"minimal_epsilon"} and set(found.split) == {"test"}
    )
    x, y = run.data.test
    some = torch.cat([(y == c).nonzero()[:3, 0] for c in range(10)])
    last = nc.minimal_epsilon(run.model, nc.pixels(x[some]), y[some], steps=2).median()
    assert math.isclose(found.value.iloc[-1], float(last), rel_tol=1e-6)
    monkeypatch.setattr(boundaries, "minimal_epsilon", None)  # what is kept is not measured again
    assert nc.boundary(run, steps=2, per_class=3).equals(found)
    with pytest.raises(TypeError):
        nc.boundary(run, steps=3, per_class=3)


def test_whatever_a_model_takes_and_answers_the_boundary_is_as_far(trained):
    x, y = nc.load("digits", test_per_class=1).test
    x = nc.pixels(x)
    usual = nc.minimal_epsilon(trained, x, y, halvings=3)
    assert torch.equal(nc.minimal_epsilon(lambda z: (trained(z), None), x, y, halvings=3), usual)
    double = copy.deepcopy(trained).double()
    torch.testing.assert_close(nc.minimal_epsilon(double, x, y, halvings=3).float(), usual, rtol=0.5, atol=0.01)


def test_the_second_loss_is_asked_only_where_it_can_still_find_less(trained, monkeypatch):
    """What each loss finds alone, the smaller counts; images that are wrong, or decided, are not attacked again."""
    x, y = nc.load("digits", test_per_class=3).test
    x, attacked = nc.pixels(x), []
    alone = []
    for loss in boundaries.LOSSES:
        with monkeypatch.context() as patch:
            patch.setattr(boundaries, "LOSSES", (loss,))
            alone.append(nc.minimal_epsilon(trained, x, y))
    pgd = boundaries.pgd
    monkeypatch.setattr(
        boundaries, "pgd", lambda model, x, *rest, **o: attacked.append(len(x)) or pgd(model, x, *rest, **o)
    )
    torch.testing.assert_close(nc.minimal_epsilon(trained, x, y), torch.stack(alone).amin(0))
    wrong = int((trained(x).argmax(1) != y).sum())
    assert attacked[:9] == [len(x) - wrong] * 9 and sum(attacked[9:]) < sum(attacked[:9])
    attacked.clear()
    assert (nc.minimal_epsilon(trained, x, (trained(x).argmax(1) + 1) % 10) == 0).all() and not attacked
