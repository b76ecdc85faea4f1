"""The mathematics of the papers on torch tensors, usable without the estimators.

A path (:mod:`~skinterflow.interflow.interpolants`) and a law of times (:mod:`~skinterflow.interflow.times`) make an objective
(:mod:`~skinterflow.interflow.objectives`) for a velocity field (:mod:`~skinterflow.interflow.fields`); training it
(:mod:`~skinterflow.interflow.training`) gives a flow and its density (:mod:`~skinterflow.interflow.flows`), by integration
(:mod:`~skinterflow.interflow.ode`).  Data are brought to the flow's units by :mod:`~skinterflow.interflow.scaling`.
"""

from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import AveragedField, ResidualMLP, VelocityField
from skinterflow.interflow.flows import AccuracyWarning, Flow, Pushforward
from skinterflow.interflow.interpolants import AffineInterpolant, Interpolant, Linear, Trigonometric
from skinterflow.interflow.muon import Muon
from skinterflow.interflow.objectives import DistillationObjective, Ensemble, VelocityObjective, velocity_loss
from skinterflow.interflow.ode import Calibration, Solution, Solver, calibrate
from skinterflow.interflow.scaling import Compose, Scaling, Standardize, Whiten, YeoJohnson
from skinterflow.interflow.times import Beta, TimeLaw
from skinterflow.interflow.training import Step, train

__all__ = [
    "AccuracyWarning",
    "AffineInterpolant",
    "AveragedField",
    "Beta",
    "Calibration",
    "Compose",
    "DistillationObjective",
    "Ensemble",
    "Flow",
    "Hutchinson",
    "Interpolant",
    "Linear",
    "Muon",
    "Pushforward",
    "ResidualMLP",
    "Scaling",
    "Solution",
    "Solver",
    "Standardize",
    "Step",
    "TimeLaw",
    "Trigonometric",
    "VelocityField",
    "VelocityObjective",
    "Whiten",
    "YeoJohnson",
    "calibrate",
    "train",
    "velocity_loss",
]
