r"""Heads: several learned quantities of a path, and the drift that follows from them.

Each of these sets determines the drift ``b`` (paper 2 [1]_, section 2.3):

- ``b``, alone or with ``s`` or ``eta``;
- ``v`` with ``s`` or ``eta``;
- ``s`` or ``eta`` alone, on a mirror path that does not move, where the velocity is zero, and on
  an affine one-sided path, where the base point is the noise;
- all but one of the parts ``eta0 = E[x0]``, ``eta1 = E[x1]`` and ``eta = E[z]`` of an affine path,
  or all of them, because ``x = alpha eta0 + beta eta1 + gamma eta``.  ``eta1`` alone, without a
  noise term, is the prediction of the data.

They are the outputs of one network with several heads (:class:`SharedTrunk`) or of one network each
(:class:`SeparateHeads`).

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from skinterflow.interflow.fields import ModulatedMLP, VelocityField
from skinterflow.interflow.interpolants import AffineInterpolant, expand_as_leading
from skinterflow.interflow.noise import QUANTITIES, StochasticInterpolant
from skinterflow.interflow.snapshots import Snapshot, weighted_sum

_LEAST_BETA = 0.05
"""On a one-sided path, the drift is evaluated at the nearest time at which the data have at least
this weight."""
_LEAST_PART = 0.05
"""The same for the part of a path that follows from the others."""
_N_TIMES = 2_001


class Heads(nn.Module, ABC):
    """Several vector fields on the same points.

    Attributes
    ----------
    n_features : int, dimension D
    n_estimates : int or None
        Number K of independent estimates of the divergence; None if it is exact.

    Examples
    --------
    Two fields, ``x`` and ``-x``, in the plane.

    >>> import torch
    >>> from skinterflow.interflow import Heads
    >>> class Opposites(Heads):
    ...     n_features = 2
    ...
    ...     def forward(self, t, x):
    ...         return x, -x
    ...
    ...     def combined(self, t, x, weights):
    ...         total = sum(
    ...             weight * sign
    ...             for weight, sign in zip(weights, (1.0, -1.0))
    ...             if weight is not None
    ...         )
    ...         return total * x, 2.0 * total.expand(len(x))
    ...
    ...     def hidden_weights(self):
    ...         return []
    >>> Opposites().combined(
    ...     torch.tensor(0.5), torch.ones(1, 2), [torch.tensor(3.0), torch.tensor(1.0)]
    ... )
    (tensor([[2., 2.]]), tensor([4.]))
    """

    n_features: int
    n_estimates: int | None = None

    @abstractmethod
    def forward(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Values of all fields.

        Parameters
        ----------
        t : Tensor of shape () or (B,)
        x : Tensor of shape (B, D)

        Returns
        -------
        Tensors of shape (B, D), one for each field
        """

    @abstractmethod
    def combined(
        self, t: Tensor, x: Tensor, weights: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Value and divergence of a weighted sum of the fields.

        Parameters
        ----------
        t : Tensor of shape () or (B,)
        x : Tensor of shape (B, D)
        weights : sequence of Tensors of the shape of `t`, one for each field; None is zero

        Returns
        -------
        Tensor of shape (B, D) and Tensor of shape (B,), or (B, K) for K estimates
        """

    def at(self, t: Tensor, dtype: torch.dtype, weights: Sequence[Tensor | None]) -> Snapshot:
        """The weighted sum of the fields at a time, shape (), ready for many rows: in `dtype` where
        it can, else in that of the rows."""

        def with_divergence(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.combined(
                t.to(x.dtype),
                x,
                [None if weight is None else weight.to(x.dtype) for weight in weights],
            )

        return Snapshot(lambda x: with_divergence(x)[0], with_divergence, None, 1.0)

    @abstractmethod
    def hidden_weights(self) -> list[nn.Parameter]:
        """Weight matrices between hidden layers, trained by Muon."""


class SeparateHeads(Heads):
    """One network for each field.

    Parameters
    ----------
    fields : sequence of VelocityField of the same dimension

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import MixtureField, NormalMixture, SeparateHeads
    >>> near, far = (
    ...     MixtureField(NormalMixture(torch.ones(1), torch.full((1, 2), mean), torch.eye(2)[None]))
    ...     for mean in (1.0, 3.0)
    ... )
    >>> t, x, half = torch.tensor(0.5), torch.zeros(5, 2), torch.tensor(0.5)
    >>> value, divergence = SeparateHeads([near, far]).combined(t, x, [half, half])
    >>> torch.allclose(value, 0.5 * near(t, x) + 0.5 * far(t, x))
    True
    """

    def __init__(self, fields: Sequence[VelocityField]) -> None:
        super().__init__()
        self.fields = nn.ModuleList(fields)
        self.n_features, self.n_estimates = fields[0].n_features, fields[0].n_estimates

    def forward(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(field(t, x) for field in self.fields)

    def combined(
        self, t: Tensor, x: Tensor, weights: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        value, divergence = torch.zeros_like(x), x.new_zeros(())
        for field, weight in zip(self.fields, weights, strict=True):
            if weight is not None:
                part, trace = cast(VelocityField, field).value_and_divergence(t, x)
                value, divergence = (
                    value + expand_as_leading(weight, x) * part,
                    divergence + expand_as_leading(weight, trace) * trace,
                )
        return value, divergence

    def at(self, t: Tensor, dtype: torch.dtype, weights: Sequence[Tensor | None]) -> Snapshot:
        taken = [
            (cast(VelocityField, f), float(weight))
            for f, weight in zip(self.fields, weights, strict=True)
            if weight is not None
        ]
        return weighted_sum(
            [field.at(t, dtype) for field, _ in taken], [weight for _, weight in taken]
        )

    def hidden_weights(self) -> list[nn.Parameter]:
        return [
            weight
            for field in self.fields
            for weight in cast(VelocityField, field).hidden_weights()
        ]


class SharedTrunk(ModulatedMLP, Heads):
    """One network with a linear output for each field.

    Parameters
    ----------
    n_features : int, dimension D
    n_heads : int, number of fields
    hidden_layer_sizes : sequence of positive int, one per hidden layer
    activation : str, see `ResidualMLP`
    generator : torch.Generator or None, see `ResidualMLP`

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import SharedTrunk
    >>> with torch.random.fork_rng(devices=[]):
    ...     heads = SharedTrunk(2, n_heads=3, hidden_layer_sizes=(8, 8))
    >>> [tuple(values.shape) for values in heads(torch.tensor(0.5), torch.zeros(5, 2))]
    [(5, 2), (5, 2), (5, 2)]
    """

    def __init__(
        self,
        n_features: int,
        n_heads: int,
        hidden_layer_sizes: Sequence[int] = (128,) * 4,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_features, hidden_layer_sizes, activation, n_heads, generator)

    def forward(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        scales, shifts, gains = self._modulations(t)
        return self._read_out(self._hidden(scales, shifts, x), gains, x).unbind(-2)

    def at(self, t: Tensor, dtype: torch.dtype, weights: Sequence[Tensor | None]) -> Snapshot:
        return self._snapshot(
            t,
            dtype,
            torch.stack([torch.zeros_like(t) if weight is None else weight for weight in weights]),
        ).snapshot()

    def combined(
        self, t: Tensor, x: Tensor, weights: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        values, divergences = self._in_chunks(self._values_and_divergences, t, x)
        mix = torch.stack(
            [torch.zeros_like(t) if weight is None else weight for weight in weights], dim=-1
        ).to(x)
        return (mix[..., None] * values).sum(-2), (mix * divergences).sum(-1)

    def _values_and_divergences(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """All fields, (B, K, D), and their divergences, (B, K), from one pass of tangents."""
        scales, shifts, gains = self._modulations(t)
        h, tangents = self._hidden_with_tangents(scales, shifts, x)
        out = self.out.weight.unflatten(0, (self.n_heads, self.n_features))
        divergences = torch.bmm(tangents, out.permute(1, 2, 0)).sum(dim=0)
        return self._read_out(h, gains, x), divergences + self.n_features * gains

    def _read_out(self, h: Tensor, gains: Tensor, x: Tensor) -> Tensor:
        values = self.out(h).unflatten(-1, (self.n_heads, self.n_features))
        return torch.addcmul(values, gains[..., None], x[..., None, :])


class HeadedDrift(VelocityField):
    """The drift ``b`` of a path, from learned quantities (paper 2, section 2.3).

    Parameters
    ----------
    heads : Heads
    targets : sequence of "b", "v", "s", "eta", "eta0", "eta1", one for each head
    path : StochasticInterpolant

    Raises
    ------
    ValueError
        If the targets do not determine the drift; see :func:`check_targets`.

    Examples
    --------
    On a one-sided path ``b = alpha' eta + beta' (x - alpha eta) / beta``.  With the untrained
    denoiser, ``eta = 0``, it is ``x / t``.

    >>> import torch
    >>> from skinterflow.interflow import HeadedDrift, Linear, SharedTrunk, StochasticInterpolant
    >>> with torch.random.fork_rng(devices=[]):
    ...     heads = SharedTrunk(2, n_heads=1, hidden_layer_sizes=(8, 8))
    >>> drift = HeadedDrift(heads, ("eta",), StochasticInterpolant(Linear()))
    >>> drift(torch.tensor(0.5), torch.ones(1, 2)).detach()
    tensor([[2., 2.]])
    """

    def __init__(self, heads: Heads, targets: Sequence[str], path: StochasticInterpolant) -> None:
        super().__init__()
        check_targets(targets, path)
        self.heads = heads
        self.targets = tuple(targets)
        self.path = path
        self.n_features, self.n_estimates = heads.n_features, heads.n_estimates

    def extra_repr(self) -> str:
        return f"targets={self.targets!r}"

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self._drift_and_values(t, x)[0]

    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and score, shape (B, D), if "s" or "eta" was learned.

        Where the scale of the noise is small, the score is that of the nearest time in `path.core`.
        """
        drift, values = self._drift_and_values(t, x)
        if "s" in values:
            return drift, values["s"]
        inside = t.clamp(*self.path.core)
        if not torch.equal(inside, self._evaluation_time(t)):
            values = dict(zip(self.targets, self.heads(inside, x), strict=True))
        scale = expand_as_leading(self.path.noise_scale(inside), x)
        if "eta" in values:
            return drift, -values["eta"] / scale
        weights = cast(AffineInterpolant, self.path.interpolant).weights(inside)
        alpha, beta = (expand_as_leading(part, x) for part in (weights.alpha, weights.beta))
        return drift, (alpha * values["eta0"] + beta * values["eta1"] - x) / scale.square()

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        t = self._evaluation_time(t)
        own, weights = self._weights(t)
        value, divergence = self.heads.combined(t, x, weights)
        if own is None:
            return value, divergence
        growth = self.n_features * expand_as_leading(own, divergence)
        return value + expand_as_leading(own, x) * x, divergence + growth

    def learned(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return self.heads(t, x)

    def bind_path(self, path: nn.Module) -> None:
        self.path = cast(StochasticInterpolant, path)

    def at(self, t: Tensor, dtype: torch.dtype) -> Snapshot:
        t = self._evaluation_time(t)
        own, weights = self._weights(t)
        snapshot = self.heads.at(t, dtype, weights)
        return snapshot if own is None else weighted_sum([snapshot], [1.0], float(own))

    def hidden_weights(self) -> list[nn.Parameter]:
        return self.heads.hidden_weights()

    def _drift_and_values(self, t: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Drift and learned quantities, in one pass."""
        t = self._evaluation_time(t)
        values = self.heads(t, x)
        own, weights = self._weights(t)
        drift = torch.zeros_like(x) if own is None else expand_as_leading(own, x) * x
        for value, weight in zip(values, weights, strict=True):
            if weight is not None:
                drift = drift + expand_as_leading(weight, x) * value
        return drift, dict(zip(self.targets, values, strict=True))

    def _evaluation_time(self, t: Tensor) -> Tensor:
        """Nearest time at which the formula of the drift does not magnify errors."""
        if "b" in self.targets:
            return t
        if {"eta0", "eta1"} & set(self.targets):
            return t.clamp(*self._times_of_parts)
        if self.path.gamma is None:
            return t.clamp(min=self._first_time_of_data)
        return t.clamp(*self.path.bounded_rate) if "eta" in self.targets else t

    def _weights(self, t: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """Weights of the point and of each head in the drift, of the shape of `t`; None is zero."""
        if "b" in self.targets:
            return None, [torch.ones_like(t) if name == "b" else None for name in self.targets]
        if {"eta0", "eta1"} & set(self.targets):
            return self._weights_of_parts(t)
        if self.path.gamma is None:
            return self._one_sided_weights(t)
        gamma = self.path.gamma.at(t)
        weights = {"v": torch.ones_like(t), "s": -gamma.product, "eta": gamma.rate}
        return None, [weights[name] for name in self.targets]

    def _one_sided_weights(self, t: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """``b = alpha' eta + beta' (x - alpha eta) / beta``, with ``eta = -alpha s``."""
        alpha, beta, alpha_rate, beta_rate = cast(AffineInterpolant, self.path.interpolant).weights(
            t
        )
        growth = beta_rate / beta
        denoiser = alpha_rate - alpha * growth
        return growth, [denoiser if name == "eta" else -alpha * denoiser for name in self.targets]

    def _parts(self, t: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight in the point, and its rate, of each part of the path."""
        a, b, a_rate, b_rate = cast(AffineInterpolant, self.path.interpolant).weights(t)
        parts = {"eta0": (a, a_rate), "eta1": (b, b_rate)}
        if self.path.gamma is not None:
            gamma = self.path.gamma.at(t)
            parts["eta"] = gamma.value, gamma.rate
        return parts

    def _missing_part(self) -> str | None:
        """The part that is not learned, and follows from the point and the others."""
        names = ["eta0", "eta1", "eta"] if self.path.gamma is not None else ["eta0", "eta1"]
        return next((name for name in names if name not in self.targets), None)

    def _weights_of_parts(self, t: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """The drift is the sum of the parts times the rates of their weights."""
        parts, missing = self._parts(t), self._missing_part()
        if missing is None:
            return None, [parts[name][1] for name in self.targets]
        growth = parts[missing][1] / parts[missing][0]
        return growth, [
            rate - weight * growth for weight, rate in (parts[name] for name in self.targets)
        ]

    @cached_property
    def _times_of_parts(self) -> tuple[float, float]:
        """First and last time at which the weight of the missing part is large enough to divide by,
        and the rate of the noise is not too large."""
        missing, (first, last) = self._missing_part(), (0.0, 1.0)
        if "eta" in self.targets:
            first, last = self.path.bounded_rate
        if missing == "eta":
            first, last = self.path.core
        elif missing is not None:
            t = torch.linspace(0.0, 1.0, _N_TIMES, dtype=torch.float64, device=self.path.device)
            with torch.no_grad():
                inside = t[self._parts(t)[missing][0] >= _LEAST_PART]
            first, last = max(first, float(inside[0])), min(last, float(inside[-1]))
        return first, last

    @cached_property
    def _first_time_of_data(self) -> float:
        t = torch.linspace(0.0, 1.0, _N_TIMES, dtype=torch.float64, device=self.path.device)
        with torch.no_grad():
            beta = cast(AffineInterpolant, self.path.interpolant).beta(t)
        return float(t[beta >= _LEAST_BETA][0])


def check_targets(targets: Sequence[str], path: StochasticInterpolant) -> None:
    """Raise unless the given quantities determine the drift of a path.

    Parameters
    ----------
    targets : sequence of "b", "v", "s", "eta", "eta0", "eta1"
    path : StochasticInterpolant

    Raises
    ------
    ValueError
        If a quantity is unknown or repeated, or if there are too few or too many; the message
        lists the valid sets.

    Examples
    --------
    >>> from skinterflow.interflow import Brownian, Linear, StochasticInterpolant
    >>> from skinterflow.interflow.heads import check_targets
    >>> path = StochasticInterpolant(Linear(), Brownian())
    >>> check_targets(("v", "eta"), path)
    >>> check_targets(("eta",), path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: targets=('eta',) are too few or too many for ...; learn one of ('b',), ...
    """
    names = set(targets)
    if not names <= set(QUANTITIES) or len(names) < len(targets):
        raise ValueError(
            f"targets must be some of {', '.join(map(repr, QUANTITIES))}, each once, got "
            f"{tuple(targets)!r}."
        )
    noise = names & {"s", "eta"}
    enough = [
        {"b"},
        {"b", "s"},
        {"b", "eta"},
        *_sets_with_noise(path),
        *_sets_of_parts(path),
    ]
    if path.gamma is None and noise and not path.interpolant.has_base_scale:
        raise ValueError(
            f"{path!r} has no noise to learn {', '.join(map(repr, sorted(noise)))} from; set "
            "gamma, or use an AffineInterpolant or a OneSidedInterpolant."
        )
    if names not in enough:
        choices = ", ".join(str(tuple(sorted(choice))) for choice in enough)
        raise ValueError(
            f"targets={tuple(targets)!r} are too few or too many for {path!r}; learn one of "
            f"{choices}."
        )


def _sets_with_noise(path: StochasticInterpolant) -> list[set[str]]:
    """Sets with the score or the denoiser that determine the drift of a path without "b"."""
    if path.gamma is None:
        return [{"s"}, {"eta"}] if isinstance(path.interpolant, AffineInterpolant) else []
    return [{"s"}, {"eta"}] if path.interpolant.is_still else [{"v", "s"}, {"v", "eta"}]


def _sets_of_parts(path: StochasticInterpolant) -> list[set[str]]:
    """Sets of parts of an affine path that determine its drift."""
    if not isinstance(path.interpolant, AffineInterpolant) or path.interpolant.resamples:
        return []
    ends = {"eta0", "eta1"}
    if path.gamma is None:
        return [ends, {"eta0"}, {"eta1"}]
    # A path that needs noise has times at which an end is absent, and does not follow.
    pairs = [] if path.interpolant.needs_noise else [{"eta0", "eta"}, {"eta1", "eta"}]
    return [ends, *pairs, ends | {"eta"}]
