"""The page that computes in the reader's browser: its numbers beside torch's, its controls, its tour, its sizes."""

import copy
import re
import urllib.parse
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT
from test_site import asks_nobody_outside_and_fails_nothing, narrow_to

import nclib as nc
from nclib.figures import Plane
from press import pdf

pytestmark = pytest.mark.expensive
TRAININGS = ("standard", "adversarial")
EPSILON = {"linf": 0.2, "l2": 1.0}
RANDOM = "let state = 1; Math.random = () => (state = (48271 * state) % 2147483647) / 2147483647;"
WITH_NETWORK = """
    const [name, given, done] = arguments, task = (net, given) => { %s };
    load("try-it/").then(({ tensor }) => done(task(new Network((part) => tensor(`${name}.${part}`)), given)))
      .catch((error) => done(`${error}`));
"""
GRADIENTS = """
    return given.map(([x, y]) => {
      const { logits, gradient } = net.run(x), powers = logits.map((z) => Math.exp(z - Math.max(...logits)));
      return [...gradient(powers.map((p, c) => p / sum(powers) - (c === y)))];
    });
"""
PATHS = "return given[0].map(([x, y]) => pgd(net, x, y, given[1]).map((at) => [[...at.pixels], at.answer]));"
SIZES = """
    const options = { epsilon: 0.3, step: 0.1, steps: 2, norm: given[1] };
    return given[0].map((x) => [...pgd(net, x, 3, options), noise(net, x, options)[1]].map((at) => [...at.pixels]));
"""
PLACES = """
    const [xs, ys] = given, places = xs.map((x) => net.run(x)), flat = net.plane([4, 7, 2]);
    const mean = (of) => sum(places.map((at, i) => of(at, ys[i]))) / ys.length;
    const shares = [mean(({ nearest }, y) => nearest === y), mean(({ vertex }, y) => vertex !== y)];
    return [...shares, mean(({ point }, y) => net.variability(point, y)), places.map(({ point }) => flat(point))];
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped networks of the digits profile's first seed, by training."""
    profile = yaml.safe_load((ROOT / "profiles" / "digits.yml").read_text())
    recipe = nc.Recipe(**{k: v for k, v in profile.items() if k != "seeds"}, seed=profile["seeds"][0])
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCLIB_HOME", str(ROOT))
        found = {name: nc.fit(recipe.but(training=name), root, "cpu", shipped=True) for name in TRAININGS}
    assert all(run.shipped for run in found.values())
    return found


@pytest.fixture
def exact(shipped, name):
    """A network and its test digits in float64: an exact reference, down to the sign of a small gradient."""
    test = shipped[name].data.test
    return SimpleNamespace(model=copy.deepcopy(shipped[name].model).double(), x=test.images.double(), y=test.labels)


@pytest.fixture
def page(site, browser):
    """The page, opened anew; its random numbers fixed, its motion off: what is pressed is done at once."""
    narrow_to(browser, 1400)
    calm = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": calm})
    seeded = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RANDOM})
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(f"{site[0]}/try-it.html")
    until(browser, lambda: browser.find_elements("css selector", ".try-it-lives"))
    yield browser
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", seeded)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def until(browser, condition, seconds=300):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda _: condition())


def computed(browser, name, task, given):
    """What a piece of JavaScript makes of the network ``net`` and of ``given``."""
    browser.set_script_timeout(300)
    found = browser.execute_async_script(WITH_NETWORK % task, name, given)
    assert not isinstance(found, str), found
    return found


def pairs(x, y):
    return list(zip(x.flatten(1).tolist(), y.tolist()))


