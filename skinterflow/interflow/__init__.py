"""The mathematics of the papers on torch tensors, usable without the estimators.

A path
(:mod:`~skinterflow.interflow.interpolants`, with or without a :mod:`~skinterflow.interflow.latent`) and a law of times (:mod:`~skinterflow.interflow.times`) make an objective (:mod:`~skinterflow.interflow.objectives`) for a velocity field (:mod:`~skinterflow.interflow.fields`), or for several quantities at once (:mod:`~skinterflow.interflow.heads`); training it (:mod:`~skinterflow.interflow.training`) on pairs of points (:mod:`~skinterflow.interflow.couplings`) gives a flow, its density and its diffusions (:mod:`~skinterflow.interflow.flows`), by integration (:mod:`~skinterflow.interflow.ode`, :mod:`~skinterflow.interflow.sde`).

Drift, velocity, score and denoiser have one interface
(:mod:`~skinterflow.interflow.quantities`), and closed forms between Gaussian mixtures (:mod:`~skinterflow.interflow.mixtures`). What was learned is measured by :mod:`~skinterflow.interflow.diagnostics`. Data are brought to the flow's units by :mod:`~skinterflow.interflow.scaling`, column by column by :mod:`~skinterflow.interflow.marginals`.
"""

from skinterflow.interflow.bridges import bridge_defect
from skinterflow.interflow.couplings import Coupling, Independent, OptimalTransport
from skinterflow.interflow.diagnostics import (
    PathStatistics,
    best_epsilon,
    kl_bound,
    kl_bound_by_velocity,
    lipschitz_constant,
    path_statistics,
)
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import AveragedField, ResidualMLP, VelocityField
from skinterflow.interflow.flows import AccuracyWarning, Diffusion, Flow, PathEstimate, Pushforward
from skinterflow.interflow.grading import GradedSolver, Grading, grade
from skinterflow.interflow.heads import HeadedDrift, Heads, SeparateHeads, SharedTrunk
from skinterflow.interflow.interpolants import (
    AffineInterpolant,
    EncodingDecoding,
    Fourier,
    Interpolant,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from skinterflow.interflow.latent import (
    Brownian,
    Gamma,
    LearnedGamma,
    Normalized,
    Quadratic,
    Sigmoid,
    SineSquared,
    StochasticInterpolant,
)
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.muon import Muon
from skinterflow.interflow.objectives import (
    BridgeObjective,
    DistillationObjective,
    Ensemble,
    PathObjective,
    path_loss,
)
from skinterflow.interflow.ode import Calibration, Solution, Solver, calibrate
from skinterflow.interflow.quantities import LearnedQuantities, Quantities
from skinterflow.interflow.scaling import Compose, LearnedGaussian, Scaling, Standardize, Whiten
from skinterflow.interflow.sde import NOISE_LEVELS, StochasticSolver
from skinterflow.interflow.times import Beta, TimeLaw
from skinterflow.interflow.training import Step, Training, train

__all__ = [
    "NOISE_LEVELS",
    "AccuracyWarning",
    "AffineInterpolant",
    "AveragedField",
    "Beta",
    "Bounds",
    "BridgeObjective",
    "Brownian",
    "Calibration",
    "Compose",
    "Coupling",
    "Diffusion",
    "DistillationObjective",
    "EncodingDecoding",
    "Ensemble",
    "Flow",
    "Fourier",
    "Gamma",
    "Gaussianize",
    "GradedSolver",
    "Grading",
    "HeadedDrift",
    "Heads",
    "Hutchinson",
    "Independent",
    "Interpolant",
    "LearnedGamma",
    "LearnedGaussian",
    "LearnedQuantities",
    "Linear",
    "Mirror",
    "MixtureField",
    "Muon",
    "NormalMixture",
    "Normalized",
    "OptimalTransport",
    "PathEstimate",
    "PathObjective",
    "PathStatistics",
    "Pushforward",
    "Quadratic",
    "Quantities",
    "ResidualMLP",
    "Scaling",
    "SeparateHeads",
    "SharedTrunk",
    "Sigmoid",
    "SineSquared",
    "Solution",
    "Solver",
    "Standardize",
    "Step",
    "StochasticInterpolant",
    "StochasticSolver",
    "TimeLaw",
    "Training",
    "Trigonometric",
    "VariancePreserving",
    "VelocityField",
    "Whiten",
    "YeoJohnson",
    "best_epsilon",
    "bridge_defect",
    "calibrate",
    "grade",
    "kl_bound",
    "kl_bound_by_velocity",
    "lipschitz_constant",
    "path_loss",
    "path_statistics",
    "train",
]
