"""The built book as readers meet it: every page in a real browser, light, dark and on a phone.

Each page is opened once (`facts`), and everything below looks at what was found. A check is a
function that returns its complaints, so that it can be shown something broken as well.
"""

import json
import re
import struct
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import axe_playwright_python
import pytest
import yaml
from conftest import SETTLED
from matplotlib.image import imread
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parent.parent
PAGES = list(parse_toc_yaml(ROOT / "_toc.yml"))
CHAPTERS = [name for name in PAGES if "kernelspec:" in (ROOT / f"book/{name}.md").read_text()[:400]]
EXTRA = {"index", "genindex", "search", "results", "404"}  # pages that Sphinx adds

every_page = pytest.mark.parametrize("name", PAGES)
every_chapter = pytest.mark.parametrize("name", CHAPTERS)


# ---------------------------------------------------------------- the pages as files


class Outline(HTMLParser):
    """What the links of a site need to know of a page: where it leads, and the anchors it has."""

    def __init__(self, html):
        super().__init__()
        self.links, self.ids = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[a] for a in ("href", "src") if attributes.get(a)]
        self.ids += [attributes["id"]] if attributes.get("id") else []


def outlines(site):
    return {
        file.relative_to(site).as_posix(): Outline(file.read_text("utf8"))
        for file in site.rglob("*.html")
        if "_static" not in file.parts
    }


def dead_links(site, pages):
    """Links within the site whose file or anchor does not exist."""
    return [
        f"{name}: {link}"
        for name, outline in pages.items()
        for link in dict.fromkeys(outline.links)
        if not leads_somewhere(site, pages, name, link)
    ]


def leads_somewhere(site, pages, name, link):
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or link == "#":
        return True
    target = normpath(join(dirname(name), unquote(parts.path))) if parts.path else name
    if not (site / target).is_file():
        return False
    anchored = parts.fragment and target in pages
    return not anchored or unquote(parts.fragment) in pages[target].ids


def repeated_ids(outline):
    return [id for id, times in Counter(outline.ids).items() if times > 1]


def test_every_link_within_the_book_leads_somewhere(site):
    assert dead_links(site, outlines(site)) == []


def test_no_page_gives_one_id_to_two_places(site):
    assert {n: repeated_ids(o) for n, o in outlines(site).items() if repeated_ids(o)} == {}


def test_the_site_holds_the_pages_of_the_table_of_contents_and_no_others(site):
    # A page taken from _toc.yml stays in _build/html until that is emptied.
    built = {name.removesuffix(".html") for name in outlines(site)}
    moved = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["redirects"]
    assert set(PAGES) <= built <= EXTRA | set(PAGES) | set(moved)


def test_every_page_is_still_where_it_was_published(site):
    """A page that gets another name leaves a redirect; a new one is added to the list."""
    published = set((ROOT / "tests/addresses.txt").read_text().split())
    assert not [name for name in published if not (site / f"{name}.html").exists()]
    assert set(PAGES) <= published


@pytest.mark.parametrize(
    ("body", "complaints"),
    [
        ('<a href="b.html">', ["a.html: b.html"]),
        ('<a href="#nowhere">', ["a.html: #nowhere"]),
        ('<a href="sub/c.html#nowhere">', ["a.html: sub/c.html#nowhere"]),
        ('<img src="gone.svg">', ["a.html: gone.svg"]),
        ('<a href="sub/c.html#here"><a href="https://example.org/x"><p id="p"><a href="#p">', []),
    ],
)
def test_dead_links_are_found(tmp_path, body, complaints):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(body)
    (tmp_path / "sub/c.html").write_text('<p id="here"><a href="../a.html">')
    assert dead_links(tmp_path, outlines(tmp_path)) == complaints


def test_repeated_ids_are_found():
    assert repeated_ids(Outline('<p id="a"><p id="b"><p id="a">')) == ["a"]


# ---------------------------------------------------------------- the pages in the browser


@dataclass
class Facts:
    """What one visit to a page found. Empty lists are good news."""

    heading: str
    typeset: int
    found: dict = field(default_factory=dict)
    complaints: dict = field(default_factory=dict)


# Everything about a page that does not need a second look. Folded boxes are opened first.
LOOK = r"""() => {
  const article = document.querySelector("article") || document.body;
  const all = selector => [...article.querySelectorAll(selector)];
  const show = e => e.outerHTML.slice(0, 120);
  all("details").forEach(e => e.open = true);
  const text = article.cloneNode(true);
  text.querySelectorAll("pre, code, .sig, script, style, .katex").forEach(e => e.remove());
  return {
    heading: all("h1").map(e => e.textContent).join(" | "),
    typeset: all(".katex").length,
    description: document.querySelector("meta[name=description]")?.content ?? "",
    launch: [...document.querySelectorAll(".article-header-buttons a")].map(e => e.href),
    text: text.textContent,
    unset: [...all(".math"), ...all("math")]
      .filter(e => !e.querySelector(".katex") && !e.closest(".katex")).map(show),
    images: all("img").map(e => ({alt: e.alt, src: e.src})),
    drawings: all("svg").filter(e => !e.closest("[aria-hidden=true], button, summary"))
      .map(e => ({role: e.getAttribute("role"), label: e.getAttribute("aria-label")})),
  };
}"""

