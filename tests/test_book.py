"""The book as its users meet it: sources, the runner, the executed copies, the site in a browser."""

import ast
import functools
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import matplotlib
import nbformat
import pytest
import torch
import yaml
from conftest import ROOT, furnish, nclib, start, wait_for

import nclib as nc
from nclib import provenance
from nclib.press import execute

matplotlib.use("agg")
SOURCES = sorted((ROOT / "book").glob("*.ipynb"))
PROFILES = sorted(file.stem for file in (ROOT / "profiles").glob("*.yml"))


def code_cells(notebook, tag=None):
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    return cells if tag is None else [c for c in cells if tag in c.metadata.get("tags", [])]


def code_free(notebook):
    return "\n".join(c.source for c in nbformat.read(notebook, 4).cells if c.cell_type == "markdown")


# Sources -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
class TestSource:
    def test_is_valid_and_carries_no_outputs(self, source):
        nbformat.validate(nbformat.read(source, 4))
        for cell in code_cells(source):
            assert not cell.outputs and cell.execution_count is None

    def test_has_one_parameters_cell_of_typed_literals(self, source):
        (cell,) = code_cells(source, "parameters")
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, ast.Assign), "literals only: a derived value goes stale"
            ast.literal_eval(statement.value)

    def test_every_figure_has_caption_name_and_alt_text(self, source):
        for cell in code_cells(source):
            if "figures." in cell.source and "mystnb" in cell.metadata:
                figure, image = cell.metadata.mystnb.figure, cell.metadata.mystnb.image
                assert len(figure.caption) > 40 and figure.name.startswith("fig-") and len(image.alt) > 30

    def test_equations_figures_and_definitions_are_referred_to(self, source):
        prose = code_free(source)
        labels = re.findall(r"^\$\$ \(([\w-]+)\)$|^:label: (def-[\w-]+)|^:name: (fig-[\w-]+)", prose, re.M)
        labels += [(cell.metadata.mystnb.figure.name,) for cell in code_cells(source) if "mystnb" in cell.metadata]
        for label in filter(None, itertools.chain(*labels)):
            assert re.search(rf"\{{(eq|prf:ref|numref)\}}`{label}`", prose), label

    def test_no_number_of_a_result_is_typed_by_hand(self, source):
        """In "What we see" every decimal number comes from glue."""
        prose = "\n".join(c.source for c in nbformat.read(source, 4).cells if c.cell_type == "markdown")
        section = re.search(r"## What we see\n(.*?)\n## ", prose, re.S)
        if section:
            typed = re.sub(r"\{[^}]*\}`[^`]*`|\$[^$]*\$", "", section.group(1))
            assert not re.findall(r"\d+\.\d+", typed.replace("0.999", ""))


@pytest.mark.parametrize("chapter", ["collapse", "attacks", "adversarial-training", "layers"])
def test_chapters_share_one_skeleton(chapter):
    headings = re.findall(r"^## (.+)$", "\n".join(
        c.source for c in nbformat.read(ROOT / "book" / f"{chapter}.ipynb", 4).cells if c.cell_type == "markdown"
    ), re.M)  # fmt: skip
    skeleton = ["The question", "What to expect, and why", "Parameters", "The mathematics", "What we see",
                "What it does not show", "Summary", "Verdict", "Exercises", "Where this page came from"]  # fmt: skip
    assert [h for h in headings if h in skeleton] == skeleton


