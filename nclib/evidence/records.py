"""Tidy records: what a page measured, row by row, with where it came from beside it."""

import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..runtime import home, write
from ..training.kept import key as kept_key
from ..training.recipe import VERSIONS, Recipe
from .pages import Page, baseline, page
from .provenance import environment, foot, peak_memory

MEASURED = ["model", "recipe", "seed", "epoch", "split", "layer", "view", "measure", "value"]  # a file's columns
COLUMNS = ["profile", "chapter", *MEASURED]
REQUIRED = ("name", "profile", "chapter", "parameters", "device", "versions", "commit", "seconds")
OF_RUNS = ("recipes", "dtypes")  # required where a row names a recipe
RECORDED = ", recorded"  # behind the name of a profile: its committed records, beside its own


def place(page: Page) -> Path:
    """Where a page's records are written, as ``<place>.csv`` and ``<place>.json``: the runner's choice, else a folder
    of ``runs/records`` that is named after the page's parameters, so that no run overwrites another's."""
    chosen = os.environ.get("NCLIB_RECORDS")
    slug = re.sub(r"[^\w.=-]+", "-", page.name).strip("-")
    return Path(chosen) if chosen else home() / "runs" / "records" / slug / page.chapter


def rows(table: pd.DataFrame, run, model: str | None = None, epoch: int | None = None, **more) -> pd.DataFrame:
    """A measured table with its run's name, recipe key, seed and epoch (the last unless given)."""
    named = {"model": model or run.recipe.name, "recipe": run.recipe.key, "seed": run.recipe.seed}
    if "epoch" not in table:
        named["epoch"] = run.recipe.epochs if epoch is None else epoch
    return table.assign(**named | more)


def one(run, measure: str, value: float, view: str = "clean", split: str = "train", layer: str = "features"):
    """A single measured number as a record of a run."""
    fields = {"split": split, "view": view, "layer": layer, "measure": measure, "value": value}
    return rows(pd.DataFrame([fields]), run)


def pick(frame: pd.DataFrame, **where) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def mean(frame: pd.DataFrame, **where) -> float:
    """The mean value, over seeds, of the picked rows. KeyError where there are none."""
    found = pick(frame, **where)
    if found.empty:
        raise KeyError(f"nothing recorded for {where}")
    return float(found.value.mean())


def table(frame: pd.DataFrame, rows: str | list[str], measures: list[str]):
    """Means over seeds as a styled table: measures by column."""
    wide = frame.groupby([*([rows] if isinstance(rows, str) else rows), "measure"], sort=False).value.mean()
    return wide.unstack("measure")[measures].rename_axis(columns=None).style.format("{:.3f}", na_rep="–")


def save(page: Page, runs: list, tables: list[pd.DataFrame], kept: Sequence = (), device="cpu"):
    """Write a page's records (CSV) and their provenance (JSON, which names profile and chapter); returns the
    provenance as a table.

    ``runs`` are networks of recipes, ``kept`` those of ``training.kept``; a page that trains its own, on ``device`` and
    from its parameters alone, has neither.
    """
    frame = pd.concat(tables, ignore_index=True)
    frame["layer"] = frame["layer"].fillna("features") if "layer" in frame else "features"
    device = runs[0].device if runs else device
    origin = {
        "name": page.name,
        "profile": page.profile,
        "chapter": page.chapter,
        "parameters": page.parameters,
        "recipes": {run.recipe.key: run.recipe.canonical() for run in runs},
        "dtypes": {run.recipe.key: run.dtype for run in runs},
        "parts": {part: VERSIONS[part] for run in runs for part in run.recipe.parts},
        "training_seconds": {run.recipe.key: round(run.seconds, 1) for run in runs}
        | {one.key: one.origin["seconds"] for one in kept},
        "trained": {run.recipe.key: _trained(run) for run in runs} | {one.key: _trained(one) for one in kept},
        "kept": {one.key: {"name": one.origin["name"], "settings": one.origin["settings"]} for one in kept},
        **environment(device),
        "seconds": round(time.time() - page.began, 1),
        "peak_memory_gb": round(peak_memory(device), 1),
    }
    there = place(page)
    there.parent.mkdir(parents=True, exist_ok=True)
    write(Path(f"{there}.csv"), frame.reindex(columns=MEASURED).to_csv(index=False))
    write(Path(f"{there}.json"), json.dumps(origin, indent=1))
    return foot(origin)


