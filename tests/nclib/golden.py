"""Golden trainings: what a few steps in double precision make of the weights, against versions raised by hand.

``make golden`` trains every case anew. It refuses weights that moved under an unmoved version, and the reverse; else it
rewrites ``tests/golden.json``: where only code was edited, one line of it.
"""

import ast
import json
import sys
from dataclasses import MISSING, fields, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

import nclib
from nclib.compute import Compute
from nclib.data import Split, load
from nclib.training import recipe as recipes
from nclib.training.epochs import network, reestimate_statistics, sgd, train_epoch
from nclib.training.recipe import WEIGHTLESS, Recipe

FILE = Path(__file__).parents[1] / "golden.json"
CODE = ("compute", "data", "known", "losses", "models", "readers", "attacks/pgd", "training/epochs", "training/store")
TOLERANCE = 1e-6
# Dials so large that a change of one in a hundred shows in six samples and three steps.
DIALS = dict(width=4, epochs=4, batch=6, lr=0.2, weight_decay=0.2, drops=(0.3,), steps=2, beta=2.0)
BUDGETS = {"linf": dict(epsilon=0.1, step=0.06), "l2": dict(epsilon=0.6, step=0.35)}


def cases() -> dict[str, Recipe]:
    """Every training, on every network, with every norm that it knows; and what the release does otherwise."""
    out = {}
    for training in recipes.choices("training"):
        for architecture in recipes.choices("architecture"):
            for norm in recipes.choices("norm") if training != "standard" else ("linf",):
                recipe = Recipe(training=training, architecture=architecture, norm=norm, **DIALS, **BUDGETS[norm])
                out[" ".join(recipe.parts[1:])] = recipe
    out["adversarial as released"] = out["preactresnet8 adversarial linf"].but(attack_batchnorm="train")
    out["trades as released"] = out["preactresnet8 trades linf"].but(trades_batchnorm="published")
    for loss in recipes.choices("loss")[1:]:
        out[loss] = out["preactresnet8 standard"].but(loss=loss)
    for head in recipes.choices("head")[1:]:
        out[head] = out["preactresnet8 standard"].but(head=head, temperature=5.0, head_decay=0.1)
    for augmentation in recipes.choices("augmentation")[1:]:
        out[augmentation] = out["preactresnet8 standard"].but(augmentation=augmentation)
    out["statistics anew"] = out["preactresnet8 standard"].but(reestimate=True)
    return out


@cache
def projections(recipe: Recipe) -> tuple[float, ...]:
    """Three fixed projections of the weights after two epochs on 12 digits, grown to 16 x 16, in double precision."""
    data = load("digits", per_class=1)
    images = torch.cat([data.train.images, data.test.images[:2]]).double()
    labels = torch.cat([data.train.labels, data.test.labels[:2]])
    grown = Split(images.repeat_interleave(2, 2).repeat_interleave(2, 3), labels)
    data = replace(data, train=grown)
    model = network(recipe, data).double()
    optimizer, compute = sgd(model, recipe), Compute(torch.device("cpu"), torch.float32, "golden")
    for epoch in (0, 2):  # before the learning rate's drop, and after it
        train_epoch(model, optimizer, recipe, grown, compute, epoch)
    if recipe.reestimate:
        reestimate_statistics(model, grown.images)
    values = [v.detach().double().flatten() for v in model.state_dict().values() if v.is_floating_point()]
    flat = torch.cat(values)
    place = torch.arange(1, len(flat) + 1, dtype=torch.float64)
    return tuple(float(flat @ torch.sin(k * place)) for k in (1.0, 2.5, 0.7))


def versions(recipe: Recipe) -> dict[str, int]:
    """The versions that a case stands under."""
    return {part: recipes.VERSIONS[part] for part in recipe.parts}


def code() -> str:
    """Hash of the training modules' syntax trees: comments, docstrings and layout do not count."""
    folder = Path(nclib.__file__).parent
    return sha256("".join(bare((folder / f"{name}.py").read_text()) for name in CODE).encode()).hexdigest()[:16]


def bare(source: str) -> str:
    """Source as its syntax tree prints it, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.AST(body=[ast.Expr(value=ast.Constant()), *rest]):
                node.body = rest or [ast.Pass()]
    return ast.unparse(tree)


def defaults() -> dict:
    """The defaults that keys leave out: to change one would give old keys another meaning."""
    named = {f.name: f.default for f in fields(Recipe) if f.name not in WEIGHTLESS and f.default is not MISSING}
    return json.loads(json.dumps(named))


def verdict(recipe: Recipe, golden: dict) -> str:
    """What is wrong with a case, in one line; empty where its weights and versions stand or moved together."""
    gap = max(abs(a - b) for a, b in zip(projections(recipe), golden["projections"]))
    moved, raised = gap > TOLERANCE, versions(recipe) != golden["versions"]
    if moved and not raised:
        return f"weights moved by {gap:.1e}, and no version of {', '.join(golden['versions'])} was raised"
    if raised and not moved:
        return f"a version was raised, {golden['versions']} to {versions(recipe)}, and the weights are the same"
    return ""


def main() -> int:
    known = json.loads(FILE.read_text()) if FILE.exists() else {"cases": {}}
    wrong = [
        f"{n}: {said}" for n, r in cases().items() if n in known["cases"] and (said := verdict(r, known["cases"][n]))
    ]
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    kept = {}
    for name, recipe in cases().items():
        old = known["cases"].get(name)
        stands = old and old["versions"] == versions(recipe)
        kept[name] = old if stands else {"versions": versions(recipe), "projections": projections(recipe)}
    FILE.write_text(json.dumps({"code": code(), "defaults": defaults(), "cases": kept}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
