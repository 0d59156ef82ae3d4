"""The picture that others show beside a link to a page of the book: that of the front page."""

from pathlib import Path

CARD = "_static/card.png"
ALT = "Phase diagrams: where gradient descent on an attention layer converges."


def name_card(app, pagename, templatename, context, doctree):
    named = {"og:image": app.config.html_baseurl + CARD, "og:image:alt": ALT}
    tags = [f'<meta property="{name}" content="{text}" />\n' for name, text in named.items()]
    context["metatags"] = context.get("metatags", "") + "".join(tags)


def draw_card(app, exception):
    if exception or app.builder.format != "html":
        return
    from descent import plots, tables  # here: they import torch

    with plots.style():
        drawing = plots.phase(tables.read("converge"), fraction=0.001)
        drawing.set_size_inches(8, 4.2)  # 1200 x 630, as such pictures are shown
        drawing.savefig(Path(app.outdir) / CARD, dpi=150, facecolor="white")


def setup(app):
    app.connect("html-page-context", name_card)
    app.connect("build-finished", draw_card)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
