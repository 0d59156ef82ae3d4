"""Which result rests on which: boxes in columns, what is used to the left of what uses it."""

import html
from collections.abc import Iterable
from statistics import fmean

from ._pages import leading, slug
from ._record import Claim, Verdict

WIDTH, HEIGHT = 10, 5.2  # of a cell of the grid, in rem: a box and the space around it


def uses(claims: Iterable[Claim]) -> dict[str, set[str]]:
    """For each box or equation that takes part: the labels that its proof refers to."""
    found: dict[str, set[str]] = {}
    for claim in claims:
        of = set(claim.uses) - {claim.box}
        if claim.box and of:
            found.setdefault(claim.box, set()).update(of)
    for label in [label for of in found.values() for label in of]:
        found.setdefault(label, set())
    return found


def columns(edges: dict[str, set[str]]) -> list[list[str]]:
    """Labels by their distance from what uses nothing, those that belong together side by side.

    Within a column a label stands at the mean height of what it uses, so that few edges cross.
    """
    depth: dict[str, int] = {}

    def visit(label: str, above: tuple[str, ...] = ()) -> int:
        if label not in depth:
            below = [visit(u, (*above, label)) for u in edges[label] if u not in (*above, label)]
            depth[label] = 1 + max(below, default=-1)
        return depth[label]

    for label in edges:
        visit(label)
    found = [sorted(x for x in edges if depth[x] == d) for d in range(max(depth.values()) + 1)]
    # what uses nothing takes the order of what uses it
    place = {label: k for k, label in enumerate(x for column in found[1:] for x in column)}
    users = {label: [place[u] for u in place if label in edges[u]] for label in found[0]}
    found[0].sort(key=lambda label: fmean(users[label]))
    place = {label: k for k, label in enumerate(found[0])}
    for column in found[1:]:
        column.sort(key=lambda label: fmean(place[u] for u in edges[label] if u in place))
        place |= {label: k for k, label in enumerate(column)}
    return found


def graph(claims: Iterable[Claim], known: Iterable[Claim]) -> str:
    """The graph of these claims as HTML; ``known`` are those whose boxes have a title."""
    claims, edges = list(claims), uses(claims)
    if not edges:
        return ""
    place = {
        label: (x, y) for x, column in enumerate(columns(edges)) for y, label in enumerate(column)
    }
    wide = 1 + max(x for x, _ in place.values())
    high = 1 + max(y for _, y in place.values())
    titles = {claim.box: claim for claim in reversed(list(known)) if claim.box}
    titles |= {claim.box: claim for claim in claims if claim.verdict is not Verdict.HOLDS}
    own = {claim.box for claim in claims}
    boxes = "".join(_box(label, titles.get(label), label in own, *place[label]) for label in place)
    lines = "".join(
        _line(place[used], place[label]) for label, of in edges.items() for used in sorted(of)
    )
    size = f"width:{wide * WIDTH}rem;height:{high * HEIGHT}rem"
    drawn = f'<svg viewBox="0 0 {wide} {high}" preserveAspectRatio="none" aria-hidden="true">'
    return (
        f'<div class="descent-graph" tabindex="0" role="group" aria-label="What rests on what">'
        f'<div style="{size}">{drawn}{lines}</svg>{boxes}</div></div>{_list(edges, titles)}'
    )


def _box(label: str, claim: Claim | None, own: bool, x: int, y: int) -> str:
    name = html.escape(claim.title) if claim else ""
    classes = " ".join([slug(claim.verdict) if claim else "", "" if own else "elsewhere"]).strip()
    at = f"left:{x * WIDTH}rem;top:{y * HEIGHT}rem"
    return f'<p class="{classes}" style="{at}">{leading(label)} {name}</p>'


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the right of one box to the left of the other."""
    (x, y), (u, v) = (start[0] + 0.88, start[1] + 0.45), (end[0], end[1] + 0.45)
    return f'<path d="M{x:.2f} {y:.2f}C{x + 0.3:.2f} {y:.2f} {u - 0.3:.2f} {v:.2f} {u} {v:.2f}"/>'


def _list(edges: dict[str, set[str]], titles: dict[str, Claim]) -> str:
    items = "".join(
        f"<li>{leading(label)} ({titles[label].verdict}) uses "
        f"{', '.join(map(leading, sorted(of)))}.</li>"
        for label, of in edges.items()
        if of
    )
    return f"<details><summary>The same as a list</summary><ul>{items}</ul></details>"