# Pieces of text whose colour is too close to that of the ground below them (WCAG AA).
FAINT = r"""() => {
  const channels = c => c.match(/rgba?\(([^)]+)\)/)?.[1].split(/[ ,/]+/).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c && (c.length < 4 || c[3] > 0.9)) return c;
    }
    return [255, 255, 255];
  };
  const faint = new Map();
  for (const e of (document.querySelector("main") || document.body).querySelectorAll("*")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    const style = getComputedStyle(e), colour = channels(style.color);
    if (!own || !colour || e.closest("svg, script, style") || !e.checkVisibility(
        {opacityProperty: true, visibilityProperty: true})) continue;
    const [low, high] = [light(colour), light(ground(e))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05), size = parseFloat(style.fontSize);
    const key = `${e.tagName.toLowerCase()}.${e.className}: ${style.color}`;
    if (ratio < (size >= 24 ? 3 : 4.5)) faint.set(key, `${key} at ${ratio.toFixed(2)}`);
  }
  return [...faint.values()];
}"""

# Inline formulas that scroll in a box of their own: each would be a stop of the Tab key.
STOPS = """() => [...document.querySelectorAll("span.math, span.math .katex")]
  .filter(e => /auto|scroll/.test(getComputedStyle(e).overflowX) || e.tabIndex >= 0)
  .map(e => e.outerHTML.slice(0, 120))"""

# Sections out of sight are not laid out, which axe would take for hidden; and nothing moves.
EVERYTHING_SHOWN = """*, *::before { content-visibility: visible !important;
  transition: none !important; animation: none !important }"""
AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
# Letters of formulas, colours of code and curves are nothing to tab to, and most of the elements.
RUN_AXE = """async options => (await axe.run(
    {exclude: [".katex-html", ".highlight span", "svg *"]}, options)).violations
  .flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 120)}`))"""


def inaccessible(page, **rules):
    """What axe complains of; ``color_contrast=False`` leaves out the slowest rule."""
    if not page.evaluate("'axe' in window"):
        page.add_style_tag(content=EVERYTHING_SHOWN)
        page.evaluate(AXE.read_text("utf8"))
    page.evaluate(SETTLED)
    rules = {name.replace("_", "-"): {"enabled": value} for name, value in rules.items()}
    return page.evaluate(RUN_AXE, {"rules": rules, "resultTypes": ["violations"]})


# What makes the page wider than the screen; boxes that scroll by themselves may hold wide things.
WIDE = r"""async () => {
  // side bars slide away; what is out of sight stands still, and would never finish
  const moving = document.getAnimations()
    .filter(a => a.effect.target.checkVisibility({contentVisibilityAuto: true}));
  await Promise.all(moving.map(a => a.finished));
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const wide = [...document.querySelectorAll("main *")]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
  return [`page ${document.documentElement.scrollWidth} px`,
    ...wide.slice(0, 5).map(e => e.tagName.toLowerCase() + "." + e.className)];
}"""


# What stands so far out of its piece of the page that the piece cuts it off: frames of code do.
CUT = """() => [...document.querySelectorAll(".bd-article > section > section > :not(h2)")].flatMap(
  piece => {
    const {left, right} = piece.getBoundingClientRect();
    const room = parseFloat(getComputedStyle(piece).overflowClipMargin) + 0.5;
    const scrolls = e => /auto|scroll|hidden/.test(getComputedStyle(e).overflowX)
      || (e !== piece && scrolls(e.parentElement));
    return [...piece.querySelectorAll(":not(svg *, .katex *)")].filter(e => {
      const box = e.getBoundingClientRect();
      return box.width && (box.left < left - room || box.right > right + room)
        && !scrolls(e.parentElement);
    }).map(e => e.tagName.toLowerCase() + "." + e.className);
  })"""


# On a phone the picture of an explorer stays on the screen while the controls below it are moved.
AWAY = """() => [...document.querySelectorAll(".descent-plot + .descent-controls")].flatMap(
  controls => {
    controls.scrollIntoView({block: "center", behavior: "instant"});
    const top = controls.previousElementSibling.getBoundingClientRect().top;
    return top < 0 ? [`picture ${Math.round(-top)} px above the screen`] : [];
  })"""

