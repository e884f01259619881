"""What a step of PGD costs in the reader's browser: milliseconds, on this machine and with its CPU throttled.

    python benchmarks/browser.py              # needs a made book (make book), chromium and chromedriver
    python benchmarks/browser.py --profile smoke

Goal: under 50 ms a step on a laptop, under 200 ms on a phone's CPU (Chromium's own throttling, four times slower).
"""

import argparse
import functools
import http.server
import shutil
import statistics
import threading
from pathlib import Path

from selenium import webdriver

ROOT = Path(__file__).parents[1]
GOALS = {1: 50, 4: 200}  # times slower -> milliseconds
ATTACKS = """
    const [repeats, steps, done] = arguments;
    load("try-it/").then(({ manifest, tensor }) => {
      const net = new Network((part) => tensor(`${manifest.networks[0]}.${part}`)), seconds = [];
      const images = rowsOf(tensor("test.images")), labels = tensor("test.labels").values;
      for (let i = 0; i < repeats + 3; i++) {
        const began = performance.now();
        pgd(net, images[i], labels[i], { epsilon: 0.2, step: 0.05, steps, norm: "linf" });
        if (i >= 3) seconds.push((performance.now() - began) / (steps + 2));
      }
      done(seconds);
    });
"""


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="digits")
    parser.add_argument("--repeats", type=int, default=30, help="attacks timed")
    parser.add_argument("--steps", type=int, default=10, help="steps of an attack")
    asked = parser.parse_args()
    site = ROOT / "_build" / asked.profile / "site" / "_build" / "html"
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (site / "try-it.html").exists() or not chromium or not driver:
        return print(f"browser: skipped, as there is no {site / 'try-it.html'}, no chromium or no chromedriver")
    server = http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(600)
    try:
        browser.get(f"http://localhost:{server.server_port}/try-it.html")
        print("Chromium", browser.capabilities["browserVersion"])
        for slower, goal in GOALS.items():
            browser.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": slower})
            found = browser.execute_async_script(ATTACKS, asked.repeats, asked.steps)
            median, low, high = statistics.median(found), min(found), max(found)
            print(f"  CPU {slower} x slower: {median:6.1f} ms a step ({low:.1f}-{high:.1f}), goal {goal}")
    finally:
        browser.quit()
        server.shutdown()


if __name__ == "__main__":
    main()
