"""What a GPU asks of the library, as far as a machine without one can tell."""

import pytest
import torch
from torch import nn

import nclib as nc
from nclib.compute import choose, full_precision
from nclib.neighbours import finite, spectrum
from nclib.training import epochs

NEWER = pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="switches of torch 2.9")


# float32 ------------------------------------------------------------------------------------------


@pytest.fixture
def backends():
    """torch's switches, which stand as they come when the test is over."""
    b = torch.backends
    yield b
    b.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for switch in (b, b.cudnn, b.cuda.matmul, b.mkldnn.matmul, b.mkldnn.conv):
        switch.fp32_precision = "none"


def answers() -> dict:
    """How every switch stands, older and newer; "refused" where torch does not tell."""
    b = torch.backends
    asked = {
        "convolutions": lambda: b.cudnn.allow_tf32,
        "products": lambda: b.cuda.matmul.allow_tf32,
        "float32": torch.get_float32_matmul_precision,
    }
    newer = {"all": b, "cudnn": b.cudnn, "conv": b.cudnn.conv, "rnn": b.cudnn.rnn, "matmul": b.cuda.matmul}
    newer |= {"CPU conv": b.mkldnn.conv, "CPU rnn": b.mkldnn.rnn, "CPU matmul": b.mkldnn.matmul}
    asked |= {name: lambda switch=switch: switch.fp32_precision for name, switch in newer.items()}
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except RuntimeError:
            found[name] = "refused"
    return found


@NEWER
@pytest.mark.parametrize(
    "user",
    [
        lambda b: None,
        lambda b: setattr(b.cuda.matmul, "allow_tf32", True),
        lambda b: setattr(b.cudnn, "allow_tf32", False),
        lambda b: torch.set_float32_matmul_precision("high"),
        lambda b: torch.set_float32_matmul_precision("medium"),
        lambda b: setattr(b, "fp32_precision", "tf32"),
        lambda b: setattr(b, "fp32_precision", "bf16"),
        lambda b: setattr(b.cudnn, "fp32_precision", "tf32"),
        lambda b: setattr(b.cudnn.conv, "fp32_precision", "ieee"),
        lambda b: setattr(b.cuda.matmul, "fp32_precision", "tf32"),
        lambda b: setattr(b.mkldnn.matmul, "fp32_precision", "bf16"),
        lambda b: setattr(b.mkldnn.conv, "fp32_precision", "bf16"),
    ],
)
def test_float32_is_float32_whatever_was_set_before_and_by_which_switch(user, backends):
    user(backends)
    before = answers()
    with full_precision(), full_precision():
        assert set(answers().values()) <= {False, "highest", "ieee", "none"}
    assert answers() == before


def test_an_error_puts_the_switches_back(backends):
    before = answers()
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert answers() == before


# Devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, device", [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_gpu_that_is_not_there_is_named(count, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=f"'{device}' asked for, but torch finds {count} such; choose another"):
        choose("float32", device)


def test_a_gpu_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("float32", "cuda:1").device == torch.device("cuda:1")


def test_a_precision_that_training_does_not_know_is_named():
    with pytest.raises(ValueError, match="unknown precision 'float16'; choose one of auto, float32, bfloat16"):
        choose("float16", "cpu")


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(training="adversarial", attack_batchnorm="train"),
        dict(training="adversarial", norm="l2"),
        dict(training="trades"),
        *(dict(loss=loss) for loss in ("smoothing", "focal", "squared")),
        *(dict(head=head) for head in ("sphere", "rows", "decayed", "simplex")),
    ],
)
def test_all_of_a_training_step_is_where_the_network_is(options):
    """On torch's device of shapes alone: a tensor made elsewhere meets it, and is refused."""
    recipe, data = nc.Recipe(steps=2, **options), nc.load("digits", per_class=2).to("meta")
    model = epochs.network(recipe, data).to("meta").train()
    loss, attacked = epochs.batch_loss(model, recipe, *data.train, None)
    loss.backward()
    epochs.sgd(model, recipe).step()
    assert loss.is_meta and attacked.is_meta and all(p.grad.is_meta for p in model.parameters() if p.requires_grad)


# Randomness and gradients -------------------------------------------------------------------------


def test_a_new_network_moves_no_random_state_of_any_device(monkeypatch):
    seeded, data, before = [], nc.load("digits", per_class=2), torch.random.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    epochs.network(nc.Recipe(), data)
    spectrum.mlp(data.shape, 10, 8)
    finite.mlp([64, 8, 10], seed=0)
    assert not seeded and torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("training", ["adversarial", "trades"])
def test_no_pass_of_a_step_forgets_its_gradient(training):
    """Autocast remembers a weight as it was first cast, and before torch 2.11 without its graph, if made so."""
    recipe, data, seen = nc.Recipe(training=training, steps=2), nc.load("digits", per_class=2), []
    model = epochs.network(recipe, data)
    model.head.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    with torch.no_grad():
        nc.pgd(model, *data.train, epsilon=0.1, steps=1, loss="kl")
    epochs.batch_loss(model, recipe, *data.train, torch.Generator().manual_seed(0))
    assert len(seen) > 4 and all(seen)


def test_labels_need_not_lie_where_the_images_do():
    """A list stands for labels on another device: both are brought to the images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.rand(3, 1, 2, 2), [0, 1, 0]
    assert nc.minimal_epsilon(model, x, y, halvings=1, steps=1).shape == (3,)
    assert nc.attack("GradientSignAttack", model, x, y, eps=0.1).shape == x.shape