# Letters of drawn figures that are too small, cut off, or upon each other, and letters that are
# outlines and no text. A pixel of overlap is forgiven, for letters from another machine's fonts.
LETTERS = r"""() => [...document.querySelectorAll(".descent-figure svg")].flatMap((svg, k) => {
  const frame = svg.getBoundingClientRect(), size = e => parseFloat(getComputedStyle(e).fontSize);
  const small = [...svg.querySelectorAll("text, tspan")].flatMap(e => {
    const drawn = size(e) * frame.width / svg.viewBox.baseVal.width;
    return drawn < (e.matches("tspan[font-size]") ? 8 : 11) ? [`small: ${e.textContent}`] : [];
  });
  const corners = text => {  // of the letters, which are lower than the line that they stand in
    const {x, width} = text.getBBox(), middle = Number(text.getAttribute("y"));
    const [top, bottom] = [-0.35, 0.35].map(share => middle + share * size(text));
    return [[x, top], [x + width, top], [x + width, bottom], [x, bottom]]
      .map(([x, y]) => new DOMPoint(x, y).matrixTransform(text.getScreenCTM()));
  };
  const apart = (a, b) => [a, b].some(box => [[0, 1], [1, 2]].some(([from, to]) => {
    const side = [box[to].x - box[from].x, box[to].y - box[from].y];
    const along = each => each.map(p => (p.x * side[0] + p.y * side[1]) / Math.hypot(...side));
    const [ours, theirs] = [along(a), along(b)];
    return Math.min(...ours) > Math.max(...theirs) - 1
      || Math.min(...theirs) > Math.max(...ours) - 1;
  }));
  const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, corners(text)]);
  const cut = texts.filter(([, box]) => box.some(p => p.x < frame.left - 1
    || p.x > frame.right + 1 || p.y < frame.top - 1 || p.y > frame.bottom + 1));
  const touching = texts.flatMap(([words, box], i) => texts.slice(i + 1)
    .filter(([, other]) => !apart(box, other)).map(([other]) => `overlap: ${words}, ${other}`));
  const outlines = svg.querySelector("g[transform*='scale(0.015625)']") ? ["outlines"] : [];
  return [...small, ...cut.map(([words]) => `cut: ${words}`), ...touching, ...outlines]
    .map(what => `figure ${k}, ${what}`);
})"""


def unlabelled(found):
    """Pictures that say nothing to those who do not see them."""
    mute = [f"img {i['src']}: {i['alt']!r}" for i in found["images"] if not says(i["alt"])]
    drawings = [d for d in found["drawings"] if d["role"] != "img" or not says(d["label"])]
    return mute + [f"svg role={d['role']}: {d['label']!r}" for d in drawings]


def says(text):
    """Whether a text describes: three words at least, which no hash and no file name has."""
    return len(re.findall(r"[A-Za-z]{2,}", text or "")) >= 3 and " " in text.strip()


# Markdown or TeX that some parser let through to the reader.
LEFTOVERS = re.compile(
    r"\$\$|\\[(\[]|\{(?:prf|eq|ref|cite|doc|numref|claim)\b[^}]*\}|```|:::|\]\(|\\begin|\*\*\w"
)


def leftovers(text):
    return [text[max(0, m.start() - 20) : m.end() + 20] for m in LEFTOVERS.finditer(text)]


def complaints(visit, found):
    return {
        "console": visit.errors,
        "foreign": visit.foreign,
        "failed": visit.failed,
        "math": found["unset"],
        "labels": unlabelled(found),
        "leftovers": leftovers(found["text"]),
    }


def in_theme(page, theme):
    """The page as it is after a press on its dark switch, which does no more than this."""
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)


def study(visit):
    """All that is checked on a page, from one visit to it."""
    page = visit.page
    found = page.evaluate(LOOK)
    facts = Facts(found["heading"], found["typeset"], found, complaints(visit, found))
    for theme in ("light", "dark"):
        in_theme(page, theme)
        facts.complaints[f"faint in {theme}"] = page.evaluate(FAINT)
    facts.complaints["explorers"] = dead_controls(page)
    facts.complaints["tab stops"] = page.evaluate(STOPS)
    facts.complaints["cut off"] = page.evaluate(CUT)
    facts.complaints["axe"] = inaccessible(page, color_contrast=False)
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate(SETTLED)
    facts.complaints["wide on a phone"] = page.evaluate(WIDE)
    facts.complaints["cut off on a phone"] = page.evaluate(CUT)
    facts.complaints["axe on a phone"] = inaccessible(page, color_contrast=False)
    facts.complaints["away on a phone"] = page.evaluate(AWAY)
    facts.complaints["letters on a phone"] = page.evaluate(LETTERS)
    return facts