def test_every_parameter_is_explained_in_a_table():
    explained = set()
    for source in SOURCES:
        cells = nbformat.read(source, 4).cells
        rows = re.findall(r"^\| (`[^|]+) \|", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
        explained |= set(re.findall(r"`(\w+)`", " ".join(rows)))
    known = {name for chapter in execute.chapters() for name in execute.defaults(execute.source(chapter))}
    assert known - explained == {"images"}  # the cheat sheet's stand-in, which its text explains


def test_parameters_are_checked_against_every_profile():
    for profile in PROFILES:
        for chapter in execute.chapters():
            execute.parameters(chapter, profile, {})


def test_the_digits_profile_is_what_the_chapters_say():
    """A chapter opened in Jupyter runs as it stands, and gives the page that ``make book`` gives."""
    for chapter in execute.chapters():
        assert execute.parameters(chapter, "digits", {}) == {}


COPYABLE = [(source, i) for source in SOURCES for i, _ in enumerate(code_cells(source, "copyable"))]


@pytest.mark.parametrize("source,index", COPYABLE, ids=lambda v: getattr(v, "stem", v))
def test_copyable_cell_runs_alone(source, index, tmp_path, monkeypatch):
    """With ``nc`` and ``torch`` alone, or after the set-up cell that it says it needs; its result is checked."""
    monkeypatch.chdir(tmp_path)
    cell, namespace = code_cells(source, "copyable")[index], {"nc": nc, "torch": torch}
    if "needs-setup" in cell.metadata.tags:
        for needed in code_cells(source, "parameters") + code_cells(source, "setup"):
            exec(needed.source, namespace)
    tree = ast.parse(cell.source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, cell.id, "exec"), namespace)
    if last is not None:
        result = eval(compile(ast.Expression(last.value), cell.id, "eval"), namespace)
        if isinstance(result, tuple):  # written out by hand, and by the library
            assert result[0] == pytest.approx(result[1], rel=1e-9)
        if check := cell.metadata.get("nclib", {}).get("check"):
            assert eval(check, namespace | {"result": result}), check


