"""The site as a reader meets it: in a browser, on a phone, in the dark, on paper, by search and by links."""

import itertools
import json
import re
import urllib.parse

import nbformat
import pytest
from conftest import ROOT
from reading import SOURCES, code_cells

from nclib.evidence import provenance

pytestmark = pytest.mark.expensive


def narrow_to(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


PAGES = ["intro", *(s.stem for s in SOURCES), "findings", "try-it", "rerun", "notation", "api", "references"]
TWINS = sorted(f"{p.parents[1].name}/{p.stem}" for p in (ROOT / "results").glob("*/pages/*.ipynb"))


WIDE = """const answers = [...document.querySelectorAll('.toggle-hidden')];
          const shut = [...document.querySelectorAll('details:not([open])')];
          answers.forEach(e => e.classList.remove('toggle-hidden')), shut.forEach(e => e.open = true);
          const wide = [...document.querySelectorAll('.cell_input pre')].filter(e => e.scrollWidth > e.clientWidth)
                       .map(e => e.innerText.split('\\n').sort((a, b) => b.length - a.length)[0]);
          answers.forEach(e => e.classList.add('toggle-hidden')), shut.forEach(e => e.open = false);
          return wide"""


@pytest.mark.parametrize("page", [*PAGES, *TWINS])
def test_page_in_a_browser(site, browser, page):
    """One visit: what it asks for, its pictures, mathematics and headings, then names, a phone, and dark mode."""
    browser.get("about:blank")  # so that the last page is not laid out anew
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
    if page in PAGES:
        assert browser.execute_script(WIDE) == [], "code that needs a scroll bar"
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
    """Buttons, links, fields, sliders and pictures, as a screen reader meets them. Nothing is operated within formulas
    and code, whose every sign would be a node."""
    within = browser.execute_script(
        "const quiet = document.head.appendChild(document.createElement('style'));"
        "quiet.id = 'quiet', quiet.textContent = 'mjx-container, pre { display: none !important }';"
        "return document.querySelectorAll(':is(mjx-container, pre) :is(a, button, input, img)').length"
    )
    assert not within
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    browser.execute_script("document.getElementById('quiet').remove()")
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
    """A transparent plot vanishes in dark mode: the first thing that a drawing fills is white."""
    drawings = sorted((site[1] / "_images").glob("*.svg"))
    assert len(drawings) >= 12
    for file in drawings:
        ground = re.search(r'</defs>.*?<path[^>]*style="fill: ([^;"]+)', file.read_text(), re.S)
        assert ground and ground.group(1) == "#ffffff", file.name


def test_search_finds_the_simplex(site, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    narrow_to(browser, 1400)
    browser.get(f"{site[0]}/search.html?q=simplex")
    found = WebDriverWait(browser, 10).until(
        lambda b: b.execute_script("return [...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    )
    pages = [urllib.parse.urlparse(link).path for link in found]
    assert "/collapse.html" in pages and len(set(pages)) == len(pages)
    assert not [page for page in pages if page.count("/") > 1], "twins are not found: their pages are"


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


def test_every_name_in_the_notation_leads_to_its_entry_and_back_to_a_chapter(site):
    notation, entries = ((site[1] / f"{page}.html").read_text() for page in ("notation", "api"))
    names = re.findall(r"`(nc\.[\w.]+)`", (ROOT / "book" / "notation.md").read_text())
    assert len(names) > 40
    for name in names:
        (anchor,) = set(re.findall(rf'href="api\.html#([\w-]+)"[^>]*>(?:<\w+[^>]*>)*{re.escape(name)}<', notation))
        entry = entries.split(f'id="{anchor}"')[1].split("<section")[0]
        assert "Explained in" in entry and re.search(r'href="(?!api)[\w-]+\.html#', entry), name


def test_names_in_prose_lead_to_their_entries_and_code_stays_code(site):
    text = (site[1] / "attacks.html").read_text()
    assert (
        'href="api.html#api-robust-accuracy"' in text
        and 'href="../api.html#' in (site[1] / "cifar10-mini" / "attacks.html").read_text()
    )
    assert not re.findall(r'<div class="highlight"><pre>[^/]*<a href="api', text)


def test_the_index_has_definitions_measures_terms_and_functions(site):
    text = (site[1] / "genindex.html").read_text()
    for entry in ("Neural collapse", "Leap matrix", "NC1", "CDNV", "vertex", "nc.pgd()", "nc.records.pick()"):
        assert re.search(rf'<a href="[^"]+">(?:<strong>)?{re.escape(entry)}', text), entry


def test_how_to_cite_and_the_licence_are_on_the_site(site):
    text = (site[1] / "intro.html").read_text()
    words = re.sub(r"<[^>]+>", "", text)
    assert "@article{su2024robustness," in words and "@software{nclib," in words
    assert "MIT licence" in (site[1] / "attacks.html").read_text().split("</article>")[-1]


def test_cells_that_run_alone_bear_a_mark(site, browser):
    narrow_to(browser, 1400)
    browser.get(f"{site[0]}/cheatsheet.html")
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.tag_copyable .cell_input')]"
        ".map(e => getComputedStyle(e, '::before').content)"
    )
    assert len(marks) == len(code_cells(ROOT / "book" / "cheatsheet.ipynb", "copyable")) and set(marks) == {
        '"runs by itself: copy it"',
        '"runs after the set-up cell: copy both"',
    }


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
    downloads = sorted((site[1] / "_sources").rglob("*.ipynb"))
    assert len(downloads) > len(SOURCES), "twins too"
    for file in downloads:
        notebook = nbformat.read(file, 4)
        said = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert not re.findall(r"\{[\w:.-]+\}`|^[`:]{3,}\{|\{\{", said, re.M), file
        assert [output for cell in notebook.cells for output in cell.get("outputs", [])]


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


STATE = """return document.documentElement.outerHTML + scrollX + scrollY + !!document.fullscreenElement
           + [...document.querySelectorAll('details, dialog, input')].map(e => e.open ?? e.checked)"""


@pytest.mark.parametrize("width", [1400, 390])
def test_every_button_does_something(site, browser, width):
    from selenium.webdriver.support.ui import WebDriverWait

    narrow_to(browser, width)
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    browser.get(f"{site[0]}/attacks.html")
    browser.get_log("browser")
    changed = WebDriverWait(browser, 10, 0.02).until
    before = browser.execute_script(STATE)
    browser.find_element("css selector", ".btn-fullscreen-button").click()  # which a browser grants to a hand alone
    changed(lambda b: b.execute_script(STATE) != before)
    operable = "button:not(.btn-fullscreen-button), summary, label[for]"
    for number in range(len(browser.find_elements("css selector", operable))):
        button = browser.find_elements("css selector", operable)[number]
        if not browser.execute_script("return arguments[0].checkVisibility({visibilityProperty: true})", button):
            continue
        before = browser.execute_script(STATE)
        browser.execute_script("arguments[0].click()", button)
        changed(lambda b: b.execute_script(STATE) != before, f"nothing done by {button.get_attribute('outerHTML')}")
        browser.execute_script("document.querySelectorAll('dialog[open]').forEach(d => d.close())")
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


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


def test_a_printed_page_has_no_buttons_and_hides_no_answer(site, browser):
    narrow_to(browser, 1400)
    browser.get(f"{site[0]}/collapse.html")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        breaks = browser.execute_script("return [...document.body.children].map(e => getComputedStyle(e).breakBefore)")
        assert set(breaks) == {"auto"}, "no blank sheet before the title"
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
