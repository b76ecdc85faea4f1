"""Early ends of a fit: Ctrl-C and a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from skinterflow.interflow import processes

_Result = TypeVar("_Result")

clock = time.monotonic
"""Clock in seconds; tests replace it."""
_MIN_SECONDS = 1e-3


def now() -> float:
    """Return the time in seconds: that of the first rank, so that all make the same decisions."""
    return processes.number_of_first(clock())


class Interruption:
    """Ctrl-C during a fit.

    The first one ends the training.  The model is still completed, and `KeyboardInterrupt` is
    raised once the estimator is fitted.  A second one aborts the fit.
    """

    def __init__(self) -> None:
        self.message: str | None = None

    def note(self, message: str) -> None:
        """Store the first Ctrl-C until the end of the fit; raise at the second."""
        if self.message is not None:
            raise KeyboardInterrupt(self.message)
        self.message = message

    def finish(self, work: Callable[[], _Result]) -> _Result:
        """Return the result of `work`, repeated if the first Ctrl-C interrupts it."""
        try:
            return work()
        except KeyboardInterrupt:
            self.note("The fit was interrupted after its training; the estimator is fitted.")
            return work()

    def raise_if_noted(self) -> None:
        """Raise `KeyboardInterrupt` if there was a Ctrl-C, to stop a caller such as a search."""
        if self.message is not None:
            raise KeyboardInterrupt(self.message)


class TimeBudget:
    """Time budget of a fit, which starts with the object.

    Parameters
    ----------
    seconds : float or None
        Length of the budget; None is no limit.

    Attributes
    ----------
    reserved : float
        Seconds reserved for all that follows the training.
    reserved_for_model : float
        Seconds of these that follow the choice of the end time: distillation and calibration.
    reserved_for_calibration : float
        Seconds of these for the calibration alone.
    calibrates : bool
        Whether there is time to calibrate the solver.
    seconds_trained : float
        Seconds of training at the last look at the clock.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.reserved, self.reserved_for_model, self.reserved_for_calibration = 0.0, 0.0, 0.0
        self.calibrates = True
        self._started = now()
        self._training_from, self._earlier = self._started, 0.0
        self.seconds_trained = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds is not None

    def begin_training(self, earlier: float = 0.0) -> None:
        """Start the clock of the training; a resumed one has already taken `earlier` seconds."""
        self._training_from, self._earlier = now(), earlier
        self.seconds_trained = earlier

    def trained(self) -> float:
        """Return the seconds of training so far."""
        self.seconds_trained = now() - self._training_from + self._earlier
        return self.seconds_trained

    def part(self) -> float:
        """Return the elapsed fraction of the training time, in [0, 1]; 0 if there is no limit."""
        if self.seconds is None:
            return 0.0
        before = self._training_from - self._started
        return min(1.0, self.trained() / max(_MIN_SECONDS, self.seconds - before - self.reserved))

    def left(self) -> float:
        """Return the seconds until the end of the budget; infinite if there is no limit."""
        if self.seconds is None:
            return float("inf")
        return self.seconds - (now() - self._started) - self._earlier


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    started = now()
    work()
    return now() - started
