"""Tidy records: what a chapter measured, row by row, with where it came from beside it."""

import json
import os
import time
from pathlib import Path

import pandas as pd

from .provenance import environment, home

COLUMNS = ["profile", "chapter", "model", "recipe", "seed", "epoch", "split", "layer", "view", "measure", "value"]
REQUIRED = ("profile", "chapter", "recipes", "device", "versions", "commit", "seconds")
STARTED = time.time()


def folder(profile: str) -> Path:
    """Where a profile's records are written: the runner's choice, else ``runs/records/<profile>``."""
    chosen = os.environ.get("NCLIB_RECORDS")
    return Path(chosen) if chosen else home() / "runs" / "records" / profile


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


def save(chapter: str, profile: str, runs: list, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Write a chapter's records (CSV) and their provenance (JSON); returns the provenance as a table."""
    frame = pd.concat(tables, ignore_index=True).assign(profile=profile, chapter=chapter)
    frame["layer"] = frame["layer"].fillna("features") if "layer" in frame else "features"
    place = folder(profile)
    place.mkdir(parents=True, exist_ok=True)
    origin = {
        "profile": profile,
        "chapter": chapter,
        "recipes": {run.recipe.key: run.recipe.canonical() for run in runs},
        "training_seconds": {run.recipe.key: round(run.seconds, 1) for run in runs},
        **environment(runs[0].device),
        "seconds": round(time.time() - STARTED, 1),
    }
    _replace(place / f"{chapter}.csv", frame.reindex(columns=COLUMNS).to_csv(index=False))
    _replace(place / f"{chapter}.json", json.dumps(origin, indent=1))
    return provenance_table(origin)


def load(place: Path) -> pd.DataFrame:
    """All records of one folder, in one frame (empty where there are none).

    Raises ValueError, naming the file, for records without their recipe, device, versions and commit.
    """
    frames = [pd.DataFrame(columns=COLUMNS)]
    for file in sorted(Path(place).glob("*.csv")):
        origin_file = file.with_suffix(".json")
        if not origin_file.exists():
            raise ValueError(f"{file}: refused, {origin_file.name} with its provenance is missing")
        origin = json.loads(origin_file.read_text())
        if missing := [name for name in REQUIRED if not origin.get(name)]:
            raise ValueError(f"{file}: refused, its provenance lacks {', '.join(missing)}")
        frame = pd.read_csv(file, dtype={"recipe": str})
        if unknown := set(frame.recipe) - set(origin["recipes"]):
            raise ValueError(f"{file}: refused, no recipe given for key {sorted(unknown)[0]}")
        frames.append(frame)
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def everything(profile: str) -> pd.DataFrame:
    """This profile's records and, after them, those committed under ``results/`` for every other profile."""
    committed = sorted(p for p in (home() / "results").glob("*/records") if p.parent.name != profile)
    frames = [load(place) for place in (folder(profile), *committed)]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def sources(profile: str) -> pd.DataFrame:
    """Where a profile's records came from: one row per chapter."""
    origins = [json.loads(file.read_text()) for file in sorted(folder(profile).glob("*.json"))]
    table = [
        (o["chapter"], len(o["recipes"]), o["seconds"], o["device"], o["versions"]["torch"], o["commit"])
        for o in origins
    ]
    return pd.DataFrame(table, columns=["chapter", "models", "seconds", "device", "torch", "commit"]).set_index(
        "chapter"
    )


def provenance_table(origin: dict) -> pd.DataFrame:
    """A page's last table: profile, recipe keys, device, seconds, versions, commit."""
    keys = [
        f"{key}: {r['training']}, seed {r['seed']}, {r['epochs']} epochs, {origin['training_seconds'][key]:.0f} s"
        for key, r in origin["recipes"].items()
    ]
    lines = {
        "profile": origin["profile"],
        "models (recipe key)": "; ".join(keys),
        "device": origin["device"],
        "this page": f"{origin['seconds']:.0f} s, training not already done included",
        "versions": ", ".join(f"{name} {v}" for name, v in origin["versions"].items()),
        "commit": origin["commit"],
    }
    return pd.DataFrame({"": lines.keys(), "this run": lines.values()}).set_index("")


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".part")
    partial.write_text(text)
    os.replace(partial, file)
