"""Profiles, parameters and papermill: from chapter sources to executed copies to a site."""

import ast
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from functools import cache
from html import escape
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError

from .. import claims, records
from ..files import write
from ..progress import alone
from ..provenance import home, versions
from ..recipe import CHOICES
from .site import BookError, render

MARK = ("<!-- verdicts -->", "<!-- end of verdicts -->")  # what lies between them in the README is written by record
LEDGER = "ledger"  # reads what the other chapters recorded, so it runs last


def book_folder() -> Path:
    folder = home() / "book"
    if not folder.is_dir():
        raise BookError(f"no book folder in {home()}: run this inside the checkout, or set NCLIB_HOME")
    return folder


def chapters() -> list[str]:
    """Names of the notebooks in ``_toc.yml``, in reading order."""
    toc = yaml.safe_load((book_folder() / "_toc.yml").read_text())
    files = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [name for name in files if (book_folder() / f"{name}.ipynb").exists()]


def source(chapter: str) -> Path:
    name = Path(chapter).stem
    if name not in chapters():
        raise BookError(f"unknown chapter {chapter!r}; choose one of {', '.join(chapters())}")
    return book_folder() / f"{name}.ipynb"


@cache
def defaults(notebook: Path, tag: str = "parameters") -> dict:
    """The literals of a notebook's ``parameters`` cell, or of one with another tag (empty where it has none)."""
    cells = nbformat.read(notebook, 4).cells
    code = next((c.source for c in cells if tag in c.metadata.get("tags", [])), "")
    return {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(code).body if isinstance(s, ast.Assign)}


def profile_names() -> list[str]:
    return sorted(file.stem for file in (home() / "profiles").glob("*.yml"))


def read_profile(name: str) -> dict:
    """A profile's parameters. BookError for an unknown profile, name, or type, or a data set that is not there."""
    file = home() / "profiles" / f"{name}.yml"
    if not file.exists():
        raise BookError(f"unknown profile {name!r}; choose one of {', '.join(profile_names())}")
    values = yaml.safe_load(file.read_text()) or {}
    known = {}
    for chapter in chapters():
        known |= defaults(source(chapter))
    check(values, known, f"profile {name}")
    return values | {"profile": name}


def check(values: dict, known: dict, where: str) -> None:
    """Refuse an unknown parameter, a wrong type or an unknown choice, naming the choices, before any work."""
    for name, value in values.items():
        if name not in known:
            raise BookError(f"{where}: unknown parameter {name!r}; choose from {', '.join(sorted(known))}")
        if not _fits(value, known[name]):
            kind = {int: "int", type(None): "int or None", list: "a list of int"}.get(type(known[name]))
            raise BookError(f"{where}: {name} must be {kind or type(known[name]).__name__}, not {value!r}")
        if name in ("epsilon", "step") and value < 0:
            raise BookError(f"{where}: {name} must be 0 or more, not {value!r}")
        if value not in CHOICES.get(name, (value,)):
            raise BookError(f"{where}: unknown {name} {value!r}; choose one of {', '.join(CHOICES[name])}")
    if "NCLIB_DATA" in os.environ and not Path(os.environ["NCLIB_DATA"]).is_dir():
        raise BookError(f"data folder {os.environ['NCLIB_DATA']!r} does not exist; make it, or unset NCLIB_DATA")


def _fits(value, default) -> bool:
    """Is a value of the default's type? An int may stand for a float, None marks an optional int."""
    if default is None:
        return value is None or type(value) is int
    if isinstance(default, list):
        return isinstance(value, list) and bool(value) and all(type(v) is int for v in value)
    return type(value) in ((float, int) if type(default) is float else (type(default),))


def parameters(chapter: str, profile: str, overrides: dict) -> dict:
    """What papermill injects into one chapter: the profile's share of its parameters, then the overrides."""
    known = defaults(source(chapter))
    check(overrides, known, f"chapter {source(chapter).stem}")
    values = {k: v for k, v in read_profile(profile).items() if k in known} | overrides
    return {name: value for name, value in values.items() if value != known[name]}


