"""The table of components is complete, and says how each of them is saved."""

import inspect

import pytest
import torch

from skinterflow import InterpolantFlowDensity, interflow
from skinterflow._persistence.codec import check_can_be_saved
from skinterflow._persistence.registry import COMPONENTS, component_of
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.heads import Heads
from skinterflow.interflow.interpolants import Interpolant, Linear
from skinterflow.interflow.noise import Gamma
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.times import TimeLaw
from tests.helpers import EXAMPLES, QUICK

BASES = (Coupling, Gamma, Heads, Interpolant, Scaling, TimeLaw, VelocityField)
NEVER_FITTED = {"BoundField", "FrozenField", "Hutchinson", "MixtureField"}
"""What no estimator keeps: what predictions wrap a field in, a conditional field with its context,
and a closed form for tests."""


def ours(cls):
    return {cls} | {deeper for sub in cls.__subclasses__() for deeper in ours(sub)}


def test_every_concrete_component_is_in_the_table():
    concrete = {
        cls.__name__
        for base in BASES
        for cls in ours(base)
        if not inspect.isabstract(cls) and cls.__module__.startswith("skinterflow.")
    }
    assert concrete - NEVER_FITTED <= {component.cls.__name__ for component in COMPONENTS}


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: c.cls.__name__)
def test_weights_that_no_argument_holds_are_saved(component):
    with torch.random.fork_rng():
        example = EXAMPLES[component.cls.__name__]()
    parameters = getattr(example, "named_parameters", list)()
    arguments = inspect.signature(component.cls).parameters
    own = [name for name, _ in parameters if name.split(".")[0] not in arguments]
    assert bool(own) == component.has_weights


def test_named_components_need_no_arguments():
    for component in COMPONENTS:
        if component.name is not None:
            component.cls()


def test_names_are_unique():
    names = [component.name for component in COMPONENTS if component.name]
    assert len(names) == len(set(names))


class Unregistered(Linear):
    """A path of a user."""


def test_objects_of_unknown_classes_cannot_be_saved():
    assert component_of(Unregistered) is None
    check_can_be_saved({"interpolant": Linear(), "gamma": None, "scaling": "power"})
    for path in (Unregistered(), interflow.StochasticInterpolant(Unregistered())):
        with pytest.raises(TypeError, match=r"interpolant=.*set checkpoint=None"):
            check_can_be_saved({"interpolant": path})


def test_a_checkpoint_refuses_what_it_cannot_hold_before_the_training(iris, tmp_path):
    density = InterpolantFlowDensity(
        **QUICK, interpolant=Unregistered(), checkpoint=tmp_path / "checkpoint"
    )
    with pytest.raises(TypeError, match=r"interpolant=.*Unregistered.*set checkpoint=None"):
        density.fit(iris)
    assert not hasattr(density, "end_time_")
    assert not (tmp_path / "checkpoint").exists()
