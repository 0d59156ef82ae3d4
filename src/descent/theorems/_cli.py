"""``python -m descent report ID --tokens X.npy --labels y.npy``: a theorem on one's own data."""

import argparse
import json
from zipfile import BadZipFile

import numpy as np
import torch

from .. import _validate
from .._errors import error
from ..models import Attention
from ..problems import Problem
from ._attention import AttentionStart
from ._record import Theorem, get


def add_command(commands) -> None:
    """Add ``report`` to the sub-parsers of the command line."""
    report = commands.add_parser(
        "report", help="what a theorem asks of your data, and promises; exit 1 if it asks too much"
    )
    report.add_argument("id", help="for instance song2024-theorem-1")
    report.add_argument("--tokens", required=True, help=".npy of shape (N, n, D)")
    report.add_argument("--labels", required=True, help=".npy of shape (N, n)")
    report.add_argument("--weights", help=".npz with Q, K, V (H, D, d) and O (H, d); else drawn")
    report.add_argument("--kernel", default="softmax", help="softmax or gaussian")
    report.add_argument("--H", type=int, default=1, help="heads to draw (1)")
    report.add_argument("--d", type=int, default=8, help="columns of each matrix to draw (8)")
    report.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    report.add_argument("--runs", type=int, default=1, help="how many to draw (1)")
    report.add_argument("--steps", type=int, help="train so long, and hold the promises against it")
    report.add_argument("--json", action="store_true", help="one JSON object")
    report.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    theorem = _about_attention(options.id)
    problem = Problem(_array(options.tokens), _array(options.labels))
    shown = theorem(*_layer(options, problem))
    if options.steps is not None:
        shown = shown.trial(options.steps)
    print(json.dumps(shown.record(), ensure_ascii=False) if options.json else shown)
    return 0 if bool(shown.met.all()) else 1


def _about_attention(id: str) -> Theorem:
    theorem = get(id)
    if not (isinstance(theorem.start, type) and issubclass(theorem.start, AttentionStart)):
        found = f"{id} is not about an attention layer with its tokens and labels"
        raise error(ValueError, found, "call it in Python")
    return theorem


def _layer(options: argparse.Namespace, problem: Problem) -> tuple:
    if not options.weights:
        layer = Attention(options.kernel, H=options.H, d=options.d)
        return layer, problem, layer.init(problem, seed=options.seed, runs=options.runs)
    file = _loaded(options.weights, np.lib.npyio.NpzFile, "an .npz with Q, K, V and O")
    with file:
        missing = [name for name in "QKVO" if name not in file]
        if missing:
            raise error(
                ValueError,
                f"{options.weights} lacks {', '.join(missing)}",
                "expected Q, K, V and O",
            )
        weights = [_validate.matrix(f"W_{name}", file[name]) for name in "QKVO"]
    H, d = weights[3].shape[-2:]
    return Attention(options.kernel, H=H, d=d), problem, weights


def _array(name: str) -> torch.Tensor:
    return _validate.tensor(name, _loaded(name, np.ndarray, "a .npy of real numbers"))


def _loaded(name: str, kind: type, wanted: str):
    """What numpy keeps in a file, if that is of the kind that is wanted."""
    try:
        found = np.load(name, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile):  # numpy's word for a text is that it is a pickle
        found = None
    if not isinstance(found, kind):
        raise error(ValueError, f"{name} is no such file of numpy", f"give {wanted}")
    return found