@pytest.fixture(scope="module")
def facts(server, visit):
    """``facts(name)``: what one visit to a page found, kept for all tests of this file."""
    kept = {}

    def of(name):
        if name not in kept:
            visited = visit(server, f"{name}.html")
            kept[name] = study(visited)
            visited.page.context.close()
        return kept[name]

    return of


# ---------------------------------------------------------------- figures that move

# What a reader sees of an explorer: its curves, and the sentence that sums them up.
STATE = """root => [
  [...root.querySelectorAll("svg path")].map(p => p.getAttribute("d")).join(" "),
  [...root.querySelectorAll("[aria-live]")].map(p => p.textContent).join(" "),
]"""


def dead_controls(page):
    """Controls of explorers that do not move, from the keyboard, the curves and the summary."""
    complaints = []
    for i, root in enumerate(page.query_selector_all("section.descent-explorer")):
        controls = root.query_selector_all("input[type=range], select")
        complaints += [] if controls else [f"explorer {i} has no control"]
        for j, control in enumerate(controls):
            still = unmoved(page, root, control)
            complaints += [f"explorer {i}, control {j}: {what} did not change" for what in still]
    return complaints


# Away from the end at which the control may stand.
KEY = """e => e.tagName === "SELECT"
  ? (e.selectedIndex + 1 < e.options.length ? "ArrowDown" : "ArrowUp")
  : (Number(e.value) < Number(e.max) ? "ArrowRight" : "ArrowLeft")"""


def unmoved(page, root, control):
    """Which of the curves and the summary stay as they were after one key on this control."""
    before = root.evaluate(STATE)
    key = control.evaluate(KEY)
    control.focus()
    page.keyboard.press(key)
    after = before
    for _ in range(20):  # a drawing may wait for the next frame, or a few
        after = root.evaluate(STATE)
        if after[0] != before[0] and after[1] != before[1]:
            break
        page.wait_for_timeout(25)
    names = ("curves", "summary")
    return [w for w, b, a in zip(names, before, after, strict=True) if a == b]


# ---------------------------------------------------------------- what must hold of every page


def words(text):
    """The words of a heading, without formulas and marks."""
    return re.findall(r"[A-Za-z]+", re.sub(r"\$.*?\$", "", text))


@every_page
def test_a_page_stands_under_its_own_heading(facts, name):
    source = re.search(r"^# (.+)$", (ROOT / f"book/{name}.md").read_text(), re.M)[1]
    heading = facts(name).heading
    assert " | " not in heading and set(words(source)) <= set(words(heading))


@every_page
def test_a_page_says_what_it_is_about(facts, name):
    assert len(facts(name).found["description"]) > 40


@every_page
def test_every_formula_is_typeset(facts, name):
    assert facts(name).complaints["math"] == []
    source = (ROOT / f"book/{name}.md").read_text()
    prose = re.sub(r"```\{code-cell\}.*?```", "", source, flags=re.S)
    formulas = re.findall(r"(\$\$?)[^$]+\1", prose)
    assert facts(name).typeset >= len(formulas)


CLEAN = [
    "console",
    "foreign",
    "failed",
    "labels",
    "leftovers",
    "explorers",
    "faint in light",
    "faint in dark",
    "tab stops",
    "axe",
    "cut off",
    "wide on a phone",
    "cut off on a phone",
    "axe on a phone",
    "away on a phone",
    "letters on a phone",
]


@every_page
@pytest.mark.parametrize("check", CLEAN)
def test_a_page_gives_no_cause_for_complaint(facts, name, check):
    assert facts(name).complaints[check] == []


# ---------------------------------------------------------------- the checks, shown broken pages


def drawn(inside):
    """A figure of three hundred units, as wide as a phone's screen."""
    return f'<figure class="descent-figure"><svg viewBox="0 0 300 99">{inside}</svg></figure>'


PIECE = '<article class="bd-article"><section><section><div>'