def _trained(run) -> str:
    """Where a network comes from, in words."""
    return f"shipped: {run.origin['device']}, commit {run.origin['commit']}" if run.shipped else "here"


def of(page: Page) -> pd.DataFrame:
    """What a page has saved."""
    return read(Path(f"{place(page)}.csv"))


def read(file: Path) -> pd.DataFrame:
    """One page's records in ``COLUMNS``. ValueError, naming the file, for records without their provenance, or with a
    recipe whose key is not the one that their rows name. Rows without a recipe need none: no network was measured."""
    origin_file = file.with_suffix(".json")
    if not origin_file.exists():
        raise ValueError(f"{file}: refused, {origin_file.name} with its provenance is missing")
    origin = json.loads(origin_file.read_text())
    frame = pd.read_csv(file, dtype={"recipe": str})
    required = (*REQUIRED, *(OF_RUNS if frame.recipe.notna().any() and not origin.get("kept") else ()))
    if missing := [name for name in required if origin.get(name) in (None, "", {})]:
        raise ValueError(f"{file}: refused, its provenance lacks {', '.join(missing)}")
    named = {key: Recipe(**fields).key for key, fields in origin.get("recipes", {}).items()}
    named |= {key: kept_key(**one) for key, one in origin.get("kept", {}).items()}
    for key, real in named.items():
        if real != key:
            raise ValueError(f"{file}: refused, the recipe given for key {key} has key {real}")
    if unknown := set(frame.recipe.dropna()) - set(named):
        raise ValueError(f"{file}: refused, no recipe given for key {sorted(unknown)[0]}")
    if strange := set(frame.get("profile", ())) - {origin["name"]}:  # of an older library, whose rows say it too
        raise ValueError(f"{file}: refused, rows of {sorted(strange)[0]!r} in a page named {origin['name']!r}")
    return frame.assign(profile=origin["name"], chapter=origin["chapter"])[COLUMNS]


def load(folder: Path) -> pd.DataFrame:
    """All records of one folder, in one frame (empty where there are none). Errors as in ``read``.

    ValueError, naming the files, where two pages go by one name but not by the same parameters, or are of one chapter:
    their rows would be averaged.
    """
    files = sorted(Path(folder).glob("*.csv"))
    frames = [pd.DataFrame(columns=COLUMNS), *map(read, files)]
    _refuse_mixtures({file: json.loads(file.with_suffix(".json").read_text()) for file in files})
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def _refuse_mixtures(origins: dict[Path, dict]) -> None:
    seen: dict[tuple, tuple] = {}
    for file, origin in origins.items():
        usual = baseline(origin["chapter"], origin["profile"])  # chapters may differ in what they usually take
        for name, value in {**origin["parameters"], "chapter " + origin["chapter"]: file.name}.items():
            ordinary = name in usual and usual[name] == value
            other, there, as_usual = seen.setdefault((origin["name"], name), (value, file, ordinary))
            if other != value and not (ordinary and as_usual):
                what = f"{name} is {other!r} in {there.name} and {value!r} in {file.name}"
                anew = f"if parameters have changed since: make book, then make record PROFILE={origin['profile']}"
                raise ValueError(f"{file.parent}: refused, two runs go by the name {origin['name']!r}: {what}; {anew}")


def own(profile: str) -> Path:
    """The folder of the records that a profile's pages write."""
    return place(page("ledger", {"profile": profile})).parent


def recorded(profile: str) -> Path:
    """The folder of a profile's committed records."""
    return home() / "results" / profile / "records"


def everything(profile: str) -> pd.DataFrame:
    """This profile's records and, after them, all committed ones: those of the same profile as "<profile>, recorded".

    Where this profile's own are the committed ones, value by value, they stand once.
    """
    mine, frames = load(own(profile)), []
    for folder in sorted((home() / "results").glob("*/records"), key=lambda f: (f != recorded(profile), f)):
        frame = load(folder)
        if folder == recorded(profile):
            same = np.array_equal(mine.value.to_numpy(float), frame.value.to_numpy(float), equal_nan=True)
            frame = frame[:0] if same else frame.assign(profile=profile + RECORDED)
        frames.append(frame)
    return pd.concat([f for f in (mine, *frames) if len(f)] or [mine], ignore_index=True)


def origins(folder: Path) -> list[dict]:
    """The provenance of every page recorded in a folder."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
