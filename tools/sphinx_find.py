"""What can be found: theorems, exercises, equations, figures, claims and sections, by their words.

When the pages are written they are read once more, for all that has an address of its own. From
what is found come

* ``_static/find-data.js``, which ``find.js`` searches in the browser (a script, since a page that
  is opened as a file may load nothing else);
* the page of results, by part and chapter;
* the number and the address of what the ledger names by its label;
* ``sitemap.xml``, the page that a server shows where there is none, and the first page once more as
  ``index.html``, which would otherwise send each visitor on.
"""

import json
import re
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from shutil import copyfile
from xml.etree import ElementTree

import yaml
from sphinx.util import logging

logger = logging.getLogger(__name__)

EXCERPT = 220  # characters
SILENT = {"katex-html", "headerlink", "descent-time", "descent-uses"}
BLOCKS = {"p", "li", "div", "dd"}
SPACE = {("Symbol", "td"): "\x05", ("Claim", "p"): "\x05"}  # where a dot stands between two parts
VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr", "path", "use"}
GENERATED = {"genindex", "search", "results", "404", "index"}
FORMULA = re.compile(
    r"<math[^>]*>(.*?)<annotation[^>]*>(.*?)</annotation></semantics></math>", re.S
)
MARKED = re.compile("\x02(.*?)\x04(.*?)\x03", re.S)  # a formula in a text: its TeX, and its letters
RAISED = str.maketrans("−+()0123456789nit", "⁻⁺⁽⁾⁰¹²³⁴⁵⁶⁷⁸⁹ⁿⁱᵗ")
LOWERED = str.maketrans("−+()0123456789aehijklmnoprstuvx", "₋₊₍₎₀₁₂₃₄₅₆₇₈₉ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")
ACCENTS = {"^": "\u0302", "~": "\u0303", "ˉ": "\u0304", "‾": "\u0304", "˙": "\u0307", "¨": "\u0308"}
SPACED = set("=≤≥<>∈∉≠≈→←↦∼∝⊂≻⪰⪯≡")
STANDING = "proved|cited|observed|refuted"
SOURCE = re.compile(
    rf"((?:[A-Z]\w+ (?:et al\.|and \w+) \d{{4}}|Descent), .*?), (?:{STANDING})\."
).search
ABOUT = "Every numbered statement of the book, by part and chapter."
RESULTS = ("Theorem", "Lemma", "Proposition", "Corollary", "Definition", "Assumption", "Conjecture")


@dataclass
class Entry:
    """Something with an address: its kind, its title, where it is and what it says."""

    kind: str
    address: str
    title: str = ""
    text: str = ""
    also: list = field(default_factory=list)  # other names: claims, numbers in papers

    def words(self):
        where = [self.kind, lettered(self.title), self.address]
        return [*where, excerpt(self.text), *self.search_words()]

    def search_words(self):
        """Other names, and the words of the text, each once."""
        text = MARKED.sub(r"\1", self.text)  # a formula by the words of its TeX
        words = re.findall(r"\w[\w.]*", text.lower())
        return [" | ".join(self.also), " ".join(dict.fromkeys(words))]


def tidy(text):
    text = re.sub(r"[\s\x05]*\x05[\s\x05]*", " · ", text.strip("\x05 \n"))
    return re.sub(r"\s+", " ", text).replace(" ,", ",").strip()


def lettered(text):
    """A text whose formulas are plain letters."""
    return tidy(MARKED.sub(r"\2", text))


def excerpt(text):
    """The first words."""
    plain = lettered(text)
    return plain if len(plain) <= EXCERPT else plain[:EXCERPT].rsplit(" ", 1)[0] + " …"


def marked(formula):
    """A formula of a page, as it stands in the texts of its entries."""
    drawn = ElementTree.fromstring(formula[1].removeprefix("<semantics>"))
    return f"\x02{formula[2]}\x04{escape(spelled(drawn))}\x03"


def spelled(node):
    """MathML in letters: ``σₘᵢₙ(B)² ≥ 1/2`` for what a browser would draw."""
    parts = [spelled(child) for child in node]
    match node.tag.rpartition("}")[2]:
        case "mfrac":
            return "/".join(map(bracketed, parts))
        case "msqrt":
            return "√" + bracketed("".join(parts))
        case "munder" if parts[1] == "‾":
            return accented(parts[0], "\u0332")
        case "msub" | "munder":
            return parts[0] + beside(parts[1], LOWERED, "_")
        case "msup":
            return parts[0] + beside(parts[1], RAISED, "^")
        case "msubsup" | "munderover":
            return parts[0] + beside(parts[1], LOWERED, "_") + beside(parts[2], RAISED, "^")
        case "mover":
            return accented(parts[0], ACCENTS.get(parts[1], ""))
        case "mspace" | "mtr" | "mtd":
            return " " + "".join(parts)
        case "mo" if node.text in SPACED:
            return f" {node.text} "
        case "mo" if node.text == ",":
            return ", "
    return (node.text or "").replace("\u2061", "") + "".join(parts)


