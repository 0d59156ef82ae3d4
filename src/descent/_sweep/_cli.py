"""``python -m descent sweep`` and ``python -m descent plot``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from .._errors import error
from ._family import Family
from ._grid import TRAINING, Grid

SETTINGS = ("thresholds", "until")
#: What runs come from; their own axes stand in the file, those of the usual ones are options too.
FAMILY = ("problem", "model", "optimiser")
AXES = (*Family.of().axes, *TRAINING)
#: What each takes, several of them as 2,4,8 or 0..15 unless it says otherwise.
TAKES = {
    "problem": "where data comes from: a name of descent.problems, a .npz file, or module:name",
    "model": "what is trained: a name of descent.models, or module:name",
    "optimiser": "what trains it: descent, a name of torch.optim, or module:name",
    "N": "sequences, whole numbers from 1 on, such as 2,4,8",
    "n": "tokens in a sequence, whole numbers from 1 on, such as 2,4",
    "D": "embedding dimension, whole numbers from 1 on, such as 8,1000000",
    "H": "heads, whole numbers from 1 on, such as 1,2,4",
    "d": "dimension of a head, whole numbers from 1 on, such as 8",
    "kernel": "softmax, gaussian, or both as softmax,gaussian",
    "train": "letters of the trained matrices, such as V,QK,QKV",
    "steps": "steps of descent, whole numbers from 1 on, such as 1000",
    "scale": "standard deviation of the first weights over the usual one, such as 0.5,1,2",
    "step": "step sizes above 0, 1/L or polyak, such as 1/L,0.01",
    "seed": "whole numbers from 0 on, each its tokens, labels and weights, such as 0..15",
    "start": "whole numbers from 0 on, each other weights for the same data, such as 0..3",
    "thresholds": "parts of the first loss between 0 and 1, a column each, such as 0.1,0.01",
    "until": "one part of the first loss between 0 and 1 at which a run stops, such as 0.001",
}
PICTURES = (".svg", ".png", ".pdf")
EXAMPLE = """\
A FILE holds the axes as YAML, one value or a list each; options add to it and win over it:

  N: [2, 4, 8]
  n: 2
  D: [2, 4, 8, 16]
  kernel: [softmax, gaussian]
  train: V
  seed: 0..15

  python -m descent sweep FILE.yaml --seed 0..63 --out table.parquet
  python -m descent plot table.parquet diagram.svg

