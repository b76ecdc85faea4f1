"""skinterflow: density estimation with stochastic interpolants, in scikit-learn's manner."""

from skinterflow._distillation import DistillationWarning
from skinterflow._scaling import DegenerateDataWarning
from skinterflow.density import InterpolantFlowDensity
from skinterflow.interflow.flows import AccuracyWarning
from skinterflow.transport import InterpolantTransport

__version__ = "0.1.0"

__all__ = [
    "AccuracyWarning",
    "DegenerateDataWarning",
    "DistillationWarning",
    "InterpolantFlowDensity",
    "InterpolantTransport",
    "__version__",
]
