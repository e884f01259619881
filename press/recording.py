"""Evidence to commit: a finished book's pages, records and networks, in ``results/<profile>/``."""

import re
import shutil
from pathlib import Path

from nclib.evidence.ledger import verdict_table
from nclib.evidence.records import load
from nclib.evidence.travel import ship
from nclib.runtime import home, write

from . import BookError
from .execute import run_chapter
from .profiles import LEDGER, chapters

MARK = ("<!-- verdicts -->", "<!-- end of verdicts -->")  # what lies between them in the README is written here


def record(profile: str) -> Path:
    """Copy a finished book to ``results/<profile>/``: pages, records, networks; for digits the README follows."""
    place, results = home() / "_build" / profile, home() / "results" / profile
    measured = [name for name in chapters(profile) if name != LEDGER]
    if not all((place / "pages" / f"{name}.ipynb").exists() for name in measured):
        raise BookError(f"nothing to record: run 'make book PROFILE={profile}' first")
    load(place / "records")  # what is refused takes the place of nothing
    _replace(results, place, "records")
    if LEDGER in chapters(profile):
        run_chapter(LEDGER, profile)  # anew, as its table has this run as the recorded one now
    _replace(results, place, "pages")
    used, others = networks(place), [f for f in (home() / "results").iterdir() if f != results]
    for name, snapshots in used.items():
        there = [f for f in (results, *others) if (f / "networks" / name).exists()]
        ship(name, (there or [results])[0] / "networks", snapshots)  # once, whichever profile was the first to use it
    named = "".join(file.read_text("utf-8") for other in others for file in other.glob("records/*.json"))
    for folder in (f for f in results.glob("networks/*") if f.name not in used):
        if f'"{folder.name.split("-")[0]}"' not in named:
            shutil.rmtree(folder)
    if profile == "digits":
        _readme(load(results / "records"))
        picture = place / "source" / "_static" / "picture.svg"
        if picture.exists():  # not where the ledger refused the old records, and so no site was rendered
            shutil.copy2(picture, results)
    return results


def _replace(results: Path, place: Path, kind: str) -> None:
    shutil.rmtree(results / kind, ignore_errors=True)
    shutil.copytree(place / kind, results / kind)


def networks(place: Path) -> dict[str, bool]:
    """The networks that a made book's pages used, by name, and whether a page needs their snapshots."""
    used: dict[str, bool] = {}
    for file in sorted(place.glob("stamps/*.networks")):
        for line in file.read_text().splitlines():
            name, *more = line.split()
            used[name] = used.get(name, False) or bool(more)
    return used


def _readme(records) -> None:
    """The README's table of verdicts, between its marks."""
    before, _, after = re.split("|".join(MARK), (home() / "README.md").read_text("utf-8"))
    write(home() / "README.md", f"{before}{MARK[0]}\n{verdict_table(records)}{MARK[1]}{after}")
