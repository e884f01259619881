"""One's own data and networks: whatever holds images and labels, any module, and no mistaking one for another."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import TINY
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nclib as nc
from nclib.training import checkpoint
from nclib.training.recipe import Recipe

OWN = {k: v for k, v in TINY.items() if k not in ("per_class", "test_per_class")}


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return torch.rand(24, 1, 8, 8), torch.arange(24) % 3


def small(classes=3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes))


SHAPES = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "no channel": lambda x, y: (x[:, 0], y),
    "channel last": lambda x, y: (x.permute(0, 2, 3, 1).numpy(), y.int()),
    "dataset": lambda x, y: TensorDataset(x, y),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7),
}


@pytest.mark.parametrize("name", SHAPES)
def test_whatever_holds_images_and_labels_is_the_same_data_set(pair, name):
    data = nc.dataset(SHAPES[name](*pair))
    assert torch.equal(data.train.images, pair[0]) and torch.equal(data.test.labels, pair[1])
    assert data.num_classes == 3 and data.shape == (1, 8, 8)
    assert data.mean == pytest.approx(pair[0].mean((0, 2, 3)).tolist())


@pytest.mark.parametrize("change, words", [
    (lambda x, y: ((x - 0.5) * 9, y), r"pixels must lie in \[0, 1\]"), (lambda x, y: (x[:0], y[:0]), "images must be"),
    (lambda x, y: (x, y[:5]), "one per sample"), (lambda x, y: x, "a split is a pair"),
    (lambda x, y: (x, y * 2), "class 1 has no training image"), (lambda x, y: (x[0, 0], y[:8]), "images must be"),
])  # fmt: skip
def test_what_is_no_data_set_is_refused_in_one_line(pair, change, words):
    with pytest.raises(ValueError, match=words) as caught:
        nc.dataset(change(*pair))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="images differ"):
        nc.dataset(pair, (torch.rand(6, 1, 9, 9), torch.arange(6) % 3))
    with pytest.raises(ValueError, match="labels go up to 5, but the model has 3 classes"):
        nc.dataset(pair, (torch.rand(6, 1, 8, 8), torch.arange(6)))


def test_ones_own_data_and_network_are_trained_measured_and_found_again(pair, tmp_path):
    model, before = small(), small().state_dict()
    run = nc.fit(Recipe(**OWN, training="adversarial"), tmp_path, "cpu", data=(pair, pair), model=model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items()), "a copy is trained"
    assert set(run.history.view) == {"clean", "untargeted"} and run.history.value.notna().any()
    assert len(nc.collapse(run.model, nc.views(run.model, run.data, epsilon=0.1)))
    again = nc.fit(Recipe(**OWN, training="adversarial"), tmp_path, "cpu", data=(pair, pair), model=small())
    assert again.path == run.path and again.origin["seconds"] == run.origin["seconds"]
    assert again.at(1).state_dict().keys() == before.keys()


def test_nothing_is_mistaken_for_something_else(pair, tmp_path):
    """One pixel, one label, one weight or another layer is another run; and the recipe's own run is apart."""
    recipe, (x, y) = Recipe(**OWN | dict(epochs=1)), pair
    other, moved = x.clone(), small()
    other[0, 0, 0, 0] += 0.001
    with torch.no_grad():
        moved[1].weight[0, 0] += 1e-3
    deeper = nn.Sequential(*small(), nn.Identity())
    given = [
        dict(data=(pair,), model=small()),
        dict(data=((other, y),), model=small()),
        dict(data=((x, y.flip(0)),), model=small()),
    ]
    given += [dict(data=(pair,), model=moved), dict(data=(pair,), model=deeper), dict(data=(pair,)), {}]
    paths = [nc.fit(recipe.but(per_class=4, test_per_class=4), tmp_path, "cpu", **options).path for options in given]
    assert len(set(paths)) == len(given)


def test_a_network_that_does_not_fit_is_refused(pair, tmp_path):
    with pytest.raises(ValueError, match="a model of your own has its own head"):
        nc.fit(Recipe(**OWN, head="sphere"), tmp_path, "cpu", data=(pair,), model=small())
    with pytest.raises(ValueError, match="no samples of class 3"):
        nc.fit(Recipe(**OWN | dict(epochs=1)), tmp_path, "cpu", data=(pair,), model=small(4)).history  # noqa: B018


