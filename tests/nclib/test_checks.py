"""What comes in: nothing that is not pixels, labels or logits gives a number, and what is gives the right one."""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from conftest import accuracy
from torch import Generator, nn

import nclib as nc
from nclib.checks import check_labels, check_logits

BALLS = [("linf", 0.2), ("l2", 1.0)]
MOVERS = {  # everything that changes images: each must refuse what are no pixels
    "pgd": lambda m, x, y: nc.pgd(m, x, y, epsilon=1e-9),
    "apgd": lambda m, x, y: nc.apgd(m, x, y, epsilon=1e-9),
    "square": lambda m, x, y: nc.square(m, x, y, epsilon=1e-9),
    "robust_accuracy": lambda m, x, y: nc.robust_accuracy(m, x, y, epsilon=1e-9),
    "zoo": lambda m, x, y: nc.attack("LinfPGDAttack", m, x, y, eps=1e-9, nb_iter=1),
    "sign_noise": lambda m, x, y: nc.sign_noise(x, 1e-9),
    "gaussian_noise": lambda m, x, y: nc.gaussian_noise(x, 1e-9),
    "sphere_noise": lambda m, x, y: nc.sphere_noise(x, 1e-9),
    "views": lambda m, x, y: nc.views(m, own(x, y), epsilon=1e-9, split="test"),
}
TAKERS = ("pgd", "apgd", "square", "robust_accuracy", "zoo", "views")  # of labels


def own(x, y):
    """Digits whose test split is something else."""
    from dataclasses import replace

    from nclib.data import Split

    return replace(nc.load("digits", per_class=2), test=Split(x, y))


@pytest.fixture(scope="module")
def net(trained):
    return trained, *nc.load("digits", test_per_class=4).test


@pytest.fixture(autouse=True)
def with_advertorch(request):
    if "zoo" in request.node.name and not find_spec("advertorch"):
        pytest.skip("no advertorch here")


@pytest.mark.parametrize("change", [lambda x: (x - 0.5) / 0.25, lambda x: 255 * x, lambda x: x - 0.01])
@pytest.mark.parametrize("name", MOVERS)
def test_pixels_outside_the_box_are_refused_and_not_attacked(net, name, change):
    model, x, y = net
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\].*nc.Normalize\(mean, std\)") as caught:
        MOVERS[name](model, change(x), y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MOVERS)
def test_pixels_that_are_no_number_are_refused(net, name):
    model, x, y = net
    x = x.clone()
    x[3, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="x of sample 3 is NaN or infinite"):
        MOVERS[name](model, x, y)


@pytest.mark.parametrize("change, words", [
    (lambda y: y[:, None], r"one per sample, of shape \(40,\), not \(40, 1\)"),
    (lambda y: y[:1], r"not \(1,\)"), (lambda y: torch.cat([y, y]), r"not \(80,\)"),
    (lambda y: y.float(), "labels must be integers, not torch.float32"), (lambda y: y > 3, "not torch.bool"),
    (lambda y: y - 10, "labels must be 0 or more, not -10"),
])  # fmt: skip
@pytest.mark.parametrize("name", [*TAKERS, "accuracy"])
def test_labels_that_are_none_are_refused(net, name, change, words):
    model, x, y = net
    takers = MOVERS | {"accuracy": nc.accuracy}
    with pytest.raises(ValueError, match=words):
        takers[name](model, x, change(y))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_the_same_labels(net, dtype):
    model, x, y = net
    for loss in ("ce", "margin", "dlr"):
        attacks = [
            nc.pgd(model, x, labels, loss=loss, generator=Generator().manual_seed(0)) for labels in (y, y.to(dtype))
        ]
        assert torch.equal(*attacks)
    assert nc.accuracy(model, x, y.to(dtype)) == nc.accuracy(model, x, y)
    assert torch.equal(check_labels(y.numpy(), 40), y)


