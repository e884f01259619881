"""The smallest budget that fools a network, against closed forms and through a training."""

import math

import pytest
import torch
from tiny import fit
from torch import nn

import nclib as nc
from nclib.measures import boundary as boundaries

MOST, HALVINGS = 0.5, 8


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
    found = nc.minimal_epsilon(model, x, y, MOST, norm, steps=20, halvings=HALVINGS)
    inside = exact < 0.3
    assert inside.sum() > 10
    assert torch.allclose(found[inside], exact[inside], atol=2 * MOST / 2**HALVINGS)


def test_wrong_images_are_at_zero_and_those_out_of_reach_at_the_most(case):
    model, x, y, _ = case
    found = nc.minimal_epsilon(model, x, 1 - y, MOST)
    assert (found == 0).all()
    assert (nc.minimal_epsilon(model, x, y, 1e-6) == torch.tensor(1e-6)).all()


@pytest.mark.parametrize(
    "change, told",
    [({"most": 0}, "most must be above 0, not 0"), ({"most": 0.1, "norm": "l1"}, "unknown norm 'l1'; choose one of")],
)
def test_bad_budgets_are_named(case, change, told):
    model, x, y, _ = case
    with pytest.raises(ValueError, match=told):
        nc.minimal_epsilon(model, x, y, **change)


def test_through_a_training_it_is_the_median_of_the_first_test_images_and_measured_once(tmp_path, monkeypatch):
    run = fit(tmp_path)
    found = nc.boundary(run, most=0.4, steps=2, per_class=3)
    assert list(found.epoch) == run.epochs and set(found.measure) == {"minimal_epsilon"} and set(found.split) == {"test"}
    x, y = run.data.test
    some = torch.cat([(y == c).nonzero()[:3, 0] for c in range(10)])
    last = nc.minimal_epsilon(run.model, nc.pixels(x[some]), y[some], 0.4, steps=2).median()
    assert math.isclose(found.value.iloc[-1], float(last), rel_tol=1e-6)
    monkeypatch.setattr(boundaries, "minimal_epsilon", None)  # what is kept is not measured again
    assert nc.boundary(run, most=0.4, steps=2, per_class=3).equals(found)
    with pytest.raises(TypeError):
        nc.boundary(run, most=0.3, steps=2, per_class=3)
