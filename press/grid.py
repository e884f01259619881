"""Sweep files: a grid of parameters over chapters, read into jobs.

A sweep file (YAML) names ``chapters``, a base ``profile``, and what changes: a ``grid``, a list of entries for each
axis, of which every combination is run, or ``runs``, a list of entries (beside a grid: one more axis). An entry is a
value of the parameter that its axis is named after, or a mapping of several. A parameter goes to the chapters that
know it. ``cpus`` (1) and ``gpus`` (1 where the cluster has any) are what one run takes.
"""

import itertools
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import yaml

from nclib.evidence.pages import literals, number
from nclib.runtime import home

from . import BookError
from .execute import unchanged
from .profiles import check, read_profile, read_yaml, source

KEYS = {
    "chapters": (list, "a list of chapters"),
    "profile": (str, "the name of a profile"),
    "grid": (dict, "a mapping of lists"),
    "runs": (list, "a list of mappings"),
    "cpus": (int, "a number of cores"),
    "gpus": ((int, float), "a number of GPUs"),
}


@dataclass(frozen=True, eq=False)
class Job:
    """One chapter under one set of parameters: one shell command, one folder of the house for all that it leaves."""

    chapter: str
    profile: str
    values: dict
    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / f"{self.chapter}.ipynb"

    @property
    def words(self) -> list[str]:
        """What follows ``python -m press``, in the house."""
        words = ["run", f"book/{self.chapter}.ipynb", "--profile", self.profile]
        for name, value in self.values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=9999)
            words += ["-p", name, text.removesuffix("...\n").strip()]
        return [*words, "-o", str(self.page)]

    @property
    def done(self) -> bool:
        """Is the page there, and is it what today's source, parameters and library would give?"""
        return unchanged(self.chapter, self.profile, self.values, home() / self.page)


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep file, and its settings: by label, all jobs that differ in nothing but chapter and seeds."""

    file: Path
    jobs: list[Job]
    settings: dict[str, list[Job]]
    cpus: int
    gpus: float | None


def read(file: Path) -> Sweep:
    """A sweep file as jobs, checked. BookError, in one line, for anything missing, unknown or of a wrong type."""
    asked = _load(file)
    names, profile = [source(str(chapter)).stem for chapter in asked["chapters"]], asked.get("profile", "digits")
    read_profile(profile)
    known = {name: {k: v for k, v in literals(source(name)).items() if k != "profile"} for name in names}
    points, every = _points(asked, file), {k: v for each in known.values() for k, v in each.items()}
    for point in points:
        check(point, every, str(file))
    jobs, settings = {}, {}
    for chapter, (label, point) in itertools.product(names, zip(_labels(points, profile), points)):
        values = {name: value for name, value in point.items() if name in known[chapter]}
        key = sha256(json.dumps([chapter, profile, values], sort_keys=True).encode()).hexdigest()[:8]
        folder = Path("_build", "sweeps", file.stem, f"{chapter}-{key}")
        settings.setdefault(label, {})[key] = jobs.setdefault(key, Job(chapter, profile, values, folder))
    settings = {label: list(same.values()) for label, same in settings.items()}
    return Sweep(file, list(jobs.values()), settings, asked.get("cpus", 1), asked.get("gpus"))


def _load(file: Path) -> dict:
    """What a sweep file says, its keys and their types checked."""
    if not file.is_file():
        there = ", ".join(f"sweeps/{f.name}" for f in sorted((home() / "sweeps").glob("*.yml")))
        raise BookError(f"no sweep file {str(file)!r}; choose one of {there}")
    asked = read_yaml(file, f"{file}:")
    if not isinstance(asked, dict) or not asked.get("chapters"):
        raise BookError(f"{file}: a sweep needs chapters, and may have {', '.join(list(KEYS)[1:])}")
    for key, value in asked.items():
        if key not in KEYS:
            raise BookError(f"{file}: unknown key {key!r}; choose from {', '.join(KEYS)}")
        kind, words = KEYS[key]
        if not isinstance(value, kind) or (isinstance(value, (int, float)) and (isinstance(value, bool) or value < 0)):
            raise BookError(f"{file}: {key} must be {words}, not {value!r}")
    return asked


def _points(asked: dict, file: Path) -> list[dict]:
    """Every combination of one entry from each axis, as parameters."""
    points = []
    axes = _axes(asked, file)
    for chosen in itertools.product(*axes.values()):
        parts = [entry if isinstance(entry, dict) else {name: entry} for name, entry in zip(axes, chosen)]
        names = [name for part in parts for name in part]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BookError(f"{file}: {twice[0]} is set by two axes")
        points.append({name: number(value) for part in parts for name, value in part.items()})
    return points


def _axes(asked: dict, file: Path) -> dict[str, list]:
    """The grid's axes, and ``runs`` as one more."""
    runs, axes = asked.get("runs", []), dict(asked.get("grid", {}))
    if wrong := [entry for entry in runs if not isinstance(entry, dict)]:
        raise BookError(f"{file}: an entry of runs must be a mapping of parameters, not {wrong[0]!r}")
    if runs:
        axes["runs"] = runs
    for name, entries in axes.items():
        if not isinstance(entries, list) or not entries:
            raise BookError(f"{file}: {name} must be a list of values or of mappings, not {entries!r}")
    return axes


def _labels(points: list[dict], otherwise: str) -> list[str]:
    """What each point says of the parameters that vary, seeds aside; ``otherwise`` where nothing does."""
    names = [name for name in dict.fromkeys(itertools.chain(*points)) if name != "seeds"]
    varied = [name for name in names if any(point.get(name) != points[0].get(name) for point in points)]
    said = [", ".join(_words(name, point[name]) for name in varied if name in point) for point in points]
    return [label or otherwise for label in said]


def _words(name: str, value) -> str:
    return value if isinstance(value, str) else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
