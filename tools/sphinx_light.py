"""Pages that weigh little: one style sheet of the rules in use, one script, and subset fonts.

The theme and its extensions style a thousand things that this book does not have. When all pages
are written, their sheets are joined into ``_static/site.css``, less

* selectors that name a class, id, element or attribute that is on no page and in no script;
* fonts that no rule names, and in each font the characters that no page asks of it;
* letters that few pages have, such as large operators and brackets: they go into ``rare.css``.

Fonts travel inside the sheets. What a phone shows first is then the page as it will stay; while they
came as files it showed the page in other letters, and laid it out again as each file arrived.

On the way each rule of the dark or the light theme learns two things for which the theme needs a
script: to follow the system where no script has chosen, and to be light on paper. The styles and
the script that every figure carries for notebooks stand in the joined files instead.

``templates/layout.html`` links the results.
"""

import re
from base64 import b64encode
from collections import defaultdict
from functools import partial
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import tinycss2
from docutils import nodes
from fontTools import subset
from fontTools.ttLib import TTFont
from fontTools.varLib import instancer

SHEETS = [  # in this order: a later one wins
    "basic.css",
    "styles/theme.css",
    "styles/pydata-sphinx-theme.css",
    "styles/sphinx-book-theme.css",
    "mystnb.*.css",
    "proof.css",
    "exercise.css",
    "sphinx-design.min.css",
    "katex/katex.min.css",
    "descent.css",
]
# What figures bring along, as seen from the folder of the library.
FIGURES = ["plots/figure.css", "_explore/explorer.css", "_explore/explorer.js"]

# The script shares no task with the end of the parsing: what a reader does meanwhile waits for less.
# Where an address leads into the page, the script must have laid it out before the browser scrolls.
BEGIN = "(location.hash ? begin => begin() : setTimeout)(() => {\nSCRIPT\n});\n"

GROUPS = ("media", "supports", "layer", "container")  # at-rules that hold rules
STRING = r"\"[^\"]*\"|'[^']*'|url\([^)]*\)"  # in which a semicolon or a brace ends nothing

# The text is set at one optical size, in weights up to that of headings; italics in one weight.
AXES = {"normal": {"opsz": 18, "wght": (400, 600)}, "italic": {"opsz": 18, "wght": 400}}
FEATURES = ["onum", "pnum", "lnum", "tnum"]
LARGE = "KaTeX_Size"
# What the classes of KaTeX ask of a font, each for what it names: family, style, weight.
PLAIN = ("KaTeX_Main", "normal", "400")
KATEX = {
    "mathnormal": ("KaTeX_Math", "italic", None),
    "boldsymbol": ("KaTeX_Math", "italic", "700"),
    "mathit": ("KaTeX_Main", "italic", None),
    "mathbf": ("KaTeX_Main", None, "700"),
    "mathrm": (None, "normal", None),
    "mathbb": ("KaTeX_AMS", None, None),
    "amsrm": ("KaTeX_AMS", None, None),
    "mathcal": ("KaTeX_Caligraphic", None, None),
    "textrm": ("KaTeX_Main", None, None),
    "textit": (None, "italic", None),
    "textbf": (None, None, "700"),
}
# Faces that only pages get on which something asks for them: by a class of KaTeX, or a letter.
RARE = (LARGE, "KaTeX_AMS", "KaTeX_Caligraphic", "-latin-ext-")
CLASSES = ["delimsizing", "op-symbol", *(name for name in KATEX if KATEX[name][0] in RARE)]
ASKS = re.compile(rf'class="[^"]*\b(?:{"|".join(CLASSES)})\b|[\u0100-\u024F]')


# ---------------------------------------------------------------- what the pages hold


class Words(HTMLParser):
    """The names that a selector can match on the pages fed to it, and the characters in use."""

    def __init__(self):
        super().__init__()
        self.names, self.characters = set(), set(map(chr, range(0x20, 0x7F)))
        self.formulas = defaultdict(set)  # by family, style and weight
        self.fonts = []  # what each open span of a formula asks for

    def handle_starttag(self, tag, attributes):
        self.names.update([tag, *(name for name, _ in attributes)])
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        self.names.update(classes, (attributes.get("id") or "").split())
        if tag == "span" and (self.fonts or "katex-html" in classes):
            font = self.fonts[-1] if self.fonts else PLAIN
            for asked in (KATEX[name] for name in classes if name in KATEX):
                font = tuple(new or old for new, old in zip(asked, font, strict=True))
            self.fonts.append(font)

    def handle_endtag(self, tag):
        if tag == "span" and self.fonts:
            self.fonts.pop()

    def handle_data(self, data):
        if self.cdata_elem == "script":  # what an explorer draws with, names of colours among it
            self.names.update(re.findall(r'"([A-Za-z][\w-]*)"', data))
        place = self.formulas[self.fonts[-1]] if self.fonts else self.characters
        place.update(data)


