"""The walk through a model: every layer measured as if its activations had been extracted, and the model left alone."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import nclib as nc
from nclib.measures.layers import COLUMNS

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))
DEVICES = ["cpu", CUDA]
RESNET_LAYERS = ["pixels", "conv1", "layer1", "layer2.0", "layer4", "avgpool"]


def view(name="clean", seed=0, side=8, channels=1, n=40, classes=4, device="cpu", dtype=torch.float64) -> nc.View:
    images = torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    labels = torch.arange(n) % classes
    images = (images + labels[:, None, None, None] / classes) / 2  # brighter from class to class
    return nc.View(name, images.to(device), labels.to(device))


def network(device="cpu", dtype=torch.float64, classes=4) -> nn.Sequential:
    torch.manual_seed(1)
    return nc.build("preactresnet8", (1, 8, 8), classes, (0.5,), (0.3,), width=4).to(device, dtype).eval()


def foreign(classes=4) -> nn.Module:
    torch.manual_seed(2)
    return resnet18(num_classes=classes).double().eval()


def values(table, **where) -> dict[str, float]:
    for column, value in where.items():
        table = table[table[column] == value]
    return dict(zip(table.measure, table.value))


def extracted(model, images, layer) -> torch.Tensor:
    """One layer's activations, all at once, by walking the children by hand."""
    h = images
    if layer != "pixels":
        for name, stage in model.named_children():
            h = stage(h)
            if name == layer:
                break
    return h.detach()


def by_hand(model, seen, reference, layer, pool) -> dict[str, float]:
    """What propagate must say of one layer of one view: ``measure`` and ``similarity`` of extracted features."""

    def rows(v):
        h = extracted(model, v.images, layer)
        return h.mean((2, 3)) if pool and h.ndim == 4 else h.flatten(1)

    h, network_says = rows(seen), model(seen.images).argmax(1)
    centers = nc.class_means(rows(reference), reference.labels)
    found = nc.measure(h, seen.labels, centers=centers)
    own = nc.class_means(h, seen.labels)
    for prefix, means in (("", own), ("centers_", centers)):
        rule = torch.cdist(h, means.means).argmin(1)
        found[prefix + "nc4"] = float((rule != network_says).double().mean())
    found["accuracy"] = float((network_says == seen.labels).double().mean())
    return found | {k: float(torch.as_tensor(v).mean()) for k, v in nc.similarity(own, centers).items()}


def state(model: nn.Module):
    return [(m.training, len(m._forward_hooks), [b.clone() for b in m.buffers(recurse=False)]) for m in model.modules()]


def same_state(a, b) -> bool:
    return all(x[:2] == y[:2] and all(torch.equal(p, q) for p, q in zip(x[2], y[2])) for x, y in zip(a, b, strict=True))


# Propagation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pooled", [False, True])
def test_propagate_equals_measuring_the_extracted_activations_layer_by_layer(pooled, device):
    model, clean, moved = network(device), view(device=device), view("moved", seed=5, device=device)
    table = nc.propagate(model, [clean, moved], pooled=pooled, batch=7)
    for layer in nc.layer_names(model):
        expected = by_hand(model, moved, clean, layer, pooled)
        assert values(table, view="moved", layer=layer) == pytest.approx(expected, rel=1e-8, abs=1e-9), layer


def test_the_first_view_is_the_reference_and_has_no_centres():
    table = nc.propagate(network(), [view(), view("moved", seed=5)])
    only_moved = set(values(table, view="moved", layer="stem")) - set(values(table, view="clean", layer="stem"))
    assert only_moved == {
        "centers_nc1", "centers_ncc_accuracy", "centers_leapt", "centers_nc4",
        "angle", "angle_uncentered", "distance", "distance_uncentered", "shift",
    }  # fmt: skip


@pytest.mark.parametrize("measured", [nc.propagate, nc.collapse])
def test_every_later_view_is_compared_with_the_first(measured):
    third = values(measured(network(), [view(), view("other", seed=9), view("moved", seed=5)]), view="moved")
    second = values(measured(network(), [view(), view("moved", seed=5)]), view="moved")
    assert third == second


def test_a_view_against_itself_has_angle_zero_and_its_own_measures():
    table = nc.propagate(network(), [view(), view("again")])
    for layer in nc.layer_names(network()):
        again = values(table, view="again", layer=layer)
        assert again["angle"] == again["shift"] == again["distance"] == 0
        assert again["centers_nc1"] == again["nc1"]


