"""More of what may come in, sizes that are none and shapes that do not fit: one line, or the right answer."""

import copy
import math

import numpy as np
import pytest
import torch
from tiny import TINY, fit
from torch import nn

import nclib as nc
from nclib.training.epochs import reestimate_statistics

ATTACKS = {
    "pgd": lambda m, x, y, **o: nc.pgd(m, x, y, **{"epsilon": 0.1, "steps": 2} | o),
    "apgd": lambda m, x, y, **o: nc.apgd(m, x, y, **{"epsilon": 0.1, "steps": 2} | o),
    "square": lambda m, x, y, steps=2, **o: nc.square(m, x, y, **{"epsilon": 0.1, "queries": steps} | o),
}
FOLLOWERS = ("pgd", "apgd")  # of gradients


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nc.build("preactresnet8", (1, 8, 8), 10, (0.3,), (0.4,), 4).eval()
    return model, *nc.load("digits", test_per_class=3).test


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("runs"), epochs=1)


def one_line(words, call, *given, **options):
    with pytest.raises(ValueError, match=words) as caught:
        call(*given, **options)
    assert "\n" not in str(caught.value)


# Attacks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("epsilon", [math.inf, math.nan, -1, None, "8/255", torch.tensor(math.nan)])
def test_a_budget_is_a_finite_number(net, name, epsilon):
    one_line("epsilon must be 0 or more and finite, not", ATTACKS[name], *net, epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [math.inf, math.nan, -1, None, "a"])
def test_so_it_is_for_noise_and_views(net, epsilon):
    model, x, _ = net
    for noise in (nc.sign_noise, nc.gaussian_noise, nc.sphere_noise):
        one_line("epsilon must be 0 or more and finite", noise, x, epsilon)
    one_line("epsilon must be 0 or more and finite", nc.views, model, nc.load("digits"), epsilon=epsilon)
    one_line("epsilon must be 0 or more and finite", nc.robust_accuracy, *net, epsilon=epsilon)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("steps", [-1, 2.5, None, "10", math.nan])
def test_steps_are_counted(net, name, steps):
    one_line("steps must be 0 or more and whole, not", ATTACKS[name], *net, steps=steps)


@pytest.mark.parametrize("step", [-1, math.nan, math.inf, "a"])
def test_a_step_is_a_size_too(net, step):
    one_line("step must be 0 or more and finite", ATTACKS["pgd"], *net, step=step)


@pytest.mark.parametrize("name", ATTACKS)
def test_numbers_of_numpy_and_torch_are_numbers(net, name):
    for epsilon in (np.float64(0.1), torch.tensor(0.1)):
        assert float((ATTACKS[name](*net, epsilon=epsilon, steps=np.int64(2)) - net[1]).abs().max()) <= 0.1 + 1e-6
    if name != "pgd":
        one_line("epsilon must be one number, not 30", ATTACKS[name], *net, epsilon=torch.full((30,), 0.1))


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_beyond_the_models_classes_are_told_before_they_index_anything(net, name):
    model, x, y = net
    one_line("labels go up to 13, but the model has 10 classes", ATTACKS[name], model, x, y + 4)
    one_line("labels must be integers, not NoneType", ATTACKS[name], model, x, None)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_answers_every_image(net, name):
    model, x, y = net
    one_line("one row of logits for each image, not with 3 for 30", ATTACKS[name], lambda a: model(a)[:3], x, y)
    one_line("NaN", ATTACKS[name], lambda a: model(a) * math.nan, x, y)


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("cut", [lambda a: a.detach(), lambda a: torch.zeros_like(a, requires_grad=True)])
def test_a_model_without_a_gradient_is_told_and_square_does_without(net, name, cut):
    model, x, y = net
    one_line("has no gradient at x", ATTACKS[name], lambda a: cut(model(a)), x, y)
    assert ATTACKS["square"](lambda a: cut(model(a)), x, y).shape == x.shape