def read(pages, script):
    """The words of the pages; whatever word is in the script may come onto a page by it."""
    words = Words()
    for page in pages:
        words.feed(page)
    words.names.update(re.findall(r"[\w-]+", script))
    words.characters.update(script)
    return words


# ---------------------------------------------------------------- style sheets


def in_use(selector, names):
    """Whether a selector names nothing unknown; what stands in ``:not(...)`` is not looked at."""
    bare = re.sub(r":[\w-]+\((?:[^()]|\([^()]*\))*\)|::?[\w-]+", "", selector)
    bare = re.sub(r"\[\s*([\w-]+)[^\]]*\]", r" \1 ", bare).replace("\\", "")
    found = {name for name in re.findall(r"[A-Za-z_][\w-]*", bare) if not name.startswith("data-")}
    return found <= names  # what a script may set are attributes data-*


def themed(rule):
    """A rule; for one of a theme also what it is without a script, and on paper."""
    theme = re.search(r"\[data-theme=['\"]?(light|dark)['\"]?\]", rule)
    if not theme:
        return rule
    other = {name: rule.replace(theme[0], f"[data-theme={name}]") for name in ("auto", "dark")}
    if theme[1] == "dark":
        system = "@media screen and (prefers-color-scheme:dark)"
        return f"@media screen{{{rule}}}{system}{{{other['auto']}}}"
    system = "@media print,(prefers-color-scheme:light)"
    return f"{rule}{system}{{{other['auto']}}}@media print{{{other['dark']}}}"


def pruned(rules, names):
    """The rules in use, as text without comments or idle space."""
    return "".join(
        pruned_rule(rule, names) for rule in rules if rule.type in ("qualified-rule", "at-rule")
    )


def pruned_rule(rule, names):
    if rule.type == "qualified-rule":
        selectors = ",".join(s for s in parted(rule.prelude) if in_use(s, names))
        return selectors and themed(f"{selectors}{{{squeezed(rule.content)}}}")
    if rule.content is None:  # @import, @charset
        return ""
    body = squeezed(rule.content)
    if rule.lower_at_keyword in GROUPS:
        body = pruned(tinycss2.parse_rule_list(rule.content, True, True), names)
    return body and f"@{rule.at_keyword} {squeezed(rule.prelude)}".strip() + f"{{{body}}}"


def parted(prelude):
    """The selectors of a rule, parted at its outer commas."""
    parts = [[]]
    for token in prelude:
        parts.append([]) if token == "," else parts[-1].append(token)
    return [squeezed(part) for part in parts]


def squeezed(tokens):
    text = tinycss2.serialize([token for token in tokens if token.type != "comment"])
    space = rf"({STRING})|\s*([;{{}},])\s*|\s+"
    return re.sub(space, lambda m: m[1] or m[2] or " ", text).strip(" ;")


def without_idle_variables(css, read_elsewhere):
    """Drop the custom properties that nothing reads, until all that are left are read."""
    used = set(re.findall(r"var\(\s*(--[\w-]+)", css)) | read_elsewhere
    lean = re.sub(
        rf"(?<=[{{;}}])(--[\w-]+):(?:{STRING}|[^;{{}}\"'])*(?:;|(?=\}}))",
        lambda m: m[0] if m[1] in used else "",
        css,
    )
    return css if lean == css else without_idle_variables(lean, read_elsewhere)


def moved(sheet, static):
    """A sheet's text without comments, its addresses as seen from ``_static``."""

    def address(found):
        if re.match(r"data:|#|\w+:", found[2]):
            return found[0]
        target = (sheet.parent / found[2].split("?")[0]).resolve()
        return f"url({target.relative_to(static.resolve()).as_posix()})"

    text = re.sub(r"/\*.*?\*/", "", sheet.read_text("utf8"), flags=re.S)
    return re.sub(r"url\(\s*(['\"]?)(?!['\"]?data:)([^'\")]+)\1\s*\)", address, text)


# ---------------------------------------------------------------- fonts


def with_subset_fonts(css, static, words):
    """The sheet with fonts that hold the characters in use, and none that no rule names.

    Second, the rare faces.
    """
    face = r"@font-face\{[^}]*\}"
    rest = re.sub(face, "", css)
    common, rare = [], []
    for each in re.findall(face, css):
        kind = rare if any(name in each for name in RARE) else common
        kind.append(subset_face(each, rest, static, words))
    return "".join(common) + rest, "".join(rare)