def accented(letter, accent):
    """A letter with its bar or hat; a longer term goes without."""
    return letter + (accent if len(letter) == 1 else "")


def bracketed(term):
    return term if re.fullmatch(r"√?[^\W_]+|.", term) else f"({term})"


def beside(index, letters, sign):
    """An index or a power: in small letters where there are such, else behind its sign."""
    index = index.strip()
    if index in ("′", "⊤", "∗"):
        return index
    small = index.translate(letters)
    if all(was != now for was, now in zip(index, small, strict=True)):
        return small
    return sign + bracketed(index)


class Reader(HTMLParser):
    """Collects the entries of one page."""

    def __init__(self, page, html):
        super().__init__()
        self.page, self.entries = page, []
        self.depth = 0
        self.open = []  # entries that are being read, each with the depth at which it began
        self.title = None  # the same for the title of the innermost one
        self.silent = None  # the depth of an element whose text says nothing
        self.figure = None  # the id of a figure, which stands before it, until its caption comes
        self.box = None  # the last theorem: a claim that is named after it is about it
        self.feed(FORMULA.sub(marked, html))

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            return
        self.depth += 1
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        id = attributes.get("id")
        if self.silent:
            return
        if tag == "span" and id and id.startswith("figure-"):
            self.figure, id = id, None
        elif tag == "figcaption" or "descent-caption" in classes:
            self.figure, id = None, self.figure
        for entry, _ in self.open:
            entry.text += SPACE.get((entry.kind, tag), " " if tag in BLOCKS else "")
        if tag in ("pre", "script", "style", "svg") or SILENT & set(classes):
            self.silent = self.depth
        elif kind := kind_of(tag, classes, id, self):
            self.begin(kind, id)
        elif self.open and not self.open[-1][0].title and is_title(tag, classes, self.open[-1][0]):
            self.title = (self.open[-1][0], self.depth)
        if "descent-claim" in classes and self.box:
            self.box.also.append(attributes["href"].split("#")[-1])
            self.box = None if self.box.text and not self.inside(self.box) else self.box

    def inside(self, entry):
        return any(each is entry for each, _ in self.open)

    def begin(self, kind, id):
        where = f"{self.page}.html" + (f"#{id}" if id and kind != "Chapter" else "")
        entry = Entry(kind, where)
        self.entries.append(entry)
        self.open.append((entry, self.depth))
        self.box = entry if kind in RESULTS else self.box

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if self.silent == self.depth:
            self.silent = None
        if self.title and self.title[1] == self.depth:
            self.title = None
        if self.open and self.open[-1][1] == self.depth:
            self.open.pop()
        self.depth -= 1

    def handle_data(self, data):
        if self.silent:
            return
        if self.title:
            self.title[0].title += data
        else:
            for entry, _ in self.open:
                entry.text += data


def kind_of(tag, classes, id, reader):
    """What an element is to somebody who searches; None for most."""
    if tag == "tr" and reader.page == "notation":
        return "Symbol"
    if not id or "descent-explorer" in classes:
        return None
    if tag == "dt" and "sig-object" in classes:
        return "Function"
    if id.startswith("figure-"):
        return "Figure"
    if "proof" in classes and len(classes) > 2:
        return classes[1].capitalize()
    if tag == "section" and not reader.entries:
        return "Chapter"
    kinds = {"exercise": "Exercise", "math": "Equation", "descent-claim-row": "Claim"}
    named = [kinds[name] for name in classes if name in kinds]
    return named[0] if named else "Section" if tag == "section" else None


def is_title(tag, classes, entry):
    if entry.kind == "Symbol":
        return tag == "td"
    names = {"admonition-title", "eqno", "descent-claim-id", "descent-figure-number", "sig-name"}
    return tag in ("h1", "h2", "h3", "h4") or bool(names & set(classes))


# ---------------------------------------------------------------- what is made of it


def read(out):
    """The entries of all pages below a folder, by page."""
    found = {}
    for file in sorted(out.rglob("*.html")):
        page = file.relative_to(out).with_suffix("").as_posix()
        article = re.search(r"<article.*</article>", file.read_text("utf8"), re.S)
        if article and page not in GENERATED and "_static" not in file.parts:
            found[page] = Reader(page, article[0]).entries
    name_by_claims([entry for entries in found.values() for entry in entries])
    return found


def name_by_claims(entries):
    """Let a theorem be found by the number that its claim has in a paper."""
    sources = {
        e.title: source[1] for e in entries if e.kind == "Claim" if (source := SOURCE(e.text))
    }
    for entry in entries:
        ids = [entry.title] if entry.kind == "Claim" else list(entry.also)
        for source in (sources[id] for id in ids if id in sources):
            entry.also += [source, re.sub(r" (?:et al\.|and \w+) \d{4},", "", source)]


def parts(app):
    """The names of the parts of the book, each with its pages."""
    toc = Path(app.srcdir).parent / "_toc.yml"
    listed = yaml.safe_load(toc.read_text("utf8"))["parts"] if toc.exists() else []
    return {part["caption"]: [page["file"] for page in part["chapters"]] for part in listed}


