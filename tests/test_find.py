"""What readers look for lands on what they mean, also where the book is opened as a file."""

import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import sphinx_find
import yaml
from conftest import ROOT, SETTLED

# Words that somebody may type, and the label on which the first line found must land.
QUERIES = {
    "song theorem 1": "thm-values",
    "Song et al. 2024, Theorem 1": "thm-values",
    "song theorem 2": "thm-joint",
    "training the values": "thm-values",
    "values of several heads": "thm-heads",
    "training everything": "thm-joint",
    "PL inequality for Gaussian queries": "thm-queries-pl",
    "training the queries of Gaussian attention": "thm-queries",
    "close keys": "prop-close",
    "slices hide saddles": "prop-slices",
    "tie queries to keys": "prop-tied",
    "descent lemma": "lem-descent",
    "PL inequality": "def-pl",
    "Łojasiewicz": "def-pl",
    "linear convergence under PL": "thm-pl",
    "PL for matrix factorisation": "prop-factorised",
    "pl near start": "thm-near",
    "strict saddle": "thm-saddle",
    "nesterov momentum": "thm-nesterov",
    "heavy ball": "thm-heavy-ball",
    "gradient flow as the limit": "thm-flow",
    "where gradient flow goes": "thm-soudry",
    "polyak's step": "thm-polyak",
    "hull of softmax": "thm-hull",
    "equal rank": "cor-rank",
    "two jacobians": "lem-jacobians",
    "gradients of attention": "thm-gradients",
    "softmax gradient without cancellation": "prop-stable",
    "rank of the features one head": "thm-rank-one-head",
    "tangent kernel of the layer": "prop-ntk",
    "span lemma": "lem-span",
    "tokens and weights in the span": "prop-bartlett",
    "\\eta\\le1/\\lambda_{\\max}(G)": "thm-heads",
    "λ_max": "thm-frozen",
    "Song Theorem 3(1)": "thm-queries",
    "Song Corollary 1": "song2024-corollary-1",
    "Song Section 5.2, Fig. 4": "song2024-landscape",
    "thm 9.1": "thm-values",
    "prop. 14.2": "prop-tied",
    "(9.2)": "equation-eq-recursion",
    "eq. (9.2)": "equation-eq-recursion",
    "descent.span.reduce": "descent.span.reduce",
    "kernels.register": "descent.kernels.register",
}

# Slips of the pen, and what is meant.
SLIPS = {
    "descnet lemma": "descent lemma",
    "nesterovs momentum": "nesterov momentum",
    "lojasiewcz": "lojasiewicz",
    "gausian": "gaussian",
    "sofmax": "softmax",
}

# The same for words that lead to a page, a section, or a row of the notation.
TOPICS = {
    "implicit bias": "vasudeva2024/logistic.html",
    "learning rate": "foundations/descent.html#one-step",
    "max margin": "vasudeva2024/index.html",
    "Song et al.": "song2024/index.html",
    "kim suzuki": "kim2024/index.html",
    "overparameterization": "foundations/rank.html",
    "neural tangent kernel": "foundations/rank.html",
    "linear attention": "kim2024/prompts.html",
    "saddle to saddle": "kim2024/merged.html#separate-heads-a-saddle-for-every-set",
    "loss landscape": "song2024/landscape.html",
    "run times": "runtimes.html",
    "Step sizes": "foundations/descent.html#one-step",
    "Initialization": "song2024/initialisation.html",
    "local minima": "kim2024/landscape.html",
    "what is attention": "foundations/layer.html",
    "convergence": "foundations/descent.html",
    "queries": "foundations/layer.html#what-it-computes",
    "kernel": "foundations/kernels.html",
    "back-propagation": "foundations/gradients.html#the-whole-layer-backwards",
    "rank": "foundations/rank.html",
    "margin": "vasudeva2024/logistic.html#the-margin-of-attention",
    "sparsity": "vasudeva2024/sparsity.html",
    "in-context learning": "kim2024/prompts.html",
}


