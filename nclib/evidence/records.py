"""Tidy records: what a chapter measured, row by row, with where it came from beside it."""

import json
import os
import time
from pathlib import Path

import pandas as pd

from ..runtime import home, write
from .provenance import environment, peak_memory

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


def save(chapter: str, profile: str, runs: list, tables: list[pd.DataFrame]):
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
        "peak_memory_gb": round(peak_memory(runs[0].device), 1),
    }
    write(place / f"{chapter}.csv", frame.reindex(columns=COLUMNS).to_csv(index=False))
    write(place / f"{chapter}.json", json.dumps(origin, indent=1))
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


def places(profile: str) -> list[Path]:
    """The folder of this profile's records and, after it, those committed under ``results/`` for every other."""
    committed = sorted(p for p in (home() / "results").glob("*/records") if p.parent.name != profile)
    return [folder(profile), *committed]


def everything(profile: str) -> pd.DataFrame:
    """This profile's records and, after them, those of every other recorded profile."""
    frames = [load(place) for place in places(profile)]
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def origins(place: Path) -> list[dict]:
    """The provenance of every chapter recorded in a folder."""
    return [json.loads(file.read_text()) for file in sorted(place.glob("*.json"))]


def sources(profile: str) -> pd.DataFrame:
    """Where a profile's records came from: one row per chapter."""
    rows = {
        o["chapter"]: {
            "models": len(o["recipes"]), "seconds": o["seconds"], "device": o["device"],
            "torch": o["versions"]["torch"], "commit": o["commit"],
        }
        for o in origins(folder(profile))
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("chapter")


def costs(profile: str) -> pd.DataFrame:
    """What every recorded profile took: models, seconds of training and of whole pages, memory, device."""
    rows = {}
    for found in filter(None, map(origins, places(profile))):
        training = {key: seconds for o in found for key, seconds in o["training_seconds"].items()}
        rows[found[0]["profile"]] = {
            "models": len(training),
            "training, s": round(sum(training.values())),
            "pages, s": round(sum(o["seconds"] for o in found)),
            "largest process, GB": max(o.get("peak_memory_gb", float("nan")) for o in found),
            "device": found[0]["device"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("profile")


def provenance_table(origin: dict):
    """A page's last table, styled, as a frame would cut long words: profile, recipes, device, versions, commit."""
    keys = [
        f"{key}: {r['training']}, seed {r['seed']}, {r['epochs']} epochs, {origin['training_seconds'][key]:.0f} s"
        for key, r in origin["recipes"].items()
    ]
    first = next(iter(origin["recipes"].values()))
    drops = " and ".join(f"{share:g}" for share in first["drops"])
    schedule = f"{first['epochs']} epochs (the paper: 400), learning rate down tenfold after {drops} of them"
    lines = {
        "profile": origin["profile"],
        "schedule": schedule,
        "models (recipe key)": "; ".join(keys),
        "device": origin["device"],
        "this page": f"{origin['seconds']:.0f} s, training not already done included",
        "versions": ", ".join(f"{name} {v}" for name, v in origin["versions"].items()),
        "commit": origin["commit"],
    }
    return pd.Series(lines).to_frame().style.hide(axis="columns")
