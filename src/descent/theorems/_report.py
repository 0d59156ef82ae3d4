"""A theorem held against one start: what it asks there, what it promises, what came of it."""

import html
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import _validate
from .._descend import Trajectory, descend
from .._errors import error
from .._trajectory import told
from ..models._protocol import loss
from ._inequality import Inequality

#: A computed residual is off by this many roundings of the outputs and labels, at most.
BLUR = 64
#: Logarithms of loss ratios are compared up to here: e^-600 is as good as zero.
FURTHEST = 600.0


def blurred(loss: Tensor, rounding: Tensor) -> Tensor:
    """The largest loss that a residual of this loss may seem to have, known up to its rounding."""
    return ((2 * loss).sqrt() + BLUR * rounding).square() / 2


@dataclass(frozen=True)
class Linear:
    r"""The promise :math:`f_t \le (1 - \eta\mu)^{pt} f_0`, read as a promise on rates.

    As an `Inequality` its left side is the decay promised up to step t, its right side the decay
    measured, both as logarithms: twice the left side is the bound with twice the exponent.

    mu : the rate, one number a run.
    rounding : the size of a residual that is all rounding; the bound is not compared below.
    power : p.
    """

    mu: Float[Tensor, "*r"]
    rounding: Float[Tensor, "*r"]
    power: int = 1

    watches = ()

    @property
    def name(self) -> str:
        return f"f_t ≤ (1 - ημ)^{'t' if self.power == 1 else f'{self.power}t'} f_0"

    def decay(self, t: Tensor, eta: Tensor) -> Float[Tensor, "t *r"]:
        """Minus the logarithm of the bound on f_t / f_0."""
        rate = -self.power * torch.log1p(-(eta * self.mu).clamp(0, 1))
        return torch.where(t == 0, 0.0, t * rate)  # a rate may be infinite: one step suffices

    def check(self, run: Trajectory) -> Inequality:
        t = run.every * torch.arange(1, len(run.loss))
        left = self.decay(along(t, run.eta), run.eta).clamp_max(FURTHEST)
        # nothing is left where the loss is zero, also of a first loss that was
        share = torch.where(run.loss[1:] == 0, 0.0, run.loss[1:] / run.loss[0])
        right = -torch.log(share).clamp_max(FURTHEST)
        # where the bound is all rounding, the logarithm of the loss is known to nothing
        known = torch.where(self.rounding > 0, self.rounding / (2 * run.loss[0]).sqrt(), 0.0)
        blur = 2 * BLUR * known * (1 + torch.exp(left / 2))
        return Inequality(self.name, left, right + blur, tuple(t.tolist()))

    def steps_to(self, share: float, eta: Tensor) -> Float[Tensor, "*r"]:
        """Steps after which the bound is ``share`` of the first loss."""
        return torch.ceil(-torch.log(eta.new_tensor(share)) / self.decay(eta.new_ones(()), eta))


@dataclass(frozen=True)
class Promise:
    """Any other conclusion.

    name : the statement, in words and symbols.
    measure : takes a `Trajectory` (None for a statement about the start alone) to left side, right
        side and the steps that they speak of, empty for one moment.
    watches : what `descend` must watch for it.
    """

    name: str
    measure: Callable[[Trajectory | None], tuple[Tensor, Tensor, tuple[int, ...]]]
    watches: tuple[str, ...] = ()

    def check(self, run: Trajectory | None) -> Inequality:
        return Inequality(self.name, *self.measure(run))