def test_bytes_and_floats_are_one_accuracy(net):
    model, x, y = net
    assert nc.accuracy(model, (255 * x).to(torch.uint8), y) == nc.accuracy(model, (255 * x).to(torch.uint8) / 255, y)
    with pytest.raises(ValueError, match="no samples to classify"):
        nc.accuracy(model, x[:0], y[:0])


@pytest.mark.parametrize("norm, epsilon", BALLS)
def test_the_default_step_fits_the_budget(net, norm, epsilon):
    """A step of 2/255 whatever the budget would leave most of it unused."""
    model, x, y = net
    x_adv = nc.pgd(model, x, y, norm=norm, epsilon=epsilon, generator=Generator().manual_seed(0))
    same = nc.pgd(model, x, y, norm=norm, epsilon=epsilon, step=epsilon / 4, generator=Generator().manual_seed(0))
    assert torch.equal(x_adv, same) and nc.accuracy(model, x_adv, y) < 0.3


@dataclass
class Answer:
    logits: torch.Tensor


@pytest.mark.parametrize("wrap", [
    lambda z: (z, None), lambda z: [z], lambda z: {"logits": z}, lambda z: Answer(z), lambda z: z.double(),
])  # fmt: skip
def test_a_model_may_answer_with_a_tuple_a_dict_or_a_dataclass(net, wrap):
    model, x, y = net
    wrapped = lambda a: wrap(model(a))  # noqa: E731
    assert nc.accuracy(wrapped, x, y) == nc.accuracy(model, x, y)
    x_adv = nc.pgd(wrapped, x, y, start=None)
    torch.testing.assert_close(x_adv, nc.pgd(model, x, y, start=None))


@pytest.mark.parametrize("output, words", [
    (torch.zeros(4, 1), "two classes or more"), (torch.zeros(4), "two classes or more"),
    (torch.zeros(4, 3, 2), "two classes or more"), ("a word", "not with str"), ({"scores": 1}, "not with dict"),
])  # fmt: skip
def test_what_are_no_logits_is_refused(output, words):
    with pytest.raises(ValueError, match=words):
        check_logits(output)


def test_a_model_that_answers_nan_has_no_accuracy(net):
    model, x, y = net
    broken = lambda a: torch.where(torch.arange(len(a))[:, None] == 2, torch.nan, model(a))  # noqa: E731
    for ask in (nc.accuracy, nc.robust_accuracy):
        with pytest.raises(ValueError, match=r"the model's answer to x of sample 2 is NaN or infinite \(1 of 40\)"):
            ask(broken, x, y)


def test_a_gradient_that_is_nan_is_named(net):
    model, x, y = net
    rough = lambda a: model(a) + (a - a).abs().sqrt().sum((1, 2, 3))[:, None]  # the root has no slope at 0  # noqa: E731
    for attack in (nc.pgd, nc.apgd):
        for norm in ("linf", "l2"):
            with pytest.raises(ValueError, match="the gradient at x of sample 0 is NaN"):
                attack(rough, x, y, norm=norm)


def test_kl_has_a_gradient_however_far_apart_the_logits_lie(net):
    model, x, y = net
    for scale in (1, 100, 10_000):
        assert nc.pgd(lambda a, k=scale: k * model(a), x, y, loss="kl").isfinite().all()


def test_attacks_work_under_inference_mode_and_in_double_precision(net):
    model, x, y = net
    with torch.inference_mode():
        x_adv = nc.pgd(model, x * 1, y, epsilon=0.2, start=None)
    torch.testing.assert_close(x_adv, nc.pgd(model, x, y, epsilon=0.2, start=None))
    import copy

    double = copy.deepcopy(model).double()
    assert nc.pgd(double, x, y).dtype == torch.float64 and nc.accuracy(double, x, y) == nc.accuracy(model, x, y)
    assert len(nc.collapse(double, [nc.View("clean", x, y)]))


# What a robust accuracy may be believed of ----------------------------------------------------------