@pytest.mark.parametrize("name", TRAININGS)
class TestNumbers:
    def test_logits_are_torchs(self, page, shipped, name):
        x = shipped[name].data.test.images
        found = computed(page, name, "return given.map((x) => [...net.run(x).logits]);", x.flatten(1).tolist())
        with torch.no_grad():
            assert (torch.tensor(found) - shipped[name].model(x)).abs().max() < 1e-4

    def test_gradients_are_torchs(self, page, exact, name):
        x = exact.x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(exact.model(x), exact.y, reduction="sum"), x)
        found = torch.tensor(computed(page, name, GRADIENTS, pairs(exact.x, exact.y))).double()
        scale = expected.flatten(1).abs().amax(1, keepdim=True)
        assert ((found - expected.flatten(1)) / scale).abs().max() < 1e-3

    @pytest.mark.parametrize("norm", EPSILON)
    @pytest.mark.parametrize("targeted", [False, True])
    def test_pgd_goes_torchs_way(self, page, exact, name, norm, targeted):
        x, y, step = exact.x[:40], (exact.y[:40] + targeted) % 10, EPSILON[norm] / 4
        options = dict(epsilon=EPSILON[norm], step=step, steps=10, norm=norm, targeted=targeted, random=False)
        found = computed(page, name, PATHS, [pairs(x, y), options])
        assert all(len(path) == 11 for path in found)
        for steps in (0, 1, 2, 5, 10):
            expected = nc.pgd(exact.model, x, y, EPSILON[norm], step, steps, norm, targeted, start=None)
            pixels, answers = zip(*(path[steps] for path in found))
            assert (torch.tensor(pixels) - expected.flatten(1)).abs().max() < 1e-3, steps
            assert list(answers) == exact.model(expected).argmax(1).tolist(), steps

    @pytest.mark.parametrize("norm, order", [("linf", torch.inf), ("l2", 2)])
    def test_starts_and_noise_keep_to_their_ball(self, page, exact, name, norm, order):
        x = exact.x[:100].flatten(1)
        found = torch.tensor(computed(page, name, SIZES, [x.tolist(), norm])).double()
        assert found.min() >= 0 and found.max() <= 1
        sizes = (found - x[:, None]).norm(order, dim=-1)
        assert sizes.max() < 0.3 + 1e-6 and (sizes[:, 0] == 0).all() and (sizes[:, 1:] > 0).all()
        assert sizes[:, 1].std() > 0.001 and sizes[:, -1].mean() > 0.2

    def test_the_place_of_a_feature_is_what_nclib_measures(self, page, shipped, name):
        model, data = shipped[name].model, shipped[name].data
        generator = torch.Generator().manual_seed(0)
        x = nc.pgd(model, *data.test, 0.2, 0.05, generator=generator)  # attacked: nearest mean and vertex differ
        train, test = nc.features(model, data.train.images), nc.features(model, x)
        means = nc.class_means(train, data.train.labels)
        expected = nc.measure(test, data.test.labels, centers=means)
        given = [x.flatten(1).tolist(), data.test.labels.tolist()]
        *shares, flat = computed(page, name, PLACES, given)
        measures = ("centers_ncc_accuracy", "centers_leapt", "centers_nc1")
        assert shares == pytest.approx([expected[measure] for measure in measures], rel=1e-3)
        there = torch.tensor(Plane(means.means[[4, 7, 2]].numpy())(test.double().numpy()))
        assert (torch.tensor(flat).double() - there).abs().max() < 1e-4

    def test_nc1_of_the_clouds_is_what_nclib_measures(self, page, shipped, name):
        choose(page, "network", name)
        model, train = shipped[name].model, shipped[name].data.train
        expected = nc.measure(nc.features(model, train.images), train.labels)["nc1"]
        assert float(text(page, ".try-nc1")) == pytest.approx(expected, rel=0.05)


def text(browser, selector) -> str:
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def press(browser, selector) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def choose(browser, control, value) -> None:
    """Set a control as a reader does: the page hears of it."""
    browser.execute_script(
        "const control = document.querySelector(`.try-it [name=${arguments[0]}]`); control.value = arguments[1];"
        "control.dispatchEvent(new Event('input', {bubbles: true}))", control, value,
    )  # fmt: skip


