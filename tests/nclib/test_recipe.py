"""Recipes: what is refused, and what a key depends on."""

import json
from dataclasses import dataclass, fields

import pytest
from conftest import ROOT

from nclib import Recipe, known
from nclib.checks import NORMS
from nclib.models import HEADS
from nclib.training import recipe

CHANGED = {  # another value for every field
    "dataset": "cifar10",
    "per_class": 20,
    "test_per_class": 20,
    "architecture": "preactresnet18",
    "width": 8,
    "training": "adversarial",
    "norm": "l2",
    "epsilon": 0.1,
    "step": 0.01,
    "steps": 3,
    "attack_batchnorm": "train",
    "trades_batchnorm": "published",
    "beta": 1.0,
    "reestimate": True,
    "loss": "focal",
    "smoothing": 0.1,
    "gamma": 2.0,
    "target": 15.0,
    "head": "rows",
    "temperature": 10.0,
    "head_decay": 1e-3,
    "augmentation": "flip",
    "perturbations": "stale",
    "epochs": 7,
    "batch": 64,
    "lr": 0.05,
    "drops": (0.5,),
    "momentum": 0.0,
    "weight_decay": 0.0,
    "precision": "float32",
    "seed": 2,
}
WEIGHTLESS = {"test_per_class", "perturbations", "precision"}
ATTACK = {"norm", "epsilon", "step", "steps", "attack_batchnorm"}
TRADES = {"beta", "trades_batchnorm"}
OPTIONS = {
    "smoothing": "smoothing",
    "gamma": "focal",
    "target": "squared",
    "temperature": "sphere",
    "head_decay": "decayed",
}
WEIGHTLESS |= OPTIONS.keys()
IDLE = {"standard": WEIGHTLESS | ATTACK | TRADES, "adversarial": WEIGHTLESS | TRADES, "trades": WEIGHTLESS}


@pytest.mark.parametrize("training", IDLE)
@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_a_key_depends_on_what_determines_the_model_and_on_nothing_else(training, name):
    if name == "loss" and training == "trades":
        return  # refused: TRADES has a loss of its own
    base = Recipe(training=training)
    changes = {name: CHANGED[name]}
    if name == "training" and training == "adversarial":
        changes = {"training": "trades"}
    assert (base.but(**changes).key == base.key) == (name in IDLE[training])


@pytest.mark.parametrize("name, needs", OPTIONS.items())
def test_an_option_of_a_loss_or_a_head_counts_where_it_is_used(name, needs):
    base = Recipe(**{"loss" if needs in recipe.choices("loss") else "head": needs})
    assert base.but(**{name: CHANGED[name]}).key != base.key != Recipe().key


def test_choices_are_what_the_library_knows():
    """They stand in a module that does without PyTorch, so that a command can check them."""
    assert recipe.choices("dataset") == tuple(known.DATASETS)
    assert recipe.choices("architecture") == tuple(known.NETWORKS)
    assert recipe.choices("norm") == NORMS and recipe.choices("head") == HEADS
    assert recipe.choices("epochs") == recipe.choices("no such field") == ()


def test_published_trades_attacks_in_eval_mode_whatever_is_asked():
    published = Recipe(training="trades", trades_batchnorm="published")
    assert published.key == published.but(attack_batchnorm="train").key
    assert published.key != published.but(epsilon=0.1).key


def test_equal_recipes_have_equal_keys():
    assert Recipe(epsilon=1, drops=[0.25, 0.375], training="trades") == Recipe(epsilon=1.0, training="trades")
    assert Recipe(lr=1).key == Recipe(lr=1.0).key
    assert len(Recipe().key) == 12 and int(Recipe().key, 16) >= 0


def test_a_new_field_a_new_choice_or_a_new_data_set_changes_no_key(monkeypatch):
    """What a later chapter adds: a field with a default, a name among the choices, a part with its version."""

    @dataclass(frozen=True)
    class Later(Recipe):
        curriculum: str = "none"

    old = Recipe(training="trades", epochs=7, norm="l2")
    fields_of_old = {field.name: getattr(old, field.name) for field in fields(old)}
    monkeypatch.setitem(recipe.VERSIONS, "svhn", 1)
    monkeypatch.setitem(recipe.VERSIONS, "easy first", 3)
    assert Later(**fields_of_old).key == old.key
    assert Later(**fields_of_old, curriculum="easy first").key != old.key