# What bad input gets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words,expected",
    [
        (["book", "--profile", "digitz"], "unknown profile 'digitz'; choose one of"),
        (["run", "atacks"], "unknown chapter 'atacks'; choose one of collapse"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "epsilom", "0.1"], "unknown parameter 'epsilom'; choose from"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "epsilon", "big"], "epsilon must be float, not 'big'"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "epsilon", "-1"], "epsilon must be 0 or more, not -1"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "epochs", "2.5"], "epochs must be int, not 2.5"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "dataset", "mnits"], "unknown dataset 'mnits'; choose one of"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "architecture", "resnet"], "unknown architecture 'resnet'"),
        (["run", "attacks", "-o", "x.ipynb", "-p", "seeds", "[one]"], "seeds must be a list of int"),
        (["run", "attacks", "-p", "epsilon", "0.1"], "overrides (-p) need an output file (-o)"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_bad_input_gets_one_line_before_any_work(refused, house, words, expected):
    assert expected in refused(*words)
    assert not (house / "_build").exists()


def test_a_missing_data_folder_is_named(refused, monkeypatch):
    monkeypatch.setenv("NCLIB_DATA", "/no/such/place")
    words = ("run", "collapse", "-o", "x.ipynb", "-p", "dataset", "cifar10")
    assert "data folder '/no/such/place' does not exist" in refused(*words)


def test_a_profile_with_an_unknown_name_is_refused(refused, house):
    (house / "profiles" / "mine.yml").write_text("epochz: 3\n")
    assert "profile mine: unknown parameter 'epochz'" in refused("book", "--profile", "mine")


def test_the_command_line_passes_a_refusal_on(house):
    done = nclib(house, "book", "--profile", "digitz")
    assert done.returncode == 1 and done.stderr.startswith("unknown profile 'digitz'; choose one of")


def test_a_raising_cell_stops_the_build_with_its_own_error(house):
    source = house / "book" / "collapse.ipynb"
    notebook = nbformat.read(source, 4)
    notebook.cells.insert(4, nbformat.v4.new_code_cell("raise RuntimeError('the kettle is dry')", id="kettle"))
    nbformat.write(notebook, source)
    done = nclib(house, "run", "collapse", "--profile", "smoke")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "book/collapse.ipynb, cell 6: RuntimeError: the kettle is dry"
    assert "papermill" not in done.stderr
    assert not (house / "_build" / "smoke" / "pages" / "collapse.ipynb").exists()
    assert (house / "_build" / "smoke" / "failed" / "collapse.ipynb").exists()


def test_the_execution_key_knows_source_parameters_library_and_records(house, monkeypatch):
    monkeypatch.setenv("NCLIB_HOME", str(house))
    place = house / "_build" / "smoke"
    key = lambda chapter, **values: execute.execution_key(chapter, values, place)  # noqa: E731
    before = key("collapse")
    assert before == key("collapse") != key("collapse", width=8)
    ledger = key("ledger")
    (place / "records").mkdir(parents=True)
    (place / "records" / "collapse.csv").write_text("x")
    assert key("ledger") != ledger and key("collapse") == before
    monkeypatch.setattr(execute, "versions", lambda: {"torch": "0"})
    assert key("collapse") != before
    monkeypatch.undo()
    monkeypatch.setenv("NCLIB_HOME", str(house))
    library = house / "library"
    shutil.copytree(ROOT / "nclib", library, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(execute.claims, "__file__", str(library / "claims.py"))
    same = key("collapse")
    (library / "measures.py").write_text((library / "measures.py").read_text() + "\n# changed\n")
    assert same == before != key("collapse")


def test_ctrl_c_stops_at_once_and_the_same_command_goes_on(house):
    """Interrupted in mid-training, as from a terminal: nobody trains on, and the next run resumes."""
    (house / "profiles" / "long.yml").write_text("per_class: 20\ntest_per_class: 5\nwidth: 4\nepochs: 100000\n")
    log, words = house / "_build" / "long" / "collapse.log", ("run", "collapse", "--profile", "long")

    def stop(process):
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 130
        assert told.strip() == "stopped; the same command goes on from here"

    first = start(house, *words)
    wait_for(lambda: list((house / "runs").glob("*/epoch-0008.safetensors")), first, 90)
    stop(first)
    (state,) = (house / "runs").glob("*/state.safetensors")
    before = state.stat().st_mtime_ns
    time.sleep(3)
    assert state.stat().st_mtime_ns == before, "somebody trains on"
    second = start(house, *words)
    wait_for(lambda: log.exists() and re.search(r"from epoch [1-9]\d*", log.read_text()), second, 90)
    stop(second)


# The book under smoke ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The whole book, executed and rendered under the smoke profile, as ``make book`` does it."""
    house = furnish(tmp_path_factory.mktemp("house"))
    done = nclib(house, "book", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    return house, done.stdout


def test_the_book_prints_seconds_verdicts_and_path(smoke):
    house, out = smoke
    for chapter in ("collapse", "attacks", "adversarial-training", "layers", "ledger"):
        assert re.search(rf"^  {chapter} +\d+\.\d s$", out, re.M)
    assert len(re.findall(r"^  C\d\S*.* (?:holds|fails)", out, re.M)) == len(nc.claims.CLAIMS)
    assert out.strip().endswith(str(house / "_build" / "smoke" / "site" / "_build" / "html" / "index.html"))


def test_an_unchanged_book_is_not_run_twice(smoke):
    house, _ = smoke
    pages = house / "_build" / "smoke" / "pages"
    before = {p: p.stat().st_mtime_ns for p in pages.glob("*.ipynb")}
    done = nclib(house, "book", "--profile", "smoke")
    assert done.stdout.count("unchanged") == len(execute.chapters())
    assert {p: p.stat().st_mtime_ns for p in pages.glob("*.ipynb")} == before


def test_chapters_that_name_one_recipe_share_one_network(smoke):
    house, _ = smoke
    recipes = [json.loads(f.read_text())["recipe"] for f in (house / "runs").glob("*/recipe.json")]
    profile = yaml.safe_load((house / "profiles" / "smoke.yml").read_text())
    full = [r for r in recipes if r["epochs"] == profile["epochs"]]
    names = sorted(nc.Recipe(**r).name for r in full if r["seed"] == 1)
    assert names == sorted(
        ["standard", "adversarial", "adversarial (train-mode attack)", "TRADES (fixed)", "TRADES (published)"]
    )


@pytest.mark.parametrize("chapter", ["collapse", "attacks", "adversarial-training", "layers"])
def test_the_foot_of_a_page_tells_its_origin_in_full(smoke, chapter):
    house, _ = smoke
    page = (house / "_build" / "smoke" / "site" / "_build" / "html" / f"{chapter}.html").read_text()
    origin = json.loads((house / "_build" / "smoke" / "records" / f"{chapter}.json").read_text())
    foot = page[page.index('id="where-this-page-came-from"') :]
    assert "learning rate down tenfold after 0.25 and 0.375 of them" in foot
    told = [
        *origin["recipes"],
        *(f"{name} {version}" for name, version in origin["versions"].items()),
        origin["commit"],
    ]
    assert [words for words in told if words not in foot] == []


def test_the_ledger_page_shows_what_the_records_say(smoke):
    house, _ = smoke
    records = nc.records.load(house / "_build" / "smoke" / "records")
    verdicts = nc.claims.ledger(records)
    page = (house / "_build" / "smoke" / "site" / "_build" / "html" / "ledger.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for row in verdicts.itertuples():
        assert re.search(rf"{row.id} {re.escape(row.claim)} {row.verdict} ", text), row.id


def test_no_page_shows_a_traceback_or_an_unfilled_number(smoke):
    house, _ = smoke
    for page in (house / "_build" / "smoke" / "site" / "_build" / "html").glob("*.html"):
        text = re.sub(r"<[^>]+>", "", page.read_text())
        assert "Traceback" not in text and "it/s]" not in text, page.name
        assert "{glue" not in text and "{eq}" not in text and "{ref}" not in text, page.name


@pytest.mark.parametrize("chapter", ["collapse", "attacks", "adversarial-training", "layers"])
def test_every_chapter_ends_with_where_it_came_from(smoke, chapter):
    page = nbformat.read(smoke[0] / "_build" / "smoke" / "pages" / f"{chapter}.ipynb", 4)
    shown = page.cells[-1].outputs[0]["data"]["text/html"]
    for line in ("profile", "smoke", "models (recipe key)", "device", "versions", "torch", "commit"):
        assert line in shown


def test_an_override_leaves_the_profile_alone(smoke):
    house, _ = smoke
    output = house / "mine" / "attacks-0.1.ipynb"
    before = (house / "_build" / "smoke" / "records" / "attacks.csv").read_bytes()
    done = nclib(house, "run", "book/attacks.ipynb", "--profile", "smoke", "-p", "epsilon", "0.1", "-o", str(output))
    assert done.returncode == 0, done.stderr
    injected = next(c for c in nbformat.read(output, 4).cells if "injected-parameters" in c.metadata.get("tags", []))
    assert "epsilon = 0.1" in injected.source
    assert (house / "_build" / "smoke" / "records" / "attacks.csv").read_bytes() == before


def test_a_recorded_profile_gets_twins_linked_both_ways_and_a_column_in_the_ledger(smoke, tmp_path):
    """What another machine recorded is shown beside this book's own run, without running it again."""
    house = furnish(tmp_path)
    shutil.rmtree(house / "results")
    made = smoke[0] / "_build" / "smoke"
    shutil.copytree(made, house / "_build" / "smoke", ignore=shutil.ignore_patterns("site", "source"))
    for kind in ("pages", "records"):
        shutil.copytree(made / kind, house / "results" / "bigger" / kind)
    for file in (house / "results" / "bigger" / "records").glob("*.csv"):
        file.write_text(file.read_text().replace("\nsmoke,", "\nbigger,"))
    done = nclib(house, "book", "--profile", "smoke", NCLIB_REPOSITORY="git@github.com:someone/some-book.git")
    assert done.returncode == 0, done.stderr
    html = house / "_build" / "smoke" / "site" / "_build" / "html"
    buttons_lead_to_this_commit(html)
    for chapter in ("collapse", "attacks", "adversarial-training", "layers"):
        assert f'href="bigger/{chapter}.html"' in (html / f"{chapter}.html").read_text()
        twin = (html / "bigger" / f"{chapter}.html").read_text()
        assert f'href="../{chapter}.html"' in twin and 'id="bigger-fig-' in twin
    ledger = (html / "ledger.html").read_text()
    assert ledger.count("<em>bigger</em>") == ledger.count("<em>smoke</em>") == len(nc.claims.CLAIMS)


def buttons_lead_to_this_commit(html: Path) -> None:
    """Launch, edit and issue buttons of both twins, where the checkout has a public repository."""
    at, head = "https://github.com/someone/some-book", provenance.commit().removesuffix("+")
    for page in ("collapse", "bigger/collapse"):
        links = re.findall(r'href="([^"]+)"', (html / f"{page}.html").read_text())
        assert "https://colab.research.google.com/github/someone/some-book/blob/gh-pages/launch/collapse.ipynb" in links
        assert f"https://mybinder.org/v2/gh/someone/some-book/{head}?urlpath=lab/tree/book/collapse.ipynb" in links
        assert f"{at}/edit/{provenance.branch()}/book/collapse.ipynb" in links
        assert any(link.startswith(f"{at}/issues/new?") for link in links)
    for source in SOURCES:
        first, *rest = nbformat.read(html / "launch" / source.name, 4).cells
        assert f"git+{at}@{head}" in first.source
        assert [c.source for c in rest] == [c.source for c in nbformat.read(source, 4).cells]


# The book on paper --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper(smoke):
    if not shutil.which("chromium"):
        pytest.skip("no chromium on this machine")
    done = nclib(smoke[0], "pdf", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(smoke[0] / "_build" / "smoke" / "book.pdf")
    return smoke[0] / "_build" / "smoke" / "book.pdf"


def test_the_pdf_has_every_chapter_in_its_outline(paper):
    content = paper.read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", content)) > 30
    outline = [title.decode("latin-1") for title in re.findall(rb"/Title \(([^)]*)\)", content)]
    for chapter in execute.chapters():
        title = re.search(r"^# (.+)$", code_free(execute.source(chapter)), re.M)[1]
        assert any(line.endswith(title) for line in outline), title


def test_the_pdf_shows_typeset_mathematics_solutions_and_no_other_scale(paper):
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext on this machine")
    text = subprocess.run(["pdftotext", paper, "-"], capture_output=True, text=True).stdout
    assert not re.findall(r"\\(?:\(|\[|mathrm|frac|sum)", text), "raw TeX"
    solutions = sum(code_free(source).count("{solution-start}") for source in SOURCES)
    assert len(re.findall(r"^\f?Solution to", text, re.M)) == solutions > 10
    assert "after collapse the two rules are all but one" in text.replace("\n", " ").lower()
    assert "at another scale" not in text


@pytest.mark.parametrize("made", [False, True])
def test_no_paper_without_a_book_or_a_browser(refused, house, monkeypatch, made):
    if made:
        (house / "_build" / "smoke" / "site").mkdir(parents=True)
    monkeypatch.setenv("PATH", "/no/such/place")
    expected = "no chromium on this machine" if made else "run 'make book PROFILE=smoke' first"
    assert expected in refused("pdf", "--profile", "smoke")


# The site in a browser ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(smoke):
    """The rendered site on a local port: its address."""
    folder = smoke[0] / "_build" / "smoke" / "site" / "_build" / "html"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}", folder
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    it = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield it
    it.quit()


def narrow_to(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


PAGES = ["intro", *(s.stem for s in SOURCES), "rerun", "notation", "references"]
TWINS = sorted(f"{p.parents[1].name}/{p.stem}" for p in (ROOT / "results").glob("*/pages/*.ipynb"))


@pytest.mark.parametrize("page", [*PAGES, *TWINS])
def test_page_in_a_browser(site, browser, page):
    """One visit: what it asks for, its pictures, mathematics and headings, then names, a phone, and dark mode."""
    narrow_to(browser, 1400)
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(f"{site[0]}/{page}.html")
    browser.execute_async_script(
        "const done = arguments[0];"
        "const ready = window.MathJax?.startup?.promise ?? Promise.resolve();"
        "ready.then(() => setTimeout(done, 100));"
    )
    asks_nobody_outside_and_fails_nothing(browser)
    has_pictures_mathematics_and_headings_in_order(browser, figures_of(page))
    names_what_can_be_operated(browser)
    narrow_to(browser, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, "a phone scrolls sideways"
    keeps_contrast(browser, "light")
    keeps_contrast(browser, "dark")


def figures_of(page):
    """How many figures a page must show: its source's, or, of a twin, those that its recorded run drew."""
    profile, _, chapter = page.rpartition("/")
    notebook = ROOT / ("results/" + profile + "/pages" if profile else "book") / f"{chapter}.ipynb"
    figures = [c for c in code_cells(notebook) if "mystnb" in c.metadata] if notebook.exists() else []
    return sum(not profile or "image/svg+xml" in str(c.outputs) for c in figures)


def asks_nobody_outside_and_fails_nothing(browser):
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    outside = [u for u in asked if urllib.parse.urlparse(u).hostname not in ("localhost", None)]
    assert not outside, f"outside requests: {outside}"
    failed = [e["params"]["response"]["url"] for e in events
              if e["method"] == "Network.responseReceived" and e["params"]["response"]["status"] >= 400]  # fmt: skip
    assert not failed, f"failed resources: {failed}"
    errors = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not errors, errors


def has_pictures_mathematics_and_headings_in_order(browser, figures):
    images = browser.execute_script(
        "return [...document.querySelectorAll('article img')].map(i => [i.src, i.alt, i.complete && i.naturalWidth])"
    )
    for source, alt, width in images:
        assert width and width > 50 and len(alt) > 20, (source, alt)
    assert len(images) >= figures
    raw, rendered = browser.execute_script(
        "return ['.math', 'mjx-container'].map(kind => document.querySelectorAll('article ' + kind).length)"
    )
    assert rendered >= raw
    levels = browser.execute_script(
        "return [...document.querySelectorAll('article :is(h1,h2,h3,h4)')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), "headings in order"


def names_what_can_be_operated(browser):
    """Buttons, links, fields, sliders and pictures, as a screen reader meets them."""
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "link", "textbox", "searchbox", "slider", "image", "combobox"}
    met = [n for n in nodes if not n.get("ignored") and n["role"]["value"] in roles]
    assert len(met) > 20
    nameless = [n for n in met if not n.get("name", {}).get("value", "").strip()]
    assert not nameless, [(n["role"]["value"], n.get("properties")) for n in nameless]


def keeps_contrast(browser, mode):
    """Text, code and coloured verdicts keep 4.5 : 1 (WCAG AA) against what is behind them."""
    browser.execute_script(
        "document.documentElement.dataset.theme = document.documentElement.dataset.mode = arguments[0]", mode
    )
    pairs = browser.execute_script(
        """
        const rgb = s => s.match(/[\\d.]+/g).map(Number);
        const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                              if (c.length < 4 || c[3] > 0.99) return c; } return [255, 255, 255]; };
        return [...document.querySelectorAll('article :is(p, li, td, th, h1, h2, figcaption, a, pre span, summary)')]
          .filter(e => e.innerText && e.innerText.trim() && e.offsetParent)
          .map(e => [[...e.innerText].slice(0, 40).join(''), rgb(getComputedStyle(e).color), behind(e)]);
        """
    )
    assert len(pairs) > 5

    def luminance(color):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color[:3])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for text, color, ground in pairs:
        low, high = sorted((luminance(color), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (mode, text, color, ground)


def test_figures_have_an_opaque_ground(site):
    """A transparent plot vanishes in dark mode: the first patch of every drawing is white."""
    drawings = sorted((site[1] / "_images").glob("*.svg"))
    assert len(drawings) >= 12
    for file in drawings:
        ground = re.search(r'<g id="patch_1">\s*<path[^>]*style="fill: ([^;"]+)', file.read_text())
        assert ground and ground.group(1) == "#ffffff", file.name


def test_search_finds_the_simplex(site, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    narrow_to(browser, 1400)
    browser.get(f"{site[0]}/search.html?q=simplex")
    found = WebDriverWait(browser, 10).until(
        lambda b: b.execute_script("return [...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    )
    assert any("collapse.html" in link for link in found)


def test_links_inside_the_site_lead_somewhere(site):
    folder = site[1]
    pages = {p.resolve(): p.read_text() for p in folder.rglob("*.html")}
    assert sum("<article" in text for text in pages.values()) > 10
    for page, text in pages.items():
        article = "".join(text.split("<article", 1)[1:]).split("</article>")[0]
        for link in re.findall(r'href="([^"]+)"', article):
            target, _, anchor = link.partition("#")
            if urllib.parse.urlparse(link).scheme or "_images/" in target or "_sources/" in target:
                continue
            there = (page.parent / target).resolve() if target else page
            assert there in pages, f"{page.name}: {link}"
            assert not anchor or f'id="{anchor}"' in pages[there], f"{page.name}: {link}"


def test_links_without_a_public_repository_are_left_out(site):
    if provenance.repository() is None:
        assert not [p for p in site[1].rglob("*.html") if "mybinder.org" in p.read_text()]


def test_every_page_describes_itself(site):
    """To search engines, and in a card where somebody shares a link."""
    descriptions = {}
    for page in PAGES:
        text = (site[1] / f"{page}.html").read_text()
        (descriptions[page],) = re.findall(
            r'<meta (?:name="description" )?content="([^"]+)"(?: name="description")? ?/>', text
        )[:1]
        card = re.search(r'<meta property="og:image" content="([^"]+)"', text).group(1)
        assert (site[1] / card).exists()
    assert len(set(descriptions.values())) == len(PAGES) and min(map(len, descriptions.values())) > 40


def test_every_notebook_page_can_be_downloaded(site):
    for source in SOURCES:
        assert f'href="_sources/{source.name}"' in (site[1] / f"{source.stem}.html").read_text()
        assert nbformat.read(site[1] / "_sources" / source.name, 4).cells


def test_a_page_that_is_not_there_has_the_contents_beside_it(site):
    text = (site[1] / "404.html").read_text()
    assert "Page not found" in text and "/attacks.html" in text


def test_pages_are_light(site):
    """Under 1 MB, the moving figures' data aside."""
    for page in PAGES:
        text = re.sub(r"<script>.*?</script>", "", (site[1] / f"{page}.html").read_text(), flags=re.S)
        assert len(text.encode()) < 1e6, page


@pytest.mark.parametrize("page, player", [("collapse", "epoch"), ("attacks", "ε")])
def test_a_moving_figure_answers_to_slider_keys_and_button(site, browser, page, player):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    narrow_to(browser, 1400)
    browser.get(f"{site[0]}/{page}.html")
    slider = browser.find_element("css selector", f'.player input[aria-label="{player}"]')

    def state():
        return browser.execute_script(
            "return ['circle:nth-of-type(5)', 'svg > text', 'polygon'].map(s => document.querySelector('.player ' + s))"
            ".map(e => e.getAttribute('cx') ?? e.getAttribute('points') ?? e.textContent)"
        )

    last = state()
    slider.send_keys(Keys.HOME)
    first = state()
    assert first[0] != last[0] and first[1] != last[1]
    assert slider.get_attribute("aria-valuetext") == first[1]
    slider.send_keys(Keys.ARROW_RIGHT)
    assert state()[0] != first[0]
    slider.send_keys(Keys.HOME)
    browser.find_element("css selector", ".player button").send_keys(Keys.ENTER)
    WebDriverWait(browser, 30).until(lambda _: state() == last)


def test_the_copy_button_copies_what_is_shown(site, browser):
    from selenium.webdriver.common.keys import Keys

    narrow_to(browser, 1400)
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    browser.get(f"{site[0]}/cheatsheet.html")
    cells = browser.find_elements("css selector", "div.cell_input div.highlight")
    assert len(cells) >= 10
    for cell in cells[1:4]:
        cell.find_element("css selector", "button.copybtn").send_keys(Keys.ENTER)
        copied = browser.execute_async_script(
            "navigator.clipboard.readText().then(arguments[0], e => arguments[0](`${e}`))"
        )
        assert copied.strip() == cell.find_element("css selector", "pre").get_property("innerText").strip()


def test_every_function_is_listed_with_where_the_book_explains_it():
    rows = [line for line in (ROOT / "book" / "notation.md").read_text().splitlines() if line.startswith("| `nc.")]
    listed = [name for row in rows for name in re.findall(r"`nc\.(\w+)`", row)]
    offered = [name for name, it in vars(nc).items() if getattr(it, "__module__", "").startswith("nclib.")]
    assert sorted(listed) == sorted(offered) and all("{ref}`" in row for row in rows)


def test_every_profile_is_explained():
    rerun = (ROOT / "book" / "rerun.md").read_text()
    for name in execute.profile_names():
        row = next(line for line in rerun.splitlines() if line.startswith(f"| `{name}`"))
        profile = execute.read_profile(name)
        assert f" {profile['epochs']}," in row


def test_a_printed_page_has_no_buttons_and_hides_no_answer(site, browser):
    narrow_to(browser, 1400)
    browser.get(f"{site[0]}/collapse.html")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = "return [...document.querySelectorAll(arguments[0])].map(e => getComputedStyle(e).display !== 'none')"
        for buttons in (".bd-sidebar", ".bd-header-article", ".copybtn", ".player-controls"):
            found = browser.execute_script(shown, buttons)
            assert found and not any(found), buttons
        height = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().height)"
        answers = browser.execute_script(height, "details.sd-dropdown p, .solution .cell_input")
        assert len(answers) > 6 and min(answers) > 5
        assert all(browser.execute_script(shown, ".player svg"))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
