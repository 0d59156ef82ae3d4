"""How high each piece of a page will be, said before a browser lays it out.

What is out of sight is not laid out (part 12 of ``descent.css``), and takes its room on the page
all the same. So that the scroll bar tells the truth and little moves as a piece comes into view,
each paragraph, box and cell of a section says how high it will be, on a wide screen and on a narrow
one: what a reader sees of it is counted, and each thing has the height that Chromium gives it.
"""

import re
from html.parser import HTMLParser

HEIGHTS = {  # pixels on a wide screen, and on a narrow one
    "letter": (0.4, 0.62),  # the wider a line, the more of them are in it
    "block": (19, 19),  # around a paragraph, an item of a list, a caption
    "row": (55, 65),  # of a table, with all that it holds
    "line": (21, 19),  # of code, or of what it prints
    "code": (22, 18),  # around it
    "formula": (25, 23),  # an em of a formula on a line of its own
    "figure": (1.75, 0.95),  # a point of its height
    "plot": (390, 320),  # of an explorer
    "control": (40, 69),
}
BLOCKS = {"p", "li", "dd", "dt", "h3", "h4", "figcaption", "summary"}
VOID = {"br", "col", "hr", "img", "input", "link", "source", "wbr"}
# How what stands in an element counts: by its letters, its lines, its tallest part, or not at all.
INSIDE = {
    **dict.fromkeys(["script", "style", "math", "svg", "summary", "tr"], "nothing"),
    "pre": "lines",
    ".katex-display": "formula",
    ".descent-figure": "figure",
    "figcaption": "letters",
}


class Pieces(HTMLParser):
    """The pieces of a page: where each one's first tag takes an attribute, and what is in it."""

    def __init__(self, body):
        super().__init__()
        self.found = []  # (place, counts by the names of HEIGHTS)
        self.open = []  # tags
        self.inside = ["letters"]  # how each of them counts what it holds
        self.tallest = 0  # part of the formula that is read, in em
        self.starts = [0, *(end.end() for end in re.finditer("\n", body))]
        self.feed(body)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        names = [tag, *(f".{name}" for name in (attributes.get("class") or "").split())]
        if self.open == ["section", "section"] and tag != "h2":
            line, column = self.getpos()
            place = self.starts[line - 1] + column + 1 + len(tag)
            self.found.append((place, dict.fromkeys(HEIGHTS, 0)))
        folded = self.open[-1:] == ["details"] and tag != "summary"
        counted = self.inside[-1] != "nothing" and not folded
        if counted and self.found:
            self.count(names, attributes)
        if tag not in VOID:
            self.open.append(tag)
            inside = [self.inside[-1], *(INSIDE[name] for name in names if name in INSIDE)]
            self.inside.append(inside[-1] if counted else "nothing")

    def count(self, names, attributes):
        """Count an element that begins."""
        counts = self.found[-1][1]
        counts["block"] += names[0] in BLOCKS
        counts["row"] += "tr" in names
        counts["code"] += "pre" in names
        counts["plot"] += ".descent-plot" in names
        counts["control"] += ".descent-control" in names
        if "svg" in names and self.inside[-1] == "figure":
            counts["figure"] += float(attributes["viewbox"].split()[3])
        if ".katex-display" in names:
            self.tallest = 0
        if ".katex-strut" in names and self.inside[-1] == "formula":
            height = float(re.search(r"height:([\d.]+)em", attributes["style"])[1])
            counts["formula"] += max(0, height - self.tallest)
            self.tallest = max(height, self.tallest)

    def handle_endtag(self, tag):
        if tag not in VOID:
            self.open.pop()
            self.inside.pop()

    def handle_data(self, data):
        if self.found and self.inside[-1] == "letters":
            self.found[-1][1]["letter"] += len(re.sub(r"\s+", " ", data))
        if self.found and self.inside[-1] == "lines":
            self.found[-1][1]["line"] += data.count("\n")


def heights(counts):
    """The height of a piece on a wide screen and on a narrow one, to ten pixels."""
    return [
        round(sum(count * HEIGHTS[name][screen] for name, count in counts.items()), -1)
        for screen in (0, 1)
    ]


def say_heights(app, pagename, templatename, context, doctree):
    """Write into each piece of a page how high it will be."""
    if body := context.get("body"):
        parts, last = [], 0
        for place, counts in Pieces(body).found:
            wide, narrow = heights(counts)
            parts += [body[last:place], f' style="--wide:{wide:g}px;--narrow:{narrow:g}px"']
            last = place
        context["body"] = "".join([*parts, body[last:]])


def setup(app):
    app.connect("html-page-context", say_heights, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