def shown(browser) -> dict:
    """All that is seen of the digit, the attack and its way."""
    found = browser.execute_script(
        """const all = (what) => [...document.querySelectorAll(`.try-it ${what}`)];
        return [all('.try-images canvas').map((c) => c.toDataURL()), all('.try-bars b').map((b) => b.textContent),
                all('polyline')[0].getAttribute('points'), all('.corner text').map((e) => e.textContent),
                all('.try-said')[0].textContent, all('.cloud')[0].getAttribute('d'), all('[name=shown]')[0].max]"""
    )
    return dict(zip(("images", "logits", "way", "corners", "said", "cloud", "steps"), found))


def size_of(browser, kind) -> float:
    """The change that is told: of the largest "pixel", or its "length"."""
    return float(re.search(rf"{kind} (\d\.\d+)", shown(browser)["said"]).group(1))


ATTACK, NOISE = (f"[data-do={kind}]:not([data-all])" for kind in ("attack", "noise"))


class TestControls:
    def test_an_attack_misleads_the_standard_network_and_noise_does_not(self, page):
        clean = shown(page)
        assert clean["steps"] == "0" and "This 3, clean: the network reads 3" in clean["said"]
        press(page, ATTACK)
        attacked = shown(page)
        assert "step 10 of 10: the network reads 3" not in attacked["said"] and attacked["steps"] == "11"
        assert len(attacked["way"].split(" ")) == 12 and attacked["corners"][0] == "3"
        assert all(attacked[part] != clean[part] for part in ("logits", "way"))
        assert attacked["images"][0] == clean["images"][0] and len(set(attacked["images"])) == 3
        assert size_of(page, "pixel") == 0.2
        press(page, NOISE)
        assert "with noise: the network reads 3" in shown(page)["said"] and size_of(page, "pixel") == 0.2

    def test_each_setting_changes_what_it_should(self, page):
        choose(page, "epsilon", 0.1)
        press(page, ATTACK)
        assert size_of(page, "pixel") == 0.1
        choose(page, "steps", 3)
        press(page, ATTACK)
        assert shown(page)["steps"] == "4"
        choose(page, "norm", "l2")
        press(page, ATTACK)
        assert size_of(page, "length") <= 1 < size_of(page, "length") + size_of(page, "pixel")
        choose(page, "epsilon", 2)
        choose(page, "steps", 10)
        choose(page, "target", "7")
        press(page, ATTACK)
        assert "the network reads 7" in shown(page)["said"] and shown(page)["corners"][:2] == ["3", "7"]
        before = shown(page)
        choose(page, "network", "adversarial")
        assert shown(page)["cloud"] != before["cloud"] and shown(page)["logits"] != before["logits"]

    def test_the_time_slider_goes_back_to_the_clean_image(self, page):
        clean = shown(page)
        press(page, ATTACK)
        choose(page, "shown", 0)
        assert shown(page)["images"] == clean["images"] and shown(page)["logits"] == clean["logits"]
        choose(page, "shown", 5)
        assert "step 4 of 10" in shown(page)["said"] and len(shown(page)["way"].split(" ")) == 6

    def test_a_digit_is_picked_and_the_next_of_its_class(self, page):
        first = shown(page)
        press(page, "[data-digit='8']")
        second = shown(page)
        press(page, "[data-digit='8']")
        third = shown(page)
        assert "This 8, clean" in second["said"] and "This 8, clean" in third["said"]
        assert len({images[0] for images in (first["images"], second["images"], third["images"])}) == 3
        pressed = page.find_elements("css selector", "[data-digit][aria-pressed=true]")
        assert [button.get_attribute("data-digit") for button in pressed] == ["8"]

    def test_with_motion_the_way_is_walked_step_by_step(self, page):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        press(page, ATTACK)
        assert "clean" in shown(page)["said"]
        until(page, lambda: "step 10 of 10" in shown(page)["said"])
        until(page, lambda: page.execute_script("return document.querySelector('.try-said').ariaBusy") == "false")

    def test_a_new_setting_stops_a_count_and_drops_its_row(self, page):
        press(page, "[data-all][data-do=attack]")
        until(page, lambda: rows(page, ""))
        choose(page, "epsilon", 0.1)
        until(page, lambda: not rows(page, ""))