@dataclass(frozen=True)
class Report:
    """What a theorem says of one start, run by run.

    hypotheses : what it asks, each computed.
    promises : what follows.
    along : what it asks all along a run, such as a slope; hypotheses once there is one.
    constants : the numbers that both are made of, by name.
    train : the matrices that move; empty for a statement about the start alone.
    largest_step : gives the largest step that the theorem allows, or a rule of `descent.steps`;
        asked only when somebody wants to know, since it may be the costly part.
    """

    hypotheses: tuple[Inequality, ...]
    promises: tuple[Linear | Promise, ...]
    constants: dict[str, Tensor] = field(default_factory=dict)
    train: str = ""
    largest_step: Callable[[], Any] | None = None
    along: tuple[Promise, ...] = ()
    theorem: Any = None  #: set by the theorem that is asked
    start: Any = None  #: of what it is the report

    def __reduce__(self) -> tuple:
        """What goes to another process is the start: the theorem is asked there again."""
        return self.theorem.about, (self.start,)

    @property
    def met(self) -> Bool[Tensor, "*r"]:
        """In which runs every hypothesis is met."""
        return _all(self.hypotheses)

    @cached_property
    def step(self):
        """The largest step that the theorem allows, one a run, or a rule; "1/L" if it names none."""
        return "1/L" if self.largest_step is None else self.largest_step()

    def __getitem__(self, name: str) -> Inequality | Tensor:
        """The hypothesis or constant of that name; ValueError with the list of names if none is."""
        known = {h.name: h for h in self.hypotheses} | self.constants
        return known[_validate.one_of("number of the report", name, known)]

    @property
    def watch(self) -> tuple[str, ...]:
        """What `descend` must watch for all promises to be seen."""
        each = (*self.promises, *self.along)
        return tuple(dict.fromkeys(name for p in each for name in p.watches))

    def bound(self, t, eta: Tensor | None = None) -> Float[Tensor, "t *r"]:
        """The bound on f_t / f_0 at steps ``t``, for the step ``eta`` (the largest if left out).

        ValueError if the statement bounds no loss over time.
        """
        linear = self._linear
        eta = _validate.tensor("eta", self.step if eta is None else eta).to(linear.mu)
        eta = eta if eta.ndim else eta.expand_as(linear.mu)  # one number is that of every run
        return torch.exp(-linear.decay(along(_validate.tensor("t", t), eta), eta))

    @property
    def _linear(self) -> Linear:
        found = next((p for p in self.promises if isinstance(p, Linear)), None)
        if found is None:
            raise error(
                ValueError, f"{self.theorem.id} bounds no loss over time", "see its promises"
            )
        return found

    def against(self, run: Trajectory | None = None) -> "Outcome":
        """Hold every promise against a run; ``None`` will do where the statement needs no run.

        Raises
        ------
        ValueError : if the run begins elsewhere, trained other weights, or lacks what a promise
            speaks of; the message then says what to watch.

        A run that stopped early, or took its steps by another rule, is none that the theorem speaks
        of: that is a hypothesis which it does not meet.
        """
        if self.train and run is None:
            raise error(
                ValueError,
                f"{self.theorem.id} speaks of descent",
                f"give a run of train={self.train!r}",
            )
        if run is not None and run.loss.dtype == torch.float32:
            remedy = "train in float64, as report.trial() does"
            raise error(ValueError, "the run is in float32, too coarse for a theorem", remedy)
        if run is not None:
            self._begins_here(run)
            self._trains_the_same(run)
        missing = [name for name in self.watch if name not in run.watched]
        if missing:
            raise error(
                ValueError, f"the run must watch {', '.join(missing)}", "give descend report.watch"
            )
        hypotheses = self.hypotheses + tuple(asked.check(run) for asked in self.along)
        if run is not None and isinstance(self.step, Tensor):
            hypotheses += (Inequality("η ≤ the largest step", run.eta, self.step),)
        if run is not None:
            hypotheses += self._missed(run)
        for linear in (p for p in self.promises if isinstance(p, Linear)):
            least = 16 * BLUR * linear.rounding  # else there is nothing to see in float64
            hypotheses += (Inequality("rounding ≪ ‖r_0‖", least, (2 * run.loss[0]).sqrt()),)
        return Outcome(self, hypotheses, tuple(p.check(run) for p in self.promises), run)

    def _begins_here(self, run: Trajectory) -> None:
        """Refuse a run that began elsewhere, of which this report says nothing."""
        at, first = self.start, run.loss[0]
        own = at.first if hasattr(at, "first") else loss(at.model, at.weights, at.problem)
        remedy = "train from the model, problem and weights of the report"
        if own.shape not in ((), first.shape):
            sizes = f"{tuple(own.shape)}, the run {tuple(first.shape)}"
            found = f"the report's start has runs of shape {sizes}"
            raise error(ValueError, found, remedy)
        # where all labels are fitted the loss is their rounding; beyond float64 it tells nothing
        least = 0.0 if hasattr(at, "first") else 1e-12 * float(at.problem.y.square().sum())
        off = (own.to(first) - first).abs()
        off = torch.where(off.isfinite() & (off > 1e-6 * first.abs() + least), off, 0.0)
        if bool(off.any()):
            found = "the run begins at another loss than the report's start"
            raise error(ValueError, f"{found}, off by {float(off.amax()):.3g}", remedy)

    def _trains_the_same(self, run: Trajectory) -> None:
        """Refuse a run of other weights than the theorem's."""
        if self.train and run.train and set(run.train) != set(self.train):
            found = f"the run trained {run.train}, but {self.theorem.id} speaks of {self.train}"
            raise error(ValueError, found, f"give a run of train={self.train!r}")

    def _missed(self, run: Trajectory) -> tuple[Inequality, ...]:
        """Hypotheses that are not met, where a run stopped or took its steps by another rule.

        Where the theorem names no step at all, any rule will do.
        """
        stopped, missed = (run.stopped_at >= 0).to(run.eta), []
        if bool(stopped.any()):
            missed.append(Inequality("the run goes on to the end", stopped, 0 * stopped))
        wanted = "constant" if isinstance(self.step, Tensor) else told(self.step)
        if not isinstance(self.step, str) and run.rule != wanted:
            other = torch.ones_like(run.eta)
            missed.append(Inequality("the steps are those of the theorem", other, 0 * other))
        return tuple(missed)

    def trial(self, steps: int = 1000, share: float = 1.0, looks: int = 40, **options) -> "Outcome":
        """Train as the theorem says, at ``share`` of its largest step, and hold it against that.

        Promises that watch the run look at it ``looks`` times, early steps more often, unless
        ``at`` names the steps. ``options`` are those of `descend`.

        Raises
        ------
        ValueError, TypeError : for a step, or for a share where the theorem names a rule, which
            has none.
        """
        if not self.train:
            return self.against()
        _validate.count("steps", steps)
        _validate.count("looks", looks)
        if "step" in options:
            found = f"trial takes the step of {self.theorem.id}, and was given another"
            raise error(
                TypeError, found, "give a share of it, or hold a run of your own by against"
            )
        if callable(self.step) and not (isinstance(share, (int, float)) and share == 1):
            found = f"{self.theorem.id} takes steps by a rule, of which there is no share"
            raise error(ValueError, found, "leave share out")
        step = share * self._positive_step() if isinstance(self.step, Tensor) else self.step
        if self.watch:
            at = sorted({int(steps * (j / looks) ** 2) for j in range(looks + 1)})
            options = {"watch": self.watch, "at": at} | options
        return self.against(self._descend(step=step, steps=steps, **options))

    def _positive_step(self) -> Tensor:
        """The largest step; where it is none, or any will do, the least that it is elsewhere."""
        sound = torch.isfinite(self.step) & (self.step > 0)
        if not bool(sound.any()):
            found = f"{self.theorem.id} gives no run a step to train with, but {span(self.step)}"
            remedy = "start elsewhere, or give report.against a run with a step of your own"
            raise error(ValueError, found, remedy)
        return torch.where(sound, self.step, self.step[sound].amin())

    def _descend(self, **options) -> Trajectory:
        """Train from the start, by the start's own ``descend`` where it has one."""
        if hasattr(self.start, "descend"):
            return self.start.descend(train=self.train, **options)
        where = (self.start.model, self.start.problem, self.start.weights)
        return descend(*where, train=self.train, **options)

    def rows(self) -> list[tuple[str, str, str]]:
        """What it shows of itself: a name, numbers, and a word."""
        rows = [(h.name, _sides(h), _share(h.met)) for h in self.hypotheses]
        rows += [(name, span(value), "") for name, value in self.constants.items()]
        if isinstance(self.step, Tensor):
            rows.append(("largest step", span(self.step), ""))
        rows += [("all along " + asked.name, "", "") for asked in self.along]
        return rows + [("then " + p.name, self._words(p), "") for p in self.promises]

    def record(self) -> dict:
        """The same as plain data, each number run by run, None for what is infinite or NaN.

        It is what ``report --json`` prints.
        """
        step = numbers(self.step) if isinstance(self.step, Tensor) else str(self.step)
        return {
            "theorem": self.theorem.id,
            "title": self.theorem.title,
            "standing": str(self.theorem.standing),
            "hypotheses": [_plain(h) for h in self.hypotheses],
            "along": [asked.name for asked in self.along],
            "constants": {name: numbers(value) for name, value in self.constants.items()},
            "promises": [promise.name for promise in self.promises],
            "train": self.train,
            "largest_step": step if self.train else None,
        }

    def _words(self, promise: Linear | Promise) -> str:
        if not isinstance(promise, Linear) or not isinstance(self.step, Tensor):
            return ""
        after = promise.steps_to(1e-6, self.step)
        return f"a millionth of f_0 after {span(after)} steps" if after.isfinite().all() else ""

    def __repr__(self) -> str:
        return text(f"{self.theorem.id}: {self.theorem.title}", self.rows())

    def _repr_html_(self) -> str:
        return table(self.theorem.title, self.rows())


