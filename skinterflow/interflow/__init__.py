"""The mathematics of the papers on torch tensors, usable without the estimators.

A path (:mod:`~skinterflow.interflow.interpolants`) and a law of times (:mod:`~skinterflow.interflow.times`) make an objective
(:mod:`~skinterflow.interflow.objectives`) for a velocity field (:mod:`~skinterflow.interflow.fields`); training it
(:mod:`~skinterflow.interflow.training`) on pairs of points (:mod:`~skinterflow.interflow.couplings`) gives a flow, its density and its
diffusions (:mod:`~skinterflow.interflow.flows`), by integration (:mod:`~skinterflow.interflow.ode`, :mod:`~skinterflow.interflow.sde`).
What was learned is measured by :mod:`~skinterflow.interflow.diagnostics`.  Data are brought to the flow's units by
:mod:`~skinterflow.interflow.scaling`.
"""

from skinterflow.interflow.couplings import Coupling, Independent, OptimalTransport
from skinterflow.interflow.diagnostics import PathStatistics, lipschitz_constant, path_statistics
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import AveragedField, ResidualMLP, VelocityField
from skinterflow.interflow.flows import AccuracyWarning, Diffusion, Flow, Pushforward
from skinterflow.interflow.interpolants import (
    AffineInterpolant,
    EncodingDecoding,
    Fourier,
    Interpolant,
    Linear,
    Trigonometric,
    VariancePreserving,
)
from skinterflow.interflow.muon import Muon
from skinterflow.interflow.objectives import DistillationObjective, Ensemble, VelocityObjective, velocity_loss
from skinterflow.interflow.ode import Calibration, Solution, Solver, calibrate
from skinterflow.interflow.scaling import Compose, LearnedGaussian, Scaling, Standardize, Whiten, YeoJohnson
from skinterflow.interflow.sde import NOISE_LEVELS, StochasticSolver
from skinterflow.interflow.times import Beta, TimeLaw
from skinterflow.interflow.training import Step, train

__all__ = [
    "NOISE_LEVELS",
    "AccuracyWarning",
    "AffineInterpolant",
    "AveragedField",
    "Beta",
    "Calibration",
    "Compose",
    "Coupling",
    "Diffusion",
    "DistillationObjective",
    "EncodingDecoding",
    "Ensemble",
    "Flow",
    "Fourier",
    "Hutchinson",
    "Independent",
    "Interpolant",
    "LearnedGaussian",
    "Linear",
    "Muon",
    "OptimalTransport",
    "PathStatistics",
    "Pushforward",
    "ResidualMLP",
    "Scaling",
    "Solution",
    "Solver",
    "Standardize",
    "Step",
    "StochasticSolver",
    "TimeLaw",
    "Trigonometric",
    "VariancePreserving",
    "VelocityField",
    "VelocityObjective",
    "Whiten",
    "YeoJohnson",
    "calibrate",
    "lipschitz_constant",
    "path_statistics",
    "train",
    "velocity_loss",
]
