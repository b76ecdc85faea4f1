"""skinterflow: density estimation with stochastic interpolants, in scikit-learn's manner."""

from skinterflow._version import __version__
from skinterflow.density import InterpolantFlowDensity
from skinterflow.display import (
    CalibrationDisplay,
    DensityDisplay,
    TrainingDisplay,
    TrajectoryDisplay,
)
from skinterflow.exceptions import (
    AccuracyWarning,
    DegenerateDataWarning,
    DistillationWarning,
    SavedModelError,
)
from skinterflow.regressor import InterpolantFlowRegressor
from skinterflow.transport import InterpolantTransport

__all__ = [
    "AccuracyWarning",
    "CalibrationDisplay",
    "DegenerateDataWarning",
    "DensityDisplay",
    "DistillationWarning",
    "InterpolantFlowDensity",
    "InterpolantFlowRegressor",
    "InterpolantTransport",
    "SavedModelError",
    "TrainingDisplay",
    "TrajectoryDisplay",
    "__version__",
]
