"""Chapters and profiles: which parameters there are, what a profile sets them to, and what is refused."""

import os
from pathlib import Path

import yaml

from nclib.evidence.pages import fault, literals, number
from nclib.runtime import home

from . import BookError

LEDGER = "ledger"  # reads what the other chapters recorded, so it runs last


class _Once(yaml.SafeLoader):
    """YAML in which a name is set once: of two values the last one would win in silence."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} is set twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path, what: str):
    """What a file of parameters says. BookError in one line, which begins with ``what``, where it is not YAML."""
    try:
        return yaml.load(file.read_text("utf-8"), _Once)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BookError(f"{what} not YAML: {' '.join(str(error).split())}") from None


def book_folder() -> Path:
    folder = home() / "book"
    if not folder.is_dir():
        raise BookError(f"no book folder in {home()}: run this inside the checkout, or set NCLIB_HOME")
    return folder


def chapters(profile: str | None = None) -> list[str]:
    """Names of the notebooks in ``_toc.yml``, in reading order; of those alone that a profile is for, if it names any.

    BookError for a profile that does not exist or names no chapter of the book.
    """
    if profile and (only := _read(profile).get("chapters")):
        for name in only:
            source(name)
        return [name for name in chapters() if name in only]
    toc = yaml.safe_load((book_folder() / "_toc.yml").read_text())
    files = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [name for name in files if (book_folder() / f"{name}.ipynb").exists()]


def source(chapter: str) -> Path:
    """A chapter's notebook, by the chapter's name or any path to it. BookError, with the choices, for another."""
    name = Path(chapter).stem
    if name not in chapters():
        raise BookError(f"unknown chapter {chapter!r}; choose one of {', '.join(chapters())}")
    return book_folder() / f"{name}.ipynb"


def read_profile(name: str) -> dict:
    """A profile's parameters. BookError for an unknown profile, name, or type, or a data set that is not there."""
    values, known = {key: value for key, value in _read(name).items() if key != "chapters"}, {}
    for chapter in chapters(name):
        known |= literals(source(chapter))
    check(values, known, f"profile {name}")
    return values | {"profile": name}


def _read(name: str) -> dict:
    file = home() / "profiles" / f"{name}.yml"
    if not file.exists():
        names = sorted(file.stem for file in (home() / "profiles").glob("*.yml"))
        raise BookError(f"unknown profile {name!r}; choose one of {', '.join(names)}")
    values = read_yaml(file, f"profile {name} is") or {}
    if not isinstance(values, dict):
        raise BookError(f"profile {name} must be lines of 'name: value', not {values!r}")
    return {key: number(value) for key, value in values.items()}


def check(values: dict, known: dict, where: str) -> None:
    """Refuse an unknown parameter, a wrong type or an unknown choice, naming the choices, before any work."""
    for name, value in values.items():
        if wrong := fault(name, value, known):
            raise BookError(f"{where}: {wrong}")
    if "NCLIB_DATA" in os.environ and not Path(os.environ["NCLIB_DATA"]).is_dir():
        raise BookError(f"data folder {os.environ['NCLIB_DATA']!r} does not exist; make it, or unset NCLIB_DATA")


def parameters(chapter: str, profile: str, overrides: dict) -> dict:
    """What papermill injects into one chapter: the profile's share of its parameters, then the overrides."""
    known = literals(source(chapter))
    check(overrides, known, f"chapter {source(chapter).stem}")
    values = {k: v for k, v in read_profile(profile).items() if k in known} | overrides
    return {name: value for name, value in values.items() if value != known[name]}