@pytest.mark.parametrize(
    ("body", "check", "part"),
    [
        ("<script>undefined_name</script>", "console", "undefined_name"),
        ('<script src="https://example.org/a.js"></script>', "foreign", "example.org/a.js"),
        ('<img src="gone.png" alt="a b c">', "failed", "404"),
        ('<img src="data:," alt="9f8a7b6c5d.png">', "labels", "9f8a7b6c5d"),
        ('<svg role="img" aria-label="figure"></svg>', "labels", "figure"),
        ("<svg></svg>", "labels", "role=None"),
        ('<span class="math">\\(x\\)</span>', "math", "math"),
        ("<math><mi>x</mi></math>", "math", "<math>"),
        ("<p>see {prf:ref}`thm`</p>", "leftovers", "prf:ref"),
        ("<p>so $$x$$</p>", "leftovers", "$$"),
        ('<main><p style="color: #999; background: #fff">pale</p></main>', "faint in light", "p."),
        ('<main><p style="width: 500px">wide</p></main>', "wide on a phone", "p."),
        (PIECE + '<pre style="margin-right: -9px">wide</pre></div>', "cut off", "pre."),
        (PIECE + '<pre style="width: 500px">wide</pre></div>', "cut off on a phone", "pre."),
        ('<span class="math" style="overflow: auto">x</span>', "tab stops", "math"),
        ("<main><button></button></main>", "axe", "button-name"),
        (
            '<main><pre style="overflow: auto; width: 300px">' + "x " * 500 + "</pre></main>",
            "axe on a phone",
            "scrollable-region-focusable",
        ),
        (
            '<main style="padding: 900px 0"><div style="overflow: auto">'
            '<div class="descent-plot" style="position: sticky; top: 0; height: 500px"></div>'
            '<div class="descent-controls" style="height: 300px"></div></div></main>',
            "away on a phone",
            "above the screen",
        ),
        (drawn('<text y="20" font-size="10">low</text>'), "letters on a phone", "small: low"),
        (
            drawn('<text y="20" font-size="20">2<tspan font-size="7">k</tspan></text>'),
            "letters on a phone",
            "small: k",
        ),
        (drawn('<text x="290" y="20" font-size="20">loss</text>'), "letters on a phone", "cut"),
        (
            drawn('<text y="20" font-size="20">one</text><text y="25" font-size="20">two</text>'),
            "letters on a phone",
            "overlap: one, two",
        ),
        (
            drawn('<g transform="scale(0.015625)"><path d="M0 0h1"/></g>'),
            "letters on a phone",
            "outlines",
        ),
    ],
)
def test_a_broken_page_is_complained_of(visit, small_site, body, check, part):
    facts = study(visit(small_site({"a.html": body}), "a.html"))
    assert any(part in complaint for complaint in facts.complaints[check])


EXPLORER = """<section class="descent-explorer"><input type="range" min="0" max="3" value="3">
<select><option>softmax<option>Gaussian</select><svg><path d="M0 0"/></svg><p aria-live="polite">
</p></section><script>
const [slider, menu, path, summary] = ["input", "select", "path", "p"].map(
  name => document.querySelector(name));
const curve = () => path.setAttribute("d", "M0 0L" + slider.value + " " + menu.selectedIndex);
const tell = () => summary.textContent = slider.value + menu.value;
SCRIPT</script>"""


@pytest.mark.parametrize(
    ("script", "complaints"),
    [
        ("slider.oninput = menu.oninput = () => { curve(); tell(); };", []),
        (
            "menu.oninput = () => { curve(); tell(); };",
            [
                "explorer 0, control 0: curves did not change",
                "explorer 0, control 0: summary did not change",
            ],
        ),
        (
            "slider.oninput = () => { curve(); tell(); }; menu.oninput = curve;",
            ["explorer 0, control 1: summary did not change"],
        ),
    ],
)
def test_a_dead_control_is_complained_of(visit, small_site, script, complaints):
    address = small_site({"a.html": EXPLORER.replace("SCRIPT", script)})
    assert dead_controls(visit(address, "a.html").page) == complaints


# ---------------------------------------------------------------- buttons, search, theme


def repository():
    return yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]


@every_chapter
def test_the_buttons_of_a_chapter_lead_to_its_notebook(facts, server, name):
    public, branch = repository()["url"], repository()["branch"]
    path = urlsplit(public).path.strip("/")
    notebook = f"notebooks/{name}.ipynb"
    launch = facts(name).found["launch"]
    assert f"https://colab.research.google.com/github/{path}/blob/{branch}/{notebook}" in launch
    assert f"https://mybinder.org/v2/gh/{path}/{branch}?urlpath=lab/tree/{notebook}" in launch
    assert f"{server}/_sources/{name}.ipynb" in launch
    assert not [link for link in launch if link.endswith(".md") and "/edit/" not in link]


@every_page
def test_the_edit_button_of_a_page_leads_to_its_source(facts, name):
    url, branch = repository()["url"], repository()["branch"]
    assert f"{url}/edit/{branch}/book/{name}.md" in facts(name).found["launch"]


@every_chapter
def test_the_notebook_that_is_downloaded_is_the_committed_one(site, name):
    served = (site / f"_sources/{name}.ipynb").read_bytes()
    assert served == (ROOT / f"notebooks/{name}.ipynb").read_bytes()
    assert json.loads(served)["nbformat"] == 4


