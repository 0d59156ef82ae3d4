"""The generated notebooks: in step with the book, with its numbers, readable anywhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

import notebooks

ROOT = Path(__file__).parent.parent
FIXTURE = Path(__file__).parent / "fixtures" / "notebooks"
SMALL = "https://github.com/someone/small"


@pytest.fixture
def book(tmp_path):
    """A copy of the small book, free to be changed."""
    return shutil.copytree(FIXTURE, tmp_path / "small")


@pytest.fixture
def convert(book):
    """What the text of the last chapter becomes; its number is 3."""

    def convert(text):
        (book / "book/chapters/last.md").write_text(
            f"# The last chapter\n\n$$ 4 $$ (eq-last)\n\n"
            f":::{{prf:theorem}}\n:label: thm-last\nLast.\n:::\n\n{text}\n",
            "utf-8",
        )
        cells = read(notebooks.export(book, ["chapters/last"])["chapters/last"])
        return "\n\n".join(cell.source for cell in cells[1:]).split("Last.\n\n", 1)[1]

    return convert


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def read(text):
    return nbformat.reads(text, as_version=4).cells


def markdown(cells):
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def committed():
    paths = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    assert paths, "notebooks/ is empty: run make notebooks"
    return [(path, nbformat.read(path, as_version=4)) for path in paths]


# --------------------------------------------------------------------- what becomes of the markup


@pytest.mark.parametrize(
    "source, expected",
    [
        (
            ":::{prf:theorem} On $x$\n:label: t\nLet $x$.\n:::",
            "> **Theorem 3.2** (On $x$). Let $x$.",
        ),
        ("```{prf:lemma}\n- a list\n```", "> **Lemma 3.1.**\n>\n> - a list"),
        ("```{prf:proof}\nClear.\n```", "*Proof.* Clear. ∎"),
        ("```{prf:proof}\nSo\n\n$$ a $$\n```", "*Proof.* So\n\n$$\na\n$$\n\n∎"),
        (
            "````{prf:remark}\n```{note}\nIn it.\n```\n````",
            "> **Remark 3.1.**\n>\n> > **Note.** In it.",
        ),
        ("```{exercise} Easy\nDo.\n```", "**Exercise 3.1** (Easy). Do."),
        (
            "```{exercise-start} Hard\n:label: e\n```\n\nDo.\n\n```{exercise-end}\n```",
            "**Exercise 3.1** (Hard).\n\nDo.",
        ),
        ("```{tip}\nLook.\n```", "> **Tip.** Look."),
        ("```{tip} Look\nup.\n```", "> **Tip.** Look\n> up."),
        (":::{admonition} Why?\nSo.\n:::", "> **Why?** So."),
        (
            ":::{dropdown} The *full* proof\nSo.\n:::",
            "<details><summary>The full proof</summary>\n\nSo.\n\n</details>",
        ),
        (
            "{problems}`one`",
            "[Colab](https://colab.research.google.com/github/someone/small/blob/trunk/assignments/"
            "student/one.ipynb) · [Binder](https://mybinder.org/v2/gh/someone/small/trunk?urlpath="
            "lab/tree/assignments/student/one.ipynb) · [file](../../assignments/student/one.ipynb)",
        ),
        ("$$ a $$ (e)", "$$\na \\tag{3.2}\n$$"),
        ("```{math}\n:label: e\na\n```", "$$\na \\tag{3.2}\n$$"),
        ("$$\na \\\\ b\n$$", "$$\n\\begin{aligned}\na \\\\ b\n\\end{aligned}\n$$"),
        (
            "$$ \\begin{cases} a \\\\ b \\end{cases} $$",
            "$$\n\\begin{cases} a \\\\ b \\end{cases}\n$$",
        ),
        ("- item\n\n  $$ a $$\n\n  more", "- item\n\n  $$\n  a\n  $$\n\n  more"),
        ("$a\n+ b$", "$a + b$"),
        ("a {math}`x`", "a $x$"),
        ("see {eq}`eq-last` and {eq}`eq-norm`", "see (3.1) and [(1.1)](first.ipynb)"),
        ("{prf:ref}`thm-last`, {prf:ref}`it <thm-first>`", "Theorem 3.1, [it](first.ipynb)"),
        ("{ref}`sec-run`, {numref}`sec-run`", "[The run](first.ipynb), [Section 1.1](first.ipynb)"),
        ("{numref}`no. %s <ex-easy>`", "[no. 1.1](first.ipynb)"),
        ("{doc}`/notation`", "[Notation](../notation.ipynb)"),
        ("{doc}`here <second>`", "[here](second.ipynb)"),
        ("[](../intro.md)", "[A small book](../intro.ipynb)"),
        ("[that](../intro.md)", "[that](../intro.ipynb)"),
        ("[run](#sec-run)", "[run](first.ipynb)"),
        ("[](https://example.org)", "[](https://example.org)"),
        ("![A curve](../references.bib){width=3em}", "![A curve](../../book/references.bib)"),
        ("before <!-- hidden --> after", "before  after"),
        ("(place)=\nHere.\n\n[again](#place)", "Here.\n\nagain"),
        ("`{eq}` and ``$a`` stay, \\$5 too", "`{eq}` and ``$a`` stay, \\$5 too"),
        ("```python\n{eq}`x`\n\n\n# (a)=\n```", "```python\n{eq}`x`\n\n\n# (a)=\n```"),
    ],
)
def test_markup_becomes_plain_markdown(convert, source, expected):
    assert convert(source) == expected


def test_citations_name_authors_and_the_entries_close_the_notebook(convert):
    text = convert("{cite:t}`song2024`, {cite:p}`berg2020,li2021`")
    assert text.startswith(
        "Song et al. [2024], [van Berg, 2020, Li and Cevher, 2021]\n\n**References**\n\n- Bo Li"
    )
    assert "On GD, or the café problem. *J. of Things*, 3:1–9, 2020." in text


def test_citations_are_bracketed_in_the_style_of_the_config(convert, book):
    edit(book / "_config.yml", "style: author_year", "style: author_year_round")
    assert convert("{cite:t}`song2024`").startswith("Song et al. (2024)")


def test_a_claim_shows_its_verdict_and_leads_to_its_record(convert, book, monkeypatch):
    (book / "book/ledger").mkdir()
    (book / "book/ledger/chapters.md").write_text("# Records\n\nSee [](../ledger.md).\n")
    edit(book / "_toc.yml", "file: ledger\n", "file: ledger\n      - file: ledger/chapters\n")
    claims = ModuleType("descent.claims")
    claims.registry = {"span": SimpleNamespace(id="span", verdict="holds", chapter="chapters/last")}
    monkeypatch.setitem(sys.modules, "descent", ModuleType("descent"))
    monkeypatch.setitem(sys.modules, "descent.claims", claims)
    assert convert("{claim}`span`") == "(claim [`span`](../ledger/chapters.ipynb): holds)"
    records = notebooks.export(book, ["ledger/chapters"])["ledger/chapters"]
    assert "](../ledger.ipynb)" in records  # a page above a folder of its own name
    with pytest.raises(notebooks.ExportError, match="no claim other, it has span"):
        convert("{claim}`other`")


def test_formulas_in_a_quote_stand_on_one_line(convert):
    # JupyterLab takes the > of the following lines for a part of the formula.
    text = convert("```{note}\n$$\na\n= b % why\n+ c\n$$\n```")
    assert text == "> **Note.**\n>\n> $$ a = b + c $$"


def test_a_solution_with_cells_stays_a_heading_so_that_its_cells_run(book):
    cells = read(notebooks.export(book)["chapters/first"])
    start = next(k for k, cell in enumerate(cells) if "**Solution to" in cell.source)
    assert "**Solution to Exercise 1.2.**" in cells[start].source
    assert cells[start + 1].source == "y = 2"
    assert cells[start + 1].metadata.jupyter.source_hidden
    assert "$$\ny = 2. \\tag{1.3}\n$$" in cells[start + 2].source


def test_hidden_input_is_folded_in_jupyter_and_in_colab_and_keeps_its_tag(book):
    cell = next(c for c in read(notebooks.export(book)["chapters/first"]) if c.source == "x = 1")
    assert cell.metadata == {
        "tags": ["hide-input"],
        "cellView": "form",
        "jupyter": {"source_hidden": True},
    }


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "source, message",
    [
        ("\n```{mystery}\n```", r"last.md:11: the exporter does not know the directive {mystery}"),
        (":::{note}\na\n\n```{mystery}\n```\n:::", r"last.md:13: .* directive {mystery}"),
        ("a\nb {odd}`x`", r"last.md:11: the exporter does not know the role {odd}"),
        (":::{note}\n:class: tip\n\nb {odd}`x`\n:::", r"last.md:13: .* role {odd}"),
        ("{eq}`eq-none`", "no page of the book defines the label eq-none"),
        ("{eq}`thm-last`", "the label thm-last is of a theorem, not an equation"),
        ("{prf:ref}`none`", "no page of the book defines the label none"),
        ("{doc}`none`", "chapters/none, which is not in _toc.yml"),
        ("[a](none.md)", "chapters/none, which is not in _toc.yml"),
        ("[a](none.png)", "none.png, which does not exist"),
        ("```{solution} none\nSo.\n```", "no page of the book defines the label none"),
        ("{cite:t}`nobody`", "references.bib has no entry nobody"),
        ("{numref}`thm-plain`", "thm-plain has no number"),
        ("(place)=\nHere.\n\n{ref}`place`", "place has no title"),
        ("$$ a $$ (eq-norm)", "eq-norm is already taken in book/chapters/first.md"),
        ("text\n$$ a $$ (b)", "a displayed formula needs a blank line"),
        ("> quote\n>\n> $$ a $$", "a displayed formula in a block quote"),
        ("\\begin{align}\na\n\\end{align}", "a bare LaTeX environment"),
        ("Term\n: meaning", "a definition list"),
        ("text[^1]\n\n[^1]: note", "a footnote"),
        ("# Again", "one title .* this one has 2"),
        (
            "- item\n\n  ```{code-cell} ipython3\n  1\n  ```",
            "a code cell inside a directive or a list",
        ),
        ("```{code-cell} ipython3\n:odd: 1\n1\n```", "the cell option odd"),
    ],
)
def test_what_has_no_plain_counterpart_is_an_error(convert, source, message):
    with pytest.raises(notebooks.ExportError, match=message):
        convert(source)


def test_a_page_of_the_toc_that_does_not_exist_is_named(book):
    edit(book / "_toc.yml", "file: notation", "file: nowhere")
    with pytest.raises(notebooks.ExportError, match="book/nowhere.md does not exist"):
        notebooks.export(book)


def test_the_command_reports_an_error_in_one_line(book, capsys):
    edit(book / "book/notation.md", "{eq}", "{odd}")
    assert notebooks.main([], root=book) == 1
    assert capsys.readouterr().err.startswith("book/notation.md:5: the exporter does not know")


# --------------------------------------------------------------------- numbers


def numbers_of_page(html):
    """Sections, equations and statements of a built page, each list in reading order."""
    article = re.search(r"<article.*?</article>", html, re.DOTALL)[0]
    statements = re.findall(r'class="caption-number">\s*(\w+ [\d.]+)\s*<', article)
    return {
        "sections": re.findall(r'<h\d><span class="section-number">([\d.]+)\. ', article),
        "equations": re.findall(r'class="eqno">\(([\d.]+)\)', article),
        "statements": statements,
    }


def numbers_of_notebook(cells):
    text = markdown(cells)
    return {
        "sections": re.findall(r"^#+ ([\d.]+)\. ", text, re.MULTILINE),
        "equations": re.findall(r"\\tag\{([\d.]+)\}", text),
        "statements": re.findall(
            r"^[> ]*(?:\*\*|<details><summary>)([A-Z]\w+ \d[\d.]*\b)", text, re.MULTILINE
        ),
    }


def test_the_small_books_numbers_are_those_that_sphinx_gives(book):
    command = [
        Path(sys.prefix, "bin", "jupyter-book"),
        "build",
        "book",
        "--config",
        "_config.yml",
        "--toc",
        book / "_toc.yml",
        "--path-output",
        ".",
        "-W",
        "-n",
        "--keep-going",
    ]
    built = subprocess.run(command, cwd=book, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for name, text in notebooks.export(book).items():
        html = (book / "_build/html" / f"{name}.html").read_text("utf-8")
        assert numbers_of_notebook(read(text)) == numbers_of_page(html), name


def test_the_notebooks_numbers_are_those_of_the_built_pages():
    for path, notebook in committed():
        name = path.relative_to(ROOT / "notebooks").with_suffix("")
        page = ROOT / "_build" / "html" / f"{name}.html"
        assert page.exists(), f"_build/html/{name}.html does not exist: run make book first"
        numbers = numbers_of_page(page.read_text("utf-8"))
        assert numbers_of_notebook(notebook.cells) == numbers, name


# --------------------------------------------------------------------- the files


def test_writing_again_changes_no_byte(book):
    notebooks.main([], root=book)
    first = {path: path.read_bytes() for path in book.rglob("*.ipynb")}
    shutil.rmtree(book / "notebooks")
    notebooks.main([], root=book)
    assert {path: path.read_bytes() for path in book.rglob("*.ipynb")} == first
    assert len(first) == 7


def test_editing_a_paragraph_leaves_the_ids_of_other_cells(book):
    before = read(notebooks.export(book)["chapters/first"])
    edit(book / "book/chapters/first.md", "Text after a break", "Other text")
    after = read(notebooks.export(book)["chapters/first"])
    assert sum(a.id != b.id for a, b in zip(before, after, strict=True)) == 1


def test_equal_cells_have_different_ids(convert, book):
    convert("```{code-cell} ipython3\n1\n```\n\n" * 3)
    cells = read(notebooks.export(book)["chapters/last"])
    assert [cell.source for cell in cells[-3:]] == ["1"] * 3
    assert len({cell.id for cell in cells[-3:]}) == 3


def test_check_names_what_differs_and_the_command_and_writes_nothing(book, capsys):
    notebooks.main([], root=book)
    assert notebooks.main(["--check"], root=book) == 0
    edit(book / "book/notation.md", "meaning", "sense")
    before = (book / "notebooks/notation.ipynb").read_bytes()
    assert notebooks.main(["--check"], root=book) == 1
    message = capsys.readouterr().err
    assert "notebooks/notation.ipynb" in message and "make notebooks" in message
    assert "first.ipynb" not in message
    assert (book / "notebooks/notation.ipynb").read_bytes() == before


def test_a_notebook_whose_page_left_the_toc_fails_the_check_and_is_removed(book, capsys):
    notebooks.main([], root=book)
    edit(book / "_toc.yml", "      - file: ledger\n", "")
    assert notebooks.main(["--check"], root=book) == 1
    assert "notebooks/ledger.ipynb has no page" in capsys.readouterr().err
    assert notebooks.main([], root=book) == 0
    assert not (book / "notebooks/ledger.ipynb").exists()


@pytest.mark.parametrize("name", ["chapters/last", "book/chapters/last.md"])
def test_one_page_can_be_written_alone(book, name):
    notebooks.main([name], root=book)
    assert [path.stem for path in book.rglob("*.ipynb")] == ["last"]
    cells = nbformat.read(book / "notebooks/chapters/last.ipynb", as_version=4).cells
    assert "\\tag{3.1}" in markdown(cells)


def test_the_committed_notebooks_are_in_step_with_the_book(tmp_path):
    """By the command that make calls, which runs from any folder."""
    command = [sys.executable, str(ROOT / "tools" / "notebooks"), "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_committed_notebooks_are_valid_and_without_outputs():
    for path, notebook in committed():
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5), path
        assert notebook.metadata.kernelspec.name == "python3", path
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all((cell.outputs, cell.execution_count) == ([], None) for cell in code), path


LEFTOVERS = re.compile(
    r"""
    ^[ >]*(?:`{3,}|:{3,})\s*(?:\{|$(?<=:))   # a directive, or the end of one
  | (?<!`)\{[a-z][\w:+.-]*\}`                # a role
  | ^\([\w-]+\)=                             # a target
  | \$\$[ ]*\([\w-]+\)                       # the label of an equation
  | ^:[a-z-]+:[ ]                            # an option
  | \]\(\S*\.md\)  | \]\(\#                  # a link into the source
  | \]\{[.#] | <!-- | ^%[ ] | ^\+\+\+ | <img
""",
    re.VERBOSE | re.MULTILINE,
)


def leftovers(text):
    text = re.sub(r"^```\w*$.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = text.replace("[Source](", "").replace(".md)", ")", 1)  # leads to the source on purpose
    return [found[0] for found in LEFTOVERS.finditer(text)]


