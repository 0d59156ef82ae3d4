"""The library's reference, by autodoc, and links to it from the code of the chapters.

A docstring of the house has numpydoc's sections, in which it lists arguments, fields and errors as
``name : what it is``, names other things in single backticks, and writes shapes as ``(*r, N)``. What
reStructuredText wants for these is a definition list, code, and no emphasis.

In a chapter each name that a cell imports from the library leads to its entry, and each entry
leads back to the chapters whose cells use it.
(``sphinx-codeautolink``, which does the first in general, stops at the boxes of ``sphinx-proof``.)
"""

import ast
import functools
import inspect
import re
from itertools import takewhile
from pydoc import locate

from docutils import nodes
from sphinx import addnodes
from sphinx.util.nodes import clean_astext

FIELD = re.compile(r"(?P<names>\*{0,2}\w[\w, *]*?) : (?P<text>.+)")
LITERAL = re.compile(r"(``.*?``|:\w+:`.*?`|`[^`]+`_?)", re.S)
# a star before the name of a dimension, as in (*r, N), begins no emphasis
STAR = re.compile(r"(?<![\w*\\])\*(?=\w+[,)]|[a-z]\b(?!\*))")
POWER = re.compile(r"(?<=\d)\*\*(\d+)")


def restructured(lines):
    """The lines of a docstring as reStructuredText."""
    found, item = [], False
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        field = FIELD.fullmatch(line)
        if re.fullmatch("-{3,}", below):
            found += [f".. rubric:: {line}", ""]
        elif field:
            found += [] if item else [""]
            found += [f"``{field['names']}``", "    " + field["text"]]
        elif not re.fullmatch("-{3,}", line):
            found += [""] if item and line and not line.startswith(" ") else []
            found.append(line)
        item = bool(field) or (item and line.startswith("    "))
    return prose("\n".join(found)).split("\n")


