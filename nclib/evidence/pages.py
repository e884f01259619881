"""A page: one chapter under one set of parameters, by name, and the numbers in its prose."""

import ast
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import inf
from pathlib import Path

from IPython.core.formatters import format_display_data
from IPython.display import Markdown, display

from ..runtime import home
from ..training.recipe import choices, own_path

LITERALS = (str, int, float, bool, type(None), list)
PLACE = re.compile(r"\{\{([a-z][\w-]*-[\w-]+)(?::([^{}]*))?\}\}")  # of a value in the text of ``prose``
GLUED: dict[str, object] = {}
SHOWN: list[tuple] = []  # what ``prose`` has shown: the text, and a handle on its display


@dataclass(frozen=True)
class Page:
    """A chapter and every parameter it runs with."""

    chapter: str
    parameters: dict
    began: float = field(default_factory=time.time, compare=False)

    @property
    def profile(self) -> str:
        """The profile that it started from."""
        return self.parameters.get("profile", "digits")

    @property
    def name(self) -> str:
        """The profile, and in words whatever differs from it: "digits", "digits, epsilon 0.1"."""
        usual = baseline(self.chapter, self.profile)
        changed = {k: v for k, v in self.parameters.items() if k != "profile" and usual.get(k, v) != v}
        return ", ".join([self.profile, *(f"{name} {value}" for name, value in sorted(changed.items()))])


def page(chapter: str, variables: dict) -> Page:
    """The page that a chapter is running as: ``page = nc.page("attacks", globals())``, right below the parameters.

    Of ``variables`` the chapter's own parameters are picked, or, where there is no checkout, all literals. What bare
    papermill injected is checked, and fractions become numbers. ValueError for an unknown name or a wrong type.
    """
    notebook = home() / "book" / f"{chapter}.ipynb"
    if not notebook.exists():
        known = {name for name in variables if name != "In" and not name.startswith("_")}
        return Page(chapter, {n: variables[n] for n in known if type(variables[n]) in LITERALS})
    known = literals(notebook)
    for name in injected(variables.get("In", [])) | (known.keys() & variables.keys()):
        value = number(variables[name])
        if wrong := fault(name, value, known):
            raise ValueError(f"{chapter}: {wrong}")
        variables[name] = value
    return Page(chapter, {n: variables[n] for n in known if n in variables and type(variables[n]) in LITERALS})


def injected(cells: list[str]) -> set[str]:
    """The names that papermill set: in a cell of its own, which begins with a comment."""
    cells = [cell for cell in cells if cell.startswith("# Parameters\n")]
    return {s.targets[0].id for cell in cells for s in ast.parse(cell).body if isinstance(s, ast.Assign)}


def number(value):
    """ "8/255" and "1e-3", which YAML takes for words, as numbers; "None" as None; anything else as it is."""
    if isinstance(value, list):
        return [number(v) for v in value]
    if not isinstance(value, str):
        return value
    top, _, bottom = value.partition("/")
    with suppress(ValueError, ZeroDivisionError):
        return float(top) / float(bottom or 1)
    return None if value == "None" else value


def fault(name: str, value, known: dict) -> str | None:
    """What is wrong with a parameter, in words: ``known`` has the defaults by name."""
    if name not in known:
        return f"unknown parameter {name!r}; choose from {', '.join(sorted(known))}"
    if not _fits(value, known[name]):
        listed = f"a list of {type(known[name][0]).__name__}" if isinstance(known[name], list) else ""
        kind = {type(None): "int or None", list: listed}.get(type(known[name]))
        return f"{name} must be {kind or type(known[name]).__name__}, not {value!r}"
    if name in ("epsilon", "step") and not 0 <= value < inf:
        return f"{name} must be 0 or more and finite, not {value!r}"
    if (allowed := choices(name)) and value not in allowed and not (name == "dataset" and own_path(value)):
        return f"unknown {name} {value!r}; choose one of {', '.join(allowed)}"
    return None


def _fits(value, default) -> bool:
    """Is a value of the default's type? An int may stand for a float, None marks an optional int."""
    if default is None:
        return value is None or type(value) is int
    if isinstance(default, list):
        return isinstance(value, list) and bool(value) and all(_fits(v, default[0]) for v in value)
    return type(value) in ((float, int) if type(default) is float else (type(default),))


@cache
def literals(notebook: Path, tag: str = "parameters") -> dict:
    """The literals of a notebook's ``parameters`` cell, or of one with another tag (empty where it has none)."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    code = next(("".join(c["source"]) for c in cells if tag in c["metadata"].get("tags", [])), "")
    return {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(code).body if isinstance(s, ast.Assign)}


def baseline(chapter: str, profile: str) -> dict:
    """A chapter's parameters as a profile has them; nothing where there is no checkout to tell."""
    notebook, file = home() / "book" / f"{chapter}.ipynb", home() / "profiles" / f"{profile}.yml"
    if not notebook.exists():
        return {}
    usual = dict(literals(notebook))
    if file.exists():
        import yaml  # here, as only a checkout has profiles to read

        given = yaml.safe_load(file.read_text("utf-8")) or {}
        usual |= {name: number(value) for name, value in given.items() if name in usual}
    return usual


def in_the_book() -> bool:
    """Does the press run this page? It says where records go."""
    return "NCLIB_RECORDS" in os.environ


def glue(prefix: str, **values) -> None:
    """Values for the prose of a page: ``glue("attack", nc1_clean=x)`` fills the place named ``attack-nc1-clean``.

    Where the press runs the page they are outputs as MyST-NB reads them. Elsewhere ``prose`` says them.
    """
    for name, value in values.items():
        plain = value.item() if hasattr(value, "item") else value  # a number of numpy's or torch's, as Python's own
        key = f"{prefix}-{name.replace('_', '-')}"
        GLUED[key] = plain
        if in_the_book():
            bundle, more = format_display_data(plain)
            mime = "application/papermill.record/"
            record = {"scrapbook": {"name": key, "mime_prefix": mime}}
            display({mime + kind: data for kind, data in bundle.items()}, raw=True, metadata=more | record)
        for text, shown in SHOWN:
            if key in text:
                shown.update(filled(text))


def prose(text: str) -> None:
    """Markdown in a notebook outside the book, with values that ``glue`` has or will get: ``{{attack-nc1:.2f}}``.

    A value that is not there yet is an ellipsis, until the cell has run that glues it.
    """
    if shown := display(filled(text), display_id=True):
        SHOWN.append((text, shown))


def filled(text: str, values: dict | None = None):
    """Markdown with its values in place; of a text that is one value alone and no words, that object itself."""
    known = GLUED if values is None else values
    if (lone := PLACE.fullmatch(text.strip())) and not isinstance(known.get(lone[1], ""), (str, int, float)):
        return known[lone[1]]
    return Markdown(PLACE.sub(lambda found: _said(known.get(found[1], "…"), found[2]), text))


def _said(value, form: str | None) -> str:
    if isinstance(value, (int, float)):
        return format(value, form or "")
    return str(getattr(value, "data", value))
