"""A page: one chapter under one set of parameters, by name, and the numbers in its prose."""

import ast
import json
import os
import re
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from IPython.core.formatters import format_display_data
from IPython.display import Markdown, display

from ..runtime import home

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

    Of ``variables`` the chapter's own parameters are picked, or, where there is no checkout, all literals.
    """
    notebook = home() / "book" / f"{chapter}.ipynb"
    known = literals(notebook) if notebook.exists() else {n for n in variables if n != "In" and not n.startswith("_")}
    return Page(chapter, {n: variables[n] for n in known if n in variables and type(variables[n]) in LITERALS})


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

        usual |= {
            name: value for name, value in (yaml.safe_load(file.read_text("utf-8")) or {}).items() if name in usual
        }
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
