"""Two runs of one chapter, or of the whole book, side by side: parameters, measures, verdicts, figures."""

import json
import re
from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
import pandas as pd

from nclib.evidence.ledger import judged
from nclib.evidence.pages import literals
from nclib.evidence.provenance import told
from nclib.evidence.records import COLUMNS, read
from nclib.runtime import home

from . import BookError
from .execute import report
from .profiles import chapters, source
from .site import drawing

MATCHED = ["chapter", "model", "split", "layer", "view", "measure"]


@dataclass(frozen=True)
class Side:
    """One of the two: its name as given, its executed page of each chapter, and their records."""

    name: str
    pages: dict[str, Path]
    records: pd.DataFrame

    @property
    def origin(self) -> dict[str, str]:
        """Device, commit and versions of its pages."""
        files = [_table(page).with_suffix(".json") for page in self.pages.values()]
        return told([json.loads(file.read_text("utf-8")) for file in files if file.exists()])


def write_page(a: str, b: str) -> Path:
    """Write ``_build/compare/index.html``, a page that needs nothing beside it. Raises BookError as ``sides`` does."""
    sides(a, b)
    page = home() / "_build" / "compare" / "index.ipynb"
    return report("compare", page, {"a": a, "b": b}, f"{a} and {b}", cwd=Path.cwd())


def sides(a: str, b: str) -> tuple[Side, Side]:
    """The two runs, by what they have in common: each an executed notebook, its folder, or a profile's name.

    BookError where one of them is missing, lacks its records, or no chapter is in both.
    """
    found = {name: _pages(name) for name in (a, b)}
    common = [chapter for chapter in chapters() if all(chapter in pages for pages in found.values())]
    if not common:
        raise BookError(f"no chapter in common: {a} has {', '.join(found[a])}; {b} has {', '.join(found[b])}")
    for chapter in common:
        one, two = (pages[chapter].resolve() for pages in (found[a], found[b]))
        if one == two:
            raise BookError(f"{a} and {b} are one run of {chapter}: name two")
        for name, lacking, other in ((a, _table(one), _table(two)), (b, _table(two), _table(one))):
            if other.exists() and not lacking.exists():
                raise BookError(f"{name}: no records in {lacking}")
    one, two = (_side(name, {chapter: found[name][chapter] for chapter in common}) for name in (a, b))
    return one, two


def _pages(name: str) -> dict[str, Path]:
    """The executed pages of a run, by chapter: a page is known by its title."""
    given, profile = Path(name), [home() / kind / name for kind in ("_build", "results")]
    files = [given] if given.suffix == ".ipynb" and given.is_file() else []
    for folder in [given, *profile] if name else []:
        files = files or sorted((folder / "pages").glob("*.ipynb")) or sorted(folder.glob("*.ipynb"))
    titles = {_title(source(chapter)): chapter for chapter in chapters()}
    pages = [(titles[title], file) for file in files if (title := _title(file)) in titles]
    if not pages:
        raise BookError(f"nothing to compare in {name!r}: name an executed chapter, its folder, or a profile once run")
    for chapter, file in pages:
        if dict(pages)[chapter] != file:
            raise BookError(f"{name} holds several runs of {chapter}: name one of the notebooks")
    return dict(pages)


def _title(file: Path) -> str:
    prose = "\n".join(cell.source for cell in nbformat.read(file, 4).cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.+)$", prose, re.M)
    return found[1] if found else ""


def _table(page: Path) -> Path:
    """Where a page's records lie: beside it, or, in a made book, in the folder next to its own."""
    folder = page.parent.with_name("records") if page.parent.name == "pages" else page.parent
    return folder / f"{page.stem}.csv"


def _side(name: str, pages: dict[str, Path]) -> Side:
    """One of the two, all its records under the one name."""
    frames = [read(_table(page)) for page in pages.values() if _table(page).exists()]
    frames = frames or [pd.DataFrame(columns=COLUMNS)]
    return Side(name, pages, pd.concat(frames, ignore_index=True).assign(profile=name))


def parameters(a: Side, b: Side) -> pd.DataFrame:
    """The parameters that differ: one row per name and pair of values, with the chapters where they do."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for chapter in a.pages:
        one, two = (literals(p) | literals(p, "injected-parameters") for p in (a.pages[chapter], b.pages[chapter]))
        for name in (name for name in one | two if one.get(name) != two.get(name)):
            found.setdefault((name, repr(one.get(name)), repr(two.get(name))), []).append(chapter)
    rows = [(*key, ", ".join(names)) for key, names in found.items()]
    return pd.DataFrame(rows, columns=["parameter", "A", "B", "chapters"])


def measures(a: Side, b: Side) -> pd.DataFrame:
    """Every measure of both, at the last epoch, the mean over seeds: A, B, B − A and B/A; NaN where one has it not."""
    wide = pd.concat({name: _last(side.records) for name, side in (("A", a), ("B", b))}, axis=1)
    return wide.assign(**{"B − A": wide.B - wide.A, "B/A": wide.B / wide.A}).reset_index()


def _last(frame: pd.DataFrame) -> pd.Series:
    last = frame.groupby([*MATCHED, "seed"], sort=False).epoch.transform("max")
    return frame[frame.epoch == last].groupby(MATCHED, sort=False).value.mean()


def verdicts(a: Side, b: Side) -> pd.DataFrame:
    """The claims of the compared chapters, with both verdicts and the figures behind them."""
    one, two = (judged(side.records).set_index("id") for side in (a, b))
    one = one[one.chapter.isin(a.pages)]
    both = one[["claim"]].assign(A=one.verdict, B=two.verdict, **{"measured, A": one.measured})
    return both.assign(**{"measured, B": two.measured}).reset_index()


def figures(a: Side, b: Side, chapter: str) -> str:
    """A chapter's figures in pairs, matched by name, as HTML."""
    one, two = (_figures(side.pages[chapter]) for side in (a, b))
    pairs = []
    for name, (_, caption) in (one | two).items():
        images = "".join(f"<div>{drawn.get(name, ('not in this run',))[0]}</div>" for drawn in (one, two))
        pairs.append(f'<figure id="{name}"><div class="pair">{images}</div><figcaption>{caption}</figcaption></figure>')
    return "\n".join(pairs)


def _figures(page: Path) -> dict[str, tuple[str, str]]:
    """Name -> image and caption, as HTML. Images, not inline drawings: those of two runs use the same ids."""
    found = {}
    for described in [cell.metadata.mystnb for cell in nbformat.read(page, 4).cells if "mystnb" in cell.metadata]:
        if (svg := drawing(page, described.figure.name)) is None:
            continue
        data = b64encode(svg.encode()).decode()
        image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(described.image.alt)}">'
        found[described.figure.name] = image, escape(described.figure.caption)
    return found
