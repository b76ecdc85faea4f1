"""skinterflow: density estimation with stochastic interpolants, in scikit-learn's manner."""

from skinterflow._data.memmap import to_memmap
from skinterflow._launch import launch
from skinterflow._reflow import reflow
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
    ProcessGroupError,
    SavedModelError,
)
from skinterflow.interflow.processes import all_ranks, one_process
from skinterflow.outlier_display import OutlierExplanationDisplay
from skinterflow.outliers import InterpolantFlowOutlierDetector
from skinterflow.regression_display import (
    ConditionalDensityDisplay,
    PITDisplay,
    PredictionIntervalDisplay,
)
from skinterflow.regressor import InterpolantFlowRegressor
from skinterflow.transport import InterpolantTransport

__all__ = [
    "AccuracyWarning",
    "CalibrationDisplay",
    "ConditionalDensityDisplay",
    "DegenerateDataWarning",
    "DensityDisplay",
    "DistillationWarning",
    "InterpolantFlowDensity",
    "InterpolantFlowOutlierDetector",
    "InterpolantFlowRegressor",
    "InterpolantTransport",
    "OutlierExplanationDisplay",
    "PITDisplay",
    "PredictionIntervalDisplay",
    "ProcessGroupError",
    "SavedModelError",
    "TrainingDisplay",
    "TrajectoryDisplay",
    "__version__",
    "all_ranks",
    "launch",
    "one_process",
    "reflow",
    "to_memmap",
]
