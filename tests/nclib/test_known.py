"""What is known by name: one entry in one table, and all else follows."""

import ast
import re

import nbformat
import pytest
import torch
from conftest import ROOT
from torch import nn

import nclib as nc
from nclib import known
from nclib.data import Split
from nclib.models import Normalize
from nclib.training.recipe import VERSIONS, Recipe, choices


def stripes(name, root):
    """A data set as a reader gives it: two classes of stripes."""
    labels = torch.arange(40) % 2
    images = torch.zeros(40, 1, 6, 6)
    images[labels == 0, :, ::2] = 1
    images[labels == 1, :, :, ::2] = 1
    return Split(images[:24], labels[:24]), Split(images[24:], labels[24:]), ("rows", "columns")


def shallow(channels, num_classes, width, mean, std, large):
    """A network as a maker builds it."""
    features = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU())
    model = nn.Sequential()
    for stage, module in (("normalize", Normalize(mean, std)), ("features", features)):
        model.add_module(stage, module)
    model.add_module("head", nn.Linear(width, num_classes))
    model(torch.zeros(1, channels, 6, 6))
    return model


@pytest.fixture
def added(monkeypatch):
    """One entry in each table, and nothing else."""
    one = known.Data(f"{__name__}:stripes", (1, 6, 6), (24, 16), (0.5,), (0.5,))
    monkeypatch.setitem(known.DATASETS, "stripes", one)
    monkeypatch.setitem(known.NETWORKS, "shallow", known.Network(f"{__name__}:shallow", smallest=4))


def test_an_entry_is_all_that_a_new_data_set_and_a_new_network_need(added, tmp_path):
    assert choices("dataset")[-1] == "stripes" and choices("architecture")[-1] == "shallow"
    recipe = Recipe(dataset="stripes", architecture="shallow", width=5, epochs=2, batch=24)  # two steps
    run = nc.fit(recipe, tmp_path, "cpu")
    assert run.data.mean == (0.5,) and run.data.class_names == ("rows", "columns") and len(run.history)
    assert run.model.head.weight.shape == (2, 5)
    with pytest.raises(ValueError, match=r"choose one of digits, .*, stripes"):
        Recipe(dataset="stripe")


def test_an_entry_changes_no_other_key(added):
    assert Recipe(dataset="stripes").key != Recipe().key == "dee36ace772e"


@pytest.mark.parametrize("change", [dict(shape=(1, 6, 7)), dict(sizes=(24, 17)), dict(sizes=(23, 16))])
def test_a_reader_must_give_what_its_entry_says(added, monkeypatch, change):
    monkeypatch.setitem(known.DATASETS, "stripes", known.DATASETS["stripes"]._replace(**change))
    with pytest.raises(FileNotFoundError, match=r"^stripes: .* files are missing or damaged"):
        nc.load("stripes")


def test_a_network_that_needs_larger_images_says_so(added, monkeypatch):
    monkeypatch.setitem(known.NETWORKS, "shallow", known.NETWORKS["shallow"]._replace(smallest=9))
    with pytest.raises(ValueError, match="'shallow' needs images of 9 pixels or more, not 8"):
        nc.build("shallow", (1, 8, 8), 10, (0.5,), (0.5,))


@pytest.mark.parametrize("table", [known.DATASETS, known.NETWORKS])
def test_every_entry_names_something_and_has_a_version(table):
    for name, entry in table.items():
        assert callable(known.named(entry[0])) and VERSIONS[name] == entry.version


def test_no_other_module_lists_the_names():
    """A module may know one of them, as its own default, and the readers those that they read."""
    for file in sorted([*ROOT.glob("nclib/**/*.py"), *ROOT.glob("press/*.py")]):
        words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        listed = words & (known.DATASETS.keys() | known.NETWORKS.keys())
        assert file.stem in ("known", "readers") or len(listed) < 3, (file.name, listed)


def test_the_book_names_what_there_is():
    cells = nbformat.read(ROOT / "book" / "collapse.ipynb", 4).cells
    for name in ("dataset", "architecture"):
        (row,) = re.findall(rf"^\| `{name}` \| [^|]* \| ([^|]*) \|", "\n".join(c.source for c in cells), re.M)
        assert tuple(re.findall(r"`(\w+)`", row)) == choices(name)


def test_one_s_own_data_are_not_normalised_as_a_known_set_of_the_same_name():
    x = torch.rand(12, 3, 8, 8) / 2
    data = nc.dataset((x, torch.arange(12) % 2), name="mnist")
    assert len(data.mean) == 3 and data.mean == pytest.approx(x.mean((0, 2, 3)).tolist())