def terms():
    """The terms of the field, by the place that introduces them."""
    return yaml.safe_load((ROOT / "book/terms.yml").read_text("utf8"))


PAGE = """<html><article><section id="top"><h1>2. A chapter<a class="headerlink">#</a></h1>
<div class="descent-time">About 5 minutes to read</div>
<p>About <span class="katex"><span class="katex-mathml"><math><semantics><mrow><msub><mi>λ</mi><mi>max
</mi></msub><mo>&lt;</mo><mfrac><mn>1</mn><mn>2</mn></mfrac></mrow><annotation
encoding="application/x-tex">\\lambda_{\\max} &lt; \\frac12</annotation></semantics></math></span><span
class="katex-html" aria-hidden="true">x</span></span>.</p>
<div class="proof theorem admonition" id="thm-a"><p class="admonition-title"><span
class="caption-number">Theorem 2.1 </span> (A name)</p><p>It holds.</p></div>
<p>See <a class="descent-claim" href="ledger.html#a-claim">claim</a>
and <a class="descent-claim" href="ledger.html#another">another</a>.</p>
<div class="math" id="equation-sum"><span class="eqno">(2.1)<a class="headerlink">#</a></span></div>
<div class="exercise admonition" id="ex-a"><p class="admonition-title">Exercise 2.1</p></div>
<span id="figure-1"></span><figure><figcaption><a class="descent-figure-number">Figure 2.1</a>
A curve.</figcaption></figure>
<script>let silent</script></section></article></html>"""
LEDGER = """<article><section id="ledger"><h1>Ledger</h1>
<section class="descent-claim-row" id="a-claim"><a class="descent-claim-id">a-claim</a>
<p>Song et al. 2024, Theorem 7, proved. See <a data-label="thm-a" href="#">thm-a</a> and
<a data-label="sum" href="#">sum</a>.</p></section></section></article>"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "part").mkdir()
    (folder / "part/page.html").write_text(PAGE)
    (folder / "ledger").mkdir()
    (folder / "ledger/part.html").write_text(LEDGER)
    return sphinx_find.read(folder)


def test_whatever_has_an_address_is_found(found):
    entries = {entry.kind: entry.words() for entry in found["part/page"]}
    assert {kind: words[1:3] for kind, words in entries.items()} == {
        "Chapter": ["2. A chapter", "part/page.html"],
        "Theorem": ["Theorem 2.1 (A name)", "part/page.html#thm-a"],
        "Equation": ["(2.1)", "part/page.html#equation-sum"],
        "Exercise": ["Exercise 2.1", "part/page.html#ex-a"],
        "Figure": ["Figure 2.1", "part/page.html#figure-1"],
    }
    assert entries["Chapter"][3].startswith("About λₘₐₓ < 1/2. It holds.")


def test_a_theorem_is_found_by_the_number_of_its_claim_and_no_other(found):
    theorem = next(entry for entry in found["part/page"] if entry.kind == "Theorem")
    assert theorem.also == ["a-claim", "Song et al. 2024, Theorem 7", "Song Theorem 7"]


def test_what_the_ledger_names_by_its_label_is_numbered_and_linked(tmp_path, caplog):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/page.html").write_text(PAGE)
    (tmp_path / "ledger.html").write_text(LEDGER.replace('"sum"', '"no-such"'))
    for _ in range(2):  # pages that did not change are not written anew
        sphinx_find.lead(tmp_path, sphinx_find.read(tmp_path))
    text = (tmp_path / "ledger.html").read_text()
    assert '<a data-label="thm-a" href="part/page.html#thm-a">Theorem 2.1</a>' in text
    assert '<a data-label="no-such" href="#">' in text
    assert "no box or equation has the label 'no-such'" in caplog.text


def test_the_site_map_and_the_page_for_lost_readers_know_the_address_of_the_book(site):
    base = "https://descent-book.github.io/descent/"
    places = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text("utf8"))
    assert {base + "intro.html", base + "results.html"} <= set(places)
    assert all((site / place.removeprefix(base)).is_file() for place in places)
    links = re.findall('(?:href|action)="(.*?)"', (site / "404.html").read_text("utf8"))
    assert links and all((site / link.removeprefix(base)).is_file() for link in links)


def test_a_term_whose_section_is_gone_is_told(found, tmp_path, caplog):
    index = "part/page: [a term]\npart/page#top: [another]\nelsewhere: [of a page not built]\n"
    (tmp_path / "terms.yml").write_text(index)
    app = SimpleNamespace(srcdir=tmp_path)
    assert sphinx_find.terms(app, found) == {"a term": "part/page.html"}
    assert "no section 'part/page#top'" in caplog.text


def test_no_term_leads_to_two_places():
    names = [name for names in terms().values() for name in names]
    assert sorted(set(names)) == sorted(names)


def test_results_are_listed_by_part_and_chapter(found):
    titles = {"part/page": "2. A chapter", "part/last": "3. One without results"}
    parts = {"A part": ["part/page", "part/last"], "Appendices": ["part/last"]}
    page = sphinx_find.results(found, titles, parts)
    assert '<section id="part"><h2>A part</h2><h3><a href="part/page.html">2.' in page["body"]
    assert '<li><a href="part/page.html#thm-a">Theorem 2.1</a> A name</li>' in page["body"]
    assert "without" not in page["body"] and "Appendices" not in page["body"] + page["toc"]
    assert '<li><a href="#part">A part</a></li>' in page["toc"]


def test_the_side_bar_leads_to_the_results_of_a_part(server, visit):
    page = visit(server, "results.html").page
    page.click("#pst-page-toc-nav a:text('Wu et al. 2023')")
    page.wait_for_function("scrollY > 0")
    top = page.locator("#wu2023 h2").bounding_box()["y"]
    assert page.locator(".descent-header").bounding_box()["height"] <= top < 150


# ---------------------------------------------------------------- in the browser


def listed(site):
    """The results of the book, as the page that lists them says: number -> address."""
    page = (site / "results.html").read_text("utf8")
    return {
        number: address
        for address, number in re.findall(r'<li><a href="([^"]+)">([^<]+)</a>', page)
    }


@pytest.fixture(scope="module", params=["http", "file"])
def find(request, browser, server, site):
    """``find(query)``: the addresses found, on a server and in a page that is opened as a file."""
    base = server if request.param == "http" else site.as_uri()
    page = browser.new_page()
    page.goto(f"{base}/song2024/values.html")
    page.evaluate(SETTLED)
    page.keyboard.press("Control+k")
    page.keyboard.type("values")
    page.wait_for_selector("#descent-search li a")
    yield lambda query: page.evaluate("q => descentFind(q).map(found => found.address)", query)
    page.close()


def test_a_list_of_queries_lands_first_on_their_theorems(find):
    assert {query: find(query)[0].partition("#")[2] for query in QUERIES} == QUERIES


def test_topics_land_on_the_pages_that_are_about_them(find):
    assert {topic: find(topic)[0] for topic in TOPICS} == TOPICS


def test_every_term_of_the_field_leads_to_what_introduces_it(find):
    places = {name: place.split("#") for place, names in terms().items() for name in names}
    addresses = {
        name: "#".join([f"{page}.html", *section]) for name, (page, *section) in places.items()
    }
    assert {name: find(name)[0] for name in addresses} == addresses


def test_a_symbol_is_found_in_its_row(find, site):
    address = find("W_Q")[0]
    assert address.startswith("notation.html#symbol-")
    row = f'id="{address.partition("#")[2]}"'
    assert "W_Q" in (site / "notation.html").read_text("utf8").partition(row)[2][:600]


@pytest.mark.parametrize("query", ["B_h", "B_0", "Bₕ", "C_ih", "D_1", "W_Q", "q_k"])
def test_a_symbol_with_an_index_is_found_in_its_row(find, site, query):
    page, _, row = find(query)[0].partition("#")
    text = (site / "notation.html").read_text("utf8").partition(f'id="{row}"')[2]
    letter, index = query[0], query[1:].lstrip("_").replace("ₕ", "h")
    tex = rf"\b{letter}_\{{?{index}\b"
    assert page == "notation.html" and re.search(tex, text.partition("</td>")[0])


def test_a_comparison_is_found_by_what_is_compared(find):
    assert find("softmax vs gaussian") == find("softmax gaussian")


def test_every_result_of_the_book_is_found_by_its_number(find, site):
    numbers = listed(site)
    assert len(numbers) > 40
    assert {number: find(number)[0] for number in numbers} == numbers
    short = {number: number.replace("Theorem", "thm.") for number in numbers}
    assert {number: find(short[number])[0] for number in numbers} == numbers


def test_a_word_with_a_slip_finds_what_is_meant(find):
    assert [find(slip) for slip in SLIPS] == [find(meant) for meant in SLIPS.values()]
    assert all(map(find, SLIPS))


def test_who_misspells_a_word_is_told_what_was_looked_for(server, visit):
    page = visit(server, "search.html?q=descnet+lemma").page
    page.wait_for_selector("#descent-search-page li a")
    assert (
        page.locator("#descent-search-page [role=status]")
        .inner_text()
        .endswith(" found for descent lemma")
    )


def test_what_is_nowhere_is_not_found(find):
    assert find("xylophone") == [] == find("theorem xylophone") == find("  ")


def test_excerpts_show_no_tex(site):
    data = (site / "_static/find-data.js").read_text("utf8")
    entries = json.loads(data.partition("=")[2].partition(";\n")[0])
    commands = r"\\|\b(bar|langle|rangle|mathbf|mathbb|nabla|overline|tfrac|varphi|widehat)\b"
    shown = [entry[1] + entry[3] for entry in entries if entry[0] not in ("Section", "Chapter")]
    assert [text for text in shown if re.search(commands, text)] == []


@pytest.mark.parametrize(
    ("drawn", "letters"),
    [
        ("<msup><mrow><mo>(</mo><mi>a</mi><mo>)</mo></mrow><mn>2</mn></msup>", "(a)²"),
        ("<msub><mi>W</mi><mi>Q</mi></msub><mo>≤</mo><mi>μ</mi>", "W_Q ≤ μ"),
        ("<mover accent='true'><mi>L</mi><mo>^</mo></mover>", "L̂"),
        ("<munder><mi>ω</mi><mo>‾</mo></munder>", "ω̲"),
        ("<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>n</mi></mfrac>", "(a+b)/n"),
        ("<msqrt><mi>d</mi></msqrt><mo>,</mo><msup><mi>X</mi><mo>⊤</mo></msup>", "√d, X⊤"),
        ("<msubsup><mi>w</mi><mi>O</mi><mi>h</mi></msubsup>", "w_O^h"),
    ],
)
def test_a_formula_is_spelled_in_letters(drawn, letters):
    assert sphinx_find.spelled(ElementTree.fromstring(f"<mrow>{drawn}</mrow>")) == letters


def test_parts_of_a_record_and_of_a_row_stand_apart():
    record = """<section id="l"><section class="descent-claim-row" id="a"><p><a class="descent-claim-id">a</a>
<span>holds</span></p><p><b>A name.</b> Words.</p></section></section>"""
    (*_, claim) = sphinx_find.Reader("ledger/part", record).entries
    assert claim.words()[1:4] == ["a", "ledger/part.html#a", "holds · A name. Words."]
    row = (
        "<table><tr><td><p>D</p></td><td></td><td><p>a size</p></td><td><p>p</p></td></tr></table>"
    )
    (symbol,) = sphinx_find.Reader("notation", row).entries
    assert symbol.words()[1] == "D" and symbol.words()[3] == "a size · p"


def test_arrows_walk_through_what_is_found(server, visit):
    page = visit(server, "intro.html").page
    page.keyboard.press("Control+k")
    page.keyboard.type("span lemma")
    page.wait_for_selector("#descent-search li a")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/foundations/span.html#lem-span")
