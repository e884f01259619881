"""Apple's GPU, which no machine here has, by a device that only says it is one."""

import pytest
import torch
from fake_mps import MPS, FakeMps, OnMps
from tiny import TINY

import nclib as nc
from nclib.measures import views as making
from nclib.training import epochs


@pytest.fixture
def mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for module in (epochs, making):
        monkeypatch.setattr(module, "Generator", lambda device: torch.Generator())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FakeMps():
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def test_the_fake_knows_no_float64_and_no_mixing(mps):
    x = torch.rand(3, 4).to("mps")
    assert isinstance(x, OnMps) and (x + 1).device == MPS and type((x + 1).cpu()) is torch.Tensor
    for double in (lambda: x.double(), lambda: x.to(torch.float64), lambda: torch.zeros(2, device="mps").double()):
        with pytest.raises(TypeError, match="doesn't support float64"):
            double()
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.rand(3, 4)


def test_mps_is_taken_where_it_is_asked_for_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = nc.choose(device="mps")
    assert chosen.device.type == "mps" and chosen.dtype == torch.float32 and "not tried on mps" in chosen.reason
    assert nc.choose(device="mps", precision="bfloat16").dtype == torch.bfloat16  # which its autocast knows
    assert nc.choose().device.type != "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'mps' asked for, but torch finds 0 such; choose another, or cpu"):
        nc.choose(device="mps")


@pytest.mark.parametrize("training", ["standard", "adversarial", "trades"])
def test_training_and_measuring_on_mps_are_those_of_the_cpu(mps, tmp_path, training):
    recipe = nc.Recipe(**TINY | dict(epochs=1), training=training)
    run, same = (nc.fit(recipe, tmp_path / device, device) for device in ("mps", "cpu"))
    assert all(isinstance(p, OnMps) for p in run.model.parameters())
    weights = zip(run.model.state_dict().values(), same.model.state_dict().values())
    assert all(torch.allclose(a.cpu(), b, rtol=1e-4, atol=1e-5) for a, b in weights)
    found, expected = run.history, same.history
    lasting = expected.measure != "seconds"
    assert found[lasting].value.tolist() == pytest.approx(expected[lasting].value.tolist(), rel=1e-2, abs=1e-3)


def test_attacks_measures_and_heads_on_mps(mps):
    torch.manual_seed(0)
    model, data = nc.build("preactresnet8", (1, 8, 8), 10, (0.3,), (0.4,), 4).eval(), nc.load("digits", 4, 3)
    there = nc.build("preactresnet8", (1, 8, 8), 10, (0.3,), (0.4,), 4).eval()
    there.load_state_dict(model.state_dict())
    there = there.to("mps")
    x, y = data.test
    x_there = x.to("mps")
    for attack in (nc.pgd, nc.apgd, nc.square):
        found = attack(there, x_there, y.to("mps"), epsilon=0.1)
        assert isinstance(found, OnMps) and float((found.cpu() - x).abs().max()) <= 0.1 + 1e-6
    assert nc.accuracy(there, x_there, y.to("mps")) == nc.accuracy(model, x, y)
    assert 0 <= nc.robust_accuracy(there, x_there, y.to("mps"), epsilon=0.05, steps=2) <= 1
    seen = nc.views(there, data, epsilon=0.1, split="test", names=["clean", "sign"])
    one, other = (
        nc.propagate(there, seen),
        nc.propagate(model, [nc.View(v.name, v.images.cpu(), v.labels.cpu()) for v in seen]),
    )
    assert one.value.tolist() == pytest.approx(other.value.tolist(), rel=1e-4, abs=1e-6)
    assert len(nc.collapse(there, seen))
    h = nc.features(there, x_there)
    found = nc.measure(h, y.to("mps"), there.head.weight, there.head.bias)
    assert found == pytest.approx(nc.measure(h.cpu(), y, model.head.weight, model.head.bias), rel=1e-6)
    means = nc.class_means(h, y.to("mps"))
    assert torch.isfinite(nc.leap_matrix(h, y.to("mps"), means)).all()
    assert nc.ncc_head(there, "features", means)(x_there).argmax(1).device == MPS
    assert nc.minimal_epsilon(there, x_there[:2], y[:2].to("mps"), halvings=2, steps=1).shape == (2,)
    for measure in (nc.cosines, nc.equinorm, nc.equiangle):
        assert torch.isfinite(measure(there.head.weight)).all()
    assert nc.simplex_gap(there.head.weight, there.head.weight) > 0


def test_statistics_of_ones_own_data_are_measured_on_the_cpu(mps):
    data = nc.dataset((torch.rand(12, 1, 8, 8), torch.arange(12) % 3))
    assert data.to("mps").mean == pytest.approx(data.mean, rel=1e-6)
