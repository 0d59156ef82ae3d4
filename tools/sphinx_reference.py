"""The library's reference, by autodoc, and links to it from the code of the chapters.

A docstring of the house has numpydoc's sections, in which it lists arguments, fields and errors as
``name : what it is``, names other things in single backticks, and writes shapes as ``(*r, N)``. What
reStructuredText wants for these is a definition list, code, and no emphasis.

In a chapter each name that a cell imports from the library leads to its entry.
(``sphinx-codeautolink``, which does that in general, stops at the boxes of ``sphinx-proof``.)
"""

import ast
import inspect
import re

from docutils import nodes

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


def link_code(app, pagename, templatename, context, doctree):
    if doctree is None:
        return
    names = {}
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in ("python", "ipython3"):
            names |= imported(block.astext())
    entries = app.env.get_domain("py").objects
    places = {
        name: app.builder.get_relative_uri(pagename, entry.docname) + "#" + entry.node_id
        for name, entry in entries.items()
    }
    modules = {name for name, entry in entries.items() if entry.objtype == "module"}
    context["body"] = mentioned(linked(context.get("body", ""), names, places), places, modules)


def setup(app):
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("html-page-context", link_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
