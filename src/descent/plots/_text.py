"""Numbers and formulas as people write them, in plain text and in HTML."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Callable

from latex2mathml.converter import convert

from .._errors import error

_RAISED = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LOWERED = str.maketrans("−0123456789aehijklmnoprstuvx", "₋₀₁₂₃₄₅₆₇₈₉ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")


def number(value: float, digits: int = 4) -> str:
    """Write ``value`` with at most ``digits`` significant digits: 0.05, 48, 3.2·10⁻⁵, 10⁹."""
    value = float(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    sign, power = "−" if value < 0 else "", int(exponent)
    if -3 <= power < 5:
        return sign + f"{float(mantissa + 'e' + exponent):.10g}"
    mantissa = f"{float(mantissa):g}"
    tens = "10" + str(power).translate(_RAISED)
    return sign + (tens if mantissa == "1" else f"{mantissa}·{tens}")


def spoken(text: str) -> str:
    """A sentence with numbers and letters as people write them: 5.4·10⁻¹⁸ for 5.4e-18, −1, ``A₂``."""
    text = re.sub(r"-?\d+(?:\.\d+)?e[+-]?\d+", lambda found: number(float(found[0])), plain(text))
    return re.sub(r"(?<![\w)])-(?=\d)|(?<= )-(?= )", "−", text)


def formulas(text: str) -> str:
    r"""Turn text with ``$...$`` into HTML whose formulas are MathML: every browser draws it.

    No script has to run, so it is the same in the book, in Jupyter, in VS Code and in Colab. Each
    formula carries its TeX along, by which the book finds it again and sets it like its others.
    """
    parts = re.compile(r"\$([^$]+)\$|(?<=[a-z]{2})'")  # an apostrophe is curled, a prime is not
    return parts.sub(lambda m: _mathml(m[1]) if m[1] else "’", html.escape(text, quote=False))


def lettered(text: str) -> str:
    """Words with letters as the library writes them, such as ``W_O`` or ``x^t``, as HTML."""
    text = html.escape(text).replace("sigma_min", "σ_min")
    text = re.sub("(?<=[a-z]{2})&#x27;", "’", text)
    text = re.sub(r"(?<=\S)_([A-Za-z0-9α-ω∞*]+|\{[^{}]*\})", _small("sub"), text)
    return re.sub(r"\^(-?\w+|\([^()]*\)|\{[^{}]*\})", _small("sup"), text)


def _small(tag: str) -> Callable[[re.Match], str]:
    return lambda found: f"<{tag}>{found[1].strip('{}')}</{tag}>"


def _mathml(tex: str) -> str:
    """A formula, its TeX escaped for HTML, as MathML."""
    drawn = re.sub(r"^<math[^>]*>|</math>$", "", convert(html.unescape(tex)))
    note = f'<annotation encoding="application/x-tex">{tex}</annotation>'
    return f"<math><semantics>{drawn}{note}</semantics></math>"


# An SVG holds no MathML that all browsers draw, so simple formulas in the labels of figures are
# broken into runs of text: (text, style), style a subset of the letters i(talic) s(ub) p (sup).
_SYMBOLS = {
    **{"cdot": "·", "times": "×", "pm": "±", "sqrt": "√", "infty": "∞", "ell": "ℓ"},
    **{"le": " ≤ ", "leq": " ≤ ", "ge": " ≥ ", "geq": " ≥ ", "ne": " ≠ "},
    **{"approx": " ≈ ", "sim": " ∼ ", "to": " → "},
    **{"nabla": "∇", "partial": "∂", "top": "⊤", "star": "⋆", "ast": "∗", "circ": "∘"},
    **{"|": "‖", "lVert": "‖", "rVert": "‖", "dots": "…", "ldots": "…"},
    **{",": "\u2009", ";": "\u2005", " ": " ", "%": "%", "_": "_"},
    # Unicode's names of these letters are not TeX's
    **{"lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "varphi": "φ"},
}
_ACCENTS = {"hat": "\u0302", "widehat": "\u0302"}
_WORDS = {"ln", "log", "min", "max", "exp", "rank", "det", "sup", "inf", "lim"}
_ATOM = re.compile(r"\\(?:mathrm|text|operatorname)\{([^{}]*)\}|\\([a-zA-Z]+|.)|([_^])|([{}])|(.)")


def runs(label: str) -> list[tuple[str, str]]:
    """Break a label with ``$...$`` into ``(text, style)`` runs; ``("t", "is")`` is a subscript t.

    Raises
    ------
    ValueError : for a command that plain text can't show.
    """
    pieces: list[tuple[str, str]] = []
    # matplotlib's word for the usual letters: it stands in the numbers of its axes
    label = label.replace(r"\mathdefault", "")
    for k, part in enumerate(label.split("$")):
        pieces += _formula(part, label) if k % 2 else [(part, "")]
    return _merged(pieces)


def plain(label: str) -> str:
    """The label without any mark-up: ``step size η``, ``fₜ``, ``W_V`` (there is no small V)."""
    return "".join(_flat(text, style) for text, style in runs(label))


def _flat(text: str, style: str) -> str:
    for mark, sign, small in (("s", "_", _LOWERED), ("p", "^", _RAISED)):
        if mark in style:
            return text.translate(small) if all(ord(c) in small for c in text) else sign + text
    return text


def markup(label: str) -> str:
    """The label as HTML with ``<i>``, ``<sub>`` and ``<sup>``."""
    tags = {"i": "i", "s": "sub", "p": "sup"}
    out = ""
    for text, style in runs(label):
        text = html.escape(text)
        for mark in style:
            text = f"<{tags[mark]}>{text}</{tags[mark]}>"
        out += text
    return out


def _formula(source: str, label: str) -> list[tuple[str, str]]:
    pieces, shift, pending, depth, accent = [], "", "", 0, ""
    for upright, command, script, brace, char in _ATOM.findall(source):
        if script:
            pending = "s" if script == "_" else "p"
            continue
        if brace:
            depth += 1 if brace == "{" else -1
            shift = pending if brace == "{" and pending else shift if depth else ""
            pending = ""
            continue
        if command in _ACCENTS:
            accent = _ACCENTS[command]
            continue
        text = upright or (_symbol(command, label) if command else _spaced(char))
        if accent and text:
            text, accent = unicodedata.normalize("NFC", text + accent), ""
        italic = "i" if char.isalpha() or (command and text.isalpha() and len(text) == 1) else ""
        pieces.append((text, italic + (pending or shift)))
        pending = ""
    return pieces


def _spaced(char: str) -> str:
    """TeX ignores the spaces of a formula and sets its own around relations."""
    if char in "=<>+/":
        return f"\u2009{char}\u2009" if char == "/" else f" {char} "
    return char.strip().replace("-", "−")


def _symbol(command: str, label: str) -> str:
    if command in _WORDS:
        return command
    if command in _SYMBOLS:
        return _SYMBOLS[command]
    try:
        case = "CAPITAL" if command[0].isupper() else "SMALL"
        return unicodedata.lookup(f"GREEK {case} LETTER {command.upper()}")
    except KeyError:
        raise error(
            ValueError,
            f"label {label!r} uses \\{command}, which a figure that moves can't show",
            "write it in words",
        ) from None


def _merged(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    merged: list[tuple[str, str]] = []
    for text, style in pieces:
        if merged and merged[-1][1] == style:
            merged[-1] = (merged[-1][0] + text, style)
        elif text:
            merged.append((text, style))
    return merged
