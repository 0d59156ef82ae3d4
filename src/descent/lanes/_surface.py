"""How a model states its step for the compiled engine: plain Python, for one run."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..problems import Problem

_marked: list[Callable] = []


def on_lanes(function: Callable) -> Callable:
    """Mark a function that a step is made of. It stays the plain function it is."""
    _marked.append(function)
    return function


def where(x, yes, no):
    """``yes`` where x > 0, else ``no``: a choice that each run makes for itself.

    Examples
    --------
    >>> where(True, 1.0, 2.0)
    1.0
    """
    return yes if x > 0 else no


class Read(NamedTuple):
    r"""How a model reads one weight W: by columns c = W a, through a matrix R.

    through : R (rows, coordinates), or one of each run; the model sees R c. For what reads the
        tokens it is X.
    columns : the c at the start, (runs, columns, coordinates).
    square : :math:`\|a\|^2`, (runs, columns). With g the gradient with respect to c, that with respect
        to W is g a^T: a step moves c by :math:`-\eta \|a\|^2 g`.
    write : turns moves (runs, columns, coordinates) of the columns, each over its
        :math:`\|a\|^2`, into what is to be added to W (runs, ...).
    """

    through: Float[Tensor, "*runs rows coordinates"]
    columns: Float[Tensor, "runs columns coordinates"]
    square: Float[Tensor, "runs columns"]
    write: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """A model's loss and its gradient in terms of what it reads.

    function : the step, marked `on_lanes`. It is called as ``function(image, pulled, trained, fresh,
        scratch, data)`` and returns the loss. ``image`` and ``pulled`` hold an array (columns, rows)
        for each of ``reads``: in the first is R c; in the second the gradient with respect to it is
        to be written, if ``trained`` says so of this weight. ``scratch`` are arrays of its own; what
        it writes there is kept to the next step of the same run unless ``fresh`` is true.
    reads : name -> `Read`, one for each weight that the model reads.
    data : what else the function is given. The same for all runs are numpy arrays, numbers, flags;
        of a tensor (runs, ...) each run has its own. By such a tensor the engine tells a step that
        is meant for problems that differ by run: a model whose step has none is then left to torch.
    scratch : the shapes of its scratch arrays.
    work : about how many products of two numbers it takes, an exponential counted as twenty. By it
        the engine plans how much to do in one call.
    """

    function: Callable
    reads: dict[str, Read]
    data: tuple
    scratch: tuple[tuple[int, ...], ...] = ()
    work: int = 0


def labels(problem: Problem) -> np.ndarray | Tensor:
    """Of a problem its labels as a step's data, of a problem for each run each run's own."""
    return problem.y if problem.X.ndim > 3 else problem.y.contiguous().numpy()


def parts(function: Callable) -> list[Callable]:
    """The function, and all that it calls which are marked as it is."""
    found = [function]
    for part in found:
        called = (part.__globals__.get(name) for name in part.__code__.co_names)
        found += [other for other in called if other in _marked and other not in found]
    return found


def digest(*things: object) -> str:
    """A name for what these functions do and for the text of these modules."""
    texts = (
        inspect.getsource(x) if isinstance(x, ModuleType) else repr(_meaning(x)) for x in things
    )
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _meaning(function: Callable) -> tuple:
    """The function as it was loaded, whatever its file says now, and the numbers that it names.

    Compiled code has their values in it.
    """
    code = function.__code__
    named = ((name, function.__globals__.get(name)) for name in code.co_names)
    values = [
        (name, value.tolist() if isinstance(value, np.ndarray) else value)
        for name, value in named
        if not (value is None or callable(value) or isinstance(value, ModuleType))
    ]
    return _code(code), values


def _code(code: CodeType) -> tuple:
    parts = [_code(x) if isinstance(x, CodeType) else x for x in code.co_consts]
    return code.co_code, parts, code.co_names
