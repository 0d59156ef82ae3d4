"""What is left of style sheets and fonts when a book needs little of them."""

import re
from io import BytesIO
from pathlib import Path

import pytest
import sphinx_light
import tinycss2
from fontTools.ttLib import TTFont

ROOT = Path(__file__).parent.parent
PAGE = """<main id="top" class="wide box" data-theme="dark"><p>Łx</p>
<span class="katex-html"><span class="mathnormal">f<span>g</span></span><span>h</span><span
class="mathbf">1</span></span></main>
<script type="application/json">{"lines":[{"tone":"from-data","y":[1,2]}]}</script>
"""


@pytest.fixture(scope="module")
def words():
    return sphinx_light.read([PAGE], script='element.className = "from-script"')


def pruned(css, words):
    return sphinx_light.pruned(tinycss2.parse_stylesheet(css, True, True), words.names)


@pytest.mark.parametrize(
    "selector",
    [
        "p",
        "main#top > p::before",
        ".box.wide:hover p",
        ".from-script",
        ".from-data",
        "[data-theme] p",
        "[data-whatever] p",
        ".box:not(.gone)",
        "p:is(.gone,.wide)",
    ],
)
def test_a_rule_that_may_match_is_kept(words, selector):
    assert pruned(selector + " { color:red; } ", words) == selector + "{color:red}"


@pytest.mark.parametrize("selector", [".gone", "p .gone", "#nowhere", "table", "[hidden] p"])
def test_a_rule_that_cannot_match_is_dropped(words, selector):
    assert pruned(selector + " { color:red }", words) == ""
    assert pruned(f"p, {selector} {{ color:red }}", words) == "p{color:red}"
    assert pruned(f"@media print {{ {selector} {{ color:red }} }}", words) == ""


def test_strings_and_addresses_survive_the_squeeze(words):
    css = 'p { content:"a ; {b}"; background:url(data:image/png;base64,a==) }'
    assert pruned(css, words) == 'p{content:"a ; {b}";background:url(data:image/png;base64,a==)}'


def test_a_dark_rule_also_follows_the_system_and_stays_off_paper(words):
    rule = '[data-theme="dark"] p{color:red}'
    auto = "[data-theme=auto] p{color:red}"
    assert pruned(rule, words) == (
        f"@media screen{{{rule}}}@media screen and (prefers-color-scheme:dark){{{auto}}}"
    )


def test_a_light_rule_holds_on_paper_whatever_the_screen_shows(words):
    rule = '[data-theme="light"] p{color:red}'
    assert pruned(rule, words).endswith("@media print{[data-theme=dark] p{color:red}}")


def test_a_script_loses_its_lines_of_comment_and_nothing_else():
    script = "// what it does\nlet a = 1; // one\n\n  // then\n  let b = `//`;\n"
    assert sphinx_light.without_comments(script) == "let a = 1; // one\n\n  let b = `//`;\n"


def test_variables_that_nothing_reads_are_dropped():
    css = "p{--a:1;--b:var(--a);--c:2;--d:3;color:var(--c)}"
    assert sphinx_light.without_idle_variables(css, {"--d"}) == "p{--c:2;--d:3;color:var(--c)}"


def test_each_font_of_formulas_gets_the_letters_asked_of_it(words):
    assert words.formulas["KaTeX_Math", "italic", "400"] == {"f", "g"}
    assert words.formulas["KaTeX_Main", "normal", "400"] == {"h"}
    assert words.formulas["KaTeX_Main", "normal", "700"] == {"1"}
    assert "Ł" in words.characters and "h" in words.characters  # of the ASCII letters all stay


def test_a_subset_font_has_the_characters_and_weights_of_the_book():
    file = ROOT / "book/static/fonts/source-serif-4-latin-opsz-normal.woff2"
    font = TTFont(BytesIO(sphinx_light.subset_font(file, set("abc"))))
    assert set(map(chr, font.getBestCmap())) == set("abc")
    (axis,) = font["fvar"].axes
    assert (axis.axisTag, axis.minValue, axis.maxValue) == ("wght", 400, 600)


def test_a_font_that_no_rule_asks_for_is_dropped(tmp_path, words):
    css = "@font-face{font-family:Gone;src:url(gone.woff2)}p{color:red}"
    assert sphinx_light.with_subset_fonts(css, tmp_path, words) == ("p{color:red}", "")


def test_a_font_of_outlined_icons_is_dropped_where_all_are_filled(words):
    face = "@font-face{font-family:Font Awesome 6 Free;font-weight:%s;src:url(icons.woff2)}"
    css = '.icon:before{content:"\uf002"}'
    kept = [sphinx_light.characters_for(face % weight, words, css) for weight in ("400", "900")]
    assert kept == [set(), {"\uf002"}]


# ---------------------------------------------------------------- the book's own sheet


def test_the_pages_of_the_book_ask_for_one_sheet_and_one_script(site):
    for page in ("intro.html", "song2024/values.html", "search.html"):
        text = (site / page).read_text("utf8")
        sheets = re.findall(r'rel="stylesheet"[^>]*href="(?:\.\./)*([^"]+)"', text)
        assert sheets[0] == "_static/site.css" and set(sheets[1:]) <= {"_static/rare.css"}
        assert text.count("site.js") == 1 and "descent-explorer {" not in text


def test_a_page_has_the_rare_letters_if_and_only_if_it_uses_them(site):
    css = (site / "_static/site.css").read_text("utf8")
    rules = re.findall(r"(?<=[}])([^{}]+)\{font-family:KaTeX_(?:Size\d|AMS|Caligraphic)\}", css)
    marks = {re.findall(r"\.([\w-]+)", one)[1] for rule in rules for one in rule.split(",")}
    assert marks == {"delimsizing", "op-symbol", "amsrm", "mathbb", "mathcal"}
    pages = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    found = set()
    for page in pages:
        text = page.read_text("utf8")
        used = any(re.search(rf'class="[^"]*\b{mark}\b', text) for mark in marks) or "Ł" in text
        assert ("rare.css" in text) == used, page
        found.add(used)
    assert found == {True, False}


@pytest.mark.parametrize("name", ["site", "rare"])
def test_every_font_that_a_sheet_asks_for_is_in_it(site, name):
    """Else a page is drawn in other letters first."""
    css = (site / f"_static/{name}.css").read_text("utf8")
    fonts = re.findall(r"url\(([^)]{9,})\) format", css)
    inside = r"data:font/woff2;base64,[\w+/=]{300,}"
    assert fonts and all(re.fullmatch(inside, font) for font in fonts)
    assert len(re.findall(r"src:\s*url", css)) == len(fonts)