def test_the_page_of_a_search_finds_a_word_with_the_network_cut(server, visit):
    found = visit(server, "search.html?q=gradient")
    found.page.wait_for_selector("#descent-search-page li a")
    assert (found.foreign, found.failed, found.errors) == ([], [], [])


def test_the_dark_switch_turns_the_page_dark(server, visit):
    page = visit(server, "intro.html").page
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for _ in range(3):  # auto, light and dark come round in turn
        page.click(".article-header-buttons .theme-switch-button")
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert page.evaluate(ground) != light


def test_what_has_the_focus_in_the_side_bar_is_framed(server, visit):
    page = visit(server, "song2024/values.html").page
    framed = """() => { const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
      return outlineStyle + " " + outlineWidth }"""
    seen = []
    while "Training the values" not in seen[-1:]:
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()")[3:])
        assert page.evaluate(framed) == "solid 2px", seen[-1]


def test_the_book_is_named_on_a_phone(server, visit):
    page = visit(server, "song2024/values.html", width=390).page
    name = page.get_by_role("link", name="Descent", exact=True)
    assert name.is_visible() and name.bounding_box()["x"] > 0
    name.click()
    page.wait_for_url("**/intro.html")


def test_paper_has_the_code_that_a_reader_unfolded_and_none_that_is_folded(server, visit):
    page = visit(server, "kim2024/landscape.html").page
    page.evaluate("document.querySelector('details.hide').open = true")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown = page.evaluate("""[...document.querySelectorAll("article details")].map(box =>
      [box.matches(".hide"), box.checkVisibility(), box.open])""")
    code = [[seen, unfolded] for is_code, seen, unfolded in shown if is_code]
    assert code[0] == [True, True] and [False, False] in code and [False, True] not in code[1:]
    others = [seen and unfolded for is_code, seen, unfolded in shown if not is_code]
    assert others and all(others)
    moving = """[...document.querySelector("details.hide").children].map(part =>
      [part.checkVisibility(), part.getAnimations().length])"""
    assert page.evaluate(moving) == [[False, 0], [True, 0]]  # no summary, and nothing fades in


# How dark the upper corners of a box are, in which no letter stands; 0 is the ground.
def shaded_corners(page, box, side):
    """The left and the right corner, when what is in the box is scrolled to one side."""
    box.evaluate(f"box => box.scrollLeft = {dict(left=0, right=9999)[side]}")
    page.evaluate(SETTLED)
    frame = box.bounding_box()
    row = {"x": frame["x"], "y": frame["y"] + 1, "width": frame["width"], "height": 2}
    pixels = imread(BytesIO(page.screenshot(clip=row)))[0, :, :3].mean(axis=-1)
    ground = pixels[len(pixels) // 2]
    return [round(abs(float(ground - corner)), 2) for corner in (pixels[3], pixels[-4])]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["pre", ".katex-display"])
def test_what_goes_on_beyond_an_edge_is_shaded_there(server, visit, kind, scheme):
    page = visit(server, "foundations/momentum.html", width=390, scheme=scheme).page
    page.add_style_tag(content=EVERYTHING_SHOWN)
    wide = "boxes => boxes.findIndex(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 20)"
    boxes = page.locator(f"article {kind}")
    box = boxes.nth(boxes.evaluate_all(wide))
    box.evaluate("box => box.scrollIntoView({block: 'center'})")
    left, right = shaded_corners(page, box, "left")
    assert left < 0.02 and right > 0.05
    left, right = shaded_corners(page, box, "right")
    assert left > 0.05 and right < 0.02
    page.context.close()


def test_paper_has_the_letters_that_nothing_on_the_screen_needs_yet(server, visit):
    page = visit(server, "foundations/gradients.html").page
    page.wait_for_timeout(2000)
    missing = """[...document.fonts].filter(face => face.family.includes("KaTeX"))
      .filter(face => face.status !== "loaded").map(face => face.family)"""
    assert page.evaluate(missing) == []


def test_a_reader_whose_system_is_dark_gets_a_dark_page(server, visit):
    page = visit(server, "intro.html", scheme="dark").page
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_for_lost_readers_can_be_read(server, visit, scheme):
    """Its ground is said, and not left to the browser, which axe takes for white."""
    page = visit(server, "404.html", scheme=scheme).page
    assert inaccessible(page) == []
    assert page.locator("meta[http-equiv=Content-Security-Policy]").count() == 1
    page.context.close()


@pytest.mark.parametrize("page", ["results", "search", "genindex"])
def test_pages_without_a_text_of_their_own_say_what_they_are_about(site, page):
    text = (site / f"{page}.html").read_text("utf8")
    assert re.search('<meta name="description" content=".{20}', text)


def test_the_first_page_comes_without_a_detour(server, visit):
    page = visit(server, "").page
    assert page.get_by_role("heading", level=1).is_visible() and page.url.rstrip("/") == server