@pytest.mark.parametrize("part, concerned", [("l2", False), ("linf", True), ("trades", True), ("vgg11", False)])
def test_a_raised_version_is_a_new_key_for_those_who_name_the_part_and_no_other(monkeypatch, part, concerned):
    trades, standard = Recipe(training="trades"), Recipe()
    before = trades.key, standard.key
    monkeypatch.setitem(recipe.VERSIONS, part, 2)
    assert (trades.key != before[0]) == concerned and standard.key == before[1]


def test_every_recorded_recipe_has_the_key_it_is_recorded_under():
    """In records and in networks that travel."""
    found = {}
    for file in ROOT.glob("results/*/records/*.json"):
        found |= json.loads(file.read_text())["recipes"]
    for file in ROOT.glob("results/*/networks/*/recipe.json"):
        record = json.loads(file.read_text())
        found[record["key"]] = record["recipe"]
        assert file.parent.name == f"{record['key']}-{record['dtype']}"
    assert len(found) >= 12
    assert {key: Recipe(**options).key for key, options in found.items()} == {key: key for key in found}


@pytest.mark.parametrize(
    "words, options",
    [
        ("unknown dataset 'cifar'; choose one of digits", dict(dataset="cifar")),
        ("unknown architecture 'resnet'", dict(architecture="resnet")),
        ("unknown training 'AT'", dict(training="AT")),
        ("unknown norm 'l1'", dict(norm="l1")),
        ("unknown attack_batchnorm 'off'", dict(attack_batchnorm="off")),
        ("unknown perturbations 'old'", dict(perturbations="old")),
        ("epsilon must be 0 or more and finite, not -0.1", dict(epsilon=-0.1)),
        ("epsilon must be 0 or more and finite, not nan", dict(epsilon=float("nan"))),
        ("lr must be above 0 and finite, not 0", dict(lr=0)),
        ("lr must be above 0 and finite, not nan", dict(lr=float("nan"))),
        ("lr must be above 0 and finite, not inf", dict(lr=float("inf"))),
        ("momentum must be below 1, not 1.5", dict(momentum=1.5)),
        (r"pixels lie in \[0, 1\], so epsilon is at most 1 in linf, not 8.0", dict(training="trades", epsilon=8)),
        ("per_class must be 1 or more, or None for all, not -3", dict(per_class=-3)),
        ("momentum must be 0 or more", dict(momentum=-1)),
        ("epochs must be int, not 10.0", dict(epochs=10.0)),
        ("epochs must be int, not True", dict(epochs=True)),
        ("epsilon must be float, not '8/255'", dict(epsilon="8/255")),
        ("seed must be int, not None", dict(seed=None)),
        ("per_class must be", dict(per_class=2.5)),
        ("smoothing is a share from 0 to below 1, not 1.0", dict(loss="smoothing", smoothing=1.0)),
        ("temperature must be above 0 and finite, not 0", dict(head="sphere", temperature=0)),
        ("unknown head 'cosine'; choose one of linear, sphere", dict(head="cosine")),
        ("TRADES has a loss of its own", dict(training="trades", loss="focal")),
        ("drops are shares of the epochs between 0 and 1", dict(drops=(25, 38))),
    ],
)
def test_nonsense_is_refused_in_one_line(words, options):
    with pytest.raises(ValueError, match="^" + words) as caught:
        Recipe(**options)
    assert "\n" not in str(caught.value)


def test_names_tell_models_apart():
    names = [
        Recipe(),
        Recipe(attack_batchnorm="train"),
        Recipe(training="adversarial"),
        Recipe(training="adversarial", attack_batchnorm="train"),
        Recipe(training="trades"),
        Recipe(training="trades", trades_batchnorm="published"),
    ]
    assert [r.name for r in names] == [
        "standard",
        "standard",
        "adversarial",
        "adversarial (train-mode attack)",
        "TRADES (fixed)",
        "TRADES (published)",
    ]