@pytest.mark.parametrize(
    "raw",
    [
        "```{note}",
        ":::{note}",
        "> :::",
        "{eq}`a`",
        "{prf:ref}`a`",
        "(a)=",
        "$$ a $$ (b)",
        ":label: b",
        "[Source](a.md) [a](b.md)",
        "[a](#b)",
        "[a]{.b}",
        "<!-- a -->",
        "% a",
        "+++",
        "<img src='a'>",
    ],
)
def test_leftover_markup_is_noticed(raw):
    assert leftovers(f"Text.\n\n{raw}\n")


def test_the_committed_notebooks_hold_no_markup_of_the_builder():
    for path, notebook in committed():
        assert not leftovers(markdown(notebook.cells)), path


def test_links_between_committed_notebooks_lead_to_files():
    for path, notebook in committed():
        for address in re.findall(r"\]\(([^)]+)\)", markdown(notebook.cells)):
            assert ":" in address or (path.parent / address).exists(), f"{path}: {address}"


# --------------------------------------------------------------------- addresses and set-up


def test_every_address_derives_from_the_config(book):
    before = notebooks.export(book)
    edit(
        book / "_config.yml",
        "url: https://github.com/someone/small",
        "url: https://github.com/other/big",
    )
    edit(book / "_config.yml", "branch: trunk", "branch: v1")
    for name, text in notebooks.export(book).items():
        assert "someone" not in text and "trunk" not in text
        moved = before[name].replace("someone/small", "other/big").replace("trunk", "v1")
        assert [cell.source for cell in read(text)] == [cell.source for cell in read(moved)]
        assert "https://colab.research.google.com/github/other/big/blob/v1/notebooks" in text