def test_the_page_of_search_loads_what_it_searches_when_asked(server, visit):
    page = visit(server, "search.html").page
    page.wait_for_selector("#descent-search-page input:focus")  # by the script
    page.wait_for_load_state("networkidle")
    assert not page.evaluate("'descentEntries' in window")
    page.keyboard.type("trap")
    page.wait_for_selector("#descent-search-page .descent-found a")


# ---------------------------------------------------------------- what a reference leads to


def test_a_reference_shows_what_it_leads_to_by_mouse_and_by_keyboard(visit, server):
    page = visit(server, "song2024/values.html").page
    preview = page.locator("#descent-preview")
    link = page.locator("article a[href='#thm-values']:not(.headerlink):visible").first
    link.scroll_into_view_if_needed()
    page.evaluate(SETTLED)  # what is above it has its height: it does not leave the mouse any more
    link.hover()
    preview.wait_for(state="visible")
    assert "Training the values of one head" in preview.inner_text()
    look = "e => [getComputedStyle(e).background, getComputedStyle(e).borderLeft]"
    box = preview.locator(".theorem")
    assert box.evaluate(look) == page.locator("#thm-values").evaluate(look)  # as on its page
    page.keyboard.press("Escape")
    preview.wait_for(state="hidden")
    # of another page, and from the keyboard
    badge = page.locator("article a.descent-claim:visible").first
    badge.evaluate("e => e.scrollIntoView({block: 'center'})")
    page.locator("article a:visible:not(.headerlink)").first.focus()
    while not badge.evaluate("e => e === document.activeElement"):
        page.keyboard.press("Tab")
    preview.wait_for(state="visible")
    assert badge.locator(".descent-claim-id").inner_text() in preview.inner_text()
    assert page.evaluate("document.querySelectorAll('#descent-preview [id]').length") == 0
    page.context.close()


def test_what_a_reference_shows_is_set_in_the_letters_of_its_page(visit, server):
    """The list of results has no sum of its own, and leads to many."""
    page = visit(server, "results.html").page
    assert page.locator("[class*='op-symbol']").count() == 0
    page.locator("article a[href$='#thm-near']").hover()
    page.locator("#descent-preview .op-symbol").first.wait_for(state="visible")
    assert page.evaluate("""async () => {
        for (let frame = 0; frame < 300; frame++) {
            if ([...document.fonts].some(f => f.family === "KaTeX_Size2" && f.status === "loaded"))
                return true;
            await new Promise(requestAnimationFrame);
        }
        return false;
    }""")
    page.context.close()


# Something of each kind, far down a page, some of them just below an explorer, which grows as it starts.
PLACES = {
    "the-question-of-the-book": "foundations/layer",
    "prop-symmetries": "foundations/layer",
    "figure-2": "foundations/layer",
    "figure-4": "foundations/layer",
    "ex-layer-weights": "foundations/layer",
    "equation-eq-gain": "vasudeva2024/everywhere",
    "exercises": "vasudeva2024/everywhere",
    "vasudeva2024-adam": "ledger/vasudeva2024",
}

# How far below the tools of the page a place is: that of a section is its heading.
BELOW = """id => {
  const place = document.getElementById(id);
  const seen = (place.matches("section") && place.querySelector("h2")) || place;
  const tools = document.querySelector(".descent-header").getBoundingClientRect().bottom;
  return seen.getBoundingClientRect().top - tools;
}"""
# Ways to a place from a page that is open.
WAYS = {
    "a link": "id => document.querySelector(`article a[href='#${id}']`).click()",
    "another address": "id => { location.hash = id; }",
}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("place", PLACES)
def test_an_address_and_a_link_lead_to_the_top_of_the_screen(visit, server, place, width):
    """The place does not move when what is above it gets its height."""
    page = visit(server, f"{PLACES[place]}.html#{place}", width=width).page
    assert 0 <= page.evaluate(BELOW, place) < 40
    page.context.close()
    for way in WAYS.values():
        page = visit(server, f"{PLACES[place]}.html", width=width).page
        page.evaluate(way, place)
        page.wait_for_function("'placed' in document.documentElement.dataset && scrollY > 0")
        page.evaluate(SETTLED)
        assert 0 <= page.evaluate(BELOW, place) < 40
        page.context.close()


# Whether the page's script has begun when all of the page is there.
BEGUN = """addEventListener("DOMContentLoaded", () => {
  window.begun = document.querySelector(".copybtn") !== null;
});"""


@pytest.mark.parametrize("place", ["", "#thm-values"])
def test_a_script_waits_for_a_page_to_answer_unless_an_address_leads_into_it(
    browser, server, place
):
    with closing(browser.new_context()) as context:
        context.add_init_script(BEGUN)
        page = context.new_page()
        page.goto(f"{server}/song2024/values.html{place}", wait_until="load")
        assert page.evaluate("begun") == bool(place)
        page.wait_for_selector(".copybtn", state="attached")


