r"""A U-Net as a velocity field: rows are flattened images.

The feature maps are halved from level to level and doubled on the way back, where each level also
reads what it computed on the way down (Ronneberger et al. [1]_).  Residual blocks of two
convolutions with group normalisation and SiLU are modulated by Fourier features of the time, and
one size of maps may have self-attention (Ho et al. [2]_).  All layers are smooth, because the
divergence of the field is integrated, and none depends on other rows.

References
----------
.. [1] Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", MICCAI 2015.
.. [2] Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from skinterflow.interflow.derivatives import directional_slopes
from skinterflow.interflow.divergence import random_signs
from skinterflow.interflow.fields import VelocityField, linear, time_features

_GROUPS = 8
"""Largest number of groups of a group normalisation."""
_TIME_WIDTH = 64


class UNet(VelocityField):
    """A convolutional field of images, which are rows of ``C * H * W`` numbers outside.

    The velocity is the output of the network plus a multiple ``g(t) x`` of the image.  Both start
    at zero, so that the untrained flow is the identity.

    Parameters
    ----------
    image_shape : (H, W) or (C, H, W), as rows are reshaped to images
    channels : sequence of positive int
        Channels of each level; the first level has the size of the image, each of the others half
        the size of the one before it, rounded up.
    n_blocks : int, number of residual blocks of a level, each way
    attention_size : int or None
        Height of the feature maps that have self-attention; None is no attention.
    n_probes : int or None
        Number of random signs of Hutchinson's estimate of the divergence, whose standard error is
        that of their mean; None is the exact divergence, by one backward pass for each number of
        the image.
    generator : torch.Generator or None
        What draws the initial weights, on the CPU; None is torch's global random state.

    Raises
    ------
    ValueError
        If a size is not a positive integer, if the image is too small for the number of levels, or
        if no level has the `attention_size`.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import UNet
    >>> generator = torch.Generator().manual_seed(0)
    >>> field = UNet((8, 8), channels=(8, 16), attention_size=4, n_probes=3, generator=generator)
    >>> t, x = torch.tensor(0.5), torch.zeros(5, 64)
    >>> v, divergence = field.value_and_divergence(t, x)
    >>> v.shape, divergence.shape
    (torch.Size([5, 64]), torch.Size([5, 3]))

    An estimator trains it as its field:

    >>> from sklearn.datasets import load_digits
    >>> from skinterflow import InterpolantFlowDensity
    >>> from skinterflow.interflow import Solver
    >>> images = load_digits().data
    >>> density = InterpolantFlowDensity(
    ...     field=field,
    ...     integer_features=list(range(64)),
    ...     early_stopping=False,
    ...     solver=Solver(atol=10.0),
    ...     batch_size=16,
    ...     max_iter=2,
    ...     random_state=0,
    ... ).fit(images[:100])
    >>> density.sample(2, random_state=0).shape
    (2, 64)
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        n_blocks: int = 1,
        attention_size: int | None = None,
        n_probes: int | None = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = _checked_sizes("image_shape", image_shape)
        self.channels = _checked_sizes("channels", channels)
        (self.n_blocks,) = _checked_sizes("n_blocks", [n_blocks])
        self.attention_size, self.n_probes = attention_size, n_probes
        self.n_features, self.n_estimates = math.prod(self.image_shape), n_probes
        heights = _checked_heights(self.image_shape, self.channels, attention_size)
        if n_probes is not None:
            _checked_sizes("n_probes", [n_probes])
        n_colours = 1 if len(self.image_shape) == 2 else self.image_shape[0]
        self.time = nn.Sequential(linear(17, _TIME_WIDTH, generator), nn.SiLU())
        self.gain = _zeroed(linear(_TIME_WIDTH, 1, generator))
        self.first = _convolution(n_colours, self.channels[0], 3, generator)
        self.downward, self.upward = nn.ModuleList(), nn.ModuleList()
        self._add_levels([height == attention_size for height in heights], generator)
        self.norm = _normalisation(self.channels[0])
        self.last = _zeroed(_convolution(self.channels[0], n_colours, 3, generator))

    def _add_levels(
        self, with_attention: Sequence[bool], generator: torch.Generator | None
    ) -> None:
        """The blocks of each level, each way; the last level ends with one more block."""
        n_before = self.channels[0]
        for n, attends in zip(self.channels, with_attention, strict=True):
            self.downward.append(_Level(n_before, n, self.n_blocks, attends, generator))
            n_before = n
        self.middle = _Block(n_before, n_before, generator)
        for k in reversed(range(len(self.channels))):
            n = self.channels[k]
            self.upward.append(_Level(n_before + n, n, self.n_blocks, with_attention[k], generator))
            n_before = n

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        shape = self.image_shape if len(self.image_shape) == 3 else (1, *self.image_shape)
        images = x.reshape(-1, *shape)
        features = self.time(time_features(t.to(x.dtype).reshape(-1)))
        h, kept = self.first(images), []
        for k, level in enumerate(self.downward):
            h = level(h if k == 0 else functional.avg_pool2d(h, 2, ceil_mode=True), features)
            kept.append(h)
        h = self.middle(h, features)
        for level in self.upward:
            skip = kept.pop()
            if h.shape[-2:] != skip.shape[-2:]:
                h = _doubled(h, skip)
            h = level(torch.cat([h, skip], dim=1), features)
        v = self.last(functional.silu(self.norm(h))).reshape(x.shape)
        return torch.addcmul(v, self.gain(features), x)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = self.n_probes
        signs = torch.eye(self.n_features) if n is None else random_signs(n, self.n_features)
        value, slopes = directional_slopes(lambda y: self(t, y), x, signs.to(x))
        return value, slopes.sum(dim=1) if n is None else slopes