@pytest.mark.parametrize("name", ATTACKS)
def test_flags_of_the_images_change_nothing_and_any_layout_does(net, name):
    """But random starts are filled in the order of memory, so another layout begins elsewhere."""
    model, x, y = net
    found = [
        ATTACKS[name](model, given, y.tolist(), generator=torch.Generator().manual_seed(0))
        for given in (x, x.clone().requires_grad_(), x.double().float(), x.mT.contiguous().mT)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not any(f.requires_grad for f in found) and float((found[3] - x).abs().max()) <= 0.1 + 1e-6


@pytest.mark.parametrize("name", ATTACKS)
def test_a_frozen_model_in_train_mode_comes_back_as_it_was(net, name):
    model = copy.deepcopy(net[0]).train().requires_grad_(False)
    before = [buffer.clone() for buffer in model.buffers()]
    assert ATTACKS[name](model, *net[1:]).shape == net[1].shape
    assert all(m.training for m in model.modules()) and not any(p.requires_grad for p in model.parameters())
    assert all(map(torch.equal, before, model.buffers())) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", [*ATTACKS, "robust_accuracy"])
def test_two_classes_and_no_image_are_enough(net, name):
    _, x, y = net
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    if name == "robust_accuracy":
        assert 0 <= nc.robust_accuracy(two, x, y % 2, epsilon=0.05, steps=2) <= 1
        assert nc.robust_mask(two, x[:0], y[:0]).shape == (0,)
    else:
        assert ATTACKS[name](two, x, y % 2).shape == x.shape and ATTACKS[name](two, x[:0], y[:0]).shape == x[:0].shape


@pytest.mark.parametrize("change, words", [
    (lambda y: y, "the target of sample 0 is its own label"), (lambda y: y[:3], r"of shape \(30,\), not \(3,\)"),
    (lambda y: y.float(), "labels must be integers"), (lambda y: y + 10, "labels go up to 19, but the model has 10"),
])  # fmt: skip
def test_targets_are_other_classes_of_the_model(net, change, words):
    one_line(words, nc.apgd, *net, targets=change(net[2]))
    one_line("auto-PGD knows no loss 'kl'; choose one of ce, margin, dlr", nc.apgd, *net, loss="kl")


# Batches, images, views --------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, -1, 2.5, None])
def test_a_batch_has_images(net, batch):
    model, x, y = net
    data, seen = nc.load("digits", per_class=2, test_per_class=2), [nc.View("clean", x, y)]
    calls = [
        lambda **o: nc.accuracy(*net, **o), lambda **o: nc.robust_accuracy(*net, **o),
        lambda **o: nc.views(model, data, **o), lambda **o: nc.collapse(model, seen, **o),
        lambda **o: nc.propagate(model, seen, **o), lambda **o: nc.features(model, x, **o),
        lambda **o: reestimate_statistics(model, x, **o),
    ]  # fmt: skip
    for call in calls:
        one_line("batch must be 1 or more and whole, not", call, batch=batch)
    one_line("images must be 1 or more", reestimate_statistics, model, x[:0])
    one_line("targets must be 0 or more", nc.robust_accuracy, *net, targets=-1)


@pytest.mark.parametrize("change, kind", [
    (lambda x: (255 * x).long(), "torch.int64"), (lambda x: x.numpy(), "ndarray"), (lambda x: x > 0, "torch.bool"),
    (lambda x: x.tolist(), "list"),
])  # fmt: skip
def test_images_are_bytes_or_floats_and_whole_numbers_are_not_taken_for_pixels(net, change, kind):
    model, x, y = net
    for call in (
        nc.pixels, lambda x: nc.accuracy(model, x, y), lambda x: nc.features(model, x),
        lambda x: nc.collapse(model, [nc.View("clean", x, y)]), lambda x: reestimate_statistics(model, x),
    ):  # fmt: skip
        one_line(rf"images must be a tensor of bytes \(uint8\) or floats, not {kind}", call, change(x))


def test_views_are_of_a_data_set_and_of_any_callable(net):
    model, x, y = net
    data = nc.load("digits", per_class=2)
    one_line("data must be a Dataset, as nc.load or nc.dataset give it, not tuple", nc.views, model, (x, y))
    seen = [nc.views(m, data, epsilon=0.1, names=["untargeted"])[0].images for m in (model, lambda a: model(a))]
    assert torch.equal(*seen)


def test_what_is_walked_is_a_module_and_what_is_measured_are_views(net):
    model, x, y = net
    clean = nc.View("clean", x, y)
    for measured in (nc.collapse, nc.propagate):
        one_line("views must be a list of View", measured, model, clean)
        one_line("views must be a list of View", measured, model, [(x, y)])
        one_line("a function has no layers to listen to: give an nn.Module", measured, lambda a: model(a), [clean])
    one_line("unknown head 'nope'; choose from .*head", nc.collapse, model, [clean], head="nope")
    means = nc.class_means(nc.features(model, x), y)
    one_line("the layer has 256 features, its class means 16", nc.ncc_head(model, "stem", means), x)
    x0 = nc.ncc_head(model, "features", means.means)(x)  # classes weighted alike, as they are here
    torch.testing.assert_close(x0, nc.ncc_head(model, "features", means)(x))


# Measures, losses, networks ----------------------------------------------------------------------


def test_arrays_and_lists_measure_as_the_tensors_they_are(net):
    model, x, y = net
    h = nc.features(model, x)
    means, other = nc.class_means(h, y), nc.class_means(h.numpy(), y.tolist())
    assert torch.equal(means.means, other.means) and nc.measure(h, y) == nc.measure(h.numpy(), y.tolist())
    assert torch.equal(nc.cosines(h[:4]), nc.cosines(h[:4].numpy()))
    assert nc.similarity(means, means.means.numpy())["shift"] < 1e-15
    assert torch.equal(nc.leap_matrix(h, y, means.means), nc.leap_matrix(h.numpy(), y.numpy(), means.means.numpy()))
    one_line("features must be real numbers, not torch.complex64", nc.measure, h.to(torch.complex64), y)
    one_line("num_classes must be 0 or more and whole, not 2.5", nc.measure, h, y, num_classes=2.5)


@pytest.mark.parametrize("change, words", [
    (dict(width=0), "width must be 1 or more and whole, not 0"), (dict(num_classes=1), "num_classes must be 2 or more"),
    (dict(head="cosine"), "unknown head 'cosine'; choose one of linear, sphere, rows, decayed, simplex"),
    (dict(head="simplex", width=2), "a simplex of 10 classes, turned at random, needs 10 features or more, not 8"),
    (dict(std=(0.0,)), "std above 0"), (dict(std=(0.5, 0.5)), "one number per channel"),
    (dict(shape=(3, 8, 8)), "mean has 1 numbers, the images 3 channels"),
])  # fmt: skip
def test_a_network_that_could_not_be_is_refused(change, words):
    usual = dict(architecture="preactresnet8", shape=(1, 8, 8), num_classes=10, mean=(0.5,), std=(0.5,), width=4)
    one_line(words, nc.build, **usual | change)


@pytest.mark.parametrize("given, words", [
    (dict(device="gpu"), "unknown device 'gpu'; choose cpu, cuda"),
    (dict(precision="float8"), "unknown precision 'float8'"),
    (dict(precision="float64"), "choose one of auto, float32, bfloat16"),
])  # fmt: skip
def test_a_device_or_precision_that_torch_does_not_know_is_refused(given, words):
    one_line(words, nc.choose, **given)


@pytest.mark.parametrize("name, options", [(["digits"], {}), (None, {}), ("digits", dict(per_class=2.5)),
                                           ("digits", dict(per_class="3"))])  # fmt: skip
def test_a_data_set_is_asked_for_by_a_name_and_whole_numbers(name, options):
    one_line("unknown dataset|images per class asked of digits", nc.load, name, **options)


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    (dict(bogus=1), "history has no option 'bogus'; choose from epsilon, norm, step, steps, seed"),
    (dict(epsilon=-1), "epsilon must be 0 or more"), (dict(epsilon=math.nan), "epsilon must be 0 or more"),
    (dict(norm="l0"), "unknown norm 'l0'"), (dict(split="val"), "unknown split 'val'"),
    (dict(views=["x"]), "unknown view"),
])  # fmt: skip
def test_what_history_does_not_know_it_does_not_pass_over(run, options, words):
    one_line(words, nc.history, run, **options)


