"""Context and plan of a fit: what surrounds it and what it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from skinterflow._fit.callbacks import FitEvents
from skinterflow._fit.limits import Interruption, TimeBudget
from skinterflow._fit.recipe import Recipe, StudentRecipe
from skinterflow._fit.validation import Fold
from skinterflow._persistence.checkpoint import Checkpoint
from skinterflow.interflow import processes
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.scaling import Scaling


@dataclass
class FitContext:
    """Context of one call of `fit`: seed, warm start, callbacks, checkpoint, time and Ctrl-C.

    Attributes
    ----------
    warm : bool
        Whether the fit continues an earlier one.
    events : FitEvents
        Events for scikit-learn's callbacks.
    budget : TimeBudget
    interruption : Interruption
        Records a Ctrl-C.
    device : torch.device
    seed : int
        Seed of all random numbers of the fit.
    checkpoint : Checkpoint or None
    setup : torch.Generator on the CPU
        Random numbers drawn before the training: splits, scalings, initial weights.
    """

    warm: bool
    events: FitEvents
    budget: TimeBudget
    interruption: Interruption = field(default_factory=Interruption)
    device: torch.device = field(init=False)
    seed: int = field(init=False)
    checkpoint: Checkpoint | None = field(init=False, default=None)
    setup: torch.Generator = field(init=False)

    def share_interruption(self) -> None:
        """Take note of a Ctrl-C on any rank after its training."""
        if processes.any_rank(processes.interrupted()) and self.interruption.message is None:
            self.interruption.note(
                "The fit was interrupted after its training; the estimator is fitted."
            )

    def end(self) -> None:
        """Raise `KeyboardInterrupt` if there was a Ctrl-C, or else remove the checkpoint."""
        self.interruption.raise_if_noted()
        if self.checkpoint is not None:
            self.checkpoint.remove()


class Plan(NamedTuple):
    """Data, path and targets of a fit.

    Attributes
    ----------
    folds : list of Fold, one for each member
    whole : Fold
        All rows, in the units of the model.
    path : StochasticInterpolant
    base : Scaling
        Map from rows of the source to base points.
    targets : tuple of str
        Quantities that are learned.
    recipe : Recipe
    target_scaling : Scaling
    source_scaling : Scaling or None
        None is the trained base.
    student : StudentRecipe or None
        None is no distillation.
    """

    folds: list[Fold]
    whole: Fold
    path: StochasticInterpolant
    base: Scaling
    targets: tuple[str, ...]
    recipe: Recipe
    target_scaling: Scaling
    source_scaling: Scaling | None = None
    student: StudentRecipe | None = None