def prose(text):
    """A text whose names stand as code, and whose stars and underscores are letters."""
    parts = LITERAL.split(text)
    parts[::2] = [POWER.sub(r"\\ :sup:`\1`\\ ", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", STAR.sub(r"\\*", p)) for p in parts[::2]]
    parts[1::2] = [f"`{part}`" if re.fullmatch("`[^`]+`", part) else part for part in parts[1::2]]
    return "".join(parts)


def skip(app, what, name, thing, skipped, options):
    """Leave out constants, which would print their insides, and fields that say their number."""
    field = (getattr(thing, "__doc__", None) or "").startswith("Alias for field number")
    constant = name.isupper() and not inspect.isclass(thing)
    return True if constant or field else None


def process(app, what, name, thing, options, lines):
    lines[:] = restructured(lines)


# ---------------------------------------------------------------- from the chapters


CHAIN = re.compile(
    r'<span class="nn?">\w+(?:\.\w+)*</span>(?:<span class="o">\.</span><span class="n">\w+</span>)*'
)


def imported(source):
    """The names that some code imports from the library: name -> dotted path."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name: a.name for a in node.names if a.name.partition(".")[0] == "descent"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("descent"):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def linked(body, names, places):
    """HTML in whose code each of these names, with what follows its dots, leads to its place."""

    def link(match):
        first, *rest = re.sub("<.*?>", "", match[0]).split(".")
        path = ".".join([names.get(first, first), *rest])
        while path and path not in places and rest:  # a.b.c leads where a.b leads
            path, rest = path.rpartition(".")[0], rest[:-1]
        known = first in names and path in places
        return (
            f'<a class="descent-code" href="{places[path]}">{match[0]}</a>' if known else match[0]
        )

    return CHAIN.sub(link, body)


MENTION = re.compile(
    r'<code class="docutils literal notranslate"><span class="pre">([\w.]+)</span></code>'
)


def mentioned(body, places, modules=()):
    """HTML in which a name of the library that stands as code leads to its place.

    A single word may mean much else than the module of that name: ``steps``, an axis of a sweep.
    """

    def link(match):
        paths = (
            [match[1]] if f"descent.{match[1]}" in modules else [match[1], f"descent.{match[1]}"]
        )
        path = next((p for p in paths if p in places), None)
        return f'<a class="descent-code" href="{places[path]}">{match[0]}</a>' if path else match[0]

    return MENTION.sub(link, body)


def cells(doctree):
    """The code of a page."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in ("python", "ipython3"):
            yield block


def link_code(app, pagename, templatename, context, doctree):
    if doctree is None:
        return
    names = {}
    for block in cells(doctree):
        names |= imported(block.astext())
    entries = app.env.get_domain("py").objects
    places = {
        name: app.builder.get_relative_uri(pagename, entry.docname) + "#" + entry.node_id
        for name, entry in entries.items()
    }
    modules = {name for name, entry in entries.items() if entry.objtype == "module"}
    context["body"] = mentioned(linked(context.get("body", ""), names, places), places, modules)


# ---------------------------------------------------------------- and back to the chapters


SCOPES = (ast.FunctionDef, ast.Lambda)
SHOWN = 3  # pages that an entry names


def used(source):
    """What some code uses of the library: dotted path -> line of the first use.

    A method is told where its object can be of one class alone: whatever binds the name in that
    scope makes one.
    """
    found = {}

    def path(node, names):
        """The path of what an expression gives, ``a.Class()`` for an object of a class."""
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Call):
            return made_by(path(node.func, names))
        owner = path(node.value, names) if isinstance(node, ast.Attribute) else None
        return owner and f"{class_of(owner)}.{node.attr}"

    def read(scope, outer, imports):
        names, own, inner = outer | imports, {}, list(inside(scope))
        values = {each.targets[0]: each.value for each in inner if isinstance(each, ast.Assign)}
        for each in inner:
            for name in bound(each) - imports.keys():
                value = path(values.get(each), names)
                own[name] = names[name] = value if own.get(name, value) == value else None
        for each in inner:
            if place := path(each, names):
                place = place.removesuffix("()")
                found[place] = min(each.lineno, found.get(place, each.lineno))
            if isinstance(each, SCOPES):
                read(each, names, {})

    read(ast.parse(source), {}, imported(source))
    return found


def inside(scope):
    """All that stands in a scope, of functions in it the head alone."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, SCOPES):
            yield from inside(node)


def bound(node):
    """The names that a node binds, imports aside."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return {node.id}
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    return {node.arg} if isinstance(node, ast.arg) else set()


@functools.cache
def made_by(path):
    """What a call of something gives, if that is an object of the library: ``a.Class()``."""
    thing = locate(path) if path else None
    function = thing if inspect.isroutine(thing) else type(thing).__call__
    given = getattr(function, "__annotations__", {}).get("return")
    kind = thing if inspect.isclass(thing) else given
    return f"{home(kind)}()" if inspect.isclass(kind) and is_ours(kind) else None


@functools.cache
def class_of(path):
    """Where what stands after the dot is described: for an object, at its class."""
    kind = type(locate(path))
    return home(kind) if is_ours(kind) else path.removesuffix("()")


def is_ours(kind):
    return kind.__module__.partition(".")[0] == "descent"


def home(kind):
    """The shortest path that leads to a class."""
    parts = kind.__module__.split(".")
    modules = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
    module = next(m for m in modules if getattr(locate(m), kind.__name__, None) is kind)
    return f"{module}.{kind.__name__}"


def note(app, doctree):
    """Keep what a page uses: dotted path -> the section of its first use."""
    source, sections = "", []
    for block in cells(doctree):
        text = block.astext() + "\n"
        source += text
        sections += [section_of(block)] * text.count("\n")
    places = {path: sections[line - 1] for path, line in used(source).items()}
    if places:
        app.env.metadata[app.env.docname]["descent_uses"] = places


def section_of(node):
    """What follows a page's address to lead to the section of a node; nothing for the page's own.

    The sections of theorems and solutions, which stand in a box, have no address.
    """
    tree = (nodes.section, nodes.document)
    while not (isinstance(node, nodes.section) and isinstance(node.parent, tree)):
        node = node.parent
    return "" if isinstance(node.parent, nodes.document) else "#" + node["ids"][0]


def gather(app, env):
    """Put what the pages use in the order of the book, and if it is not as it was, name the
    reference among what is to be written."""
    front, *pages = env.collect_relations()
    uses = [
        (
            page,
            "the front page" if page == front else clean_astext(env.titles[page]),
            env.metadata[page]["descent_uses"],
        )
        for page in [*pages, front]  # the front page comes last: it shows, and introduces nothing
        if "descent_uses" in env.metadata[page]
    ]
    if uses == getattr(env, "descent_uses", None):
        return []
    env.descent_uses = uses
    return {entry.docname for entry in env.get_domain("py").objects.values()}


def lead_back(app, doctree, docname):
    """Close what each entry says with the pages that use it, save those that it names itself."""
    for entry in doctree.findall(addnodes.desc):
        path, content = entry[0]["ids"][0], entry[-1]
        said = list(takewhile(lambda part: not isinstance(part, addnodes.desc), content))
        named = {link.get("refuri") for part in said for link in part.findall(nodes.reference)}
        pages = [
            (app.builder.get_relative_uri(docname, page), title, places[path])
            for page, title, places in app.env.descent_uses
            if path in places
        ]
        new = [page for page in pages if page[0] not in named]
        if new:
            content.insert(len(said), line(new, again=len(new) < len(pages)))


def line(pages, again):
    """The paragraph that leads to these pages; ``again`` if others are named before."""
    text = nodes.paragraph(classes=["descent-uses"])
    text += nodes.Text("Also in the book: " if again else "In the book: ")
    shown = pages[:SHOWN] if len(pages) > SHOWN + 1 else pages
    for i, (page, title, section) in enumerate(shown):
        text += nodes.Text(" · " if i else "")
        text += nodes.reference("", title, internal=True, refuri=page + section)
    text += nodes.Text(f" · {len(pages) - SHOWN} more" if shown != pages else "")
    return text


def setup(app):
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("html-page-context", link_code)
    app.connect("doctree-read", note)
    app.connect("env-updated", gather)
    app.connect("doctree-resolved", lead_back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
