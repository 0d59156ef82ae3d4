"""What becomes of each run on the way: its losses, and whether it still moves."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

#: A run whose loss exceeds this many times its start (or 1, if larger) is stopped as divergent.
BLOW_UP = 1e12
#: A loss that is not lower than its best by this part of it has not fallen.
FALL = 1e-6
NEVER = 2**62


class Record(NamedTuple):
    """The same as arrays, one entry a run, for a compiled loop to read and to write.

    losses : (records, runs), one each ``every`` steps.
    moves : whether the run still does.
    last : the loss of one that does not.
    ceiling : the loss above which it has diverged.
    target, patience : the loss, and the number of steps without a fall, at which it stops.
    best, idle : its lowest loss, and the steps since that fell by ``fall`` times itself.
    diverged_at, stopped_at : the step, -1 so far.
    """

    losses: np.ndarray
    moves: np.ndarray
    last: np.ndarray
    ceiling: np.ndarray
    target: np.ndarray
    patience: np.ndarray
    best: np.ndarray
    idle: np.ndarray
    diverged_at: np.ndarray
    stopped_at: np.ndarray
    every: int
    fall: float


class Monitor:
    """The runs of one block.

    On a processor a look at the numbers costs nothing, and while every run moves there is nothing
    else to do; elsewhere it would wait for the device, and every step is treated alike.

    Parameters
    ----------
    loss : (runs) at the start.
    losses : (records, runs), where they are to be written.
    every : how many steps lie between two records.
    until : the fraction of its first loss at which a run stops.
    stall : after how many steps without a fall it does.
    """

    def __init__(
        self,
        loss: Tensor,
        losses: Tensor,
        *,
        every: int = 1,
        until: float | None = None,
        stall: int | None = None,
    ):
        self.losses, self.every, self.stall = losses, every, stall
        sound = torch.isfinite(loss)
        self.losses[0] = torch.where(sound, loss, torch.nan)
        self.ceiling = BLOW_UP * loss.clamp_min(1)
        self.target = None if until is None else until * loss
        self.best, self.idle = loss.clone(), torch.zeros_like(loss, dtype=torch.int64)
        self.last = torch.full_like(loss, torch.nan)  # the losses of runs that no longer move
        self.moves = sound
        self.stopped_at = torch.full_like(loss, -1, dtype=torch.int64)
        self.diverged_at = self.stopped_at.where(sound, 0)
        self.all_move = loss.device.type == "cpu" and bool(sound.all())  # as far as is known
        self.finished = False

    def record(self) -> Record:
        """All of it as arrays that share its memory."""
        target = torch.full_like(self.best, -torch.inf) if self.target is None else self.target
        patience = torch.full_like(self.idle, NEVER if self.stall is None else self.stall)
        return Record(
            *(
                x.numpy()
                for x in (
                    self.losses,
                    self.moves,
                    self.last,
                    self.ceiling,
                    target,
                    patience,
                    self.best,
                    self.idle,
                    self.diverged_at,
                    self.stopped_at,
                )
            ),
            self.every,
            FALL,
        )

    def observe(self, t: int, loss: Tensor) -> Tensor | None:
        """Record the loss that step t led to; give the runs that took it, None for all."""
        sound = loss <= self.ceiling  # false for NaN as well
        done = self._done(loss)
        self.all_move = (
            self.all_move and bool(sound.all()) and (done is None or not bool(done.any()))
        )
        if self.all_move:
            self._write(t, loss)
            return None
        moved = self.moves & sound
        self.diverged_at = torch.where(self.moves & ~sound, t, self.diverged_at)
        self._write(t, torch.where(moved, loss, self.last))
        self.moves = moved
        if done is not None:
            now = moved & done
            self.last = torch.where(now, loss, self.last)
            self.stopped_at = torch.where(now, t, self.stopped_at)
            self.moves = moved & ~now
        return moved

    def _done(self, loss: Tensor) -> Tensor | None:
        """Which runs have reached their target, or have not fallen for too long."""
        done = None if self.target is None else loss <= self.target
        if self.stall is None:
            return done
        better = loss < self.best - FALL * self.best.abs()  # of a logarithm, it is negative
        self.best = torch.where(better, loss, self.best)
        self.idle = torch.where(better, 0, self.idle + 1)
        stalled = self.idle >= self.stall
        return stalled if done is None else done | stalled

    def finish(self, t: int) -> bool:
        """Whether no run moves any more; their losses after step t are then those they stopped at."""
        if not self.finished and not bool(self.moves.any()):
            self.losses[t // self.every + 1 :] = self.last
            self.finished = True
        return self.finished

    def _write(self, t: int, loss: Tensor) -> None:
        if t % self.every == 0:
            self.losses[t // self.every] = loss
