"""From executed copies to a site: Jupyter Book with warnings as errors, and the twins recorded at other scales."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from nclib.evidence.provenance import branch, commit, repository
from nclib.runtime import home, write

from . import BookError, api, browser
from .copies import launchable, write_downloads
from .profiles import chapters

LABEL = re.compile(r"(?:^\((?=\S+\)=)|\$\$ \(|:label: |^:name: |\{(?:exercise|solution)-start\} )([\w-]+)", re.M)
DEFINED = re.compile(r"^(`{3,}\{prf:definition\} (.+))$", re.M)
PICTURE = ("attacks", "fig-attack-arrows")  # the figure that the first page shows
# A book is millions of objects to Jupyter Book, and few of them die: to look for those less often saves a quarter.
JUPYTER_BOOK = "import gc; gc.set_threshold(100_000, 50, 1000); from jupyter_book.cli.main import main; main()"
PROSE = shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "ruff.toml", ".ruff_cache", "runs")


def render(profile: str) -> Path:
    """Assemble ``_build/<profile>/source``, and, where something changed, render it. Returns index.html's path.

    BookError, with Jupyter Book's warnings; no broken site is left.
    """
    place = home() / "_build" / profile
    folder, site = place / "source", place / "site"
    scales = _assemble(profile, folder)
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    stamp, index = place / "stamps" / "site.txt", site / "_build" / "html" / "index.html"
    if index.exists() and stamp.exists() and stamp.read_text("utf-8") == digest.hexdigest():
        return index
    shutil.rmtree(site, ignore_errors=True)
    jupyter_book(folder, site)
    write_downloads(index.parent, place / "pages")
    _relink(index.parent, scales)
    write(stamp, digest.hexdigest())
    return index


def jupyter_book(folder: Path, site: Path) -> None:
    """Build an assembled source folder. Raises BookError with the warnings; what was built then is removed."""
    command = [sys.executable, "-P", "-c", JUPYTER_BOOK, "build", folder, "-W", "-n", "--keep-going", "-q"]
    command += ["--path-output", site, "--config", folder / "_config.yml", "--toc", folder / "_toc.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(site, ignore_errors=True)
        lines = (done.stdout + done.stderr).splitlines()
        warnings = [line for line in lines if "WARNING" in line or "ERROR" in line]
        raise BookError("the site was not built:\n" + "\n".join(warnings or lines[-20:]))


def _assemble(profile: str, folder: Path) -> list[str]:
    """Put pages, prose, configuration and twins into the source folder. Returns the twins' profiles."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home() / "book", folder, ignore=PROSE)
    words = browser.export(folder) if (folder / browser.FOLDER).exists() else {}
    toc = yaml.safe_load((folder / "_toc.yml").read_text("utf-8"))
    pages = {p.name: nbformat.read(p, 4) for p in sorted((home() / "_build" / profile / "pages").glob("*.ipynb"))}
    listed = [f"{chapter['file']}.ipynb" for part in toc["parts"] for chapter in part["chapters"]]
    recorded = [p.parent.name for p in sorted((home() / "results").glob("*/pages"))]
    scales = [name for name in recorded if name != profile]
    twins = {name: _add_twins(name, [page for page in listed if page in pages], folder) for name in scales}
    for name, files in twins.items():
        entries = [{"file": f"{name}/{Path(file).stem}"} for file in files]
        toc["parts"].append({"caption": f"At scale: {name}", "chapters": entries})
    for file, page in pages.items():
        if links := ", ".join(f"[{name}]({name}/{file})" for name in scales if file in twins[name]):
            _point(page, f"The same page at another scale: {links}.")
        nbformat.write(page, folder / file)
    (folder / "api.md").write_text(api.functions_page(), "utf-8")
    _lead_names(folder)
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), "utf-8")
    (folder / "_config.yml").write_text(yaml.safe_dump(_configuration(words), sort_keys=False), "utf-8")
    (folder / "_static" / "picture.svg").write_text(drawing(folder / f"{PICTURE[0]}.ipynb", PICTURE[1]), "utf-8")
    return scales


def _add_twins(profile: str, shown: list[str], folder: Path) -> list[str]:
    """Put a recorded profile's twins of the shown pages into a folder of their own. Returns the twins' names."""
    (folder / profile).mkdir()
    recorded = home() / "results" / profile / "pages"
    twins = {name: nbformat.read(recorded / name, 4) for name in shown if (recorded / name).exists()}
    labels = set().union(*map(_labels, twins.values()))
    for name, notebook in twins.items():
        relabel(notebook, labels, profile)
        back = f"[the twin of this page](../{name})"
        notebook.metadata["nosearch"] = True  # its twin is found
        _point(notebook, f"Recorded under profile `{profile}`. This book's own run: {back}.")
        nbformat.write(notebook, folder / profile / name)
    return list(twins)