@dataclass(frozen=True)
class Outcome:
    """What came of a theorem's promises in a run."""

    report: Report
    hypotheses: tuple[Inequality, ...]
    conclusions: tuple[Inequality, ...]
    run: Trajectory | None = None

    @property
    def met(self) -> Bool[Tensor, "*r"]:
        """In which runs every hypothesis is met, that on the step included."""
        return _all(self.hypotheses)

    @property
    def holds(self) -> bool:
        """Whether no conclusion fails in a run in which the hypotheses are met."""
        return all(bool((c.met | ~self.met).all()) for c in self.conclusions)

    def rows(self) -> list[tuple[str, str, str]]:
        """What it shows of itself: a name, numbers, and a word."""
        rows = [(h.name, _sides(h), _share(h.met)) for h in self.hypotheses]
        return rows + [
            (c.name, f"sharpness {span(c.sharpness)}", _verdict(c, self.met))
            for c in self.conclusions
        ]

    def record(self) -> dict:
        """The same as plain data, each number run by run."""
        found = [_plain(c) for c in self.conclusions]
        asked = [_plain(h) for h in self.hypotheses]
        return self.report.record() | {"hypotheses": asked, "conclusions": found}

    def __repr__(self) -> str:
        return text(f"{self.report.theorem.id}, {self._held}", self.rows())

    def _repr_html_(self) -> str:
        return table(f"{self.report.theorem.title}, {self._held}", self.rows())

    @property
    def _held(self) -> str:
        return "at the start" if self.run is None else "held against a run"


