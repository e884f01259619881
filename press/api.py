"""The page of every public function, from the library itself: signature, docstring, example, the way to a chapter."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import yaml

import nclib as nc

from .profiles import book_folder

ROW = re.compile(r"^\| ([^|]*`nc[^|]*) \|.*\| ([^|]+) \|$", re.M)  # of the notation's table of functions
PARTS = {"models": "data", "compute": "data", "losses": "attacks", "evidence": "pages"}
MODULES = ("records", "ledger", "findings", "figures")
NAME = re.compile(r"(?<![`\[])`(nc(?:lib)?(?:\.\w+)+)(?:\(\))?`(?!`)")


def every_name() -> dict[str, dict[str, object]]:
    """Heading -> name -> object: what nclib offers, then, as "nc.records.pick", what its modules and neighbours do."""
    found: dict[str, dict[str, object]] = {}
    for name in (name for name in nc.__all__ if name not in MODULES):
        place = getattr(nc, name).__module__.split(".")[1]
        found.setdefault(PARTS.get(place, place).capitalize(), {})[f"nc.{name}"] = getattr(nc, name)
    for name in MODULES:
        found[f"Module nc.{name}"] = _public(getattr(nc, name), f"nc.{name}")
    for file in sorted(Path(nc.__file__).parent.glob("neighbours/[a-z]*.py")):
        path = f"nclib.neighbours.{file.stem}"
        found[f"Module {path}"] = _public(import_module(path), path)
    return {heading: entries for heading, entries in found.items() if entries}


def _public(module, path: str) -> dict[str, object]:
    own = {name: it for name, it in vars(module).items() if not name.startswith("_") and callable(it)}
    return {f"{path}.{name}": it for name, it in own.items() if getattr(it, "__module__", "") == module.__name__}


def label_of(name: str) -> str:
    twin = "-class" if name.startswith("nclib.") and name.rpartition(".")[2][0].isupper() else ""  # of a function
    return "api-" + re.sub(r"[._]", "-", name.removeprefix("nc.").removeprefix("nclib.neighbours.")).lower() + twin


def with_links(text: str, known: dict[str, str]) -> str:
    """A page's text with every name of the library that stands in code leading to its entry."""
    entry = lambda name: known.get(name) or known.get(name.rpartition(".")[0])  # noqa: E731
    parts = re.split(r"(^[`~:]{3,}(?:\{code.*|python|sh)?$(?s:.*?)^[`~]{3,}$|^#.*$)", text, flags=re.M)
    for number in range(0, len(parts), 2):
        parts[number] = NAME.sub(lambda it: f"[{it[0]}]({found})" if (found := entry(it[1])) else it[0], parts[number])
    return "".join(parts)


def functions_page() -> str:
    """``book/api.md`` with every entry below its text."""
    entries = [(book_folder() / "api.md").read_text("utf-8")]
    examples = yaml.safe_load((book_folder() / "examples.yml").read_text("utf-8"))
    rows = ROW.findall((book_folder() / "notation.md").read_text("utf-8"))
    chapter = {name: there for names, there in rows for name in re.findall(r"`(nc[\w.]+)`", names)}  # which explains it
    for heading, found in every_name().items():
        entries.append(f"## {heading}\n")
        for name, it in found.items():
            entries.append(_entry(name, it, examples.get(name.removeprefix("nc.")), chapter.get(name)))
    return "\n".join(entries)


def _entry(name: str, it, example: str | None, chapter: str | None) -> str:
    kind = "class" if inspect.isclass(it) else "function"
    lines = [f"({label_of(name)})=", f"### `{name}`\n", f"````{{py:{kind}}} {name}({_parameters(it)})\n"]
    lines += [_markdown(inspect.getdoc(it) or ""), "", *(_members(it) if kind == "class" else []), "````\n"]
    lines += [f"```python\n{example}```\n"] if example else []
    return "\n".join([*lines, f"Explained in {chapter}.\n" if chapter else ""])


def _members(it) -> list[str]:
    """A class's own methods and properties, each with the first line of what it says of itself."""
    own = {name: its for name, its in vars(it).items() if not name.startswith("_") and inspect.getdoc(its)}
    said = {name: inspect.getdoc(its).splitlines()[0] for name, its in own.items() if not isinstance(its, (str, int))}
    return [f"- `.{name}`: {_markdown(words)}" for name, words in said.items()]


def _parameters(it) -> str:
    """What stands between the parentheses, as its source has it: 8 / 255, and not 0.0313…"""
    (node,) = ast.parse(inspect.getsource(it)).body
    if isinstance(node, ast.FunctionDef):
        return ast.unparse(node.args)
    fields = (ast.unparse(field) for field in node.body if isinstance(field, ast.AnnAssign))
    return ", ".join(field for field in fields if "field(" not in field)


def _markdown(text: str) -> str:
    """A docstring in Markdown: lines "name : what it is" as a list, angles as they are."""
    text = re.sub(r"^([\w*]+(?:, [\w*]+)*) : (.*(?:\n {4}.*)*)", lambda it: f"- **{it[1]}**: {it[2]}", text, flags=re.M)
    text = re.sub(r"\n+(?=- \*\*)", "\n", text).replace("\n- **", "\n\n- **", 1)
    return "".join(p if p.startswith("``") else p.replace("<", r"\<") for p in re.split(r"(``.*?``)", text))