def test_a_data_set_by_its_path(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path))
    x, y = (pair[0] * 255).to(torch.uint8), pair[1]
    parts = dict(train_images=x.numpy(), train_labels=y.numpy(), test_images=x[:6].numpy(), test_labels=y[:6].numpy())
    np.savez(tmp_path / "mine.npz", **parts)
    for i in range(24):
        from torchvision.io import write_png

        place = tmp_path / "folder" / ("train" if i < 18 else "test") / "abc"[int(y[i])]
        place.mkdir(parents=True, exist_ok=True)
        write_png(x[i], str(place / f"{i}.png"))
    data, folder = nc.load("mine.npz"), nc.load("folder", per_class=2)
    assert torch.equal(data.train.images, x) and len(data.test) == 6
    assert folder.class_names == ("a", "b", "c") and len(folder.train) == 6 and folder.shape == (3, 8, 8)
    recipe = Recipe(**OWN | dict(dataset="mine.npz", epochs=1))
    key = recipe.key
    assert len(nc.fit(recipe, tmp_path / "runs", "cpu").history)
    parts["train_labels"] = np.roll(parts["train_labels"], 1)
    np.savez(tmp_path / "mine.npz", **parts)
    assert recipe.key != key, "the key follows the content"
    with pytest.raises(ValueError, match=r"unknown dataset 'nowhere\.npz'"):
        Recipe(dataset="nowhere.npz")


@pytest.mark.parametrize("content, words", [
    (b"no archive", "is no .npz file of arrays"), (b"", "is no .npz file of arrays"), (None, "has no test_images"),
])  # fmt: skip
def test_a_damaged_file_gets_one_line(pair, tmp_path, monkeypatch, content, words):
    monkeypatch.setenv("NCLIB_HOME", str(tmp_path))
    np.savez(tmp_path / "mine.npz", train_images=pair[0].numpy(), train_labels=pair[1].numpy())
    if content is not None:
        (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        nc.load("mine.npz")


class Scaling(nn.Module):
    """A network of one's own with all that weights do not tell."""

    def __init__(self, by=1.0, shift=0.0, frozen=False):
        super().__init__()
        self.body, self.by = small(), by
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.body[1].requires_grad_(not frozen)

    def forward(self, x):
        return self.by * self.body(x) + self.shift


class Doubling(Scaling):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_weights_do_not_tell_tells_networks_apart(pair):
    data, content = (pair,), checkpoint.content
    networks = [Scaling(), Scaling(by=0.01), Scaling(shift=0.5), Scaling(frozen=True), Doubling()]
    assert len({content(data, network) for network in networks}) == len(networks)
    assert content(data, Scaling()) == content(data, Scaling().eval())
    typed = {}
    for verb in ("relu", "tanh"):
        exec(f"class Typed(nn.Module):\n def forward(self, x): return x.{verb}()", scope := {"nn": nn})
        typed[verb] = content(data, scope["Typed"]())
    assert typed["relu"] != typed["tanh"]


def test_other_statistics_are_other_data(pair):
    data, content = nc.dataset(pair), checkpoint.content
    shifted = dataclasses.replace(data, statistics=((0.0,), (1.0,)))
    assert content(shifted, None) != content(data, None) == content((pair,), None)


def test_channels_that_may_be_last_are_not_guessed():
    y = torch.arange(12) % 3
    for channels in (2, 4):
        with pytest.raises(ValueError, match=r"may have their channels last: give \(N, C, H, W\)"):
            nc.dataset((torch.rand(12, 8, 8, channels), y))
        assert nc.dataset((torch.rand(12, channels, 8, 8), y)).shape == (channels, 8, 8)


def test_numbers_of_numpy_are_numbers():
    one = nc.load("digits", per_class=np.int64(5), seed=np.int64(3))
    assert torch.equal(one.train.images, nc.load("digits", per_class=5, seed=3).train.images)
    with pytest.raises(ValueError, match="True images per class"):
        nc.load("digits", per_class=True)
