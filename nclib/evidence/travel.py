"""Networks that travel with the book: finished runs, copied to ``results/<profile>/networks``. Trains nothing."""

import json
import shutil
from pathlib import Path

from ..runtime import home, write


def ship(name: str, into: Path, snapshots: bool = False) -> Path:
    """Copy a finished run to travel with the book: final weights, what was measured and, if asked, its snapshots.

    FileNotFoundError where the run is neither in ``runs`` nor among the networks that travel. Returns the new folder.
    """
    places = [home() / "runs" / name, *(home() / "results").glob(f"*/networks/{name}")]
    records = ("recipe.json", "kept.json")
    path, there = next((p for p in places if any((p / r).exists() for r in records)), None), into / name
    if path is None:
        raise FileNotFoundError(f"no finished run {name} to ship: run the book again")
    if path == there and (snapshots or not any(there.glob("epoch-*"))):
        return there
    partial = into / f"{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    if (path / "kept.json").exists():  # of ``training.kept``: small, and travels whole
        shutil.copytree(path, partial, ignore=shutil.ignore_patterns("lock", "*.part"))
        shutil.rmtree(there, ignore_errors=True)
        partial.replace(there)
        return there
    origin = json.loads((path / "recipe.json").read_text())
    (partial / "measures").mkdir(parents=True)
    for file in (*there.glob("measures/*.csv"), *path.glob("measures/*.csv")):  # what travelled, and what is here
        shutil.copy2(file, partial / "measures")
    last = f"-{origin['recipe']['epochs']:04d}.safetensors"
    kept = [f for f in origin["sha256"] if not f.startswith("epoch-") or snapshots]
    kept = [f for f in kept if not f.startswith("stale-") or snapshots or f.endswith(last)]
    for file in kept:
        shutil.copy2(path / file, partial)
    write(partial / "recipe.json", json.dumps(origin | {"sha256": {f: origin["sha256"][f] for f in kept}}, indent=1))
    shutil.rmtree(there, ignore_errors=True)
    partial.replace(there)
    return there
