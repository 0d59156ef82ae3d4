"""Figures as inline SVG: transparent, in the page's own ink, with words beside them."""

from __future__ import annotations

import hashlib
import html
import io
import re
import sys
from dataclasses import dataclass
from importlib import resources

import matplotlib
import numpy as np
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.colors import rgb2hex
from matplotlib.figure import Figure as Drawing

from descent.plots._draw import COLOURS, INK, LETTERS, draw
from descent.plots._picture import Picture, gaps
from descent.plots._text import formulas, runs

from .._errors import error


@dataclass(frozen=True)
class Figure:
    """A finished figure; the last line of a cell shows it."""

    html: str
    alt: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.alt


def figure(picture: Picture | Drawing, *, alt: str = "", caption: str = "") -> Figure:
    """Make a figure from a ``Picture`` or from a matplotlib figure drawn inside ``plots.style()``.

    Parameters
    ----------
    picture : what to draw.
    alt : what one should see, for readers who don't; required.
    caption : what is plotted; may hold ``$...$``; required.

    Raises
    ------
    ValueError : if ``alt`` or ``caption`` is empty.
    TypeError : if ``picture`` is neither.
    """
    require_words(alt, caption)
    if isinstance(picture, Picture):
        drawing, alt = draw(picture).figure, " ".join([alt, *gaps(picture)])
    elif isinstance(picture, Drawing):
        drawing = picture
        _forget(drawing)
    else:
        raise error(
            TypeError,
            f"picture is a {type(picture).__name__}",
            "give a plots.Picture or a matplotlib Figure",
        )
    parts = [
        '<figure class="descent-figure">',
        f"<style>{css()}</style>",
        svg(drawing, alt),
        f"<figcaption>{formulas(caption)}</figcaption>",
        "</figure>",
    ]
    return Figure("\n".join(parts), alt)


def require_words(alt: str, caption: str) -> None:
    """Raise unless both say something."""
    if not alt.strip():
        raise error(
            ValueError, "alt is missing", "say in a sentence what one should see in the figure"
        )
    if not caption.strip():
        raise error(ValueError, "caption is missing", "say in a sentence what is plotted")


def css() -> str:
    """The style sheet that figures carry with them."""
    return resources.files("descent.plots").joinpath("figure.css").read_text(encoding="utf-8")


def svg(drawing: Drawing, alt: str) -> str:
    """The drawing as an ``<svg>`` element for a web page; the same drawing gives the same bytes."""
    buffer = io.StringIO()
    silent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    for patch in (drawing.patch, *(ax.patch for ax in drawing.axes)):
        patch.set_facecolor("none")
    FigureCanvasSVG(drawing)  # by whose letters the layout is measured
    dpi, drawing.dpi = drawing.dpi, 72  # a point is a pixel
    with matplotlib.rc_context({"svg.hashsalt": "descent", "svg.fonttype": "path"}):
        size = drawing.get_size_inches()
        vectors = _Renderer(*72 * size, buffer, image_dpi=dpi, metadata=silent)
        renderer = MixedModeRenderer(drawing, *size, dpi, vectors)  # colour bars are bitmaps
        drawing.draw(renderer)
        renderer.finalize()
    return _inline(buffer.getvalue(), alt)


class _Renderer(RendererSVG):
    """Leaves text as text, in the page's letters, where matplotlib would write outlines.

    It takes a tenth of the bytes, and readers can search and enlarge it. What runs of text cannot
    show, such as a fraction, is still drawn.
    """

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None) -> None:
        try:
            runs(s)
        except ValueError:
            return super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
        # Other letters are of other widths, and larger on a phone: keep the end, or the middle, that
        # the layout placed, and the middle of their height.
        anchor, share = _ANCHORS["center" if angle or mtext is None else mtext.get_ha()]
        width = share * self.get_text_width_height_descent(s, prop, ismath)[0]
        size, turned = prop.get_size_in_points(), np.radians(angle)
        x += width * np.cos(turned) - MIDDLE * size * np.sin(turned)
        y -= width * np.sin(turned) + MIDDLE * size * np.cos(turned)
        look = f"font-size: {size / LETTERS:.3g}em; text-anchor: {anchor}"
        if prop.get_weight() not in ("normal", "regular", 400):
            look += f"; font-weight: {prop.get_weight()}"
        look += f"; fill: {rgb2hex(gc.get_rgb())}"
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "dy": f"{MIDDLE}em", "style": look}
        if angle:
            place["transform"] = f"rotate({-angle:g} {x:.1f} {y:.1f})"
        self.writer.element("text", s, place)