def name_by_papers(app, found):
    """Let the first chapter of a part be found by the part's name: that of its paper, for most."""
    for caption, (first, *_) in parts(app).items():
        if first in found:
            found[first][0].also.append(caption)


def terms(app, found):
    """The terms of the field, each with the address that ``terms.yml`` gives it."""
    file = Path(app.srcdir) / "terms.yml"
    index = yaml.safe_load(file.read_text("utf8")) if file.exists() else {}
    places = {}
    for place, names in index.items():
        page, _, section = place.partition("#")
        address = f"{page}.html" + (f"#{section}" if section else "")
        if any(entry.address == address for entry in found.get(page, [])):
            places |= dict.fromkeys(names, address)
        elif page in found:
            logger.warning("no section %r, which terms.yml names", place, location=page)
    return places


def results(found, titles, parts):
    """The page of results, and its list of contents: what is proved, by part and chapter."""
    body, contents = [f"<p>{ABOUT}</p>"], []
    for caption, pages in parts.items():
        chapters = "".join(chapter(found, page, titles[page]) for page in pages)
        if chapters:
            id = pages[0].partition("/")[0]
            body.append(f'<section id="{id}"><h2>{escape(caption)}</h2>{chapters}</section>')
            contents.append(f'<li><a href="#{id}">{escape(caption)}</a></li>')
    head = '<section id="results"><h1>Results</h1>'
    within = f'<ul><li><a href="#results">Results</a><ul>{"".join(contents)}</ul></li></ul>'
    return {"body": f"{head}{''.join(body)}</section>", "toc": within}


def chapter(found, page, title):
    """The results of a chapter below its title; nothing if it has none."""
    rows = "".join(row(entry) for entry in found.get(page, []) if entry.kind in RESULTS)
    return rows and f'<h3><a href="{page}.html">{title}</a></h3><ul>{rows}</ul>'


def row(entry):
    number, _, name = lettered(entry.title).partition(" (")
    words = escape(name.removesuffix(")") or excerpt(entry.text))
    return f'<li><a href="{entry.address}">{number}</a> {words}</li>'


LABELLED = re.compile(r'<a data-label="([^"]+)" href="[^"]*">[^<]*</a>')


def lead(out, found):
    """Lead the links of the ledger to the boxes they name; warn of a label that is nowhere."""
    places = {
        e.address.split("#equation-")[-1].split("#")[-1]: e for p in found.values() for e in p
    }
    for page in found:
        file = out / f"{page}.html"
        text = file.read_text("utf8")
        above = "../" * page.count("/")

        def link(match, page=page, above=above):
            if match[1] not in places:
                logger.warning("no box or equation has the label %r", match[1], location=page)
                return match[0]
            place = places[match[1]]
            number = lettered(place.title).partition(" (")[0].removesuffix("#")
            return f'<a data-label="{match[1]}" href="{above}{place.address}">{number}</a>'

        if LABELLED.search(text):
            file.write_text(LABELLED.sub(link, text), "utf8")


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def sitemap(base, pages):
    urls = "".join(f"<url><loc>{base}{page}.html</loc></url>" for page in pages)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>\n'


# Complete in itself, since it may be shown at any depth; its links know where the book is.
MISSING = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'self'; style-src 'unsafe-inline'">
<meta name="robots" content="noindex"><meta name="color-scheme" content="light dark">
<title>No such page</title></head>
<body style="max-width: 32rem; margin: 15vh auto; padding: 0 1rem; font: 1.1rem/1.5 serif;
 background: Canvas; color: CanvasText">
<main><h1>There is no page here</h1>
<p>Chapters move when others are added, their titles stay. Look for it in
<a href="{base}results.html">all results</a> or among
<a href="{base}{root}.html">the chapters</a>.</p>
<form action="{base}search.html" role="search"><label>Or search:
<input type="search" name="q"></label></form></main></body></html>
"""


def pages(app):
    """Called when all pages of the book are written: make what can be found, and its page."""
    out = Path(app.outdir)
    found = read(out)
    name_by_papers(app, found)
    lead(out, found)
    entries = [entry.words() for page in found.values() for entry in page]
    names = {"descentEntries": entries, "descentTerms": terms(app, found)}
    data = [f"window.{name}={compact(value)};\n" for name, value in names.items()]
    (out / "_static" / "find-data.js").write_text("".join(data), "utf8")
    base = app.config.html_baseurl
    (out / "sitemap.xml").write_text(sitemap(base, [*found, "results"]), "utf8")
    (out / "404.html").write_text(MISSING.format(base=base, root=app.config.root_doc), "utf8")
    copyfile(out / f"{app.config.root_doc}.html", out / "index.html")
    names = list(app.env.toctree_includes.values())
    order = [app.config.root_doc, *(name for group in names for name in group)]
    titles = {name: app.builder.render_partial(app.env.titles[name])["title"] for name in order}
    about = f'<meta name="description" content="{ABOUT}" />\n'
    page = {"title": "Results", "metatags": about, **results(found, titles, parts(app))}
    yield "results", page, "page.html"


def setup(app):
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
