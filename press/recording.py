"""Evidence to commit: a finished book's pages, records and networks, in ``results/<profile>/``."""

import json
import shutil
from pathlib import Path

from nclib.evidence.ledger import judged
from nclib.evidence.records import load
from nclib.runtime import home, write
from nclib.seeds import words

from . import BookError
from .execute import run_chapter
from .profiles import LEDGER

MARK = ("<!-- verdicts -->", "<!-- end of verdicts -->")  # what lies between them in the README is written here


def record(profile: str) -> Path:
    """Copy a finished book to ``results/<profile>/``: pages, records, networks; for digits the README follows."""
    place, results = home() / "_build" / profile, home() / "results" / profile
    if not (place / "site").exists():
        raise BookError(f"nothing to record: run 'make book PROFILE={profile}' first")
    _replace(results / "records", (place / "records").glob("*.*"))
    run_chapter(LEDGER, profile)  # anew, as its table has this run as the recorded one now
    _replace(results / "pages", (place / "pages").glob("*.ipynb"))
    used = networks(place)
    for name, snapshots in used.items():
        ship(name, results / "networks", snapshots)
    for folder in results.glob("networks/*"):
        if folder.name not in used:
            shutil.rmtree(folder)
    if profile == "digits":
        _readme(load(results / "records"))
        shutil.copy2(place / "source" / "_static" / "picture.svg", results)
    return results


def _replace(folder: Path, files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy2(file, folder)


def networks(place: Path) -> dict[str, bool]:
    """The networks that a made book's pages used, by name, and whether a page needs their snapshots."""
    used: dict[str, bool] = {}
    for file in sorted(place.glob("stamps/*.networks")):
        for line in file.read_text().splitlines():
            name, *more = line.split()
            used[name] = used.get(name, False) or bool(more)
    return used


def ship(name: str, into: Path, snapshots: bool = False) -> Path:
    """Copy a finished run to travel with the book: final weights, what was measured and, if asked, its snapshots.

    BookError where the run is neither in ``runs`` nor among the networks that travel. Returns the new folder.
    """
    places = [home() / "runs" / name, *(home() / "results").glob(f"*/networks/{name}")]
    path, there = next((p for p in places if (p / "recipe.json").exists()), None), into / name
    if path is None:
        raise BookError(f"no finished run {name} to ship: run the book again")
    if path == there:
        return there
    origin, partial = json.loads((path / "recipe.json").read_text()), into / f"{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(path / "measures", partial / "measures", ignore=shutil.ignore_patterns("*.lock"))
    for file in there.glob("measures/*.csv"):  # of another view, measured where these weights came from
        if not (partial / "measures" / file.name).exists():
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


def _readme(records) -> None:
    """The README's table of verdicts, between its marks."""
    file = home() / "README.md"
    before, after = file.read_text().split(MARK[0])[0], file.read_text().split(MARK[1])[1]
    write(file, f"{before}{MARK[0]}\n{verdict_table(records)}{MARK[1]}{after}")


def verdict_table(records) -> str:
    """Claims, seeds and verdicts of one profile, in Markdown."""
    rows = judged(records).itertuples()
    lines = [f"| {row.id} | {row.claim} | {words(row.seeds)} | **{row.verdict}** |\n" for row in rows]
    return "| | claim | | on digits |\n|---|---|---|---|\n" + "".join(lines)
