"""MyST as plain Markdown, for Jupyter, Colab and whatever else shows notebooks but not this book.

Roles become words, directives headings and quotes. Numbers are filled in from an executed page's outputs; in a source
the paragraphs that have some become cells which say them when they are run (``nc.prose``).
"""

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell
from pybtex.database import parse_file
from pybtex.plugin import find_plugin

from nclib.evidence.pages import filled

from .profiles import book_folder

BLOCK = re.compile(r"^(`{3,}|~{3,}|:{3,})(?:\{([\w:.-]+)\})?[ \t]*(.*)\n((?s:.*?))^\1[ \t]*$", re.M)
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*)\n", re.M)
ROLE = re.compile(r"\{([\w:.-]+)\}(`+)((?s:.+?))\2(?!`)")
EQUATION = re.compile(r"\$\$[ \t]*\(([\w-]+)\)[ \t]*$", re.M)
TARGET = re.compile(r"^\(([\w-]+)\)=[ \t]*\n(?:#+ (.+))?", re.M)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\((?!https?:|#?\w+:)([^()\s]*)\)")
RECORD = "application/papermill.record/"
SILENT = ("solution-end", "index", "tableofcontents", "bibliography", "raw")
LITERAL = ("code", "code-block", "code-cell", "prf:algorithm")


def plain(notebook, elsewhere: dict[str, str] | None = None):
    """A copy without MyST of an executed page or a source. ``elsewhere`` has other pages' labels, in words."""
    copy, numbers = nbformat.from_dict(notebook), own_labels(notebook)
    words, values, cited = (elsewhere or {}) | numbers, _values(notebook), []
    executed = any(cell.get("outputs") for cell in copy.cells)
    copy.cells = []
    for cell in nbformat.from_dict(notebook).cells:
        if cell.cell_type != "markdown":
            copy.cells += _with_caption(cell, words, cited)
            continue
        text = markdown(cell.source, words, cited)
        pieces = [("markdown", filled(text, values).data)] if executed else list(_pieces(text))
        for number, (kind, piece) in enumerate(pieces):
            one = new_markdown_cell(piece) if kind == "markdown" else _saying(piece)
            one.id = f"{cell.id}_{number}" if number else cell.id  # the same in every copy
            copy.cells.append(one)
    if cited:
        entries = "\n".join(f"- {_entry(key)}" for key in sorted(set(cited), key=lambda key: _names(key).lower()))
        copy.cells.append(new_markdown_cell(f"## References\n\n{entries}", id="references"))
    return copy


def markdown(text: str, words: dict[str, str], cited: list[str]) -> str:
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
    options, raw, label = _options(body)
    if name in SILENT:
        return ""
    if name in LITERAL:
        return f"```{title}\n{raw}\n```"
    if name == "math":
        return f"$$\n{raw}\n$$" + (f" ({label})" if label else "")
    body = markdown(raw, words, cited)
    if name == "exercise":
        return f"### Exercise: {title}\n\n{body}"
    if name == "solution-start":
        return "**Solution**"
    if name == "dropdown":
        return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
    if name == "figure":
        return f"![{options.get('alt', '')}]({title})\n\n" + _quote(f"**{words.get(label, 'Figure')}.** {body}")
    if name == "glue:figure":
        return f"{{{{{title}}}}}\n\n" + _quote(f"**{words.get(label, 'Figure')}.** {body}")
    if name.startswith("glue"):
        return f"{{{{{title}}}}}"
    kind = name.removeprefix("prf:").capitalize()
    head = f"{kind} ({title})" if name.startswith("prf:") and title else title or kind
    return _quote(f"**{head}.**\n\n{body}".strip())


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _role(name: str, text: str, words: dict[str, str], cited: list[str]) -> str:
    """A role in words: its own, or what its target is called."""
    if name.startswith("glue"):
        return f"{{{{{text}}}}}"
    if name.startswith("cite"):
        keys = [key.strip() for key in text.split(",")]
        cited += keys
        if name == "cite:t":
            return ", ".join(f"{_names(key)} ({_year(key)})" for key in keys)
        return f"({'; '.join(f'{_names(key)}, {_year(key)}' for key in keys)})"
    if named := re.fullmatch(r"(.+?)\s*<[^<>]+>", text, re.S):
        return named[1]
    if name in ("math", "sup", "sub", "code", "kbd"):
        return f"${text}$" if name == "math" else f"`{text}`" if name in ("code", "kbd") else text
    return words.get(text, text.lstrip("~!"))


def own_labels(notebook) -> dict[str, str]:
    """What a page's labels are called on the page itself: "(3)", "Figure 2", "Definition “Neural collapse”"."""
    found, figures, equations = {}, 0, 0
    for cell in notebook.cells:
        text = cell.source if cell.cell_type == "markdown" else ""
        if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            found[name] = f"Figure {(figures := figures + 1)}"
        for name, title in TARGET.findall(text):
            found[name] = f"*{title.strip()}*" if title else name
        for name in EQUATION.findall(text):
            found[name] = f"({(equations := equations + 1)})"
        for kind, title, label in _labelled(text):
            if kind.endswith("figure"):
                found[label] = f"Figure {(figures := figures + 1)}"
            elif kind == "math":
                found[label] = f"({(equations := equations + 1)})"
            else:
                found[label] = f"{kind.removeprefix('prf:').capitalize()} “{title}”"
    return found


def _labelled(text: str):
    """Kind, title and label of every directive that has one, those inside others too."""
    for _, kind, title, body in BLOCK.findall(text):
        if kind:
            _, raw, label = _options(body)
            yield from [(kind, title, label)] if label else []
            yield from _labelled(raw)


def _options(body: str) -> tuple[dict[str, str], str, str]:
    """A directive's options, what follows them, and its label."""
    options = dict(OPTION.findall(head := re.match(r"(?::[\w-]+:.*\n)*", body)[0]))
    return options, body[len(head) :].strip("\n"), options.get("label") or options.get("name", "")


def labels() -> dict[str, str]:
    """What the labels of all sources are called from another page: "equation (3) of *Attacks*"."""
    found = {}
    for file in sorted(book_folder().glob("*.*")):
        if file.suffix not in (".ipynb", ".md"):
            continue
        text = file.read_text(encoding="utf-8")
        page = nbformat.reads(text, 4) if file.suffix == ".ipynb" else nbformat.v4.new_notebook()
        page.cells = page.cells or [new_markdown_cell(text)]
        title = re.search(r"^# (.+)$", "\n".join(c.source for c in page.cells if c.cell_type == "markdown"), re.M)
        for label, words in own_labels(page).items():
            kind = f"equation {words}" if words.startswith("(") else words
            found[label] = words if words.startswith("*") or not title else f"{kind} of *{title[1].strip()}*"
    return found


def _with_caption(cell, words: dict[str, str], cited: list[str]) -> list:
    """A code cell without MyST in what it shows, and, of a figure, its caption below."""
    if "remove-cell" in cell.metadata.get("tags", []):
        cell.metadata["jupyter"] = {"source_hidden": True}
    for output in list(cell.outputs):
        data = output.get("data", {})
        if any(kind.startswith(RECORD) for kind in data):  # what was glued: a figure stays, numbers are in the prose
            output.data = {kind.removeprefix(RECORD): value for kind, value in data.items()}
            output.metadata = {}
            if "remove-output" not in cell.metadata.get("tags", []):
                cell.outputs.remove(output)
        elif "text/markdown" in data:
            output.data["text/markdown"] = markdown("".join(data["text/markdown"]), words, cited)
    if not (figure := cell.metadata.get("mystnb", {}).get("figure")):
        return [cell]
    caption = markdown(figure.caption, words, cited)
    named = _quote(f"**{words.get(figure.name, 'Figure')}.** {caption}")
    return [cell, new_markdown_cell(named, id=f"{cell.id}-caption")]


def _values(notebook) -> dict[str, object]:
    """What an executed page glued, by name: numbers and texts as such, all else as the text that it shows."""
    found = {}
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            data = {kind.removeprefix(RECORD): value for kind, value in output.data.items()}
            text = data.get("text/markdown") or data.get("text/plain", "")
            found[name] = "" if "text/html" in data else text if "text/markdown" in data else _literal(text)
    return found


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _pieces(text: str):
    """A text as runs of blocks: those without glued values ("markdown"), and those that a cell has to say ("prose")."""
    blocks = re.findall(r"(?s:<details>.*?</details>)|(?:.+\n?)+", text)
    runs: list[list] = []
    for block in map(str.strip, blocks):
        kind = "prose" if re.search(r"\{\{[a-z][\w-]*-", block) and not block.startswith("#") else "markdown"
        if kind == "markdown" or not (runs and runs[-1][0] == kind) or block.startswith("{{"):
            runs.append([kind, block]) if not (runs and runs[-1][0] == kind == "markdown") else runs[-1].append(block)
        else:
            runs[-1].append(block)
    return ((kind, "\n\n".join(found)) for kind, *found in runs)


def _saying(text: str):
    return new_code_cell(
        f'nc.prose(r"""\n{text}\n""")', metadata={"jupyter": {"source_hidden": True}, "tags": ["prose"]}
    )


@cache
def _bibliography(file: Path) -> dict:
    return parse_file(file, "bibtex").entries


def _cited(key: str):
    return _bibliography(book_folder() / "references.bib")[key]


def _names(key: str) -> str:
    """ "Su et al.", "Lu and Steinerberger"; the title of what has no author."""
    entry = _cited(key)
    people = [re.sub(r"[{}]", "", " ".join(p.prelast_names + p.last_names)) for p in entry.persons.get("author", [])]
    people = people or [re.sub(r"[{}]", "", entry.fields.get("title", key))]
    return f"{people[0]} et al." if len(people) > 2 else " and ".join(people)


def _year(key: str) -> str:
    return _cited(key).fields.get("year", "no year")


@cache
def _style() -> Callable:
    return find_plugin("pybtex.style.formatting", "plain")()


def _entry(key: str) -> str:
    (found,) = _style().format_entries([_cited(key)])
    text = found.text.render(find_plugin("pybtex.backends", "markdown")())
    return re.sub(r"\\([.-])", r"\1", text).replace("\n", " ")
