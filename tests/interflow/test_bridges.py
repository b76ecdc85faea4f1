"""What tells a Schroedinger bridge from other diffusions between the same ends."""

import math
import warnings

import pytest
import torch

from skinterflow.interflow import (
    Brownian,
    Linear,
    MixtureField,
    NormalMixture,
    StochasticInterpolant,
    bridge_defect,
)


def normal(mean, variances):
    one = torch.ones(1, dtype=torch.float64)
    return NormalMixture(
        one,
        torch.tensor([mean], dtype=torch.float64),
        torch.tensor(variances, dtype=torch.float64).diag()[None],
    )


def defect(source, target, width, epsilon):
    field = MixtureField(target, StochasticInterpolant(Linear(), Brownian(width)), source)

    def forward(t, x):
        drift, score = field.drift_and_score(t, x)
        return drift + epsilon * score

    x0 = source.sample(3_000, torch.Generator().manual_seed(0))
    return bridge_defect(forward, x0, epsilon, torch.Generator().manual_seed(1))


ROUND = normal([-1.0, -1.0], [1.0, 1.0]), normal([1.0, 1.0], [0.25, 0.25])


@pytest.mark.parametrize("epsilon", [0.02, 0.5, 1.5])
def test_bridge_between_round_gaussians(epsilon):
    width = 2.0 * math.hypot(0.5, epsilon)  # closed form
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert defect(*ROUND, width, epsilon) < 0.1


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_other_noise_between_the_same_ends_is_no_bridge(epsilon, factor):
    with pytest.warns(
        UserWarning,
        match=r"changes systematically along its own paths, by .* this is no bridge. "
        r"Take a family of paths",
    ):
        assert defect(*ROUND, factor * 2.0 * math.hypot(0.5, epsilon), epsilon) > 0.3


@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_straight_lines_do_not_hold_the_bridge_between_gaussians_of_different_shape(epsilon):
    """Whatever the noise, which has one scale for both columns."""
    for width in (0.3, 1.0):
        with pytest.warns(UserWarning, match="this is no bridge"):
            assert (
                defect(
                    normal([0.0, 0.0], [1.0, 0.04]), normal([0.0, 0.0], [0.04, 1.0]), width, epsilon
                )
                > 0.2
            )