STROKES = {  # on a unit square
    "0": [[(0.5, 0.1), (0.3, 0.25), (0.25, 0.5), (0.3, 0.75), (0.5, 0.9), (0.7, 0.75), (0.75, 0.5), (0.7, 0.25),
           (0.5, 0.1)]],
    "1": [[(0.38, 0.3), (0.52, 0.12), (0.52, 0.9)]],
    "3": [[(0.3, 0.15), (0.6, 0.12), (0.68, 0.28), (0.45, 0.46), (0.7, 0.66), (0.6, 0.88), (0.28, 0.86)]],
    "4": [[(0.5, 0.1), (0.25, 0.6), (0.75, 0.6)], [(0.62, 0.4), (0.58, 0.92)]],
    "7": [[(0.28, 0.12), (0.72, 0.12), (0.45, 0.9)], [(0.35, 0.5), (0.7, 0.5)]],
}  # fmt: skip


@pytest.mark.parametrize("network", TRAININGS)
def test_a_drawn_digit_is_read(page, network):
    from selenium.webdriver.common.action_chains import ActionChains

    choose(page, "network", network)
    press(page, ".try-drawing summary")
    pad = page.find_element("css selector", ".try-pad")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    for digit, strokes in STROKES.items():
        press(page, ".try-clear")
        for stroke in strokes:
            hand = ActionChains(page, duration=10)
            for k, (x, y) in enumerate(stroke):
                hand.move_to_element_with_offset(pad, round(192 * (x - 0.5)), round(192 * (y - 0.5)))
                if k == 0:
                    hand.click_and_hold()
            hand.release().perform()
        said = shown(page)["said"]
        assert f"This {digit}, clean: the network reads {digit}" in said, (digit, said)
    press(page, ATTACK)
    assert "step 10 of 10" in shown(page)["said"]


def test_a_digit_is_drawn_with_the_keyboard_alone(page):
    from selenium.webdriver.common.keys import Keys

    page.find_element("css selector", ".try-drawing summary").send_keys(Keys.ENTER)
    pad = page.find_element("css selector", ".try-pad")
    pad.send_keys(" ", *[Keys.ARROW_DOWN] * 14, " ")
    assert "This 1, clean: the network reads 1" in shown(page)["said"]


def rows(browser, kind=".done") -> list[str]:
    return [row.text for row in browser.find_elements("css selector", f".try-table tbody tr{kind}")]


@pytest.fixture(scope="module")
def expected(shipped) -> dict[str, dict[str, float]]:
    """What nclib measures on the test digits, by network and view: accuracies and leaps as percentages."""
    found = {}
    for name, run in shipped.items():
        train, head = run.data.train, run.model.head
        means = nc.class_means(nc.features(run.model, train.images), train.labels)
        for view in nc.views(run.model, run.data, 0.2, names=("clean", "untargeted", "sign"), split="test"):
            made = nc.measure(nc.features(run.model, view.images), view.labels, head.weight, head.bias, centers=means)
            shares = [100 * made[m] for m in ("accuracy", "centers_ncc_accuracy", "centers_leapt")]
            found[f"{name} {view.name}"] = [*shares, made["centers_nc1"]]
    return found