def test_every_address_of_the_real_book_derives_from_its_config(tmp_path):
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    old = config["repository"]["url"].removeprefix("https://github.com/")
    config["repository"]["url"] = "https://github.com/other/big"
    for name in ("book", "_toc.yml", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config), "utf-8")
    for name, text in notebooks.export(tmp_path).items():
        assert old not in text and "github/other/big/" in text, name


def test_an_address_that_is_not_on_github_is_refused(book):
    edit(book / "_config.yml", "https://github.com/someone/small", "https://example.org/small")
    with pytest.raises(notebooks.ExportError, match="expected https://github.com/OWNER/NAME"):
        notebooks.export(book)


def setup_cells():
    return {
        path: notebook.cells[1].source
        for path, notebook in committed()
        if any(cell.cell_type == "code" for cell in notebook.cells)
    }


def run_setup(source, monkeypatch, in_colab):
    """What a set-up cell asks of pip, with stubs in place of the library and of IPython."""
    asked = []
    shell = SimpleNamespace(run_line_magic=lambda name, line: asked.append((name, line)))
    monkeypatch.setitem(sys.modules, "descent", ModuleType("descent"))
    if in_colab:
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})
    return asked


def test_the_setup_cell_is_second_and_only_where_there_is_code(book):
    texts = notebooks.export(book)
    assert "google.colab" in read(texts["chapters/first"])[1].source
    assert "google.colab" not in texts["notation"]


def test_the_setup_cell_installs_nothing_outside_colab(book, monkeypatch):
    assert "google.colab" not in sys.modules
    source = read(notebooks.export(book)["chapters/first"])[1].source
    assert run_setup(source, monkeypatch, in_colab=False) == []


def test_the_setup_cell_asks_pip_in_colab_for_the_library_and_nothing_else(book, monkeypatch):
    source = read(notebooks.export(book)["chapters/first"])[1].source
    asked = run_setup(source, monkeypatch, in_colab=True)
    assert asked == [("pip", f'install -q "small-book @ git+{SMALL}@trunk"')]
    requirement = Requirement(re.search(r'"(.*)"', asked[0][1])[1])
    assert (requirement.name, requirement.url) == ("small-book", f"git+{SMALL}@trunk")


def test_no_committed_setup_cell_names_torch_and_all_are_the_same():
    sources = set(setup_cells().values())
    assert len(sources) == 1
    assert "torch" not in sources.pop()