def _lead_names(folder: Path) -> None:
    """Lead every name of the library, in any page's prose, to its entry, and put every definition in the index."""
    known = {name: api.label_of(name) for entries in api.every_name().values() for name in entries}
    for file in folder.rglob("*.ipynb"):
        notebook = nbformat.read(file, 4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = DEFINED.sub(r"```{index} \2\n```\n\n\1", api.with_links(cell.source, known))
        nbformat.write(notebook, file)
    for file in folder.glob("*.md"):
        file.write_text(api.with_links(file.read_text("utf-8"), known), "utf-8")


def _point(notebook, line: str) -> None:
    """A line that leads to the page's twins: in the box under the title, or, where there is none, under it."""
    first = notebook.cells[0]
    place = r"^(:class: tip)$" if ":class: tip\n" in first.source else r"^(# .+)$"
    first.source = re.sub(place, rf"\1\n\n*{line}*\n", first.source, count=1, flags=re.M)


def relabel(notebook, labels: set[str], prefix: str):
    """Put the profile's name before a twin's labels and its references to fellow twins; lead to prose one folder up."""
    known = re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, labels), key=len, reverse=True))})(?![\w-])")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = known.sub(rf"{prefix}-\1", cell.source).replace("](notation.md)", "](../notation.md)")
        elif "mystnb" in cell.metadata:
            cell.metadata.mystnb.figure.name = f"{prefix}-{cell.metadata.mystnb.figure.name}"
    for output in _outputs(notebook, "text/markdown"):
        output.data["text/markdown"] = known.sub(rf"{prefix}-\1", output.data["text/markdown"])
    return notebook


def _labels(notebook) -> set[str]:
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    texts += [o.data["text/markdown"] for o in _outputs(notebook, "text/markdown")]
    names = {c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in notebook.cells}
    return (names | set(LABEL.findall("\n".join(texts)))) - {None}


def _outputs(notebook, mime: str) -> list:
    return [o for c in notebook.cells for o in c.get("outputs", []) if mime in o.get("data", {})]


def export_figures(pages: Path) -> None:
    """Every figure of executed pages as a file under its own name: ``figures/<name>.svg`` beside them."""
    (folder := pages.with_name("figures")).mkdir(exist_ok=True)
    for page in pages.glob("*.ipynb"):
        for cell in (cell for cell in nbformat.read(page, 4).cells if "mystnb" in cell.metadata):
            if svg := drawing(page, name := cell.metadata.mystnb.figure.name):
                write(folder / f"{name}.svg", svg)


def drawing(notebook: Path, name: str) -> str | None:
    """The SVG of a named figure of an executed notebook; None where its parameters left it undrawn."""
    cells = nbformat.read(notebook, 4).cells
    cell = next(c for c in cells if c.metadata.get("mystnb", {}).get("figure", {}).get("name") == name)
    return next((o.data["image/svg+xml"] for o in cell.outputs if "image/svg+xml" in o.get("data", {})), None)


def _configuration(words: dict[str, str]) -> dict:
    """``_config.yml``, substitutions, and where there is a public repository, what leads there: launch, edit, issue."""
    configuration = yaml.safe_load((home() / "_config.yml").read_text("utf-8"))
    if words:
        configuration["sphinx"]["config"] |= {"myst_substitutions": words, "html_extra_path": [browser.FOLDER.parts[0]]}
    if url := repository():
        owner, name = url.split("/")[-2:]
        address = f"https://{owner}.github.io/{name}/"
        configuration["html"]["baseurl"] = address
        sphinx = configuration["sphinx"]["config"]
        sphinx |= {"ogp_site_url": address, "notfound_urls_prefix": f"/{name}/"}
        launch = {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com"}
        launch["notebook_interface"] = "jupyterlab"
        buttons = dict(use_issues_button=True, use_repository_button=True, use_edit_page_button=True)
        buttons |= dict(repository_url=url, repository_branch=branch(), path_to_docs="book", launch_buttons=launch)
        sphinx["html_theme_options"] |= buttons
    return configuration


def _relink(site: Path, scales: list[str]) -> None:
    """Lead the launch buttons to this very commit, and a twin's buttons to the source that both twins share.

    Binder checks a commit out and makes plain notebooks of it. Colab opens notebooks from a branch only: the published
    site's, whose ``launch/`` holds them with a first cell that installs nclib from the commit.
    """
    if not (url := repository()):
        return
    head, path = commit().removesuffix("+"), url.removeprefix("https://github.com/")
    (site / "launch").mkdir()
    for chapter in chapters():
        nbformat.write(launchable(chapter, url, head), site / "launch" / f"{chapter}.ipynb")
    twins = re.compile(rf"(?<=/book/)(?:{'|'.join(scales) or '(?!)'})/(?=[\w-]+\.ipynb)")
    for page in site.rglob("*.html"):
        text = twins.sub("", page.read_text("utf-8"))
        text = text.replace(f"/github/{path}/blob/{branch()}/book/", f"/github/{path}/blob/gh-pages/launch/")
        text = text.replace(f"/v2/gh/{path}/{branch()}?", f"/v2/gh/{path}/{head}?")
        page.write_text(text.replace("lab/tree/book/", "lab/tree/_build/notebooks/"), "utf-8")
