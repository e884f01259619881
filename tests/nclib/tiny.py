"""Runs of a second, and how two of them are compared."""

import json
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

import nclib as nc
from nclib.training.recipe import Recipe

TINY = dict(epochs=3, per_class=10, test_per_class=5, width=4, batch=40, steps=2)


def fit(root, **options):
    return nc.fit(Recipe(**TINY | options), root=root, device="cpu")


def folder(root: Path, **options) -> Path:
    """Where a tiny run is kept."""
    return root / f"{Recipe(**TINY | options).key}-float32"


def weights(run):
    return load_file(run.path / "model.safetensors")


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lasting(history: pd.DataFrame) -> pd.DataFrame:
    return history[history.measure != "seconds"].reset_index(drop=True)


def assert_same_run(path: Path, other: Path):
    """Weights and snapshots bit for bit, one record but for the seconds, and nothing left over."""
    files = sorted(p.name for p in path.iterdir() if p.name not in ("lock", "measures"))
    assert files == sorted(p.name for p in other.iterdir() if p.name not in ("lock", "measures"))
    assert not [name for name in files if name.endswith(".part") or name.startswith("state")]
    for name in files:
        if name.endswith(".safetensors"):
            assert (path / name).read_bytes() == (other / name).read_bytes(), name
    one, two = (json.loads((place / "recipe.json").read_text()) for place in (path, other))
    assert one.pop("seconds").keys() == two.pop("seconds").keys() and one == two