MIDDLE = 0.35  # of letters, above the line they stand on and in their size
_ANCHORS = {"left": ("start", 0), "center": ("middle", 0.5), "right": ("end", 1)}


def _tspans(label: str) -> str:
    """A label with ``$...$`` as spans: sub- and superscripts smaller, and moved."""
    spans, shift = "", 0.0
    for text, style in runs(label):
        wanted = 0.22 if "s" in style else -0.4 if "p" in style else 0.0  # of the label's size
        size = 0.75 if wanted else 1
        look = f' font-size="{size}em"' if wanted else ""
        look += ' font-style="italic"' if "i" in style else ""
        # the first run's own shift would take the place of the label's
        step = wanted - shift + (0 if spans else MIDDLE)
        look += f' dy="{step / size:.3g}em"' if wanted != shift else ""
        text = html.escape(text, quote=False)
        spans += f"<tspan{look}>{text}</tspan>" if look else text
        shift = wanted
    return spans


def _inline(source: str, alt: str) -> str:
    viewbox = re.search(r'viewBox="[^"]+"', source)[0]
    body = source[re.search(r"<svg[^>]*>", source).end() :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.S)
    # matplotlib's own style sheet would style every element of the page, not only this figure
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r"(<text[^>]*>)(.*?)(?=</text>)", _label, body)
    body = re.sub(r'<path d="[^"]*" style="fill: none"/>', "", body)  # nothing to be seen
    body = re.sub(r' [dxy]="[^"]*"', _rounded, body)
    body = stepwise(body)
    body = _own_ids(body, hashlib.sha256((alt + body).encode()).hexdigest()[:8])
    body = re.sub(r"\s*\n\s*", "\n", _theme(body)).strip()
    return (
        '<svg class="descent-drawing" xmlns="http://www.w3.org/2000/svg"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink" {viewbox} fill="currentColor"'
        f' stroke-linejoin="round" role="img" aria-label="{html.escape(alt)}">\n{body}'
    )


def _label(text: re.Match) -> str:
    return text[1] + _tspans(html.unescape(text[2]))


def _rounded(attribute: re.Match) -> str:
    """A tenth of a pixel is finer than any screen shows, and half the bytes."""
    return re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), attribute[0])


def stepwise(body: str) -> str:
    """Write paths of straight lines by their steps: the same steps again and again pack well."""
    return re.sub(r' d="([MLz\d\s.-]*)"', _steps, body)


def _steps(attribute: re.Match) -> str:
    path, x, y = "", 0.0, 0.0
    for letter, *place in re.findall(r"([MLz])(?:\s+([-\d.]+)\s+([-\d.]+))?", attribute[1]):
        if letter == "z":
            path += "z"
            continue
        before, (x, y) = (x, y), map(float, place)
        dx, dy = round(x - before[0], 1), round(y - before[1], 1)
        if letter == "M":
            path += f"M{x:g} {y:g}"
        else:
            path += f"h{dx:g}" if dy == 0 else f"v{dy:g}" if dx == 0 else f"l{dx:g} {dy:g}"
    return f' d="{path}"'


def _own_ids(body: str, prefix: str) -> str:
    """Two figures on a page must not use each other's letters and clips: give ids a prefix.

    Those that nothing refers to go: matplotlib names a picture by what it shows, and two colour
    bars may show the same.
    """
    used = set(re.findall(r'href="#([^"]+)"', body)) | set(re.findall(r"url\(#([^)]+)\)", body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r' id="', f' id="d{prefix}-', body)
    body = re.sub(r'href="#', f'href="#d{prefix}-', body)
    return body.replace("url(#", f"url(#d{prefix}-")


def _theme(body: str) -> str:
    """Ink follows the page; the other colours follow the style sheet."""
    body = re.sub(f"{INK}|#000000", "currentColor", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--descent-{name}, {colour})")
    return body


def _forget(drawing: Drawing) -> None:
    """Close a pyplot figure, or the notebook would show it a second time, as a bitmap."""
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(drawing)
