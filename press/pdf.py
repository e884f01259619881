"""The book on paper: the site's pages in reading order as one document, printed by headless Chromium."""

import shutil
import subprocess
from pathlib import Path
from string import Template

import yaml
from bs4 import BeautifulSoup

from nclib.runtime import home, write

from . import TEMPLATES, BookError
from .profiles import book_folder, chapters

PDF = ' The book as a <a href="{}book.pdf">PDF</a>.'
PATIENCE = 300_000  # milliseconds of the browser's virtual time, a bound: it prints when MathJax has nothing left to do


def print_book(profile: str) -> Path:
    """``_build/<profile>/book.pdf`` from the site. BookError, in one line, where there is no site or no Chromium."""
    place = home() / "_build" / profile
    if chapters(profile) != chapters():
        raise BookError(f"profile {profile} has some chapters only, so no site and nothing to print: choose another")
    if not (place / "site").exists():
        raise BookError(f"nothing to print: run 'make book PROFILE={profile}' first")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise BookError("no chromium on this machine: install it (Debian: apt-get install chromium) and run again")
    document, partial = place / "book.html", place / "book.pdf.part"
    write(document, one_document(place, profile))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += ["--generate-pdf-document-outline", f"--virtual-time-budget={PATIENCE}", f"--print-to-pdf={partial}"]
    partial.unlink(missing_ok=True)
    done = subprocess.run([*command, document.as_uri()], capture_output=True, text=True)
    if not partial.exists():
        raise BookError(f"chromium did not print: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    shutil.copy(partial, (site := place / "site" / "_build" / "html") / "book.pdf")
    for page in site.rglob("*.html"):  # the foot of every page leads to it
        link = PDF.format("../" * (len(page.relative_to(site).parts) - 1))
        page.write_text(page.read_text("utf-8").replace("<!-- pdf -->", link), "utf-8")
    return partial.replace(place / "book.pdf")


def one_document(place: Path, profile: str) -> str:
    """This profile's articles behind title and contents; no script but MathJax, so nothing is folded or a button."""
    html = place / "site" / "_build" / "html"
    toc = yaml.safe_load((book_folder() / "_toc.yml").read_text("utf-8"))
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    articles = {name: _article(html / f"{name}.html", names) for name in names}
    first = BeautifulSoup((html / f"{names[0]}.html").read_text("utf-8"), "html.parser")
    head = first.head.select("link[rel=stylesheet], script")
    lines = [f'<li><a href="#{name}">{article.h1.get_text()}</a></li>' for name, article in articles.items()]
    text = Template((TEMPLATES / "paper.html").read_text("utf-8")).substitute(
        title=yaml.safe_load((home() / "_config.yml").read_text("utf-8"))["title"],
        head="".join(str(tag) for tag in head if tag.name == "link" or "athjax" in str(tag).lower()),
        profile=profile,
        contents="".join(lines),
        articles="".join(f'<div id="{name}">{article}</div>' for name, article in articles.items()),
    )
    document = BeautifulSoup(text, "html.parser")
    for attribute in ("src", "href"):
        for tag in document.select(f"[{attribute}^=_]"):
            tag[attribute] = f"{html.relative_to(place).as_posix()}/{tag[attribute]}"
    return str(document)


def _article(page: Path, names: list[str]):
    """A page's article: ids with the page's name in front, links within the document, none to other scales."""
    article = BeautifulSoup(page.read_text("utf-8"), "html.parser").select_one("article")
    for tag in article.select("[id]:not([id^=T_])"):  # T_: a styled table's own rules use its id
        tag["id"] = f"{page.stem}-{tag['id']}"
    for line in article.select("p"):
        if line.get_text().startswith("The same page at another scale"):
            line.decompose()
    for link in article.select("a[href]:not([href*=':'])"):
        target, _, anchor = link["href"].partition("#")
        name = target.removesuffix(".html") or page.stem
        if name in names:
            link["href"] = f"#{name}-{anchor}" if anchor else f"#{name}"
    for tag in article.select(".headerlink, script, .try-it, .try-tour"):  # what moves stands still on paper
        tag.decompose()
    for answer in article.select("details"):
        answer["open"] = ""
    return article
