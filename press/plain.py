"""MyST as plain Markdown, for Jupyter, Colab and whatever else shows notebooks but not this book.

Roles become words, directives headings and quotes. Numbers are filled in from an executed page's outputs; in a source
the paragraphs that have some become cells which say them when they are run (``nc.prose``).
"""

import ast
import re
from contextlib import suppress
from functools import cache
from itertools import groupby

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from nclib.evidence.pages import PLACE, filled

from .profiles import book_folder

BLOCK = re.compile(r"^(`{3,}|~{3,}|:{3,})(?:\{([\w:.-]+)\})?[ \t]*(.*)\n((?s:.*?))^\1[ \t]*$", re.M)
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*)\n", re.M)
ROLE = re.compile(r"\{([\w:.-]+)\}(`+)((?s:.+?))\2(?!`)")
EQUATION = re.compile(r"\$\$[ \t]*\(([\w-]+)\)[ \t]*$", re.M)
TARGET = re.compile(r"^\(([\w-]+)\)=[ \t]*\n(?:#+ (.+))?", re.M)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\((?!https?:|#?\w+:)([^()\s]*)\)")
PARAGRAPH = re.compile(r"(?s:<details>.*?</details>)|(?:.+\n?)+")
SAYING = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["prose"]}  # code hidden, on Colab too
RECORD = "application/papermill.record/"


def without_myst(notebook, elsewhere: dict[str, str] | None = None):
    """A copy without MyST of an executed page or a source. ``elsewhere`` has other pages' labels, in words."""
    copy, words, cited = nbformat.from_dict(notebook), (elsewhere or {}) | own_labels(notebook), []
    values, executed, cells = _values(notebook), any(cell.get("outputs") for cell in copy.cells), []
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            text = to_markdown(cell.source, words, cited)
            made = [new_markdown_cell(filled(text, values).data)] if executed else list(_pieces(text))
            for number, one in enumerate(made):
                one.id = f"{cell.id}_{number}" if number else cell.id  # the same in every copy
        cells += made if cell.cell_type == "markdown" else _with_caption(cell, words, cited)
    if cited:
        entries = "\n".join(f"- {_entry(key)}" for key in sorted(set(cited), key=lambda key: _named(key)[0].lower()))
        cells.append(new_markdown_cell(f"## References\n\n{entries}", id="references"))
    copy.cells = cells
    return copy


def to_markdown(text: str, words: dict[str, str], cited: list[str]) -> str:
    """MyST as plain Markdown; glued values as ``{{name:format}}``. Keys of what it cites are added to ``cited``."""
    parts, start = [], 0
    for block in BLOCK.finditer(text):
        _, name, title, body = block.groups()
        made = _directive(name, title, body, words, cited) if name else block[0]  # code stays as it is
        parts += [_converted(text[start : block.start()], words, cited), made]
        start = block.end()
    return re.sub(r"\n{3,}", "\n\n", "".join([*parts, _converted(text[start:], words, cited)])).strip()


def _converted(text: str, words: dict[str, str], cited: list[str]) -> str:
    text = re.sub(r"^\([\w-]+\)=[ \t]*\n", "", text, flags=re.M)
    text = EQUATION.sub(lambda found: rf"\tag{{{words.get(found[1], '').strip('()')}}} $$", text)
    text = ROLE.sub(lambda found: _role(found[1], found[3], words, cited), text)
    return LINK.sub(lambda found: found[1] if found[1].startswith(("*", "`")) else f"*{found[1]}*", text)


def _directive(name: str, title: str, body: str, words: dict[str, str], cited: list[str]) -> str:
    """A directive as what shows best without MyST: a heading, a quote, something folded, or nothing."""
    raw, label = _opened(body)
    if name in ("solution-end", "index", "tableofcontents", "bibliography"):
        return ""
    if name == "math":
        return f"$$\n{raw}\n$$"
    body = to_markdown(raw, words, cited)
    if name in ("exercise", "solution-start"):
        return f"### Exercise: {title}\n\n{body}" if name == "exercise" else "**Solution**"
    if name == "dropdown":
        return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
    if name.startswith("glue"):
        return f"{{{{{title}}}}}" + (f"\n\n{_quote(words.get(label, 'Figure'), body)}" if body else "")
    kind = name.removeprefix("prf:").capitalize()
    return _quote(f"{kind} ({title})" if name.startswith("prf:") and title else title or kind, body)


def _quote(head: str, text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in f"**{head}.** {text}".splitlines())


def _role(name: str, text: str, words: dict[str, str], cited: list[str]) -> str:
    """A role in words: its own, or what its target is called."""
    if name.startswith("glue"):
        return f"{{{{{text}}}}}"
    if name.startswith("cite"):
        cited += (keys := [key.strip() for key in text.split(",")])
        said = "; ".join(("{} ({})" if name == "cite:t" else "{}, {}").format(*_named(key)) for key in keys)
        return said if name == "cite:t" else f"({said})"
    named = re.fullmatch(r"(.+?)\s*<[^<>]+>", text, re.S)
    return named[1] if named else words.get(text, f"${text}$" if name == "math" else text.lstrip("~!"))


def own_labels(notebook) -> dict[str, str]:
    """What a page's labels are called on the page itself: "(3)", "Figure 2", "Definition “Neural collapse”"."""
    found, drawn, equations = {}, 0, 0
    for cell in notebook.cells:
        text = cell.source if cell.cell_type == "markdown" else ""
        if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            found[name] = f"Figure {(drawn := drawn + 1)}"
        found |= {name: f"*{title.strip()}*" if title else name for name, title in TARGET.findall(text)}
        for name in EQUATION.findall(text):
            found[name] = f"({(equations := equations + 1)})"
        for kind, title, label in _labelled(text):
            called = f"{kind.removeprefix('prf:').capitalize()} “{title}”"
            found[label] = f"Figure {(drawn := drawn + 1)}" if kind.endswith("figure") else called
    return found


def _labelled(text: str):
    """Kind, title and label of every directive that has one, those inside others too."""
    for _, kind, title, body in BLOCK.findall(text):
        raw, label = _opened(body)
        yield from [(kind, title, label)] if kind and label else []
        yield from _labelled(raw if kind else "")


def _opened(body: str) -> tuple[str, str]:
    """A directive's text without its options, and its label."""
    options = dict(OPTION.findall(head := re.match(r"(?::[\w-]+:.*\n)*", body)[0]))
    return body[len(head) :].strip("\n"), options.get("label") or options.get("name", "")


def labels_elsewhere() -> dict[str, str]:
    """What the labels of all sources are called from another page: "equation (3) of *Attacks*"."""
    found = {}
    for file in sorted([*book_folder().glob("*.md"), *book_folder().glob("*.ipynb")]):
        book = file.suffix == ".ipynb"
        cells = nbformat.read(file, 4).cells if book else [new_markdown_cell(file.read_text("utf-8"))]
        title = re.search(r"^# (.+)$", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"), re.M)
        for label, words in own_labels(nbformat.v4.new_notebook(cells=cells)).items():
            kind = f"equation {words}" if words.startswith("(") else words
            found[label] = words if words.startswith("*") or not title else f"{kind} of *{title[1].strip()}*"
    return found


def _with_caption(cell, words: dict[str, str], cited: list[str]) -> list:
    """A code cell without MyST in what it shows, and, of a figure, its caption below."""
    tags = cell.metadata.get("tags", [])
    if "remove-cell" in tags:
        cell.metadata["jupyter"] = {"source_hidden": True}
    for output in cell.outputs:
        data = output.get("data", {})
        if "scrapbook" in output.get("metadata", {}):  # a figure is shown where it was made, numbers are in the prose
            output.data = {kind.removeprefix(RECORD): it for kind, it in data.items() if "remove-output" in tags}
            del output.metadata["scrapbook"]
        elif "text/markdown" in data:
            data["text/markdown"] = to_markdown("".join(data["text/markdown"]), words, cited)
    cell.outputs = [output for output in cell.outputs if output.get("data", True)]
    if not (figure := cell.metadata.get("mystnb", {}).get("figure")):
        return [cell]
    caption = _quote(words.get(figure.name, "Figure"), to_markdown(figure.caption, words, cited))
    return [cell, new_markdown_cell(caption, id=f"{cell.id}-caption")]


def _values(notebook) -> dict[str, object]:
    """What an executed page glued, by name: numbers and texts; nothing for what is shown where it was made."""
    found = {}
    for output in (it for cell in notebook.cells for it in cell.get("outputs", [])):
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            data = {kind.removeprefix(RECORD): value for kind, value in output.data.items()}
            found[name] = data.get("text/markdown") or ("" if "text/html" in data else data.get("text/plain", ""))
            with suppress(SyntaxError, ValueError):
                found[name] = ast.literal_eval(found[name])
    return found


def _pieces(text: str):
    """A text as cells: what names glued values as code that says it, a figure alone, all else as Markdown."""
    blocks = map(str.strip, PARAGRAPH.findall(text))
    for said, group in groupby(blocks, key=lambda it: it if PLACE.fullmatch(it) else bool(PLACE.search(it))):
        piece = "\n\n".join(group)
        yield new_code_cell(f'nc.prose(r"""\n{piece}\n""")', metadata=SAYING) if said else new_markdown_cell(piece)


@cache
def _bibliography():
    from pybtex.database import parse_file  # here, as most commands cite nothing

    return parse_file(book_folder() / "references.bib", "bibtex").entries


def _named(key: str) -> tuple[str, str]:
    """Who wrote it, and the year: "Su et al.", "2024"."""
    entry = _bibliography()[key]
    people = [" ".join(p.prelast_names + p.last_names) for p in entry.persons.get("author", [])] or [key]
    names = f"{people[0]} et al." if len(people) > 2 else " and ".join(people)
    return re.sub(r"[{}]", "", names), entry.fields.get("year", "no year")


def _entry(key: str) -> str:
    """A line of the references: who, when, what, where, and, where one is known, a link to it."""
    entry, (_, year) = _bibliography()[key], _named(key)
    has, people = entry.fields.get, "; ".join(map(str, entry.persons.get("author", [])))
    places = {"url": "", "doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/"}
    link = next((before + has(name) for name, before in places.items() if has(name)), None)
    title = f"[{has('title')}]({link})" if link else has("title")
    place = has("journal") or has("booktitle") or has("note") or ""
    return re.sub(r"[{}]", "", f"{people} ({year}). {title}. {place}").strip()