def execution_key(chapter: str, values: dict, place: Path) -> str:
    """Hash of all that an executed copy depends on: source, parameters, library, data root, versions, records."""
    library = sorted(f for f in Path(claims.__file__).parent.iterdir() if f.is_file())
    here = [*place.glob("*.csv"), *(place / "records").glob("*.csv")]
    recorded = sorted([*here, *(home() / "results").glob("*/records/*.csv")])
    files = [source(chapter), *library, *(recorded if source(chapter).stem == LEDGER else [])]
    digest = hashlib.sha256(json.dumps([values, versions(), os.environ.get("NCLIB_DATA")], sort_keys=True).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _place(chapter: str, profile: str, output: Path | None) -> tuple[Path, Path]:
    """A run's folder, with its stamp, log and failed copy, and its page: the profile's own, or the one asked for."""
    if output:
        return output.resolve().parent, output.resolve()
    place = home() / "_build" / profile
    return place, place / "pages" / f"{source(chapter).stem}.ipynb"


def unchanged(chapter: str, profile: str, overrides: dict | None = None, output: Path | None = None) -> bool:
    """Is a chapter's page there, and is it what today's source, parameters and library would give?"""
    place, page = _place(chapter, profile, output)
    stamp = place / "stamps" / f"{page.stem}.json"
    if not page.exists() or not stamp.exists():
        return False
    key = execution_key(chapter, parameters(chapter, profile, overrides or {}), place)
    return json.loads(stamp.read_text())["key"] == key


def run_chapter(chapter: str, profile: str, overrides: dict | None = None, output: Path | None = None) -> Path:
    """Execute one chapter into ``_build/<profile>/pages``, or, records and all, to ``output`` and its folder.

    An unchanged page is not run twice, and of two processes that ask for one page the second waits for the first.
    Raises BookError with the cell's own error when a cell raises; the failed copy goes to ``failed`` in
    ``_build/<profile>``, or in the output's folder.
    """
    values = parameters(chapter, profile, overrides or {})
    place, page = _place(chapter, profile, output)
    recorded = place if output else place / "records"
    log, failed = place / f"{page.stem}.log", place / "failed" / page.name
    stamp = place / "stamps" / f"{page.stem}.json"
    for folder in (page.parent, stamp.parent, failed.parent, recorded):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(stamp.with_suffix(".lock"), page.stem):
        if unchanged(chapter, profile, overrides, output):
            return page
        key = execution_key(chapter, values, place)
        log.unlink(missing_ok=True)
        os.environ |= {"NCLIB_HOME": str(home()), "NCLIB_LOG": str(log), "NCLIB_RECORDS": str(recorded)}
        began = time.time()
        run_notebook(source(chapter), failed, values, cwd=book_folder())
        os.replace(failed, page)
        write(stamp, json.dumps({"key": key, "seconds": round(time.time() - began, 1)}))
    return page


def run_notebook(notebook: Path, copy: Path, values: dict, cwd: Path) -> None:
    """Execute a notebook of the house into a tidy copy. BookError with the cell's own error when a cell raises."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would say is said below, in one line
    name = notebook.relative_to(home())
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


def report(template: str, page: Path, values: dict, title: str, cwd: Path) -> Path:
    """Execute a notebook of ``templates/``, and write it, code hidden, as an HTML page that needs nothing beside it."""
    from nbconvert import HTMLExporter  # here, as most commands would wait for it and not use it

    page.parent.mkdir(parents=True, exist_ok=True)
    os.environ["NCLIB_HOME"] = str(home())
    partial, html = page.with_suffix(".part.ipynb"), page.with_suffix(".html")
    run_notebook(home() / "templates" / f"{template}.ipynb", partial, values, cwd)
    os.replace(partial, page)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    style = (home() / "templates" / "page.css").read_text()
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{escape(title)}</title><style>{style}</style>'
    body, _ = exporter.from_filename(str(page))
    write(html, f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>')
    return html


def _tidy(notebook):
    """An executed copy without papermill's paths and timings, and without what went to stderr."""
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def run_all(profile: str, jobs: int) -> None:
    """Execute every changed chapter, ``jobs`` at a time, each in a process of its own; a line for each."""
    read_profile(profile)
    place = home() / "_build" / profile
    queue = sorted((c for c in chapters() if c != LEDGER), key=_order)
    for wave in (queue, [LEDGER] if LEDGER in chapters() else []):
        running: dict[str, subprocess.Popen] = {}
        while wave or running:
            while wave and len(running) < jobs:
                name = wave.pop(0)
                if unchanged(name, profile):
                    print(f"  {name:24s} unchanged", flush=True)
                else:
                    running[name] = _start(name, profile, jobs)
            time.sleep(0.2 if running else 0)
            _show(place, running)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                process = running.pop(name)
                if process.returncode:
                    for other in running.values():
                        other.terminate()
                    words = process.stderr.read().decode().strip()
                    raise BookError(words or f"{name}: process ended with {process.returncode}")
                seconds = json.loads((place / "stamps" / f"{name}.json").read_text())["seconds"]
                print(f"  {name:24s} {seconds:6.1f} s", flush=True)


def _order(chapter: str) -> int:
    """Chapters that train longest start first (``nclib: {"order": n}`` in a notebook's metadata)."""
    return nbformat.read(source(chapter), 4).metadata.get("nclib", {}).get("order", 9)


def _start(chapter: str, profile: str, jobs: int) -> subprocess.Popen:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "nclib", "run", chapter, "--profile", profile]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _show(place: Path, running: dict) -> None:
    """The latest word of every running chapter."""
    words = []
    for name in running:
        log = place / f"{name}.log"
        last = log.read_text().replace("\r", "\n").strip().splitlines()[-1:] if log.exists() else []
        words.append(f"{name}: {' '.join(last)[:60]}")
    moving_line(" | ".join(words))


