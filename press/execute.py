"""Papermill: from a notebook and parameters to an executed copy, made again only where something changed."""

import json
import logging
import os
import re
import time
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError

from nclib.evidence.provenance import library_key, versions
from nclib.runtime import alone, home, write

from . import TEMPLATES, BookError
from .profiles import LEDGER, book_folder, parameters, source

SVG, _FINE = "image/svg+xml", re.compile(r"-?\d+\.\d{3,}")
# glibc keeps up to 1 GB of what a page has had, pieces of more than 64 MB aside: giving it back and fetching it
# again at every operation costs attacks in float32 a tenth of their time.
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=1073741824"


def execution_key(chapter: str, values: dict, place: Path) -> str:
    """Hash of all that an executed copy depends on: source, parameters, library, data root, versions, records."""
    variables = [os.environ.get(name) for name in ("NCLIB_DATA", "NCLIB_FRESH")]
    given = [values, versions(), *variables, library_key()]
    digest = sha256(json.dumps(given, sort_keys=True).encode() + source(chapter).read_bytes())
    if source(chapter).stem == LEDGER:
        here = [*place.glob("*.csv"), *(place / "records").glob("*.csv")]
        for file in sorted([*here, *(home() / "results").glob("*/records/*.csv")]):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def unchanged(chapter: str, profile: str, overrides: dict | None = None, output: Path | None = None) -> bool:
    """Is a chapter's page there, and is it what today's source, parameters and library would give?"""
    place, page, stamp = _place(chapter, profile, output)
    if not page.exists() or not stamp.exists():
        return False
    values = parameters(chapter, profile, overrides or {})
    return json.loads(stamp.read_text())["key"] == execution_key(chapter, values, place)


def _place(chapter: str, profile: str, output: Path | None) -> tuple[Path, Path, Path]:
    """The folder of all that an execution leaves, its page (the profile's own, or the one asked for), and its stamp."""
    place = output.resolve().parent if output else home() / "_build" / profile
    page = output.resolve() if output else place / "pages" / f"{source(chapter).stem}.ipynb"
    return place, page, place / "stamps" / f"{page.stem}.json"


def run_chapter(chapter: str, profile: str, overrides: dict | None = None, output: Path | None = None) -> Path:
    """Execute one chapter into ``_build/<profile>/pages``, or, records and all, to ``output`` and its folder.

    An unchanged page is not run twice, and of two processes that ask for one page the second waits for the first.
    BookError with the cell's own error when a cell raises; the failed copy lies in ``failed``.
    """
    values = parameters(chapter, profile, overrides or {})
    if output and (output.suffix != ".ipynb" or output.is_dir()):
        raise BookError(f"-o {output}: name a notebook, for instance {output / source(chapter).name}")
    place, page, stamp = _place(chapter, profile, output)
    failed, told = place / "failed" / page.name, place / f"{page.stem}.log"
    recorded = (place if output else place / "records") / page.stem
    for file in (page, stamp, failed, recorded):
        file.parent.mkdir(parents=True, exist_ok=True)
    with alone(stamp.with_suffix(".lock"), page.stem):
        if unchanged(chapter, profile, overrides, output):
            return page
        began, key = time.time(), execution_key(chapter, values, place)
        for file in (told, used := stamp.with_suffix(".networks")):
            file.unlink(missing_ok=True)
        os.environ |= {"NCLIB_HOME": str(home()), "NCLIB_LOG": str(told)}
        os.environ |= {"NCLIB_RECORDS": str(recorded), "NCLIB_USED": str(used)}
        run_notebook(source(chapter), failed, values, cwd=book_folder())
        os.replace(failed, page)
        write(stamp, json.dumps({"key": key, "seconds": round(time.time() - began, 1)}))
    return page


def run_notebook(notebook: Path, copy: Path, values: dict, cwd: Path) -> None:
    """Execute a notebook of the house into a tidy copy. BookError with the cell's own error when a cell raises."""
    os.environ.setdefault("GLIBC_TUNABLES", MALLOC)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would say is said below, in one line
    name = f"{notebook.parent.name}/{notebook.name}"
    try:
        papermill.execute_notebook(
            notebook, copy, values, kernel_name="python3", cwd=cwd, progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # a stopped kernel need not tell its traceback
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        line = f"{name}, cell {error.cell_index + 1}: {error.ename}: {error.evalue}"
        raise BookError("\n".join(error.traceback[-1:]) + "\n" + line) from None
    except DeadKernelError:
        raise BookError(f"{name}: its kernel died: out of memory, or killed from outside") from None
    nbformat.write(_tidy(nbformat.read(copy, 4)), copy)


def _tidy(notebook):
    """An executed copy without papermill's paths and timings, and without what went to stderr; its drawings lean."""
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if SVG in output.get("data", {}):
                    output.data[SVG] = lean(output.data[SVG])
    return notebook


def lean(svg: str) -> str:
    """matplotlib's drawing as it is seen: to a hundredth of a point, without metadata, comments, line breaks, and names
    that nothing in it refers to."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'(?<=\s)(d|x|y)="([^"]*)"', lambda m: f'{m[1]}="{" ".join(_FINE.sub(_rounded, m[2]).split())}"', svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    return re.sub(r">\s+<", "><", svg)


def _rounded(number: re.Match) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def report(template: str, page: Path, values: dict, title: str, cwd: Path) -> Path:
    """Execute a notebook of ``templates/``, and write it, code hidden, as an HTML page that needs nothing beside it."""
    from nbconvert import HTMLExporter  # here, as most commands would wait for it and not use it

    os.environ["NCLIB_HOME"] = str(home())
    page.parent.mkdir(parents=True, exist_ok=True)
    partial, html = page.with_suffix(".part.ipynb"), page.with_suffix(".html")
    run_notebook(TEMPLATES / f"{template}.ipynb", partial, values, cwd)
    os.replace(partial, page)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    outline = Template((TEMPLATES / "page.html").read_text("utf-8"))
    write(html, outline.substitute(title=escape(title), body=exporter.from_filename(str(page))[0]))
    return html