def test_propagate_returns_a_tidy_frame_of_stages_in_order():
    table = nc.propagate(network(), [view()])
    assert list(table.columns) == COLUMNS == ["split", "view", "layer", "measure", "value"]
    assert list(table.layer.unique()) == ["pixels", "stem", "block1", "block2", "block3", "features"]
    assert not table.duplicated(["split", "view", "layer", "measure"]).any()


def test_the_batch_size_changes_nothing():
    small, large = (nc.propagate(network(), [view(), view("moved", seed=5)], batch=b) for b in (3, 40))
    assert small.value.tolist() == pytest.approx(large.value.tolist(), rel=1e-9, abs=1e-12)


def test_first_pass_gives_means_decisions_and_loss_of_a_view():
    model, clean = network(), view()
    first = nc.first_pass(model, clean, ["pixels", "block2"], 4, batch=9)
    logits = model(clean.images).detach()
    assert torch.equal(first.predicted, logits.argmax(1))
    assert first.loss == pytest.approx(float(nn.functional.cross_entropy(logits, clean.labels)), rel=1e-12)
    expected = nc.class_means(extracted(model, clean.images, "block2").flatten(1), clean.labels)
    assert torch.allclose(first.means["block2"].means, expected.means, rtol=1e-10)


# The last layer -----------------------------------------------------------------------------------


def test_collapse_equals_propagate_at_the_features_with_the_classifier_beside():
    model, made, kept = network(), [view(), view("moved", seed=5)], {}
    last = nc.collapse(model, made, batch=7, keep=kept)
    deep = nc.propagate(model, made, layers=["features"])
    for v in made:
        expected = values(deep, view=v.name)
        h, logits = extracted(model, v.images, "features"), model(v.images).detach()
        head = nc.measure(h, v.labels, model.head.weight, model.head.bias)
        expected |= {name: head[name] for name in ("weight_equinorm", "weight_equiangle", "nc3")}
        expected["loss"] = float(nn.functional.cross_entropy(logits, v.labels))
        assert torch.equal(kept[v.name], nc.features(model, v.images, batch=7))
        assert values(last, view=v.name) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_features_are_the_activations_of_the_layer():
    model, clean = network(), view()
    assert torch.allclose(nc.features(model, clean.images, batch=11), extracted(model, clean.images, "features"))
    assert nc.features(model, clean.images, layer="stem").shape == (40, 4 * 8 * 8)


def test_features_are_taken_before_the_next_module_works_on_them_in_place():
    model, images = foreign(), view(channels=3, side=32, n=4).images
    assert nc.features(model, images, layer="bn1").min() < 0  # the ReLU after it is in place


# Models of one's own ------------------------------------------------------------------------------


def test_a_model_that_is_no_sequence_is_walked_by_the_names_of_its_layers():
    model, clean = foreign(), view(channels=3, side=32)
    table = nc.propagate(model, [clean], layers=RESNET_LAYERS, batch=13)
    assert list(table.layer.unique()) == RESNET_LAYERS
    h = model.maxpool(model.relu(model.bn1(model.conv1(clean.images))))
    expected = nc.measure(model.layer1(h).detach(), clean.labels)
    found = values(table, layer="layer1")
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-8)


def test_collapse_takes_the_names_of_a_foreign_layer_and_head():
    model, clean = foreign(), view(channels=3, side=32)
    found = values(nc.collapse(model, [clean], layer="avgpool", head="fc"))
    h = nc.features(model, clean.images, layer="avgpool")
    expected = nc.measure(h, clean.labels, model.fc.weight, model.fc.bias)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_a_model_is_handed_back_with_its_modes_hooks_and_statistics():
    model, clean = foreign().train(), view(channels=3, side=32)
    model.layer2.eval()
    model.layer1.register_forward_hook(lambda *_: None)
    before = state(model)
    nc.propagate(model, [clean], layers=RESNET_LAYERS)
    nc.collapse(model, [clean], layer="avgpool", head="fc")
    nc.features(model, clean.images, layer="avgpool")
    assert same_state(before, state(model))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Fails(nn.Module):
    def forward(self, h):
        raise RuntimeError("broken on purpose")


