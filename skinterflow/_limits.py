"""What ends a fit before its last step: Ctrl-C, and a budget of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

clock = time.monotonic
"""Seconds; a test sets another one."""
_LEAST_SECONDS = 1e-3


class Interruption:
    """Ctrl-C in a fit.

    The first one ends the training; what makes a model of it is done all the same, and
    `KeyboardInterrupt` is raised when the estimator is fitted.  A second one ends the fit where it
    is.
    """

    def __init__(self) -> None:
        self.message: str | None = None

    def note(self, message: str) -> None:
        """Keep the first Ctrl-C for the end of the fit; raise at a second one."""
        if self.message is not None:
            raise KeyboardInterrupt(self.message)
        self.message = message

    def finish(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, which is done anew if the first Ctrl-C falls into it."""
        try:
            return work()
        except KeyboardInterrupt:
            self.note("The fit was interrupted after its training; the estimator is fitted.")
            return work()

    def raise_if_noted(self) -> None:
        """Raise `KeyboardInterrupt` if there was a Ctrl-C: for whoever called the fit, such as a
        search."""
        if self.message is not None:
            raise KeyboardInterrupt(self.message)


class TimeBudget:
    """Seconds that a fit may take, from its beginning.

    Parameters
    ----------
    seconds : float, or None for a fit without a limit

    Attributes
    ----------
    reserved : float
        Seconds that are kept for what follows the training.
    kept : float
        Those of them that are kept for what follows the choice of the end time: the student, and
        the calibration.
    last : float
        Those of them that are kept for what follows the student: the calibration.
    calibrates : bool
        Whether there is time to calibrate the solver.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.reserved, self.kept, self.last, self.calibrates = 0.0, 0.0, 0.0, True
        self._started = clock()
        self._training_from, self._earlier = self._started, 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds is not None

    def begin_training(self, earlier: float = 0.0) -> None:
        """From here on the training takes its time; one that is resumed has taken some
        `earlier`."""
        self._training_from, self._earlier = clock(), earlier

    def trained(self) -> float:
        """Seconds of training so far."""
        return clock() - self._training_from + self._earlier

    def part(self) -> float:
        """Part of the training's time that has passed, in [0, 1]; 0 if there is no limit."""
        if self.seconds is None:
            return 0.0
        before = self._training_from - self._started
        return min(1.0, self.trained() / max(_LEAST_SECONDS, self.seconds - before - self.reserved))

    def left(self) -> float:
        """Seconds until the fit is to end; infinite if there is no limit."""
        if self.seconds is None:
            return float("inf")
        return self.seconds - (clock() - self._started) - self._earlier


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = clock()
    work()
    return clock() - started