@pytest.mark.parametrize(
    "step, name, view",
    [(1, "standard", "untargeted"), (2, "standard", "sign"), (3, "standard", "untargeted"),
     (4, "adversarial", "untargeted")],
)  # fmt: skip
def test_the_tours_expectations_are_true(page, expected, step, name, view):
    """What the text says is what nclib measures, and what the reader's own count comes to; starts are random."""
    place = f"document.querySelector('#a-tour-of-four-steps ol > li:nth-child({step})')"
    told = page.execute_script(f"return {place}.textContent")
    clean, after = expected[f"{name} clean"], expected[f"{name} {view}"]
    accuracy, ncc, leapt, nc1 = (f"{v:.1f}%" if k < 3 else f"{v:.2g}" for k, v in enumerate(after))
    before, standard_ncc = f"{clean[0]:.1f}%", f"{expected['standard ' + view][1]:.1f}%"
    words = {
        1: [f"right on {before} of the clean", f"on {accuracy} of the attacked", f"from {clean[3]:.2g} to {nc1}"],
        2: [f"right on {accuracy} of the noisy", f"means is {nc1}"],
        3: [f"attacked digits {leapt} end", f"clean ones {clean[2]:.1f}%"],
        4: [f"right on {ncc} of the attacked", f"network on {accuracy}", f"right on {standard_ncc}"],
    }[step]
    assert [word for word in words if word not in told] == []
    links = page.execute_script(f"return [...{place}.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    claim = {1: "c2", 2: "c3", 3: "c4", 4: "c7"}[step]
    assert links[0] == f"ledger.html#claim-{claim}"
    assert links[-1].split(".")[0] == ("attacks" if step < 4 else "adversarial-training")
    page.execute_script(f"{place}.querySelector('button').click()")
    (row,) = until(page, lambda: rows(page))
    assert "(360)" in row
    found = [float(word) for word in re.findall(r"→ ([\d.]+)", row)]
    assert found[:3] == pytest.approx(after[:3], abs=3), "percent"
    assert found[3] == pytest.approx(after[3], rel=0.15)


def test_it_works_from_a_disk(site, browser):
    browser.get((site[1] / "try-it.html").as_uri())
    until(browser, lambda: browser.find_elements("css selector", ".try-it-lives"))
    assert "the network reads 3" in shown(browser)["said"]


def test_it_asks_nobody_outside_and_fits_a_phone(page):
    press(page, ATTACK)
    asks_nobody_outside_and_fails_nothing(page)
    narrow_to(page, 390)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    places = page.execute_script(
        "return [...document.querySelectorAll('.try-it :is(button, select, input, canvas, svg)')]"
        ".map((e) => e.getBoundingClientRect())"
    )
    assert all(place["right"] <= 390 for place in places)


def test_it_is_light(site):
    folder, parts = site[1] / "try-it", ("network.js", "drawing.js", "page.js", "page.css", "networks.json")
    assert (folder / "networks.bin").stat().st_size < 1e6
    assert (site[1] / "try-it.html").stat().st_size + sum((folder / part).stat().st_size for part in parts) < 1e6
    lines = {part: len((folder / part).read_text().splitlines()) for part in parts if part.endswith(".js")}
    assert lines["network.js"] <= 180 and sum(lines.values()) <= 430, lines


def test_print_shows_a_still(site, page):
    """What is on the screen, without its buttons; and in the book on paper, where no script runs, a picture."""
    press(page, ATTACK)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    seen = "return [...document.querySelectorAll(arguments[0])].map((e) => e.getClientRects().length > 0)"
    for hidden in (".try-it button", ".try-it input", ".try-tour", "img.try-it-still"):
        found = page.execute_script(seen, hidden)
        assert found and not any(found), hidden
    for still in (".try-images canvas", ".try-plane svg", ".try-said", ".try-bars li"):
        assert all(page.execute_script(seen, still)), still
    article = pdf._article(site[1] / "try-it.html", ["try-it", "attacks"])
    assert not article.select("script, .try-it, button")
    picture = article.select_one("img")["src"]
    assert urllib.parse.unquote(picture).endswith("try-it.svg") and (site[1] / picture).exists()