def _plain(inequality: Inequality) -> dict:
    sides = {} if inequality.at else {
        "left": numbers(inequality.left), "right": numbers(inequality.right)
    }  # fmt: skip
    return sides | {
        "name": inequality.name,
        "met": inequality.met.tolist(),
        "sharpness": numbers(inequality.sharpness),
        "broken_at": inequality.broken_at.tolist(),
    }


def numbers(values: Tensor) -> list | float | None:
    """As nested lists, with None for what is infinite or NaN: JSON has no word for it."""
    if values.ndim:
        return [numbers(each) for each in values]
    return values.item() if bool(values.isfinite()) else None


def _all(inequalities: tuple[Inequality, ...]) -> Tensor:
    if not inequalities:
        return torch.tensor(True)
    return torch.stack(torch.broadcast_tensors(*(h.met for h in inequalities))).all(0)


def along(t: Tensor, runs: Tensor) -> Tensor:
    """Steps (t) in front of the runs' dimensions."""
    return t.reshape(-1, *[1] * runs.ndim).to(runs)


def span(value: Tensor) -> str:
    """One number, or the median and the range over runs."""
    flat = torch.as_tensor(value, dtype=torch.float64).flatten()
    if bool((flat == flat[0]).all()):
        return f"{flat[0]:.3g}"
    return f"{flat.median():.3g} ({flat.min():.3g} to {flat.max():.3g})"


def _sides(h: Inequality) -> str:
    return f"{span(h.left)} {'<' if h.strict else '≤'} {span(h.right)}"


def _share(met: Tensor) -> str:
    if met.numel() == 1:
        return "met" if bool(met) else "NOT met"
    return f"met in {int(met.sum())} of {met.numel()}"


def _verdict(c: Inequality, met: Tensor) -> str:
    broken, met = torch.broadcast_tensors(c.broken_at, met)
    if not bool(met.any()):
        return "holds" if bool((broken < 0).all()) else "fails, but is not promised"
    broken = broken[met]
    if bool((broken < 0).all()):
        return "holds"
    count = f" in {int((broken >= 0).sum())} of {broken.numel()}" if broken.numel() > 1 else ""
    return f"FAILS{count}" + (f", first at step {int(broken[broken >= 0].min())}" if c.at else "")


def text(title: str, rows: list[tuple[str, ...]]) -> str:
    """Rows as aligned text under a title."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{x:{w}}" for x, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join([title, *("  " + line.rstrip() for line in lines)])


def table(title: str, rows: list[tuple[str, ...]]) -> str:
    """Rows as a table for Jupyter, letters and numbers as people write them."""
    from ..plots._text import lettered, spoken  # not above: a theorem needs no matplotlib

    body = "".join(
        "<tr>" + "".join(f"<td>{lettered(spoken(x))}</td>" for x in row) + "</tr>" for row in rows
    )
    return f'<table class="descent-report"><caption>{html.escape(title)}</caption>{body}</table>'
