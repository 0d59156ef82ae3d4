"""What a first visit costs: bytes and requests by kind, how far the page moves while it loads, and
what is laid out though nobody looks at it.

Bytes are counted as a server that compresses sends them. The browser loads over a slow line
(Lighthouse's slow 4G), since what comes at once hides what moves when it does not.
"""

import gzip
from collections import Counter
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT, SETTLED
from playwright.sync_api import TimeoutError
from sphinx_external_toc.parsing import parse_toc_yaml

PAGES = list(parse_toc_yaml(ROOT / "_toc.yml"))
SLOW = {"latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 750e3 / 8}
TEXT = {".html", ".css", ".js", ".svg", ".json"}

# kB of a chapter. The sheets hold all fonts.
BUDGET = {".html": 100, ".css": 103, ".js": 10, ".svg": 3}
TOTAL, REQUESTS, SHIFT = 200, 6, 0.02
TOTAL_OF = {"intro": 120, "ledger": 120}

WATCH = """window.shift = 0;
new PerformanceObserver(list => list.getEntries().forEach(entry => window.shift += entry.value))
  .observe({type: "layout-shift", buffered: true})"""

# What is measured, by whatever script, while it lies out of sight, in a section not laid out yet:
# the browser has then to lay all of it out, at once.
MEASURED = """window.early = [];
const watch = (type, names) => names.forEach(name => {
  const property = Object.getOwnPropertyDescriptor(type.prototype, name);
  const kind = property.get ? "get" : "value", own = property[kind];
  property[kind] = function (...rest) {
    if (this.isConnected && !this.checkVisibility({contentVisibilityAuto: true}))
      early.push(`${name} of ${this.outerHTML.slice(0, 80)}`);
    return own.apply(this, rest);
  };
  Object.defineProperty(type.prototype, name, property);
});
watch(Element, ["clientHeight", "clientWidth", "getBoundingClientRect", "getClientRects",
  "scrollHeight", "scrollWidth"]);
watch(HTMLElement, ["innerText", "offsetHeight", "offsetLeft", "offsetTop", "offsetWidth"]);
watch(SVGTextContentElement, ["getComputedTextLength"]);"""


def weight(file):
    """A file's kB on the wire."""
    data = file.read_bytes()
    return len(gzip.compress(data, 6) if file.suffix in TEXT else data) / 1000


@pytest.fixture(scope="module")
def first_visit(browser, server, site):
    """``first_visit(name)``: kB by kind, number of requests, shift of a page, on a phone unless
    another width is given, and what was measured out of sight."""

    def load(name, width=412, again=2):
        scale = 1.75 if width < 500 else 1  # Lighthouse's phone, on which lines break elsewhere
        context = browser.new_context(
            viewport={"width": width, "height": 823}, device_scale_factor=scale
        )
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        line = context.new_cdp_session(page)
        line.send("Network.enable")
        line.send("Network.emulateNetworkConditions", {"offline": False, **SLOW})
        page.add_init_script(WATCH)
        page.add_init_script(MEASURED)
        try:
            page.goto(f"{server}/{name}.html", wait_until="load")
        except TimeoutError:  # Chromium's slow line stalls once in a hundred loads, of any page
            context.close()
            if not again:
                raise
            return load(name, width, again - 1)
        page.evaluate(SETTLED)
        page.wait_for_timeout(300)
        shift, early = page.evaluate("[window.shift, window.early]")
        context.close()
        return bytes_by_kind(site, asked), len(asked), shift, early

    return load


def bytes_by_kind(site, addresses):
    kinds = Counter()
    for address in addresses:
        if address.startswith("http"):
            file = site / unquote(urlsplit(address).path).lstrip("/")
            kinds[file.suffix] += weight(file)
    return kinds


@pytest.mark.parametrize("width", [1280, 1500])
@pytest.mark.parametrize("name", ["intro", "kim2024/landscape", "own", "ledger"])
def test_a_page_stands_still_on_a_wide_screen(first_visit, name, width):
    _, _, shift, _ = first_visit(name, width)
    assert shift <= SHIFT


@pytest.mark.parametrize("name", PAGES)
def test_a_first_visit_stays_within_its_budget(first_visit, name):
    kinds, requests, shift, early = first_visit(name)
    over = {kind: kB for kind, kB in kinds.items() if kB > BUDGET.get(kind, 0)}
    assert not over, f"kB by kind, of {BUDGET}"
    assert sum(kinds.values()) <= TOTAL_OF.get(name, TOTAL)
    assert requests <= REQUESTS
    assert shift <= SHIFT
    assert early == []