def test_a_boundary_needs_images_and_an_epoch_must_have_been_kept(run):
    one_line("per_class must be 1 or more", nc.boundary, run, per_class=0)
    one_line("halvings must be 0 or more", nc.minimal_epsilon, run.model, *run.data.test, halvings=-1)
    one_line("epoch None was not kept", run.at, None)


def frozen() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)


@pytest.mark.parametrize("options, words", [
    (dict(model="resnet"), "a network of one's own is an nn.Module, not str"),
    (dict(model=lambda a: a), "an nn.Module, not function"), (dict(model=frozen()), "no parameter to train"),
    (dict(model=nn.Flatten()), "no parameter to train"),
    (dict(model=nn.Sequential(nn.Flatten(), nn.Linear(3, 10))), r"cannot take images \(2, 1, 8, 8\) of torch.float32"),
    (dict(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()), "cannot take images"),
    (dict(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 3))), "labels go up to 9, but the model has 3 classes"),
    (dict(data="digits"), "data of one's own are a Dataset, or splits"), (dict(data=(1, 2, 3)), "data of one's own"),
])  # fmt: skip
def test_what_cannot_be_trained_is_told_before_any_training(tmp_path, options, words):
    one_line(words, nc.fit, nc.Recipe(**TINY), tmp_path / "runs", "cpu", **options)
    assert not list(tmp_path.glob("runs/*"))


def test_a_recipe_is_a_recipe_and_a_root_a_folder(tmp_path):
    one_line("fit needs a Recipe, not dict", nc.fit, TINY, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=r"file/.* cannot be written \(not a directory\): name another folder"):
        fit(tmp_path / "file")