def test_a_model_that_fails_on_the_way_is_handed_back_as_it_came():
    model = network().train()
    model.block3 = Fails()
    before = state(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        nc.propagate(model, [view()])
    assert same_state(before, state(model))


def test_measures_are_those_of_eval_mode():
    model = network()
    expected = nc.collapse(model, [view()])
    assert nc.collapse(model.train(), [view()]).equals(expected)


def test_measures_are_float32_under_autocast_too():
    model, clean = network(dtype=torch.float32), view(dtype=torch.float32)
    expected = nc.propagate(model, [clean])
    with torch.autocast("cpu", torch.bfloat16):
        assert nc.propagate(model, [clean]).equals(expected)


def test_stored_bytes_measure_as_the_pixels_they_stand_for():
    model = network(dtype=torch.float32)
    stored = (255 * view().images).round().to(torch.uint8)
    a, b = (nc.View("clean", images, view().labels) for images in (stored, stored.float() / 255))
    assert nc.propagate(model, [a]).equals(nc.propagate(model, [b]))


# The nearest-centre rule as a network -------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layer", ["pixels", "stem", "block2", "features"])
def test_ncc_head_decides_as_the_nearest_class_centre_does(layer, device):
    model, clean, other = (
        network(device, torch.float32),
        view(device=device, dtype=torch.float32),
        view("other", seed=5, device=device, dtype=torch.float32, n=400),
    )
    means = nc.first_pass(model, clean, [layer], 4).means[layer]
    decided = nc.ncc_head(model, layer, means)(other.images).argmax(1)
    h = nc.features(model, other.images, layer) if layer != "pixels" else other.images.flatten(1)
    assert torch.equal(decided, torch.cdist(h.double(), means.means).argmin(1))
    assert len(decided.unique()) > 1
    if device == "cpu":
        assert torch.equal(nc.ncc_head(network(device), layer, means)(other.images.double()).argmax(1), decided)


def test_ncc_head_shares_the_models_modules_and_lets_gradients_through():
    model, clean = network(dtype=torch.float32), view(dtype=torch.float32)
    head = nc.ncc_head(model, "block1", nc.first_pass(model, clean, ["block1"], 4).means["block1"])
    assert head[1] is model.stem
    x = clean.images.clone().requires_grad_()
    head(x)[:, 0].sum().backward()
    assert x.grad.abs().sum() > 0


# Every error, and where ---------------------------------------------------------------------------


def nan_at(sample: int) -> nc.View:
    clean = view("untargeted")
    clean.images[sample] = torch.nan
    return clean


def dead(layer: str) -> nn.Sequential:
    model = network()
    nn.init.zeros_(model.get_submodule(layer).weight)
    return model


def relabelled(shift: int, n: int = 40) -> nc.View:
    return nc.View("targeted", view().images, view().labels[:n] + shift, split="test")


def relu_between() -> torch.nn.Module:
    """Two layers of one width, of which the second enters the head."""
    torch.manual_seed(0)
    flat, wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16)), torch.nn.Linear(16, 16)
    return torch.nn.Sequential(flat, torch.nn.ReLU(), wide, torch.nn.Linear(16, 4))


