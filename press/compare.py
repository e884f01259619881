"""Two runs of one chapter, or of the whole book, side by side: parameters, measures, verdicts, figures."""

import re
from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
import pandas as pd

from .. import claims, records
from ..provenance import home
from .execute import BookError, chapters, defaults, report, source
from .site import drawing

MATCHED = ["chapter", "model", "split", "layer", "view", "measure"]


@dataclass(frozen=True)
class Side:
    """One of the two: its name as given, its executed page of each chapter, and their records."""

    name: str
    pages: dict[str, Path]
    records: pd.DataFrame


def compare(a: str, b: str) -> Path:
    """Write ``_build/compare/index.html``, a page that needs nothing beside it. Raises BookError as ``sides`` does."""
    sides(a, b)
    page = home() / "_build" / "compare" / "index.ipynb"
    return report("compare", page, {"a": a, "b": b}, f"{a} and {b}", cwd=Path.cwd())


def sides(a: str, b: str) -> tuple[Side, Side]:
    """The two runs, by what they have in common: each an executed notebook, its folder, or a profile's name.

    Raises BookError, in one line, where one of them is missing, lacks its records, or no chapter is in both.
    """
    found = _pages(a), _pages(b)
    common = [chapter for chapter in chapters() if all(chapter in pages for pages in found)]
    if not common:
        raise BookError(f"no chapter in common: {a} has {', '.join(found[0])}; {b} has {', '.join(found[1])}")
    one, two = (Side(n, p := {c: pages[c] for c in common}, _records(p)) for n, pages in zip((a, b), found))
    for chapter in common:
        if _table(one.pages[chapter], chapter) == _table(two.pages[chapter], chapter):
            raise BookError(f"{a} and {b} lie in one folder and share its records: run each into a folder of its own")
        for lacking, other in ((one, two), (two, one)):
            if chapter in set(other.records.chapter) - set(lacking.records.chapter):
                raise BookError(f"{lacking.name}: no records in {_table(lacking.pages[chapter], chapter)}")
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
    found = re.search(r"^# (.+)$", "\n".join(c.source for c in _cells(file) if c.cell_type == "markdown"), re.M)
    return found[1] if found else ""


def _cells(file: Path) -> list:
    return nbformat.read(file, 4).cells


def _table(page: Path, chapter: str) -> Path:
    """Where a page's records lie: beside it, or, in a made book, in the folder next to its own."""
    folder = page.parent.with_name("records") if page.parent.name == "pages" else page.parent
    return (folder / f"{chapter}.csv").resolve()


def _records(pages: dict[str, Path]) -> pd.DataFrame:
    frames = [records.load(_table(page, chapter).parent) for chapter, page in pages.items()]
    picked = [frame[frame.chapter == chapter] for frame, chapter in zip(frames, pages)]
    return pd.concat([frame for frame in picked if len(frame)] or picked[:1], ignore_index=True)


def parameters(a: Side, b: Side) -> pd.DataFrame:
    """The parameters that differ: one row per name and pair of values, with the chapters where they do."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for chapter in a.pages:
        one, two = (_parameters(side.pages[chapter]) for side in (a, b))
        for name in (name for name in one | two if one.get(name) != two.get(name)):
            found.setdefault((name, repr(one.get(name)), repr(two.get(name))), []).append(chapter)
    rows = [(*key, ", ".join(names)) for key, names in found.items()]
    return pd.DataFrame(rows, columns=["parameter", "A", "B", "chapters"])


def _parameters(page: Path) -> dict:
    return defaults(page) | defaults(page, "injected-parameters")


def measures(a: Side, b: Side) -> pd.DataFrame:
    """Every measure of both, at the last epoch, the mean over seeds: A, B, B − A and B/A; NaN where one has it not."""
    wide = pd.concat({name: _last(side.records) for name, side in (("A", a), ("B", b))}, axis=1)
    return wide.assign(**{"B − A": wide.B - wide.A, "B/A": wide.B / wide.A}).reset_index()


def _last(frame: pd.DataFrame) -> pd.Series:
    last = frame.groupby([*MATCHED, "seed"], sort=False).epoch.transform("max")
    return frame[frame.epoch == last].groupby(MATCHED, sort=False).value.mean()


def verdicts(a: Side, b: Side) -> pd.DataFrame:
    """The claims of the compared chapters, with both verdicts and the figures behind them."""
    one, two = (claims.ledger(side.records).set_index("id") for side in (a, b))
    one = one[one.chapter.isin(a.pages)]
    table = one[["claim"]].assign(A=one.verdict, B=two.verdict, **{"measured, A": one.measured})
    return table.assign(**{"measured, B": two.measured}).reset_index()


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
    for described in [cell.metadata.mystnb for cell in _cells(page) if "mystnb" in cell.metadata]:
        if (svg := drawing(page, described.figure.name)) is None:
            continue
        data = b64encode(svg.encode()).decode()
        image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(described.image.alt)}">'
        found[described.figure.name] = image, escape(described.figure.caption)
    return found
