"""What the page that computes in the reader's browser needs: two networks and the test digits, in one binary file."""

import json
from base64 import b64encode
from pathlib import Path

import yaml

import nclib as nc
from nclib.runtime import home
from nclib.training.recipe import Recipe

FOLDER = Path("_extra", "try-it")  # in a source folder; in a site it is try-it/
TRAININGS = ("standard", "adversarial")
MEASURES = {"accuracy": "{:.1%}", "centers_ncc_accuracy": "{:.1%}", "centers_leapt": "{:.1%}", "centers_nc1": "{:.2g}"}
L2_EPSILON = 1.0  # where the page starts in l2: about the length that an attack in the profile's own ball has


def export(folder: Path) -> dict[str, str]:
    """Write both networks of the digits profile's first seed, and a still, into a source folder.

    ``networks.bin`` is float32 tensors one after another, ``networks.json`` says which; ``networks.js`` is both, for a
    page opened from disk. Returns what to expect on the test digits, as substitutions for the page's text.
    """
    profile = yaml.safe_load((home() / "profiles" / "digits.yml").read_text())
    fields = {name: value for name, value in profile.items() if name in Recipe.__dataclass_fields__}
    recipe = Recipe(**fields, seed=profile["seeds"][0])
    runs = {name: nc.fit(recipe.but(training=name), device="cpu", shipped=True) for name in TRAININGS}
    attack = dict(epsilon=recipe.epsilon, step=recipe.step, steps=recipe.steps, norm=recipe.norm)
    train, test = runs["standard"].data.train, runs["standard"].data.test
    words = {"digits": f"{len(test.labels)}", "epsilon": f"{recipe.epsilon:g}"}
    tensors = {"test.images": nc.pixels(test.images).flatten(1), "test.labels": test.labels}
    tensors["train.labels"] = train.labels
    for name, fitted in runs.items():
        means = nc.class_means(nc.features(fitted.model, train.images), train.labels)
        tensors |= {f"{name}.{part}": tensor for part, tensor in _tensors(fitted, means).items()}
        words |= {f"{name}_{key}": word for key, word in _expected(fitted, means, attack).items()}
    manifest = {"networks": TRAININGS, "budgets": {"linf": recipe.epsilon, "l2": L2_EPSILON}}
    manifest |= {"step": recipe.step / recipe.epsilon, "steps": recipe.steps}
    _write(tensors, manifest, folder / FOLDER)
    _still(runs["standard"], attack, folder / "_static" / "try-it.svg")
    return {f"try_{name}": word for name, word in words.items()}


def _tensors(fitted, means) -> dict:
    """Weights by name, convolutions as (height, width, in, out); class means and training features as coordinates.

    Nearest mean, NC1 and every plane of class means live in the span of the centred means. So an orthonormal ``basis``
    of it, and in it the scatter between classes (diagonal: ``spread``), are all that is needed of the features.
    """
    weights = {name: tensor for name, tensor in fitted.model.state_dict().items() if "num_batches" not in name}
    found = {name: tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor for name, tensor in weights.items()}
    _, lengths, basis = means.centered.svd()
    basis, classes = basis.T[:-1], len(lengths)  # centred means of C classes span C - 1 dimensions
    cloud = nc.features(fitted.model, fitted.data.train.images).double() - means.global_mean
    found |= {"basis": basis, "centre": means.global_mean, "spread": lengths[:-1].square() / classes}
    return found | {"means": means.centered @ basis.T, "cloud": cloud @ basis.T}


def _expected(fitted, means, attack: dict) -> dict[str, str]:
    """The measures of the test digits, clean, attacked and noisy, as the page's text has them."""
    words = {}
    for view in nc.views(fitted.model, fitted.data, names=("clean", "untargeted", "sign"), split="test", **attack):
        features, head = nc.features(fitted.model, view.images), fitted.model.head
        found = nc.measure(features, view.labels, head.weight, head.bias, centers=means)
        words |= {f"{view.name}_{name}": form.format(found[name]) for name, form in MEASURES.items()}
    return words


def _write(tensors: dict, manifest: dict, place: Path) -> None:
    binary, places = b"", {}
    for name, tensor in tensors.items():
        places[name] = [len(binary) // 4, *tensor.shape]
        binary += tensor.detach().float().contiguous().numpy().astype("<f4").tobytes()
    told = json.dumps(manifest | {"tensors": places})
    (place / "networks.bin").write_bytes(binary)
    (place / "networks.json").write_text(told)
    decoded = f'Uint8Array.from(atob("{b64encode(binary).decode()}"), (c) => c.charCodeAt(0)).buffer'
    (place / "networks.js").write_text(f"window.tryItData = [{told}, {decoded}];\n")


def _still(fitted, attack: dict, file: Path) -> None:
    """The first test digit of every class before and after an attack: what paper and a browser without scripts show."""
    import matplotlib
    import torch

    nc.figures.use_style()
    first = [(fitted.data.test.labels == c).nonzero()[0, 0].item() for c in range(fitted.data.num_classes)]
    x, y = nc.pixels(fitted.data.test.images[first]), fitted.data.test.labels[first]
    attacked = nc.pgd(fitted.model, x, y, generator=torch.Generator().manual_seed(0), **attack)
    answers = [[str(c) for c in fitted.model(images).argmax(1).tolist()] for images in (x, attacked)]
    before, after = (images.permute(0, 2, 3, 1).numpy() for images in (x, attacked))
    figure = nc.figures.triptych(before, after, list(zip(*answers)), 0.5 / attack["epsilon"])
    with matplotlib.rc_context({"svg.hashsalt": "try-it"}):  # and no date: an unchanged site is not rendered anew
        figure.savefig(file, metadata={"Date": None})
