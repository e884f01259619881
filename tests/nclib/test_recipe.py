"""Recipes: what is refused, and what a key depends on."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import nclib
from nclib import Recipe, data, models, recipe

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
ATTACK = {"norm", "epsilon", "step", "steps", "attack_batchnorm", "perturbations"}
TRADES = {"beta", "trades_batchnorm"}
IDLE = {"standard": ATTACK | TRADES, "adversarial": TRADES, "trades": set()}


@pytest.mark.parametrize("training", IDLE)
@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_a_key_depends_on_what_determines_the_model_and_on_nothing_else(training, name):
    base = Recipe(training=training)
    changes = {name: CHANGED[name]}
    if name == "training" and training == "adversarial":
        changes = {"training": "trades"}
    assert (base.but(**changes).key == base.key) == (name in IDLE[training])


def test_choices_are_what_the_library_knows():
    """They stand in a module that does without PyTorch, so that a command can check them."""
    assert recipe.CHOICES["dataset"] == data.DATASETS
    assert recipe.CHOICES["architecture"] == tuple(models.ARCHITECTURES)
    assert set(recipe.CHOICES["norm"]) == set(nclib.attacks.NORMS)


def test_published_trades_attacks_in_eval_mode_whatever_is_asked():
    published = Recipe(training="trades", trades_batchnorm="published")
    assert published.key == published.but(attack_batchnorm="train").key
    assert published.key != published.but(epsilon=0.1).key


def test_equal_recipes_have_equal_keys():
    assert Recipe(epsilon=1, drops=[0.25, 0.375], training="trades") == Recipe(epsilon=1.0, training="trades")
    assert Recipe(lr=1).key == Recipe(lr=1.0).key
    assert len(Recipe().key) == 12 and int(Recipe().key, 16) >= 0


def test_a_change_of_training_code_is_a_new_key(monkeypatch):
    key = Recipe().key
    recipe.training_code.cache_clear()
    assert Recipe().key == key
    changed = recipe._bare
    monkeypatch.setattr(recipe, "_bare", lambda source: changed(source).replace("momentum", "momentum_"))
    recipe.training_code.cache_clear()
    assert Recipe().key != key
    monkeypatch.undo()
    recipe.training_code.cache_clear()
    assert Recipe().key == key


def test_prose_and_layout_are_not_code():
    plain = recipe._bare("def f(x):\n    return x + 1\n")
    assert recipe._bare('"""Module."""\n\ndef f(x):  # why\n    """Doc."""\n\n    return (x +\n        1)\n') == plain
    assert recipe._bare("def f(x):\n    return x + 2\n") != plain
    assert recipe._bare('def f():\n    """Only words."""\n') == recipe._bare("def f():\n    pass\n")


def test_the_key_covers_every_module_that_training_uses():
    """Whatever train.py imports from here, at any depth, but for what only reports and stores."""
    folder, seen, todo = Path(nclib.__file__).parent, set(), ["train"]
    while todo:
        name = todo.pop()
        seen.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                modules = [node.module] if node.module else [alias.name for alias in node.names]
                todo += [m for m in modules if m not in seen]
    assert seen - {"files", "progress", "provenance", "recipe"} == set(recipe.CODE)


@pytest.mark.parametrize(
    "words, options",
    [
        ("unknown dataset 'cifar'; choose one of digits", dict(dataset="cifar")),
        ("unknown architecture 'resnet'", dict(architecture="resnet")),
        ("unknown training 'AT'", dict(training="AT")),
        ("unknown norm 'l1'", dict(norm="l1")),
        ("unknown attack_batchnorm 'off'", dict(attack_batchnorm="off")),
        ("unknown perturbations 'old'", dict(perturbations="old")),
        ("epsilon must be 0 or more, not -0.1", dict(epsilon=-0.1)),
        ("epsilon must be 0 or more, not nan", dict(epsilon=float("nan"))),
        ("lr must be above 0, not 0", dict(lr=0)),
        ("lr must be above 0, not nan", dict(lr=float("nan"))),
        ("momentum must be 0 or more", dict(momentum=-1)),
        ("epochs must be int, not 10.0", dict(epochs=10.0)),
        ("epochs must be int, not True", dict(epochs=True)),
        ("epsilon must be float, not '8/255'", dict(epsilon="8/255")),
        ("seed must be int, not None", dict(seed=None)),
        ("per_class must be", dict(per_class=2.5)),
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