def test_the_list_of_contents_leads_to_the_top_of_a_phones_screen(visit, server):
    """Also when it closes, and the button that opened it gets the focus back."""
    page = visit(server, "foundations/layer.html", width=390).page
    page.click(".secondary-toggle")
    page.click("dialog[open] a[href='#the-question-of-the-book']")
    page.wait_for_function("scrollY > 0 && document.activeElement.matches('.secondary-toggle')")
    page.evaluate(SETTLED)
    assert 0 <= page.evaluate(BELOW, "the-question-of-the-book") < 40
    page.context.close()


@pytest.mark.parametrize("width", [390, 980])
@pytest.mark.parametrize("side", ["primary", "secondary"])
def test_a_side_bar_is_laid_out_on_a_narrow_screen_when_it_is_opened(visit, server, side, width):
    page = visit(server, "foundations/layer.html", width=width).page
    links = page.locator(f"#pst-{side}-sidebar a, #pst-{side}-sidebar-modal a")
    drawn = "links => links.filter(link => link.getClientRects().length).length"
    assert links.evaluate_all(drawn) == 0
    page.click(f".{side}-toggle")
    assert links.evaluate_all(drawn) > 5
    page.keyboard.press("Escape")
    page.evaluate(SETTLED)
    assert links.evaluate_all(drawn) == 0
    page.context.close()


# The control that has the focus, and whether it can be seen, and its picture, drawn, above it.
FOCUSED = """() => {
  const control = document.activeElement, box = control.getBoundingClientRect();
  const explorer = control.closest(".descent-explorer");
  if (!explorer || !control.matches("input, select")) return null;
  const middle = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  const tools = document.querySelector(".descent-header").getBoundingClientRect().bottom;
  const picture = explorer.querySelector("svg .curve")?.closest("svg").getBoundingClientRect();
  return {
    seen: middle === control && box.bottom <= innerHeight && picture?.top >= tools,
    says: explorer.querySelector(".descent-summary").textContent,
  };
}"""


# How high the pieces of a page are, and how high they said they would be.
HIGH = r"""() => {
  const pieces = [...document.querySelectorAll("article > section > section > :not(h2)")];
  const said = e => parseFloat(getComputedStyle(e).containIntrinsicHeight.replace("auto", ""));
  const sum = height => pieces.map(height).reduce((a, b) => a + b);
  return [sum(said), sum(e => e.getBoundingClientRect().height)];
}"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["foundations/gradients", "song2024/values", "wu2023/tangent"])
def test_a_page_is_as_high_as_its_pieces_say_before_they_are_laid_out(visit, server, name, width):
    page = visit(server, f"{name}.html", width=width).page
    page.add_style_tag(content=EVERYTHING_SHOWN)
    page.evaluate(SETTLED)
    said, high = page.evaluate(HIGH)
    assert said == pytest.approx(high, rel=0.15)  # room for other versions of a browser
    page.context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_who_tabs_into_an_explorer_out_of_sight_sees_and_moves_it(visit, server, width):
    """By keyboard alone, past all that is on the way: nothing of the page has been scrolled to."""
    page = visit(server, "foundations/layer.html", width=width).page
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.descent-controls') !== null"):
            break
    page.wait_for_function(f"({FOCUSED})()?.seen")
    before = page.evaluate(FOCUSED)["says"]
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"before => ({FOCUSED})().says !== before", arg=before)
    page.keyboard.press("Tab")
    page.wait_for_function(f"({FOCUSED})()?.seen")
    page.context.close()


@every_chapter
def test_a_chapter_says_how_long_it_takes_and_how_to_cite_it(site, name):
    page = (site / f"{name}.html").read_text("utf8")
    assert f"@misc{{descent-{name.replace('/', '-')}," in page
    numbered = re.search(r'<h1><span class="section-number">', page)
    assert bool(re.search(r"About \d+ minutes to read", page)) == bool(numbered)
    if held := re.search(r"cells run for \d+ s and hold (\d+) MB", page):
        assert int(held[1]) < 1000, "Binder offers little more"
    assert bool(held) == bool(numbered and sys.platform == "linux")


def test_a_link_to_the_book_can_be_shown_with_a_picture(site):
    page = (site / "song2024/values.html").read_text("utf8")
    (address,) = re.findall(r'property="og:image" content="[^"]*/descent/([^"]+)"', page)
    data = (site / address).read_bytes()
    assert data[:4] == b"\x89PNG" and [*struct.unpack(">II", data[16:24])] == [1200, 630]
