"""Table of components: their classes, their names as parameters, and how they are saved.

An object of any other class can be used in a fit, but the model cannot be saved.  A new component
needs one line here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from skinterflow._data.encoding import FeatureEncoding
from skinterflow._data.trees import BoostedTrees
from skinterflow.interflow.atoms import (
    AtomBase,
    AtomField,
    AtomMasses,
    AtomPath,
    AtomScaling,
)
from skinterflow.interflow.conditional import ConditionalMLP
from skinterflow.interflow.couplings import Coupling, Given, Independent, OptimalTransport
from skinterflow.interflow.custom import CustomField
from skinterflow.interflow.fields import AveragedField, ResidualMLP
from skinterflow.interflow.gradients import GradientField, Potential
from skinterflow.interflow.grading import Grading
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads, SharedTrunk
from skinterflow.interflow.interpolants import (
    EncodingDecoding,
    Fourier,
    Interpolant,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.mixtures import NormalMixture
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
from skinterflow.interflow.ode import Calibration, Solver
from skinterflow.interflow.scaling import Compose, Identity, LearnedGaussian, Standardize, Whiten
from skinterflow.interflow.times import Beta
from skinterflow.interflow.unet import UNet


class Component(NamedTuple):
    """A class whose objects can be saved.

    Attributes
    ----------
    cls : type
        It stores the arguments of its constructor as attributes of the same names.
    name : str or None
        Value of an estimator's parameter that means an object with default arguments.
    has_weights : bool
        Whether the constructor creates parameters that are not among its arguments.
    """

    cls: Any
    name: str | None = None
    has_weights: bool = False


COMPONENTS = (
    Component(Trigonometric, "trigonometric"),
    Component(Linear, "linear"),
    Component(VariancePreserving, "variance_preserving"),
    Component(Fourier, "fourier", has_weights=True),
    Component(EncodingDecoding, "encoding_decoding"),
    Component(Mirror, "mirror"),
    Component(Brownian, "brownian"),
    Component(Quadratic, "quadratic"),
    Component(SineSquared, "sine_squared"),
    Component(Sigmoid, "sigmoid"),
    Component(LearnedGamma, has_weights=True),
    Component(Normalized),
    Component(StochasticInterpolant),
    Component(Independent, "independent"),
    Component(Given),
    Component(OptimalTransport, "optimal_transport"),
    Component(Beta),
    Component(AtomBase),
    Component(AtomField),
    Component(AtomMasses),
    Component(AtomPath),
    Component(AtomScaling),
    Component(Bounds),
    Component(Compose),
    Component(Gaussianize),
    Component(Identity),
    Component(LearnedGaussian, has_weights=True),
    Component(Standardize),
    Component(Whiten),
    Component(YeoJohnson),
    Component(ResidualMLP, has_weights=True),
    Component(AveragedField),
    Component(ConditionalMLP, has_weights=True),
    Component(CustomField),
    Component(GradientField),
    Component(Potential, has_weights=True),
    Component(HeadedDrift),
    Component(SeparateHeads),
    Component(SharedTrunk, has_weights=True),
    Component(UNet, has_weights=True),
    Component(NormalMixture),
    Component(BoostedTrees),
    Component(FeatureEncoding),
    Component(Calibration),
    Component(Grading),
    Component(Solver),
)


def named(base: type) -> dict[str, Any]:
    """Subclasses of `base` that have a name, by that name."""
    return {c.name: c.cls for c in COMPONENTS if c.name is not None and issubclass(c.cls, base)}


INTERPOLANTS: dict[str, type[Interpolant]] = named(Interpolant)
GAMMAS: dict[str, type[Gamma]] = named(Gamma)
COUPLINGS: dict[str, type[Coupling]] = named(Coupling)

BY_CLASS_NAME = {component.cls.__name__: component for component in COMPONENTS}
"""Components by class name, which is how files refer to them: renaming a class breaks old files."""


def component_of(cls: type) -> Component | None:
    """Return the entry of a class, or None."""
    component = BY_CLASS_NAME.get(cls.__name__)
    # A user's class may have the same name as a component.
    return component if component is not None and component.cls is cls else None
