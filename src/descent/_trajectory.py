"""What `descend` returns, and what can be done with it afterwards."""

from __future__ import annotations

import inspect
import json
from collections import namedtuple
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import _validate, steps
from ._errors import error

if TYPE_CHECKING:
    import pandas
    import xarray

    from .plots import Curve, Figure

#: The layout of a saved trajectory; a file with a larger number is from a newer library.
VERSION = 1
ARRAYS = ("loss", "diverged_at", "eta", "stopped_at")


@dataclass(frozen=True, repr=False)
class Trajectory:
    """What `descend` returns; ``*r`` are the run dimensions of the weights.

    loss : (steps // every + 1, *r), the loss at the start and after each ``every`` steps; NaN
        after a divergence, and where a run has stopped the loss it stopped at.
    weights : the last iterate of every run, the last finite one where it diverged.
    diverged_at : (*r), the step that blew the loss up (with ``every = 1`` the index of its first
        NaN), -1 if none did.
    eta : (*r), the step size that was taken first.
    stopped_at : (*r), the step after which `until` or `stall` stopped the run, -1 if neither did.
    watched : name -> (len(at), ...), what was watched, at the steps ``at``.
    at : those steps, in order.
    every : how many steps lie between two entries of ``loss``.
    train : the letters of the weights that were trained; empty where that is not known.
    rule : ``"constant"`` where all steps of a run have the size ``eta``, else the rule in words.

    Introduced in :doc:`/song2024/values`; what can be done with it is shown in :doc:`/own`.

    Examples
    --------
    >>> from descent import descend, models, problems
    >>> problem = problems.gaussian(N=2, n=2, D=8, seed=0)
    >>> layer = models.Attention(kernel="softmax", H=2, d=4)
    >>> weights = layer.init(problem, seed=1, runs=3)
    >>> run = descend(layer, problem, weights, steps=50)
    >>> run
    Trajectory of 3 runs over 50 steps
    median loss ... at first, ... at last
    3 went to the end, 0 stopped early, 0 diverged
    >>> run.to_pandas().shape
    (51, 3)
    """

    loss: Float[Tensor, records * r]
    weights: NamedTuple
    diverged_at: Int[Tensor, "*r"]
    eta: Float[Tensor, "*r"]
    stopped_at: Int[Tensor, "*r"]
    watched: dict[str, object] = field(default_factory=dict)
    at: tuple[int, ...] = ()
    every: int = 1
    train: str = ""
    rule: str = "constant"

    @property
    def diverged(self) -> Tensor:
        """Which runs diverged, (*r) of bool."""
        return self.diverged_at >= 0

    @property
    def steps(self) -> Tensor:
        """The steps at which ``loss`` was recorded, (records,)."""
        return self.every * torch.arange(len(self.loss))

    def steps_to(self, fraction: float) -> Int[Tensor, "*r"]:
        """First recorded step whose loss is at most ``fraction`` of the start's, -1 if none."""
        _validate.positive("fraction", fraction)
        hit = self.loss <= fraction * self.loss[0]
        first = hit.to(torch.int64).argmax(0)
        return torch.where(hit.any(0), self.every * first, -1)

    # -- on disk ----------------------------------------------------------------------------------

    def save(self, path: str | PathLike) -> None:
        """Write everything into one ``.npz`` file of plain arrays, for `Trajectory.load`."""
        content = {
            "version": VERSION,
            "at": self.at,
            "every": self.every,
            "train": self.train,
            "rule": self.rule,
            "container": type(self.weights).__name__,
            "weights": self.weights._fields,
            "watched": {
                name: getattr(seen, "_fields", None) for name, seen in self.watched.items()
            },
        }
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays |= {f"weights/{W}": value for W, value in self.weights._asdict().items()}
        for name, seen in self.watched.items():
            parts = seen._asdict() if isinstance(seen, tuple) else {"": seen}
            arrays |= {f"watched/{name}/{part}": value for part, value in parts.items()}
        numbers = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
        np.savez_compressed(_npz(path), content=np.array(json.dumps(content)), **numbers)

    @classmethod
    def load(cls, path: str | PathLike) -> Trajectory:
        """Read what `save` wrote. Nothing in the file is run: it holds numbers and names alone.

        Raises
        ------
        FileNotFoundError : if there is no such file.
        ValueError : if the file is no trajectory, a damaged one, or one of a newer version of the
            library.
        """
        path, what = _npz(path), "give a file that Trajectory.save wrote"
        try:
            # opened here: numpy leaves a file open that turns out to be half an archive
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                arrays = {
                    name: torch.from_numpy(saved[name]) for name in saved if name != "content"
                }
                content = json.loads(str(saved["content"]))
            version = int(content["version"])
            if version <= VERSION:
                return cls._of(arrays, content)
        except FileNotFoundError:
            raise error(FileNotFoundError, f"there is no file {path}", what) from None
        except (ValueError, KeyError, TypeError, EOFError, OSError, BadZipFile) as failure:
            raise error(ValueError, f"{path} is no saved trajectory ({failure})", what) from None
        found = f"{path} has version {version}, this library reads up to {VERSION}"
        raise error(ValueError, found, "install a newer one")

    @classmethod
    def _of(cls, arrays: dict[str, Tensor], content: dict) -> Trajectory:
        """The trajectory of a file's arrays, and of what the file says about them."""
        container = _container(content["container"], content["weights"])
        return cls(
            **{name: arrays[name] for name in ARRAYS},
            weights=container(*(arrays[f"weights/{W}"] for W in content["weights"])),
            watched={
                name: arrays[f"watched/{name}/"]
                if parts is None
                else _container(content["container"], parts)(
                    *(arrays[f"watched/{name}/{part}"] for part in parts)
                )
                for name, parts in content["watched"].items()
            },
            at=tuple(content["at"]),
            every=content["every"],
            train=content.get("train", ""),
            rule=content.get("rule", "constant"),
        )

    # -- as a table -------------------------------------------------------------------------------

    def to_pandas(self) -> pandas.DataFrame:
        """The losses as a table: a row for each recorded step, a column for each run.

        With several run dimensions the columns have as many levels; a single run is column 0.
        """
        import pandas

        shape = self.loss.shape[1:] or (1,)
        names = [f"run_{k}" for k in range(len(shape))] if len(shape) > 1 else ["run"]
        columns = pandas.MultiIndex.from_product([range(size) for size in shape], names=names)
        if len(shape) == 1:
            columns = columns.get_level_values(0)
        losses = self.loss.detach().cpu().reshape(len(self.loss), -1).numpy()
        return pandas.DataFrame(losses, pandas.Index(self.steps.numpy(), name="step"), columns)

    def to_xarray(self) -> xarray.Dataset:
        """The losses, what became of the runs and what was watched, with named dimensions.

        Raises
        ------
        ImportError : if xarray is not installed.
        """
        try:
            import xarray
        except ImportError:
            raise error(
                ImportError, "to_xarray needs xarray", "install it with pip install xarray"
            ) from None

        runs = tuple(f"run_{k}" for k in range(self.loss.ndim - 1))
        parts = {"loss": (("step", *runs), self.loss)}
        parts |= {name: (runs, getattr(self, name)) for name in ARRAYS if name != "loss"}
        for name, seen in self._watched_arrays().items():
            # a function of one's own may give one number for all runs
            of_runs = runs if seen.shape[1 : 1 + len(runs)] == self.eta.shape else ()
            own = [f"{name}_{k}" for k in range(seen.ndim - 1 - len(of_runs))]
            parts[f"watched_{name}"] = (("at", *of_runs, *own), seen)
        arrays = {
            name: (dims, value.detach().cpu().numpy()) for name, (dims, value) in parts.items()
        }
        return xarray.Dataset(arrays, {"step": self.steps.numpy(), "at": list(self.at)})

    def _watched_arrays(self) -> dict[str, Tensor]:
        """What was watched, array by array: each of a tuple by its name and the tuple's."""
        tuples = {name: seen for name, seen in self.watched.items() if isinstance(seen, tuple)}
        parts = {f"{k}_{W}": A for k, seen in tuples.items() for W, A in seen._asdict().items()}
        return parts | {name: A for name, A in self.watched.items() if name not in tuples}

    # -- to look at -------------------------------------------------------------------------------

    def plot(self, most: int = 16) -> Figure:
        """The losses as shares of the first, up to ``most`` runs; the middle and the ends of more.

        Losses that may be negative, as logarithms are, are drawn themselves. What starts without a
        number is left out.

        Raises
        ------
        ValueError : if nothing is left.
        """
        from .plots import Picture, figure

        curves = self._curves(_validate.count("most", most))
        if not curves:
            raise error(ValueError, "no run starts with a loss to draw", "look at run.loss")
        runs, of = self.eta.numel(), "Loss" if self._below else "Loss over its start"
        some = f", {runs} run{'s' * (runs > 1)}."
        caption = of + (some if runs <= most else f": median and tenths of {runs} runs.")
        label, scale = ("loss $f_t$", "linear") if self._below else ("loss $f_t / f_0$", "log")
        picture = Picture(curves, "step $t$", label, yscale=scale)
        return figure(picture, alt=" ".join(self._lines()), caption=caption)

    @property
    def _below(self) -> bool:
        """Whether a loss is negative, so that its share of the first one says nothing."""
        return bool((self.loss < 0).any())

    def _curves(self, most: int) -> list[Curve]:
        from .plots import Curve

        shares = self.loss if self._below else self.loss / self.loss[0]
        shares = shares.detach().cpu().reshape(len(self.loss), -1)
        runs, rows = shares.shape[1], [("", column) for column in shares.T]
        if runs > most:
            levels = {"worst tenth": 0.9, "median": 0.5, "best tenth": 0.1}
            known = shares.nan_to_num(nan=torch.inf).sort(1).values
            rows = [(name, known[:, round(q * (runs - 1))]) for name, q in levels.items()]
        return [Curve(name, self.steps, row) for name, row in rows if bool(row[0].isfinite())]

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        text = "<br>".join(self._lines())
        return f"<p>{text}</p>" + (self.plot().html if self._curves(most=16) else "")

    def _lines(self) -> list[str]:
        """What there is, what became of the loss, and what became of the runs."""
        runs, steps = self.eta.numel(), int(self.steps[-1])
        shape = " x ".join(map(str, self.eta.shape)) if self.eta.ndim > 1 else str(runs)
        first, last = (self.loss[k].double() for k in (0, -1))
        ends = last[torch.isfinite(last)]
        end = f"{float(ends.median()):.3g}" if len(ends) else "no finite number"
        lost, stopped = int(self.diverged.sum()), int((self.stopped_at >= 0).sum())
        return [
            f"Trajectory of {shape} run{'s' * (runs > 1)} over {steps} step{'s' * (steps != 1)}",
            f"median loss {float(first.median()):.3g} at first, {end} at last",
            f"{runs - lost - stopped} went to the end, {stopped} stopped early, {lost} diverged",
        ]


def told(rule: steps.Rule) -> str:
    """A rule in words, as a run tells of it: "constant" where its steps are all the same."""
    return "constant" if steps.is_constant(rule) else repr(rule)


def _npz(path: str | PathLike) -> str:
    if not str(path).endswith(".npz"):
        raise error(ValueError, f"path must end in .npz, got {str(path)!r}", "end in .npz")
    return str(path)


def _container(name: str, fields: list[str]) -> type:
    """The library's own class of that name, or a new one with the same fields."""
    from . import models

    papers = (module for module in vars(models).values() if inspect.ismodule(module))
    for place in (models, *papers):
        known = getattr(place, name, None)
        if isinstance(known, type) and list(getattr(known, "_fields", ())) == list(fields):
            return known
    return namedtuple(name, fields)