def believed(model, x, y, epsilon=0.2):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        value = nc.robust_accuracy(model, x, y, epsilon, generator=Generator().manual_seed(0))
    return value, [str(w.message) for w in told]


def test_a_sound_model_is_believed(net):
    value, told = believed(*net)
    assert not told and value < 0.3


def test_probabilities_randomness_and_missing_gradients_are_told(net):
    model, x, y = net
    value, (told,) = believed(lambda a: (5 * model(a)).softmax(1), x, y)
    assert "answers with probabilities" in told and value < 0.4
    _, told = believed(lambda a: model(a) + 1e-3 * torch.randn(len(a), 10), x, y)
    assert "answers at random" in told[0]
    _, told = believed(lambda a: model(a).detach() + 0 * a.sum(), x, y)
    assert "100% of the images have no gradient at all" in told[0]


def test_square_sees_through_rounded_logits(net):
    """A model whose logits are rounded has no gradient; its decisions are what they were."""
    model, x, y = net
    rounded = lambda a: (20 * model(a)).round() / 20 + 0 * a.sum()  # noqa: E731
    assert believed(rounded, x, y)[0] < 0.75 * accuracy(model, x, y)


def test_a_normalisation_is_a_layer(net):
    """How a student attacks a network that was trained on normalised images."""
    model, x, y = net
    inner = nn.Sequential(*list(model.children())[1:])
    mean, std = model.normalize.mean.flatten().tolist(), model.normalize.std.flatten().tolist()
    whole = nn.Sequential(nc.Normalize(mean, std), inner)
    torch.testing.assert_close(nc.pgd(whole, x, y, start=None), nc.pgd(model, x, y, start=None))


ATTACKS = {name: MOVERS[name] for name in ("pgd", "apgd", "square", "robust_accuracy")}


@pytest.mark.parametrize("name", ATTACKS)
def test_half_precision_is_refused_as_it_cannot_hold_a_perturbation(net, name):
    model, x, y = net
    from copy import deepcopy

    for half, images in ((deepcopy(model).bfloat16(), x), (lambda z: model(z.float()), x.half())):
        with pytest.raises(ValueError, match=r"cannot hold a small perturbation.*model.float\(\)"):
            ATTACKS[name](half, images, y)


@pytest.mark.parametrize("attack", [
    lambda m, x, y, e: nc.pgd(m, x, y, e), lambda m, x, y, e: nc.apgd(m, x, y, e),
    lambda m, x, y, e: nc.square(m, x, y, e), lambda m, x, y, e: nc.robust_accuracy(m, x, y, e),
    lambda m, x, y, e: nc.views(m, own(x, y), epsilon=e, split="test"),
    lambda m, x, y, e: nc.pgd(m, x, y, torch.full((40,), float(e))),
])  # fmt: skip
def test_a_budget_above_the_box_is_refused(net, attack):
    """8 was meant as 8/255. In l2 a large budget means something."""
    with pytest.raises(ValueError, match=r"pixels lie in \[0, 1\], so epsilon is at most 1 in linf.*8/255\?"):
        attack(*net, 8)
    with pytest.raises(ValueError, match="epsilon must be 0 or more and finite, not True"):
        nc.pgd(*net, True)
    assert nc.pgd(*net, 8.0, norm="l2").shape == net[1].shape


def test_no_image_is_no_fault_and_kl_has_no_target(net):
    model, x, y = net
    for norm, epsilon in BALLS:
        assert len(nc.pgd(model, x[:0], y[:0], epsilon, norm=norm)) == 0
    with pytest.raises(ValueError, match="loss 'kl' knows no target"):
        nc.pgd(model, x, y, loss="kl", targeted=True)


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64", ">i4", "int8"])
def test_labels_of_numpys_integers_are_labels(net, kind):
    y = net[2]
    assert torch.equal(check_labels(y.numpy().astype(kind), 40), y)
    assert torch.equal(check_labels(y.numpy()[::-1], 40), y.flip(0))