ERRORS = {
    "no views": (lambda: nc.propagate(network(), []), "no views"),
    "no views, collapse": (lambda: nc.collapse(network(), []), "no views"),
    "no samples": (lambda: nc.propagate(network(), [view(n=0)]), "no samples"),
    "no samples in a later view": (
        lambda: nc.collapse(network(), [view(), view(n=0)]),
        "train clean: 0 images, 0 labels",
    ),
    "labels too few": (lambda: nc.propagate(network(), [relabelled(0, 39)]), "test targeted: 40 images, 39 labels"),
    "unknown layer": (
        lambda: nc.propagate(network(), [view()], layers=["blok1"]),
        "unknown layer 'blok1'; choose .*block1",
    ),
    "unknown layer, features": (lambda: nc.features(network(), view().images, "last"), "unknown layer 'last'"),
    "no stages": (lambda: nc.propagate(foreign(), [view(channels=3, side=32)]), "ResNet is not an nn.Sequential"),
    "layer passed twice": (
        lambda: nc.propagate(foreign(), [view(channels=3, side=32)], layers=["layer1.0.relu"]),
        "'layer1.0.relu' is passed 2 times",
    ),
    "NaN": (
        lambda: nc.propagate(network(), [view(), nan_at(23)], batch=4),
        "train untargeted, layer pixels: features of sample 23 contain NaN",
    ),
    "NaN, collapse": (
        lambda: nc.collapse(network(), [view(), nan_at(23)], batch=4),
        "train untargeted, layer features: features of sample 23 contain NaN",
    ),
    "dead layer": (
        lambda: nc.propagate(dead("stem"), [view()]),
        "train clean, layer stem: classes 0 and 1 have identical",
    ),
    "dead head": (lambda: nc.collapse(dead("head"), [view()]), "layer features: vector of class 0 has length zero"),
    "label out of range": (
        lambda: nc.propagate(network(), [view(), relabelled(1)]),
        "test targeted, layer pixels: label of sample 3 is outside 0..3",
    ),
    "more classes than outputs": (
        lambda: nc.propagate(network(), [view(classes=5)]),
        "labels up to 4, but the network has 4 classes",
    ),
    "empty class": (lambda: nc.propagate(network(), [view()], num_classes=5), "layer pixels: no samples of class 4"),
    "layer that does not feed the head": (
        lambda: nc.collapse(network(), [view()], layer="stem"),
        "head 'head' does not make the logits of layer 'stem'",
    ),
    "layer of the head's width that does not feed it": (
        lambda: nc.collapse(relu_between(), [view()], layer="0", head="3"),
        "head '3' does not make the logits of layer '0'",
    ),
    "no linear layer makes the logits": (
        lambda: nc.collapse(torch.nn.Sequential(network(), torch.nn.Softmax(1)), [view()]),
        "no linear layer of this Sequential gives its logits: name it",
    ),
    "ncc_head of no stage": (
        lambda: nc.ncc_head(network(), "conv", None),
        "unknown layer 'conv'; choose one of pixels",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_which_view_and_layer(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()


# Memory -------------------------------------------------------------------------------------------

MEMORY = """
import resource, torch, nclib as nc
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model = nc.build("preactresnet18", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, width=64).eval()
images, labels = torch.rand(104, 3, 32, 32), torch.arange(104) % 10
with torch.no_grad():
    model(images[:8])
before = peak()
nc.propagate(model, [nc.View("clean", images[:16], labels[:16])], batch=8)
few = peak()
nc.propagate(model, [nc.View("clean", images, labels)], batch=8)
print(before, few, peak())
"""


@pytest.mark.expensive
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in kilobytes, as Linux gives it")
def test_propagate_at_full_width_needs_little_memory_and_no_more_for_more_samples():
    ran = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    before, few, many = map(float, ran.stdout.split())  # megabytes
    assert few - before < 400  # one d x d float32 matrix of the stem would be 17,000
    assert many - few < 40  # the activations of 88 more images would be 110


@pytest.mark.parametrize("make", [
    lambda tv: tv.vit_b_16(num_classes=4, image_size=32), lambda tv: tv.densenet121(num_classes=4),
    lambda tv: tv.resnet18(num_classes=4),
], ids=["vit", "densenet", "resnet"])  # fmt: skip
def test_the_classifier_of_a_network_from_elsewhere_is_found_by_itself(make):
    """What is measured is what enters it: the class token, pooled and normalised maps."""
    import torchvision.models as tv

    torch.manual_seed(0)
    model = make(tv).eval()
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 4
    head = next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear))
    torch.nn.init.normal_(head.weight)  # torchvision's ViT starts at zero
    heard = []
    head.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    with torch.no_grad():
        model(images)
    table = nc.collapse(model, [nc.View("clean", images, labels)]).set_index("measure").value
    direct = nc.measure(heard[0], labels, head.weight, head.bias)
    assert table["nc1"] == pytest.approx(direct["nc1"], rel=1e-4) and table["nc3"] == pytest.approx(
        direct["nc3"], rel=1e-4
    )
    torch.testing.assert_close(nc.features(model, images), heard[0], rtol=1e-4, atol=1e-4)


def test_a_compiled_model_is_measured_as_it_was():
    model = network()
    wrapped = torch.compile(model, backend="eager")
    for measured in (nc.collapse, nc.propagate):
        assert measured(wrapped, [view()]).equals(measured(model, [view()]))


def test_measures_and_adaptive_attacks_know_no_tf32(monkeypatch):
    """On CUDA, float32 convolutions run in TF32 unless told otherwise: ten bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen, model = [], network()
    model.head.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    one = view()
    nc.collapse(model, [one])
    nc.propagate(model, [one])
    nc.features(model, one.images)
    nc.robust_accuracy(model, nc.pixels(one.images), one.labels, epsilon=0.1, steps=1, targets=1)
    nc.accuracy(model, one.images, one.labels)
    nc.minimal_epsilon(model, nc.pixels(one.images), one.labels, steps=1, halvings=1)
    assert seen and not any(seen) and torch.backends.cudnn.allow_tf32