After an interruption the same command goes on where it was."""


def add_commands(commands) -> None:
    """Add ``sweep`` and ``plot`` to the sub-parsers of the command line."""
    sweep = commands.add_parser(
        "sweep",
        help="train a grid of runs into one table",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sweep.add_argument("file", nargs="?", type=Path, help="YAML with the axes of the grid")
    sweep.add_argument("--out", required=True, type=Path, help="the table, a .parquet file")
    sweep.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler's address, or local")
    for name in (*FAMILY, *AXES, *SETTINGS):
        kind = "NAME" if name in FAMILY else "VALUES"
        sweep.add_argument(f"--{name}", metavar=kind, help=TAKES[name])
    sweep.set_defaults(command=_sweep)

    plot = commands.add_parser("plot", help="draw a sweep's table as a phase diagram")
    plot.add_argument("table", type=Path, help="what sweep wrote")
    plot.add_argument("picture", nargs="?", type=Path, help="a .svg (the default), .png or .pdf")
    plot.add_argument("--fraction", type=float, default=0.01, help="converged: at most this ratio")
    plot.add_argument("--show", default="success", help="success or speed")
    plot.add_argument("--where", action="append", default=[], metavar="AXIS=VALUE")
    plot.set_defaults(command=_plot)


def _sweep(options: argparse.Namespace) -> int:
    from ._run import sweep

    given = {**read(options.file), **_options(options)}
    try:
        Grid.of(**_apart(given))
    except TypeError as failure:  # what is no number here was written so by the user
        raise error(ValueError, str(failure), failure.remedy) from None
    table = sweep(options.out, cluster=options.cluster, **given)
    print(f"{options.out}: {len(table)} runs, {table['diverged_at'].notna().sum()} diverged")
    return 0


def _apart(given: dict) -> dict:
    """The arguments of `Grid.of`: settings by name, the axes together."""
    settings = {name: given[name] for name in (*SETTINGS, *FAMILY) if name in given}
    return {"axes": {k: v for k, v in given.items() if k not in settings}, **settings}


def read(file: Path | None) -> dict:
    """The axes and settings that a YAML file holds."""
    import yaml

    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as failure:
        raise error(
            ValueError,
            f"file {file} cannot be read ({failure.__class__.__name__})",
            "give a YAML file with the axes",
        ) from None
    except yaml.YAMLError as failure:
        line = getattr(getattr(failure, "problem_mark", None), "line", 0) + 1
        raise error(ValueError, f"file {file} is no YAML", f"see its line {line}") from None
    if not isinstance(content, dict):
        raise error(
            ValueError,
            f"file {file} holds no axes",
            "it must hold axes, such as 'D: [2, 4, 8]', one a line",
        )
    return {name: parse(str(name), values) for name, values in content.items()}


def _options(options: argparse.Namespace) -> dict:
    given = {name: getattr(options, name) for name in (*FAMILY, *AXES, *SETTINGS)}
    return {name: parse(name, text) for name, text in given.items() if text is not None}


def parse(name: str, given):
    """Values as they are written: 8, "2,4,8", "0..15", [softmax, gaussian], "1/L"."""
    if name in FAMILY:
        return given
    if isinstance(given, list):
        return [value for item in given for value in _several(name, item)]
    values = _several(name, given)
    return values[0] if name == "until" and len(values) == 1 else values


def _several(name: str, given) -> Sequence:
    if not isinstance(given, str):
        return [given]
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if len(parts) == 1 and _span(parts[0]) is not None:
        return _span(parts[0])  # ten million seeds stay the two numbers that they are
    return [value for part in parts for value in _span(part) or [_scalar(name, part)]]


def _span(text: str) -> range | None:
    """0..15 as its numbers."""
    span = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    return range(int(span[1]), int(span[2]) + 1) if span else None


def _scalar(name: str, text: str):
    if name in ("kernel", "train"):
        return text
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _plot(options: argparse.Namespace) -> int:
    import matplotlib

    from ..plots import phase

    picture = options.picture or options.table.with_suffix(".svg")
    if picture.suffix not in PICTURES:
        raise error(
            ValueError,
            f"picture must end in {', '.join(PICTURES)}, got {str(picture)!r}",
            f"end in {', '.join(PICTURES)}",
        )
    table = _where(_table(options.table), options.where)
    figure = phase(table, fraction=options.fraction, show=options.show)
    with matplotlib.rc_context({"svg.hashsalt": "descent", "svg.fonttype": "path"}):
        figure.savefig(picture, facecolor="white", dpi=200)
    print(picture)
    return 0


def _table(path: Path):
    import pandas
    import pyarrow

    try:
        return pandas.read_parquet(path)
    except (OSError, pyarrow.ArrowInvalid) as failure:
        raise error(
            ValueError,
            f"table {path} cannot be read ({type(failure).__name__})",
            "give the .parquet file that `python -m descent sweep` wrote",
        ) from None


def _where(table, conditions: list[str]):
    for condition in conditions:
        axis, equals, value = condition.partition("=")
        if not equals or axis not in table:
            raise error(
                ValueError,
                f"where must be AXIS=VALUE with a column's name, got {condition!r}",
                "be AXIS=VALUE with a column's name",
            )
        wanted = _scalar(axis, value)
        # as numbers where they are: 1 is 1.0, also in a column of text like that of the steps
        table = table[[_scalar(axis, str(found)) == wanted for found in table[axis]]]
    return table