def moving_line(words: str) -> None:
    """In a terminal, one line that the next one takes the place of; elsewhere nothing."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + words[:width].ljust(width), end="\r", file=sys.stderr, flush=True)


def book(profile: str, jobs: int | None = None) -> Path:
    """The whole way: execute every chapter, render the site, print seconds, verdicts and the path."""
    began = time.time()
    jobs = jobs or max(1, min(2, os.cpu_count() or 1))
    print(f"profile {profile}: {len(chapters())} chapters, {jobs} at a time", flush=True)
    run_all(profile, jobs)
    index = render(profile)
    table = claims.ledger(records.load(home() / "_build" / profile / "records"))
    print("\nclaims:")
    for row in table.itertuples():
        print(f"  {row.id:13s} {row.verdict:14s} {row.claim}")
    print(f"\n{time.time() - began:.0f} s in all\n{index}")
    return index


def record(profile: str) -> Path:
    """Commit-ready evidence of a finished book: executed chapters and records to ``results/<profile>/``.

    For digits the README's verdicts and picture follow. BookError where the book has not been made.
    """
    place, results = home() / "_build" / profile, home() / "results" / profile
    if not (place / "site").exists():
        raise BookError(f"nothing to record: run 'make book PROFILE={profile}' first")
    table = claims.ledger(records.load(place / "records"))
    for kind, pattern in (("records", "*.*"), ("pages", "*.ipynb")):
        shutil.rmtree(results / kind, ignore_errors=True)
        (results / kind).mkdir(parents=True)
        for file in (place / kind).glob(pattern):
            shutil.copy2(file, results / kind)
    if profile == "digits":
        readme = home() / "README.md"
        before, after = readme.read_text().split(MARK[0])[0], readme.read_text().split(MARK[1])[1]
        readme.write_text(before + MARK[0] + "\n" + verdict_table(table) + MARK[1] + after)
        shutil.copy2(place / "source" / "_static" / "picture.svg", results)
    return results


def verdict_table(table) -> str:
    """The README's table of verdicts, in Markdown."""
    lines = [f"| {row.id} | {row.claim} | **{row.verdict}** |\n" for row in table.itertuples()]
    return "| | claim | on digits |\n|---|---|---|\n" + "".join(lines)
