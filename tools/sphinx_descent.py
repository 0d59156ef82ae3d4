"""What the book needs of Sphinx beyond Jupyter Book: notebooks behind buttons, claim badges.

The hand-written pages are Markdown in ``book/``; Colab, Binder and the download button want the
notebooks generated from them in ``notebooks/``, under the same names.
"""

import itertools
import re
import unicodedata
from html import escape
from pathlib import Path
from shutil import copyfile
from textwrap import shorten

import yaml
from docutils import nodes
from jupyter_cache import get_cache
from notebooks.links import Links
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.alpha import Style
from pybtex.style.sorting.author_year_title import SortingStyle
from sphinx import addnodes
from sphinx.locale import admonitionlabels
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

logger = logging.getLogger(__name__)

# sphinx-proof and sphinx-exercise write these into every box; an id may stand once on a page.
SHARED_IDS = {"proof", "proof-content", "exercise-content", "solution-content"}


class ClaimRole(SphinxRole):
    """``{claim}`id` ``: a badge with a claim's id and verdict, linked to its record in the ledger."""

    def run(self):
        claim = claim_of(self.text)
        if claim is None:
            message = "no claim is called %r: see `python -m descent ledger`"
            logger.warning(message, self.text, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        return [badge(self.text, verdict_of(claim), f"{self.records(claim)}#{self.text}")], []

    def records(self, claim):
        """The address, as seen from this page, of the records of the part that a claim belongs to."""
        page = "ledger/" + claim.chapter.split("/")[0]
        return self.env.app.builder.get_relative_uri(self.env.docname, page)


class ProblemsRole(SphinxRole):
    """``{problems}`foundations` ``: a problem set in Colab, in Binder, and to be downloaded."""

    def run(self):
        root, file = Path(self.env.srcdir).parent, f"assignments/student/{self.text}.ipynb"
        if not (root / file).exists():
            message = "no problem set is called %r: see assignments/student"
            logger.warning(message, self.text, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        config = yaml.safe_load((root / "_config.yml").read_text("utf8"))
        links = []
        for words, url in Links(config, root).problems.items():
            address = f"{url}/{self.text}.ipynb"
            links += [
                nodes.reference(text=words, refuri=address),
                nodes.Text("\N{NO-BREAK SPACE}· "),
            ]
        save = addnodes.download_reference(refdoc=self.env.docname, reftarget=f"/../{file}")
        save += nodes.inline(text="download")
        return [*links, save], []


def claim_of(id):
    """The claim of that id; None if there is no such claim."""
    from descent.claims import registry  # imports torch: only pages with claims pay for it

    return registry.get(id)


def verdict_of(claim):
    """Its verdict in words, such as "holds as corrected"."""
    return str(getattr(claim.verdict, "value", claim.verdict))


def badge(id, verdict, address):
    """The link node: ``claim <id> · <verdict>``, with the verdict in a class for its colour."""
    classes = ["descent-claim", "verdict-" + verdict.replace(" ", "-")]
    link = nodes.reference(refuri=address, internal=True, classes=classes)
    link += nodes.inline(text="claim ", classes=["descent-claim-word"])
    link += nodes.inline(text=id, classes=["descent-claim-id"])
    link += nodes.inline(text=" · ")
    link += nodes.inline(text=verdict, classes=["descent-claim-verdict"])
    return link


def is_notebook(app, docname):
    return "kernelspec" in app.env.metadata.get(docname, {})


def notebook_buttons(app, pagename, templatename, context, doctree):
    """Lead Colab and Binder to the generated notebook, and offer no download of the Markdown."""
    source = f"/{app.config.html_theme_options['path_to_docs']}/{pagename}.md"
    groups = {each["label"]: each.get("buttons") for each in context.get("header_buttons", [])}
    for button in groups.get("launch-buttons", []):
        button["icon"] = "fas fa-rocket"  # the services' own pictures weigh 9 kB
        button["url"] = button["url"].replace(source, f"/notebooks/{pagename}.ipynb")
    downloads = groups.get("download-buttons", [])
    downloads[:] = [each for each in downloads if each["label"] != "download-source-button"]


def serve_notebooks(app, exception):
    """Put the generated notebooks where the download buttons lead, in place of executed copies."""
    if exception:
        return
    for docname in sorted(app.env.found_docs):
        notebook = Path(app.srcdir).parent / "notebooks" / f"{docname}.ipynb"
        if not is_notebook(app, docname):
            continue
        if notebook.exists():
            copyfile(notebook, Path(app.outdir) / "_sources" / f"{docname}.ipynb")
        else:
            logger.warning("notebooks/%s.ipynb is missing: run `make notebooks`", docname)


def place_online(app, config):
    """The book's public address, from that of its repository: pages state it as their own."""
    owner, name = config.html_theme_options["repository_url"].rstrip("/").split("/")[-2:]
    config.html_baseurl = f"https://{owner}.github.io/{name}/"


def cite(app, pagename, templatename, context, doctree):
    """What previews, libraries and Google Scholar read of a page."""
    if doctree is None:
        return
    title = app.env.titles[pagename].astext()
    address = app.config.html_baseurl + app.builder.get_target_uri(pagename)
    named = {"citation_title": title, "citation_author": app.config.author}
    named |= {"citation_publication_date": app.config.copyright, "citation_language": "en"}
    named |= {"citation_fulltext_html_url": address}
    shared = {"og:title": title, "og:type": "article", "og:url": address, "og:site_name": "Descent"}
    tags = [f'<meta name="{name}" content="{escape(text)}" />' for name, text in named.items()]
    tags += [f'<meta property="{name}" content="{escape(t)}" />' for name, t in shared.items()]
    context["metatags"] = context.get("metatags", "") + "\n".join(tags) + "\n"
    fields = {"title": f"{title} ({app.config.html_title})", "author": f"{{{app.config.author}}}"}
    fields |= {"year": app.config.copyright, "url": address}
    lines = "".join(f"  {name} = {{{text}}},\n" for name, text in fields.items())
    context["descent_bibtex"] = f"@misc{{descent-{pagename.replace('/', '-')},\n{lines}}}"


WORDS_PER_MINUTE = 120  # of a text in which most words are meant
WORDS_OF = {"math": 3, "math_block": 15}  # a formula takes as long as so many words


def words_to_read(doctree):
    """How many words the paragraphs of a page have, its formulas counted as words."""
    words = 0
    for node in doctree.findall(lambda n: n.tagname in {"paragraph", *WORDS_OF}):
        words += WORDS_OF.get(node.tagname, len(re.findall(r"[^\W\d_]{2,}", node.astext())))
    return words


def remember_memory(app):
    """How many MB the kernel of each page held when it ran, as the build noted."""
    cache = get_cache(Path(app.outdir).parent / ".jupyter_cache")
    app.env.descent_memory = {
        record.data["page"]: record.data["megabytes"]
        for record in cache.list_cache_records()
        if "page" in record.data
    }


def time_it_takes(app, pagename, templatename, context, doctree):
    """Say below a chapter's title how long it takes to read, and how long its cells ran."""
    if (
        doctree is None
        or not app.env.toc_secnumbers.get(pagename)
        or not is_notebook(app, pagename)
    ):
        return
    minutes = 5 * max(1, round(words_to_read(doctree) / WORDS_PER_MINUTE / 5))
    ran = (app.env.nb_metadata[pagename].get("exec_data") or {}).get("runtime")
    run = f"; its cells run for {max(1, round(ran))} s" if ran else ""
    if held := app.env.descent_memory.get(pagename):
        run += f" and hold {10 * round(held / 10)} MB"
    line = f'<div class="descent-time">About {minutes} minutes to read{run}</div>'
    context["body"] = context.get("body", "").replace("</h1>", f"</h1>{line}", 1)


DESCRIBED = {  # pages without a text of their own
    "search": "Search the book for a statement, a symbol, a claim, a function or a word.",
    "genindex": "The functions and classes of the book's library, by letter.",
}


def describe(app, pagename, templatename, context, doctree):
    """Give the page its first sentences as the description that searches and previews show."""
    if doctree is None and pagename not in DESCRIBED:
        return
    paragraphs = doctree.findall(nodes.paragraph) if doctree else []
    said = " ".join(p.astext() for p in paragraphs if p.parent.tagname == "section")
    text = shorten(said, 200, placeholder=" …") or DESCRIBED.get(pagename, "")
    tag = f'<meta name="description" content="{escape(text)}" />\n'
    context["metatags"] = context.get("metatags", "") + tag


# What makers of the parts of a page wrote for screen readers, and screen readers do not want.
MENDED = {
    ' role="doc-biblioentry"': ' role="listitem"',  # deprecated; the list is one
    r'(<summary[^>]*) aria-label="[^"]*"': r"\1",  # its own words say what it opens
    r"<th[^>]*></th>": "<td></td>",  # the corner of a table heads nothing
}


# Boxes that can be referred to show how: a link at the end of the title.
BOX = re.compile(
    r'(<div class="(?:proof|exercise)[^"]*" id="([^"]+)">\s*<p class="admonition-title">.*?)(?=</p>)',
    re.S,
)
PERMALINK = r'\1<a class="headerlink" href="#\2" title="Link to this statement">#</a>'


def permalinks(app, pagename, templatename, context, doctree):
    context["body"] = BOX.sub(PERMALINK, context.get("body", ""))


FIGURE = re.compile(
    r'(<(?:figure|section) class="descent-(?:figure|explorer)".*?'
    r'(?:<figcaption>|<p class="descent-caption">))',
    re.S,
)


def number_figures(app, doctree, docname):
    """Give each figure a number, by chapter, in its caption, and an address, by place on the page.

    A chapter may move; the second figure of a page stays its second.
    """
    chapter = app.env.toc_secnumbers.get(docname, {}).get("", ())
    count = itertools.count(1)

    def numbered(figure):
        place = next(count)
        number = ".".join(map(str, [*chapter, place]))
        link = f'<a class="descent-figure-number" href="#figure-{place}">Figure {number}</a>'
        return f'<span id="figure-{place}"></span>{figure[1]}{link} '

    for raw in doctree.findall(nodes.raw):
        raw.children[:] = [nodes.Text(FIGURE.sub(numbered, raw.astext()))]


def mend_roles(app, pagename, templatename, context, doctree):
    for wrong, right in MENDED.items():
        context["body"] = re.sub(wrong, right, context.get("body", ""))


# Where a name in a table may break: before a dot, after an underscore or the slash of a path.
PARTS = re.compile(r"(?<=[\w)])(?=\.\w)|(?<=\w[_/])(?=\w)")


def part_names(app, pagename, templatename, context, doctree):
    """Let names in tables break between their parts, and no option of a command after its dash."""

    def parted(table):
        return re.sub(r'(?<=class="pre">)[^<]+', lambda name: PARTS.sub("<wbr>", name[0]), table[0])

    body = context.get("body", "").replace('"pre">-', '"pre descent-option">-')
    context["body"] = re.sub("<table.*?</table>", parted, body, flags=re.S)


def place_symbols(app, pagename, templatename, context, doctree):
    """Give each row of the notation an address, which a search leads to."""
    if pagename == "notation":
        count = itertools.count(1)
        row = r'(?<=<tr class="row-)((?:odd|even)")(?=><td)'
        numbered = re.sub(row, lambda m: f'{m[1]} id="symbol-{next(count)}"', context["body"])
        context["body"] = numbered


def tidy_boxes(app, doctree, docname):
    """Drop the ids that all boxes of a page would share, and set the word "Proof." apart."""
    for node in doctree.findall(nodes.Element):
        node["ids"] = [id for id in node["ids"] if id not in SHARED_IDS]
    for proof in doctree.findall(nodes.admonition):
        first = next(proof.findall(nodes.Text), "")
        if "proof" in proof["classes"] and first.startswith("Proof. "):
            word = nodes.inline(text="Proof.", classes=["descent-proof-word"])
            first.parent.replace(first, [word, nodes.Text(first.removeprefix("Proof."))])


def keep_together(app, doctree, docname):
    """Let no line begin with the mark that follows a formula or a badge, nor end with a bracket."""
    for node in list(doctree.findall(stands_alone)):
        before, after = neighbour(node, -1), neighbour(node, 1)
        opening, closing = re.search(r"\S{0,3}\Z", before)[0], re.match(r"\S{0,14}", after)[0]
        if opening or closing:
            parent, place = node.parent, node.parent.index(node)
            kept = [nodes.Text(opening), node, nodes.Text(closing)]
            parent[place - bool(before) : place + 1 + bool(after)] = [
                nodes.Text(before.removesuffix(opening)),
                nodes.inline("", "", *kept, classes=["descent-kept"]),
                nodes.Text(after.removeprefix(closing)),
            ]


def stands_alone(node):
    """Whether browsers may break a line on both sides of a node, whatever stands there."""
    badge = isinstance(node, nodes.reference) and "descent-claim" in node["classes"]
    return badge or isinstance(node, nodes.math)


def neighbour(node, step):
    """The text before (-1) or after (1) a node, if there is text."""
    place = node.parent.index(node) + step
    found = node.parent[place] if 0 <= place < len(node.parent) else ""
    return found if isinstance(found, nodes.Text) else ""


def fold_boxes(app, doctree, docname):
    """Write boxes of class ``dropdown`` as ``<details>``, which unfold without a script."""
    boxes = [box for box in doctree.findall(nodes.Element) if "dropdown" in box.get("classes", [])]
    for box in boxes:
        if not isinstance(box[0], nodes.title):  # the writer would name it: a note, a tip
            box.insert(0, nodes.title("", admonitionlabels[box.tagname]))
            box["classes"].insert(0, box.tagname)
        title, *content = box.children
        classes = " ".join(dict.fromkeys(["admonition", *box["classes"]]))
        id = f' id="{box["ids"][0]}"' if box["ids"] else ""
        opening = f'<details class="{classes}"{id}><summary class="admonition-title">'
        summary = [html(opening), nodes.inline("", "", *title.children), html("</summary>")]
        place = box.parent.index(box)  # `replace_self` would hand classes and id on
        box.parent[place : place + 1] = [*summary, *content, html("</details>")]


class ByLetter(SortingStyle):
    """References in the order of the alphabet, in which Ł is an L and é an e."""

    def person_key(self, person):
        name = str(Text.from_latex(super().person_key(person)))
        decomposed = unicodedata.normalize("NFKD", name)
        return re.sub(r"[\u0300-\u036f]", "", decomposed).replace("ł", "l")


class References(Style):
    default_sorting_style = "descent"


register_plugin("pybtex.style.sorting", "descent", ByLetter)
register_plugin("pybtex.style.formatting", "descent", References)


def html(text):
    return nodes.raw("", text, format="html")


def drop_thebe(app):
    """Take out sphinx-thebe, which Jupyter Book always loads.

    It declares the same constant twice on every page, a console error, and names a foreign host,
    for a button that the book does not have.
    """
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
    styles = app.registry.css_files
    styles[:] = [entry for entry in styles if entry[0] != "sphinx-thebe.css"]


def setup(app):
    drop_thebe(app)
    app.add_role("claim", ClaimRole())
    app.add_role("problems", ProblemsRole())
    # After the theme, at 501, has made its buttons.
    app.connect("html-page-context", notebook_buttons, priority=900)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", cite)
    app.connect("html-page-context", time_it_takes)
    app.connect("html-page-context", mend_roles)
    app.connect("html-page-context", permalinks)
    app.connect("html-page-context", part_names)
    app.connect("html-page-context", place_symbols)
    app.connect("builder-inited", remember_memory)
    app.connect("config-inited", place_online)
    app.connect("doctree-resolved", number_figures)
    app.connect("doctree-resolved", tidy_boxes)
    app.connect("doctree-resolved", keep_together)
    app.connect("doctree-resolved", fold_boxes, priority=900)
    app.connect("build-finished", serve_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
