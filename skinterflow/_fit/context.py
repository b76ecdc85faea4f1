"""What surrounds a fit, and what it works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from skinterflow._fit.callbacks import FitEvents
from skinterflow._fit.limits import Interruption, TimeBudget
from skinterflow._fit.recipe import Recipe
from skinterflow._fit.validation import Fold
from skinterflow._persistence.checkpoint import Checkpoint
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.scaling import Scaling


@dataclass
class FitContext:
    """Context of one call of `fit`: seed, warm start, callbacks, checkpoint, time and Ctrl-C.

    Attributes
    ----------
    warm : bool, whether the fit continues an earlier one
    events : FitEvents, for scikit-learn's callbacks
    budget : TimeBudget
    interruption : Interruption, where a Ctrl-C is noted
    device : torch.device
    seed : int, from which all random numbers of the fit follow
    checkpoint : Checkpoint or None
    setup : torch.Generator on the CPU, for what is drawn before the training
    """

    warm: bool
    events: FitEvents
    budget: TimeBudget
    interruption: Interruption = field(default_factory=Interruption)
    device: torch.device = field(init=False)
    seed: int = field(init=False)
    checkpoint: Checkpoint | None = field(init=False, default=None)
    setup: torch.Generator = field(init=False)

    def end(self) -> None:
        """Raise `KeyboardInterrupt` if there was a Ctrl-C, or else remove the checkpoint."""
        self.interruption.raise_if_noted()
        if self.checkpoint is not None:
            self.checkpoint.remove()


class Plan(NamedTuple):
    """What a fit works on and what it learns.

    Attributes
    ----------
    folds : list of Fold, one for each member
    whole : Fold, all rows in the units of the model
    path : StochasticInterpolant
    base : Scaling that makes base points of the rows of the source
    targets : tuple of str, the quantities that are learned
    recipe : Recipe
    target_scaling : Scaling of the rows of the target
    source_scaling : Scaling of the rows of the source, or None where it is the trained base
    student_widths : list of int or None, widths of a student that is distilled
    """

    folds: list[Fold]
    whole: Fold
    path: StochasticInterpolant
    base: Scaling
    targets: tuple[str, ...]
    recipe: Recipe
    target_scaling: Scaling
    source_scaling: Scaling | None = None
    student_widths: list[int] | None = None