def subset_face(face, rest, static, words):
    """One ``@font-face``, its font subset; nothing if no rule or no letter asks for it."""
    family = described(face, "family")
    source = re.search(r"url\(['\"]?([^)'\"]+\.woff2)", face)
    if not source:  # a font of the reader's own, by local(...)
        return face
    characters = characters_for(face, words, rest) if family in rest else set()
    if not characters:
        return ""
    data = b64encode(subset_font(static / source[1], characters)).decode()
    return re.sub(r"src:[^;}]*", f'src:url(data:font/woff2;base64,{data}) format("woff2")', face)


def described(face, what):
    return re.search(rf"font-{what}:\s*['\"]?([^;}}'\"]+)", face)[1]


def characters_for(face, words, css):
    family = described(face, "family")
    if LARGE in family:  # the size is asked for by the place of a letter
        return set().union(*words.formulas.values())
    if "KaTeX" in family:
        return words.formulas[family, described(face, "style"), described(face, "weight")]
    if "Awesome" in family:  # its icons stand in style sheets, in the private part of Unicode
        if (
            "Free" in family
            and described(face, "weight") == "400"
            and "fa-regular" not in words.names
        ):
            return set()  # all icons are filled
        return {c for c in css if 0xE000 <= ord(c) <= 0xF8FF}
    return words.characters | set(css)


def subset_font(file, characters):
    """The font with the given characters alone, its axes narrowed to what is asked for."""
    font = TTFont(file)
    options = subset.Options(hinting=False, notdef_outline=True)
    options.layout_features += FEATURES
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=map(ord, characters))
    subsetter.subset(font)
    if "fvar" in font:
        wanted = AXES["italic" if "italic" in file.name else "normal"]
        axes = {axis.axisTag: wanted[axis.axisTag] for axis in font["fvar"].axes}
        font = instancer.instantiateVariableFont(font, axes)
    font.flavor, buffer = "woff2", BytesIO()
    font.save(buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------- all together


def library(app):
    return Path(app.srcdir).parent / "src" / "descent"


def figure_files(app):
    """The styles and the script of figures; none where a book has no library beside it."""
    return [file for name in FIGURES if (file := library(app) / name).exists()]


def say_rare(app, pagename, templatename, context, doctree):
    """Tell the template whether something on a page asks for a rare face."""
    context["rare"] = bool(ASKS.search(context.get("body", "")))


def take_out(app, doctree):
    """Take from the outputs of a page what the joined files hold."""
    shared = {file.read_text("utf8") for file in figure_files(app)}
    shared |= {"".join(f.read_text("utf8") for f in figure_files(app) if f.suffix == ".css")}
    for raw in doctree.findall(nodes.raw):
        text = re.sub(
            r"<(style|script)>(.*?)</\1>\n?",
            lambda m: "" if m[2] in shared else m[0],
            raw.astext(),
            flags=re.S,
        )
        raw.children[:] = [nodes.Text(text)]


def without_comments(script):
    """A script less the lines that only say something."""
    return re.sub(r"^[ \t]*//.*\n", "", script, flags=re.M)


def join(app, exception):
    """Write ``site.css``, ``rare.css`` and ``site.js``."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    pages = [p.read_text("utf8") for p in out.rglob("*.html") if "_static" not in p.parts]
    files = figure_files(app)
    scripts = [static / "descent.js", *(file for file in files if file.suffix == ".js")]
    script = without_comments(";\n".join(file.read_text("utf8") for file in scripts))
    (static / "site.js").write_text(BEGIN.replace("SCRIPT", script), "utf8")

    words = read(pages, script)
    sheets = [sheet for pattern in SHEETS for sheet in static.glob(pattern)]
    texts = [file.read_text("utf8") for file in files if file.suffix == ".css"]
    texts = [*map(partial(moved, static=static), sheets[:-1]), *texts, moved(sheets[-1], static)]
    css = "".join(pruned(tinycss2.parse_stylesheet(t, True, True), words.names) for t in texts)
    elsewhere = {name for text in [*pages, script] for name in re.findall(r"--[\w-]+", text)}
    css, rare = with_subset_fonts(without_idle_variables(css, elsewhere), static, words)
    (static / "site.css").write_text(css, "utf8")
    (static / "rare.css").write_text(rare, "utf8")


def setup(app):
    app.connect("doctree-read", take_out)
    app.connect("html-page-context", say_rare, priority=950)
    app.connect("build-finished", join)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
