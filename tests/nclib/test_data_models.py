"""Data sets as they are stored, subsets, and the networks' counts and stages."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import nclib as nc
from nclib.known import DATASETS, NETWORKS
from nclib.models import PreActBlock

FILES = Path(os.environ.get("NCLIB_DATA", Path.home() / ".cache" / "nclib"))


def test_digits_are_scikit_learns_exactly():
    data = nc.load("digits")
    ours = torch.cat([data.train.images, data.test.images]).flatten(1)
    theirs = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    assert ours.shape == (1797, 64) and ours.min() >= 0 and ours.max() == 1
    order = lambda rows: rows[np.lexsort(rows.numpy().T)]  # noqa: E731
    assert torch.equal(order(ours), order(theirs))


def test_no_digit_is_in_both_splits_and_every_class_is_in_each():
    data = nc.load("digits")
    assert len(data.train) + len(data.test) == 1797
    for split in (data.train, data.test):
        counts = split.labels.bincount()
        assert counts.min() > 0.9 * counts.max() and len(counts) == data.num_classes == 10


def test_a_subset_is_balanced_and_follows_its_seed():
    one, same, other = (nc.load("digits", per_class=20, test_per_class=5, seed=s) for s in (1, 1, 2))
    assert one.train.labels.bincount().tolist() == [20] * 10 and one.test.labels.bincount().tolist() == [5] * 10
    assert torch.equal(one.train.images, same.train.images)
    assert not torch.equal(one.train.images, other.train.images)


@pytest.mark.parametrize("per_class", [0, -1, 1000])
def test_an_impossible_subset_is_refused_with_the_number_there_is(per_class):
    with pytest.raises(ValueError, match=rf"{per_class} images per class asked of digits's train split.* has 139"):
        nc.load("digits", per_class=per_class)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="unknown dataset 'cifar'; choose one of digits, mnist"):
        nc.load("cifar")


@pytest.mark.parametrize("name", ["cifar10", "mnist", "imagenette"])
def test_missing_files_get_one_line_that_says_where_they_go(name, tmp_path, monkeypatch):
    import torchvision.datasets.utils as utils

    def no_network(*_, **__):
        raise OSError("no route to host")

    for module in ("cifar", "mnist", "imagenette"):
        source = __import__(f"torchvision.datasets.{module}", fromlist=["x"])
        monkeypatch.setattr(source, "download_and_extract_archive", no_network)
    monkeypatch.setattr(utils, "download_url", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        nc.load(name, root=tmp_path)
    text = str(caught.value)
    assert "\n" not in text and name in text and str(tmp_path) in text and "NCLIB_DATA" in text


def test_pixels_divides_bytes_and_leaves_floats_alone():
    bytes_ = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
    assert torch.equal(nc.pixels(bytes_), bytes_.float() / 255)
    floats = torch.rand(3)
    assert nc.pixels(floats) is floats


@pytest.mark.skipif(not (FILES / "cifar-10-batches-py").exists(), reason=f"no CIFAR-10 files in {FILES}")
def test_cifar10_is_the_published_one():
    data = nc.load("cifar10")
    assert data.train.images.shape == (50_000, 3, 32, 32) and data.train.images.dtype == torch.uint8
    assert data.train.labels.bincount().tolist() == [5000] * 10 and len(data.test) == 10_000
    mean = data.train.images.double().div(255).mean((0, 2, 3))
    assert torch.allclose(mean, torch.tensor(data.mean, dtype=torch.float64), atol=5e-4)


@pytest.mark.skipif(not (FILES / "MNIST" / "raw").exists(), reason=f"no MNIST files in {FILES}")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_mnist_family_is_grey_28x28(name):
    data = nc.load(name)
    assert data.train.images.shape == (60_000, 1, 28, 28) and len(data.test) == 10_000
    assert float(data.train.images.double().div(255).mean()) == pytest.approx(data.mean[0], abs=5e-4)


@pytest.mark.parametrize(
    "architecture,side,count",
    [
        ("preactresnet18", 32, 11_172_170),
        ("vgg11", 32, 9_231_114),
        ("preactresnet18", 160, 11_179_850),
        ("vgg11", 160, 9_231_114),
    ],
)
def test_the_papers_networks_have_the_papers_sizes(architecture, side, count):
    model = nc.build(architecture, (3, side, side), 10, (0.5,) * 3, (0.25,) * 3).eval()
    assert sum(p.numel() for p in model.parameters()) == count
    with torch.no_grad():
        h = nc.features(model, torch.rand(2, 3, side, side))
    assert h.shape == (2, 512) and h.min() >= 0 and h.max() > 0


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_network_is_a_walk_from_normalize_to_head(architecture):
    model = nc.build(architecture, (3, 32, 32), 10, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), width=8).eval()
    names = [name for name, _ in model.named_children()]
    assert names[0] == "normalize" and names[-2:] == ["features", "head"]
    x = torch.rand(2, 3, 32, 32)
    expected = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    assert torch.allclose(model.normalize(x), expected)
    step_by_step = x
    for stage in model:
        step_by_step = stage(step_by_step)
    assert torch.equal(step_by_step, model(x))


def test_initialisation_follows_the_released_code():
    """VGG: He's normal by fan-in and N(0, 0.01) in the head; torch's default in the small residual network."""
    torch.manual_seed(0)
    vgg = nc.build("vgg11", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
    conv = vgg.block5[0].weight
    assert float(conv.detach().std()) == pytest.approx((2 / (9 * conv.shape[1])) ** 0.5, rel=0.02)
    assert float(vgg.head.weight.detach().std()) == pytest.approx(0.01, rel=0.1) and not vgg.head.bias.any()
    residual = nc.build("preactresnet18", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
    conv = residual.block8.conv2.weight
    assert float(conv.detach().abs().max()) <= 1 / (9 * conv.shape[1]) ** 0.5


def test_unknown_architecture_and_too_small_images_are_refused():
    with pytest.raises(ValueError, match="unknown architecture 'resnet50'; choose one of preactresnet8"):
        nc.build("resnet50", (3, 32, 32), 10, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="'vgg11' needs images of 16 pixels or more, not 8"):
        nc.build("vgg11", (1, 8, 8), 10, (0.5,), (0.5,))


def test_every_data_set_has_statistics_by_channel():
    for entry in DATASETS.values():
        assert len(entry.mean) == len(entry.std) == entry.shape[0] and min(entry.std) > 0


@pytest.mark.parametrize("stride", [1, 2])
def test_a_blocks_shortcut_is_the_strided_convolution_that_it_stands_for(stride):
    """He et al. 2016, Figure 4e, written out in one layout, against the block in the other."""
    torch.manual_seed(0)
    block = PreActBlock(4, 8, stride).eval()
    x = torch.randn(5, 4, 8, 8)
    a = F.relu(block.bn1(x))
    inner = F.conv2d(
        F.relu(block.bn2(F.conv2d(a, block.conv1.weight, stride=stride, padding=1))), block.conv2.weight, padding=1
    )
    expected = inner + F.conv2d(a, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block.to(memory_format=torch.channels_last)(x), expected, rtol=1e-5, atol=1e-6)
