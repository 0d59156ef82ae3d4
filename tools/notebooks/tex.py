"""The book's TeX macros, written out."""

import re


def expand(tex: str, macros: dict) -> str:
    """Write out the book's TeX macros: no definition would reach all cells in every viewer."""
    names = "|".join(map(re.escape, macros))
    while macros and (found := re.search(rf"\\({names})(?![A-Za-z])", tex)):
        definition, end = macros[found[1]], found.end()
        body, arity, *_ = definition if isinstance(definition, list) else (definition, 0)
        values = []
        for _ in range(arity):
            value, end = argument(tex, end)
            values.append(value)
        body = re.sub(r"#(\d)", lambda mark, values=values: values[int(mark[1]) - 1], body)
        apart = " " if re.search(r"\\[A-Za-z]+\Z", body) and tex[end : end + 1].isalpha() else ""
        tex = tex[: found.start()] + body + apart + tex[end:]
    return tex


def argument(tex: str, start: int) -> tuple[str, int]:
    """The argument of a macro, a group in braces or one symbol, and where it ends."""
    found = re.compile(r"\s*(\\[A-Za-z]+|\\.|\S)").match(tex, start)
    if found[1] != "{":
        return found[1], found.end()
    depth, end = 1, found.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(tex[end], 0)
        end += 1
    return tex[found.end() : end - 1], end