class _Level(nn.Module):
    """Residual blocks of one size, and self-attention."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_blocks: int,
        attends: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(n_in if k == 0 else n_out, n_out, generator) for k in range(n_blocks)
        )
        self.attention = _Attention(n_out, generator) if attends else nn.Identity()

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, features)
        return cast(Tensor, self.attention(h))


class _Block(nn.Module):
    """Residual block of two convolutions; the features of the time modulate what is between."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm_in, self.norm_out = _normalisation(n_in), _normalisation(n_out)
        self.conv_in = _convolution(n_in, n_out, 3, generator)
        self.conv_out = _zeroed(_convolution(n_out, n_out, 3, generator))
        self.modulation = linear(_TIME_WIDTH, 2 * n_out, generator)
        self.direct = nn.Identity() if n_in == n_out else _convolution(n_in, n_out, 1, generator)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.modulation(features)[..., None, None].chunk(2, dim=1)
        a = self.norm_out(self.conv_in(functional.silu(self.norm_in(h))))
        a = self.conv_out(functional.silu(a * (1.0 + scale) + shift))
        return cast(Tensor, self.direct(h) + a)


class _Attention(nn.Module):
    """Residual self-attention of one head over the pixels of a feature map."""

    def __init__(self, n: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm = _normalisation(n)
        self.inner = _convolution(n, 3 * n, 1, generator)
        self.outer = _zeroed(_convolution(n, n, 1, generator))

    def forward(self, h: Tensor) -> Tensor:
        query, key, value = self.inner(self.norm(h)).flatten(2).chunk(3, dim=1)
        # Not torch's fused attention, which has no second derivative.
        weights = (query.transpose(1, 2) @ key / math.sqrt(h.shape[1])).softmax(dim=-1)
        seen = (value @ weights.transpose(1, 2)).reshape(h.shape)
        return cast(Tensor, h + self.outer(seen))


def _doubled(h: Tensor, like: Tensor) -> Tensor:
    """Feature maps of twice the size, cut to the height and width of `like`."""
    height, width = like.shape[-2:]
    doubled = h.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return doubled[..., :height, :width]


def _convolution(n_in: int, n_out: int, size: int, generator: torch.Generator | None) -> nn.Conv2d:
    """A convolution that keeps the size of the maps, with torch's initial weights."""
    layer: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, n_in, n_out, size, padding=size // 2, device=torch.empty(0).device
    )
    bound = 1.0 / math.sqrt(n_in * size**2)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _normalisation(n: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, n), n)


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _checked_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes as a tuple, if they are positive integers."""
    checked = tuple(sizes)
    if not checked or not all(isinstance(n, int) and n >= 1 for n in checked):
        raise ValueError(f"{name} must be integers of at least 1, got {sizes!r}.")
    return checked


def _checked_heights(
    image_shape: Sequence[int], channels: Sequence[int], attention_size: int | None
) -> list[int]:
    """Heights of the feature maps, from the first level to the last."""
    if len(image_shape) not in (2, 3):
        raise ValueError(f"image_shape must be (H, W) or (C, H, W), got {image_shape!r}.")
    shortest = min(image_shape[-2:])
    if 2 ** (len(channels) - 1) > shortest:
        raise ValueError(
            f"channels={channels!r} has {len(channels)} levels, but images of {image_shape!r} can "
            f"be halved {shortest.bit_length() - 1} times only; use fewer levels."
        )
    heights = [math.ceil(image_shape[-2] / 2**k) for k in range(len(channels))]
    if attention_size is not None and attention_size not in heights:
        raise ValueError(
            f"attention_size={attention_size!r} is none of the heights of the feature maps, "
            f"{heights}; choose one of them, or None."
        )
    return heights
