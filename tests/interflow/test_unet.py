"""The U-Net: shapes, exact and estimated divergence, rows apart, bad input."""

import copy

import pytest
import torch

from skinterflow.interflow import UNet
from tests.helpers import perturbed, points, trace_of_jacobian

SHAPES = [((4, 4), (2, 4), 2), ((2, 5, 3), (3, 2), None), ((1, 3, 4), (2,), 3)]


def network(image_shape=(4, 4), channels=(2, 4), attention_size=2, **options):
    options["generator"] = torch.Generator().manual_seed(0)
    field = UNet(image_shape, channels, attention_size=attention_size, **options)
    return perturbed(field, size=0.3)


@pytest.mark.parametrize(("image_shape", "channels", "attention_size"), SHAPES)
@pytest.mark.parametrize("time", [0.0, 0.37, 1.0])
def test_divergence_is_the_trace_of_the_jacobian(image_shape, channels, attention_size, time):
    field = network(image_shape, channels, attention_size, n_probes=None)
    t, x = torch.tensor(time, dtype=torch.float64), points(3, field.n_features)
    value, divergence = field.value_and_divergence(t, x)
    torch.testing.assert_close(value, field(t, x))
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, x))


def test_estimates_of_the_divergence_are_unbiased_and_have_a_standard_error():
    exact, estimated = network(n_probes=None), network(n_probes=2_000)
    t, x = torch.tensor(0.5, dtype=torch.float64), points(2, 16)
    estimates = estimated.value_and_divergence(t, x)[1]
    assert estimates.shape == (2, 2_000)
    error = estimates.std(dim=1) / 2_000**0.5
    deviation = (estimates.mean(dim=1) - exact.value_and_divergence(t, x)[1]).abs()
    assert (error > 0).all()
    assert (deviation < 4 * error).all()


def test_a_row_depends_on_its_own_image_and_time_only():
    field = network(n_probes=4)
    t, x = torch.linspace(0, 1, 5, dtype=torch.float64), points(5, 16)
    together = field.value_and_divergence(t, x)
    for k in range(5):
        for one, all_rows in zip(
            field.value_and_divergence(t[k], x[k : k + 1]), together, strict=True
        ):
            torch.testing.assert_close(one[0], all_rows[k])


def test_a_mirrored_network_mirrors_its_images():
    """Rows are images in the order of colours, heights and widths."""
    field, x = network((2, 4, 6), (3, 4)), points(2, 48)
    t = torch.tensor(0.3, dtype=torch.float64)
    mirrored = copy.deepcopy(field)
    with torch.no_grad():
        for layer in mirrored.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.copy_(layer.weight.flip(-1))
    expected = field(t, x).reshape(2, 2, 4, 6).flip(-1).reshape(2, 48)
    flipped = x.reshape(2, 2, 4, 6).flip(-1).reshape(2, 48)
    torch.testing.assert_close(mirrored(t, flipped), expected)
    assert not torch.allclose(field(t, flipped), expected)


def test_an_untrained_network_is_zero_and_drawn_from_its_generator():
    before = torch.random.get_rng_state()
    one, two = (UNet((4, 4), (4,), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    x = points(2, 16).float()
    assert torch.equal(one(torch.tensor(0.5), x), torch.zeros(2, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (8,)}, r"image_shape must be \(H, W\) or \(C, H, W\), got \(8,\)"),
        ({"image_shape": (8, 8.5)}, r"image_shape must be integers of at least 1"),
        ({"image_shape": (8, 8), "channels": ()}, r"channels must be integers .* got \(\)"),
        ({"image_shape": (8, 8), "channels": (4, 0)}, r"channels must be .* got \(4, 0\)"),
        ({"image_shape": (8, 8), "n_blocks": 0}, r"n_blocks must be .* got \[0\]"),
        ({"image_shape": (8, 8), "n_probes": 0}, r"n_probes must be .* got \[0\]"),
        (
            {"image_shape": (8, 3), "channels": (4, 4, 4)},
            r"has 3 levels, but images of \(8, 3\) can be halved 1 times only",
        ),
        (
            {"image_shape": (8, 8), "attention_size": 5},
            r"attention_size=5 is none of the heights of the feature maps, \[8, 4\]",
        ),
    ],
)
def test_wrong_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)
