"""The mathematics of the papers on torch tensors, usable without the estimators.

A path (:mod:`~skinterflow.interflow.interpolants`), with or without a noise term
(:mod:`~skinterflow.interflow.noise`), and a law of times (:mod:`~skinterflow.interflow.times`)
define an objective (:mod:`~skinterflow.interflow.objectives`) for a velocity field
(:mod:`~skinterflow.interflow.fields`) or for several quantities at once
(:mod:`~skinterflow.interflow.heads`).  Training (:mod:`~skinterflow.interflow.training`) on pairs
of points (:mod:`~skinterflow.interflow.couplings`) gives a flow, its density and its diffusions
(:mod:`~skinterflow.interflow.flows`), by integration (:mod:`~skinterflow.interflow.ode`,
:mod:`~skinterflow.interflow.sde`).

Drift, velocity, score and denoiser have one interface (:mod:`~skinterflow.interflow.quantities`);
between Gaussian mixtures they are known in closed form (:mod:`~skinterflow.interflow.mixtures`).
:mod:`~skinterflow.interflow.score_based` has the time of score-based diffusion, and
:mod:`~skinterflow.interflow.diffusive` diffusions from a single point.
:mod:`~skinterflow.interflow.conditional` is the same for outputs given a context.
:mod:`~skinterflow.interflow.diagnostics` measures how well they were learned, and
:mod:`~skinterflow.interflow.likelihoods` what this means for the likelihood.
:mod:`~skinterflow.interflow.scaling` maps data to the units of the flow, and
:mod:`~skinterflow.interflow.marginals` maps single columns.
:mod:`~skinterflow.interflow.atoms` is for columns that repeat single values.
"""

from skinterflow.interflow.alternatives import (
    CrossedObjective,
    PenalizedObjective,
    ScoreObjective,
)
from skinterflow.interflow.atoms import (
    AtomBase,
    AtomField,
    AtomMasses,
    AtomPath,
    AtomScaling,
)
from skinterflow.interflow.bridges import GaussianBridge, bridge_defect, bridge_pairs
from skinterflow.interflow.combined import CombinedDensity
from skinterflow.interflow.conditional import (
    BoundField,
    ConditionalFlow,
    ConditionalMLP,
    ConditionalObjective,
)
from skinterflow.interflow.couplings import Coupling, Given, Independent, OptimalTransport
from skinterflow.interflow.custom import CustomField
from skinterflow.interflow.diagnostics import (
    PathStatistics,
    best_epsilon,
    kl_bound,
    kl_bound_by_velocity,
    lipschitz_constant,
    path_statistics,
    straightness,
)
from skinterflow.interflow.diffusive import DiffusiveInterpolant
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import AveragedField, ResidualMLP, VelocityField
from skinterflow.interflow.flows import (
    AccuracyWarning,
    Diffusion,
    Flow,
    PathEstimate,
    Pushforward,
    denoise,
)
from skinterflow.interflow.gradients import GradientField, Potential
from skinterflow.interflow.grading import GradedSolver, Grading
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
from skinterflow.interflow.likelihoods import (
    CrossEntropy,
    LikelihoodErrors,
    cross_entropy,
    likelihood_errors,
)
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.muon import Muon
from skinterflow.interflow.noise import (
    Brownian,
    Gamma,
    LearnedGamma,
    Normalized,
    Quadratic,
    Sigmoid,
    SineSquared,
    StochasticInterpolant,
)
from skinterflow.interflow.objectives import (
    BridgeObjective,
    DistillationObjective,
    Ensemble,
    PathObjective,
    path_loss,
)
from skinterflow.interflow.ode import Calibration, Solution, Solver, calibrate
from skinterflow.interflow.one_sided import MirrorInterpolant, OneSidedInterpolant
from skinterflow.interflow.quantities import LearnedQuantities, Quantities
from skinterflow.interflow.scaling import (
    Compose,
    Identity,
    LearnedGaussian,
    Scaling,
    Standardize,
    Whiten,
)
from skinterflow.interflow.score_based import (
    ScoreModel,
    diffusion_time,
    flow_time,
    noising_level,
)
from skinterflow.interflow.sde import NOISE_LEVELS, StochasticSolver
from skinterflow.interflow.times import Beta, TimeLaw
from skinterflow.interflow.training import Step, Training, train
from skinterflow.interflow.unet import UNet

__all__ = [
    "NOISE_LEVELS",
    "AccuracyWarning",
    "AffineInterpolant",
    "AtomBase",
    "AtomField",
    "AtomMasses",
    "AtomPath",
    "AtomScaling",
    "AveragedField",
    "Beta",
    "BoundField",
    "Bounds",
    "BridgeObjective",
    "Brownian",
    "Calibration",
    "CombinedDensity",
    "Compose",
    "ConditionalFlow",
    "ConditionalMLP",
    "ConditionalObjective",
    "Coupling",
    "CrossEntropy",
    "CrossedObjective",
    "CustomField",
    "Diffusion",
    "DiffusiveInterpolant",
    "DistillationObjective",
    "EncodingDecoding",
    "Ensemble",
    "Flow",
    "Fourier",
    "Gamma",
    "GaussianBridge",
    "Gaussianize",
    "Given",
    "GradedSolver",
    "GradientField",
    "Grading",
    "HeadedDrift",
    "Heads",
    "Hutchinson",
    "Identity",
    "Independent",
    "Interpolant",
    "LearnedGamma",
    "LearnedGaussian",
    "LearnedQuantities",
    "LikelihoodErrors",
    "Linear",
    "Mirror",
    "MirrorInterpolant",
    "MixtureField",
    "Muon",
    "NormalMixture",
    "Normalized",
    "OneSidedInterpolant",
    "OptimalTransport",
    "PathEstimate",
    "PathObjective",
    "PathStatistics",
    "PenalizedObjective",
    "Potential",
    "Pushforward",
    "Quadratic",
    "Quantities",
    "ResidualMLP",
    "Scaling",
    "ScoreModel",
    "ScoreObjective",
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
    "UNet",
    "VariancePreserving",
    "VelocityField",
    "Whiten",
    "YeoJohnson",
    "best_epsilon",
    "bridge_defect",
    "bridge_pairs",
    "calibrate",
    "cross_entropy",
    "denoise",
    "diffusion_time",
    "flow_time",
    "kl_bound",
    "kl_bound_by_velocity",
    "likelihood_errors",
    "lipschitz_constant",
    "noising_level",
    "path_loss",
    "path_statistics",
    "straightness",
    "train",
]
