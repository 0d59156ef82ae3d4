"""The explorers of the built pages show what torch computes: fresh runs at points of the grids."""

import itertools
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from descent._explore._controls import controls_from
from descent._explore._grid import ABOVE, BELOW, TOLERANCE, _scaled, discernible

BOOK = Path(__file__).parents[1] / "book"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    str(page.relative_to(BOOK).with_suffix(""))
    for page in sorted(BOOK.rglob("*.md"))
    if re.search(r"^explore\(", page.read_text(), re.MULTILINE)
]


def explorers(name):
    """Run the page's cells and return the arguments of each call of explore."""
    calls, cells = [], CELL.findall((BOOK / f"{name}.md").read_text())
    last = max(k for k, cell in enumerate(cells) if re.search(r"^explore\(", cell, re.MULTILINE))
    scope = {"__name__": "__main__"}
    for cell in cells[: last + 1]:
        scope["explore"] = lambda run, **options: calls.append((run, options))
        body = re.sub(r"^(from descent import .*)\bexplore, ", r"\1", cell, flags=re.MULTILINE)
        exec(compile(body, f"{name}.md", "exec"), scope)
    return calls


def stored(site, name):
    """The grids that stand in the built page."""
    page = (site / f"{name}.html").read_text()
    return [
        json.loads(d)
        for d in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    ]


def differences(data, place, picture):
    """How the stored picture at this place of the grid differs from a fresh one."""
    found, axis, across = [], data["y"], data["x"]
    curves = data["pictures"][place]["curves"]
    if len(curves) != len(picture.curves):
        return [f"{len(curves)} curves stored, {len(picture.curves)} computed"]
    maps = data["pictures"][place].get("maps", [])
    if not all(map(np.allclose, maps, picture.maps.values(), [1e-2] * len(maps))):
        found.append(f"maps {maps} stored, {picture.maps} computed")
    for (_, x, ys), curve in zip(curves, picture.curves, strict=True):
        fresh = defaultdict(list)  # a curve may pass a place twice
        places = discernible(curve.x, across["scale"], across["limits"])
        for at, y in zip(places, curve.y, strict=True):
            fresh[at].append(y)
        for at, y in zip(data["xs"][x], ys, strict=True):
            # what cannot be told apart is stored alike; below 1e-12 may be rounding of the run itself
            again = fresh.get(at, [np.nan])  # a picture of another point may have other places
            if y is None or np.isclose(y, again, rtol=0, atol=1e-12).any():
                continue
            scaled = (_scaled(np.array(v), axis["scale"], axis["limits"]) for v in (y, again))
            here, there = (np.clip(v, BELOW, ABOVE) for v in scaled)  # nobody sees what is outside
            if not (np.abs(here - there) <= TOLERANCE).any():
                found.append(f"{curve.label} at {at}: stored {y}, computed {again}")
    return found


@pytest.fixture(scope="module", params=PAGES)
def page(request, site):
    calls = explorers(request.param)
    grids = stored(site, request.param)
    assert len(calls) == len(grids) > 0
    return list(zip(calls, grids, strict=True))


def grid(options):
    names = [
        k for k in options if k not in ("alt", "caption", "question", "start", "labels", "drag")
    ]
    controls = controls_from({k: options[k] for k in names}, {}, {}, {})
    return [
        dict(zip(names, v, strict=True)) for v in itertools.product(*(c.values for c in controls))
    ]


def test_the_pictures_of_a_page_are_those_of_a_fresh_run(page):
    for (run, options), data in page:
        points = grid(options)
        assert len(points) == len(data["pictures"])
        for place in np.random.default_rng(0).choice(len(points), 4, replace=False):
            assert differences(data, place, run(**points[place])) == []


def test_a_picture_of_another_point_is_told_apart(page):
    for (run, options), data in page:
        points = grid(options)
        assert differences(data, 0, run(**points[-1]))


@pytest.mark.parametrize("part", ["foundations", "song2024", "wu2023", "vasudeva2024", "kim2024"])
def test_something_in_a_picture_of_each_part_can_be_dragged(part):
    pages = (BOOK / part).glob("*.md")
    assert any(re.search(r"\bdrag=\{", page.read_text()) for page in pages)
