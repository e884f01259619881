"""From executed copies to a site: Jupyter Book with warnings as errors, and the twins recorded at other scales."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from .provenance import home

LABEL = re.compile(r"^\(([\w-]+)\)=|\$\$ \(([\w-]+)\)|:label: ([\w-]+)|\{(?:exercise|solution)-start\} ([\w-]+)", re.M)
PICTURE = ("attacks", "fig-attack-arrows")  # the figure that the first page shows


class SiteError(Exception):
    """Jupyter Book's own warnings, a line each."""


def render(profile: str) -> Path:
    """Assemble ``_build/<profile>/source`` from pages, prose and twins, and render it. Returns index.html's path.

    Nothing is done where nothing changed. Raises SiteError, with the warnings; a broken site is not left behind.
    """
    place = home() / "_build" / profile
    source, site = place / "source", place / "site"
    digest = _assemble(profile, source)
    stamp, index = place / "stamps" / "site.txt", site / "_build" / "html" / "index.html"
    if index.exists() and stamp.exists() and stamp.read_text() == digest:
        return index
    shutil.rmtree(site, ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(source),
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    command += ["--config", str(home() / "_config.yml"), "--toc", str(source / "_toc.yml"), "--path-output", str(site)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(site, ignore_errors=True)
        lines = (done.stdout + done.stderr).splitlines()
        raise SiteError("\n".join([x for x in lines if "WARNING" in x or "ERROR" in x] or lines[-20:]))
    stamp.write_text(digest)
    return index


def _assemble(profile: str, source: Path) -> str:
    """Copy pages and prose, add the twins, and give the digest of it all."""
    shutil.rmtree(source, ignore_errors=True)
    prose = shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "ruff.toml", ".ruff_cache")
    shutil.copytree(home() / "book", source, ignore=prose)
    pages = sorted((home() / "_build" / profile / "pages").glob("*.ipynb"))
    recorded = {p.parents[1].name: p for p in sorted((home() / "results").glob("*/pages/attacks.ipynb"))}
    scales = {name: path.parent for name, path in recorded.items() if name != profile}
    toc = yaml.safe_load((source / "_toc.yml").read_text())
    for name, folder in scales.items():
        (source / name).mkdir()
        twins = [p for p in sorted(folder.glob("*.ipynb")) if p.stem in {q.stem for q in pages}]
        labels = {label for p in twins for label in _labels(nbformat.read(p, 4))}
        for p in twins:
            notebook = relabel(nbformat.read(p, 4), labels, name)
            _point(
                notebook, f"Recorded under profile `{name}`. This book's own run: [the twin of this page](../{p.name})."
            )
            nbformat.write(notebook, source / name / p.name)
        order = [
            c["file"] for part in toc["parts"] for c in part["chapters"] if (folder / f"{c['file']}.ipynb") in twins
        ]
        toc["parts"].append({"caption": f"At scale: {name}", "chapters": [{"file": f"{name}/{c}"} for c in order]})
    for p in pages:
        notebook = nbformat.read(p, 4)
        if links := [f"[{name}]({name}/{p.name})" for name, folder in scales.items() if (folder / p.name).exists()]:
            _point(notebook, f"The same page at another scale: {', '.join(links)}.")
        nbformat.write(notebook, source / p.name)
    (source / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))
    (source / "_static" / "picture.svg").write_text(drawing(source / f"{PICTURE[0]}.ipynb", PICTURE[1]))
    digest = hashlib.sha256((home() / "_config.yml").read_bytes())
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(source)).encode() + file.read_bytes())
    return digest.hexdigest()


def _labels(notebook) -> set[str]:
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    figures = (c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in notebook.cells)
    return {label for groups in LABEL.findall(prose) for label in groups if label} | {f for f in figures if f}


def relabel(notebook, labels: set[str], prefix: str):
    """A twin's labels, and its references to labels of its fellow twins, get the profile's name in front.

    Links to the book's prose pages lead one folder up.
    """
    known = re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, labels), key=len, reverse=True))})(?![\w-])")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = known.sub(rf"{prefix}-\1", cell.source).replace("](notation.md)", "](../notation.md)")
        elif "mystnb" in cell.metadata:
            cell.metadata.mystnb.figure.name = f"{prefix}-{cell.metadata.mystnb.figure.name}"
    return notebook


def _point(notebook, line: str) -> None:
    """A line under the title that leads to the page's twins."""
    first = notebook.cells[0]
    first.source = re.sub(r"^(# .+)$", rf"\1\n\n*{line}*", first.source, count=1, flags=re.M)


def drawing(notebook: Path, name: str) -> str:
    """The SVG of a named figure of an executed notebook."""
    cells = nbformat.read(notebook, 4).cells
    cell = next(c for c in cells if c.metadata.get("mystnb", {}).get("figure", {}).get("name") == name)
    return next(o.data["image/svg+xml"] for o in cell.outputs if "image/svg+xml" in o.get("data", {}))
