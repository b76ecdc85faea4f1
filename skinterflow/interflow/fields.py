r"""Velocity fields ``v_t(x)``: the networks, with their exact divergence.

The log-density needs ``div v_t(x) = sum_i dv_i / dx_i`` at every stage of the ODE.  For a network
it has structure:

* one or two hidden layers: the sum over coordinates can be contracted in advance.  With ``z1 = W1
  x``, ``z2 = W2 a(z1)``, ``v = W3 a(z2)`` the divergence is ``a'(z2)^T (W2 o (W1 W3)^T) a'(z1)``,
  at the price of one more layer in any dimension;
* deeper: the `D` tangents ``dh/dx_i`` travel forward with the values, as one matrix product per
  layer.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from skinterflow.interflow.snapshots import NetworkSnapshot, Snapshot, weighted_sum


class Activation(NamedTuple):
    """A smooth scalar function, applied to every number of a tensor.

    Attributes
    ----------
    value : callable, the function
    with_slope : callable
        The function and its derivative, both of the shape of the tensor, at the price of little
        more than the value.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.fields import ACTIVATIONS
    >>> ACTIVATIONS["tanh"].with_slope(torch.zeros(2))
    (tensor([0., 0.]), tensor([1., 1.]))
    """

    value: Callable[[Tensor], Tensor]
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]]


def _silu_with_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    sigmoid = torch.sigmoid(z)
    value = z * sigmoid
    return value, torch.addcmul(sigmoid, value, sigmoid, value=-1.0).add_(value)


def _tanh_with_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(z)
    return value, 1.0 - value.square()


def _softplus_with_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    return functional.softplus(z), torch.sigmoid(z)


def _elu_with_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    return functional.elu(z), z.clamp(max=0.0).exp()


ACTIVATIONS = {
    "silu": Activation(functional.silu, _silu_with_slope),
    "tanh": Activation(torch.tanh, _tanh_with_slope),
    "softplus": Activation(functional.softplus, _softplus_with_slope),
    "elu": Activation(functional.elu, _elu_with_slope),
}
"""Smooth activations by name: a kink would make the divergence jump, and an ODE solver crawl."""

_N_FREQUENCIES = 8
_TIME_WIDTH = 64
_TANGENT_ELEMENTS = 2**19
"""Tangent numbers per layer held at a time: about the size of a core's cache, and the bound on
memory."""
_HIDDEN_ELEMENTS = 2**16
"""Numbers per hidden layer held at a time where there are no tangents, for the same reason."""
_KEPT_NUMBERS, _MOST_SNAPSHOTS = 2**23, 256
"""Weights of the snapshots that a field keeps, and their number, at most."""


class VelocityField(nn.Module, ABC):
    """A time-dependent vector field with its divergence.  Times broadcast with the batch axes of
    `x`.

    Attributes
    ----------
    n_features : int, dimension D
    n_estimates : int or None
        Number K of independent estimates of the divergence; None if it is exact.

    targets : tuple of str, the quantities of the path that its values are regressed on

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, equations 2 and 3.

    Examples
    --------
    A custom field that turns the plane by half a turn and preserves volumes.

    >>> import math, torch
    >>> from skinterflow.interflow import Flow, VelocityField
    >>> class Rotation(VelocityField):
    ...     n_features = 2
    ...
    ...     def forward(self, t, x):
    ...         return math.pi * torch.stack([-x[:, 1], x[:, 0]], dim=1)
    ...
    ...     def value_and_divergence(self, t, x):
    ...         return self(t, x), torch.zeros_like(x[:, 0])
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> torch.allclose(Flow(Rotation()).push(x), -x, atol=1e-2)
    True
    """

    n_features: int
    n_estimates: int | None = None
    targets: tuple[str, ...] = ("b",)

    @abstractmethod
    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity at time `t`, shape () or (B,), and points `x`, shape (B, D): shape (B, D)."""

    @abstractmethod
    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and divergence at time `t` and points `x`.

        Parameters
        ----------
        t : Tensor of shape () or (B,)
            With two hidden layers, also any shape that broadcasts with the batch axes of `x`.
        x : Tensor of shape (B, D)

        Returns
        -------
        Velocity, shape (B, D), and divergence: shape (B,) if exact, (B, K) for K estimates.
        """

    def learned(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Values of the `targets`, each of shape (B, D): by default the velocity itself."""
        return (self(t, x),)

    def fields(self) -> list[VelocityField]:
        """The fields that were trained: by default the field itself."""
        return [self]

    def bind_path(self, path: nn.Module) -> None:
        """Use this object as the path that the drift follows from, if it follows from one."""

    def at(self, t: Tensor, dtype: torch.dtype) -> Snapshot:
        """The field at a time, shape (), ready for many rows: in `dtype` where it can, else in that
        of the rows."""

        def with_divergence(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.value_and_divergence(t.to(x.dtype), x)

        return Snapshot(
            lambda x: self(t.to(x.dtype), x),
            with_divergence,
            None,
            1.0 + (self.n_estimates or self.n_features),
        )

    def hidden_weights(self) -> list[nn.Parameter]:
        """Weight matrices between layers, which Muon trains: none unless the field says so."""
        return []


class ModulatedMLP(nn.Module):
    r"""Residual multilayer perceptron whose layers are modulated by time: what networks of one
    field and of several share.

    .. math::
        h \leftarrow h + a(s_l(t) \circ (W_l h + b_l) + c_l(t)), \qquad f_t(x) = W_{out} h + b_{out}
        + g(t)\, x

    without the residual ``h`` where the width changes, and with a ``W_out, b_out, g`` for each
    head.  The scales ``s_l``, shifts ``c_l`` and the gains ``g`` come from a small network on
    Fourier features of the time.  Its last layer and ``W_out, b_out`` start at zero, so the
    untrained fields are zero.

    Parameters
    ----------
    n_features : int, dimension D
    hidden_layer_sizes : sequence of positive int, one per hidden layer
    activation : key of `ACTIVATIONS`
    n_heads : int, number of fields
    generator : torch.Generator or None
        What draws the initial weights, on the CPU; None is torch's global random state.

    Raises
    ------
    ValueError
        If the activation is unknown.

    Examples
    --------
    Three fields of the plane share all but the last weights.

    >>> import torch
    >>> from skinterflow.interflow.fields import ModulatedMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     network = ModulatedMLP(2, hidden_layer_sizes=(8, 16), activation="silu", n_heads=3)
    >>> [tuple(weight.shape) for weight in network.hidden_weights()]
    [(8, 2), (16, 8)]
    >>> tuple(network.out.weight.shape)
    (6, 16)
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        n_heads: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got "
                f"{activation!r}."
            )
        widths = (n_features, *hidden_layer_sizes)
        self.n_features = n_features
        self.hidden_layer_sizes = tuple(hidden_layer_sizes)
        self.activation = activation
        self.n_heads = n_heads
        self.layers = nn.ModuleList(
            linear(*shape, generator) for shape in itertools.pairwise(widths)
        )
        self.out = linear(widths[-1], n_heads * n_features, generator)
        modulations = linear(_TIME_WIDTH, 2 * sum(hidden_layer_sizes) + n_heads, generator)
        self.time = nn.Sequential(
            linear(1 + 2 * _N_FREQUENCIES, _TIME_WIDTH, generator), nn.SiLU(), modulations
        )
        for layer in (self.out, modulations):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(modulations.bias[: sum(hidden_layer_sizes)])  # the scales

    def extra_repr(self) -> str:
        return (
            f"n_features={self.n_features}, hidden_layer_sizes={self.hidden_layer_sizes}, "
            f"activation={self.activation!r}"
        )

    def hidden_weights(self) -> list[nn.Parameter]:
        return [cast(nn.Parameter, self._weight(index)) for index in range(len(self.layers))]

    def _modulations(self, t: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor]:
        """Scale and shift of every layer, of shape ``t.shape + (H_l,)``, and the gain of each head,
        of shape ``t.shape + (n_heads,)``."""
        first, _, last = cast(Sequence[nn.Linear], self.time)
        # Without the calls of modules, which take as long as the arithmetic at a single time.
        hidden = functional.linear(time_features(t.to(last.weight.dtype)), first.weight, first.bias)
        features = functional.linear(functional.silu(hidden), last.weight, last.bias)
        sizes = [*self.hidden_layer_sizes * 2, self.n_heads]
        *parts, gains = features.split_with_sizes(sizes, dim=-1)
        n_layers = len(self.hidden_layer_sizes)
        return parts[:n_layers], parts[n_layers:], gains

    @torch.no_grad()
    def _snapshot(
        self, t: Tensor, dtype: torch.dtype, mix: Tensor | None = None
    ) -> NetworkSnapshot:
        """The sum of the heads at a time, with the weights `mix`, shape (n_heads,); None is the
        only head."""
        scales, shifts, gains = self._modulations(t)
        weights, biases = [], []
        layers = cast(Sequence[nn.Linear], self.layers)
        for layer, scale, shift in zip(layers, scales, shifts, strict=True):
            weights.append((layer.weight * scale[:, None]).to(dtype))
            biases.append(torch.addcmul(shift, layer.bias, scale).to(dtype))
        return NetworkSnapshot(
            weights,
            biases,
            [self._is_residual(index) for index in range(len(layers))],
            *self._mixed(gains, dtype, mix),
            *ACTIVATIONS[self.activation],
        )

    def _mixed(
        self, gains: Tensor, dtype: torch.dtype, mix: Tensor | None
    ) -> tuple[Tensor, Tensor, float]:
        """Last weights and bias, (D, H) and (D,), and gain of the sum of the heads."""
        out = self.out
        if mix is None:
            # Copies: the weights of a snapshot stay when those of the network change.
            return out.weight.to(dtype, copy=True), out.bias.to(dtype, copy=True), float(gains)
        mix, shape = mix.to(gains), (self.n_heads, self.n_features)
        return (
            torch.einsum("k,kdh->dh", mix, out.weight.unflatten(0, shape)).to(dtype),
            (mix @ out.bias.unflatten(0, shape)).to(dtype),
            float(mix @ gains),
        )

    def _is_residual(self, index: int) -> bool:
        return index > 0 and self.hidden_layer_sizes[index] == self.hidden_layer_sizes[index - 1]

    def _weight(self, index: int) -> Tensor:
        return cast(nn.Linear, self.layers[index]).weight

    def _layer(self, index: int, scale: Tensor, shift: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Activation of one layer without its residual, and the slope ``s a'`` that its weights are
        multiplied by, both (B, H)."""
        z = torch.addcmul(shift, self.layers[index](h), scale)
        a, slope = ACTIVATIONS[self.activation].with_slope(z)
        return a, slope * scale

    def _hidden(self, scales: Sequence[Tensor], shifts: Sequence[Tensor], x: Tensor) -> Tensor:
        """Last hidden layer, (B, H)."""
        activate = ACTIVATIONS[self.activation].value
        h = x
        for index, (layer, scale, shift) in enumerate(
            zip(self.layers, scales, shifts, strict=True)
        ):
            a = activate(torch.addcmul(shift, layer(h), scale))
            h = h + a if self._is_residual(index) else a
        return h

    def _hidden_with_tangents(
        self, scales: Sequence[Tensor], shifts: Sequence[Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Last hidden layer, (B, H), and its tangents along every coordinate, (D, B, H)."""
        h, slope = self._layer(0, scales[0], shifts[0], x)
        # Contiguous and in place: the tangents are the whole cost, and it is memory traffic as much
        # as arithmetic.
        grow = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
        tangents = self._weight(0).T.contiguous()[:, None, :] * slope
        for index in range(1, len(self.layers)):
            a, slope = self._layer(index, scales[index], shifts[index], h)
            moved = tangents @ self._weight(index).T
            h, tangents = (
                (h + a, grow(tangents, moved, slope))
                if self._is_residual(index)
                else (a, moved.mul_(slope))
            )
        return h, tangents

    def _in_chunks(
        self, work: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], t: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Results of `work` on parts of the rows whose tangents stay in the cache, put together."""
        n_rows = max(1, _TANGENT_ELEMENTS // (self.n_features * max(self.hidden_layer_sizes)))
        chunks = x.split(n_rows)
        times = t.split(n_rows) if t.ndim else [t] * len(chunks)
        values, divergences = zip(
            *(work(t, x) for t, x in zip(times, chunks, strict=True)), strict=True
        )
        return torch.cat(values), torch.cat(divergences)


def time_features(t: Tensor) -> Tensor:
    """Fourier features of times of any shape: one more axis, which starts with the time itself.

    Parameters
    ----------
    t : Tensor of any shape

    Returns
    -------
    Tensor of shape ``t.shape + (17,)``

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.fields import time_features
    >>> time_features(torch.tensor([0.0, 1.0])).shape
    torch.Size([2, 17])
    """
    angles = t[..., None] * (
        math.pi * torch.arange(1, _N_FREQUENCIES + 1, dtype=t.dtype, device=t.device)
    )
    return torch.cat([t[..., None], angles.cos(), angles.sin()], dim=-1)


def linear(n_inputs: int, n_outputs: int, generator: torch.Generator | None = None) -> nn.Linear:
    """A layer with torch's initial weights, which its constructor would draw from the global random
    state."""
    layer: nn.Linear = nn.utils.skip_init(
        nn.Linear, n_inputs, n_outputs, device=torch.empty(0).device
    )
    bound = 1.0 / math.sqrt(n_inputs)
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


class ResidualMLP(ModulatedMLP, VelocityField):
    """One field by a :class:`ModulatedMLP`: untrained it is zero, and its flow the identity.

    Parameters
    ----------
    n_features : int, dimension D
    hidden_layer_sizes : sequence of positive int, one per hidden layer
    activation : key of `ACTIVATIONS`
    generator : torch.Generator or None
        What draws the initial weights, on the CPU; None is torch's global random state.

    Examples
    --------
    The divergence is exact: the trace of the Jacobian.

    >>> import torch
    >>> from skinterflow.interflow import ResidualMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ResidualMLP(3, hidden_layer_sizes=(16, 16)).double()
    ...     _ = torch.nn.init.normal_(field.out.weight)  # it starts at zero
    >>> t, x = torch.tensor(0.5), torch.eye(3, dtype=torch.float64)
    >>> jacobians = torch.func.vmap(torch.func.jacrev(lambda row: field(t, row[None])[0]))(x)
    >>> torch.allclose(
    ...     field.value_and_divergence(t, x)[1], jacobians.diagonal(dim1=1, dim2=2).sum(-1)
    ... )
    True
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (128,) * 4,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_features, hidden_layer_sizes, activation, n_heads=1, generator=generator)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        scales, shifts, gain = self._modulations(t)
        return torch.addcmul(self.out(self._hidden(scales, shifts, x)), gain, x)

    def at(self, t: Tensor, dtype: torch.dtype) -> Snapshot:
        return self.network_at(t, dtype).snapshot()

    def network_at(self, t: Tensor, dtype: torch.dtype) -> NetworkSnapshot:
        """The network at a time, shape (), from which :meth:`at` makes its snapshot."""
        return self._snapshot(t, dtype)

    def value_and_slopes(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and its slopes ``dv_i / dx_i``, whose sum is the divergence.

        Parameters
        ----------
        t : Tensor of shape () or (B,)
        x : Tensor of shape (B, D)

        Returns
        -------
        Two Tensors of shape (B, D)
        """
        return self._in_chunks(self._with_slopes, t, x)

    def _with_slopes(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        scales, shifts, gain = self._modulations(t)
        h, tangents = self._hidden_with_tangents(scales, shifts, x)
        slopes = torch.bmm(tangents, self.out.weight[:, :, None])[..., 0].T
        return torch.addcmul(self.out(h), gain, x), slopes + gain

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.layers) <= 2:
            if t.ndim == 0 and not torch.is_grad_enabled():
                return self._shallow_at(t, x)
            return self._shallow(self._modulations(t), x)
        return self._in_chunks(self._deep, t, x)

    def _shallow(
        self, modulations: tuple[Sequence[Tensor], Sequence[Tensor], Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One or two hidden layers: the closed form."""
        scales, shifts, gain = modulations
        h, slope1 = self._layer(0, scales[0], shifts[0], x)
        loop = (
            self._weight(0) @ self.out.weight
        )  # (H_1, H_last): from the last hidden layer through x to the first
        if len(self.layers) == 1:
            divergence = slope1 @ loop.diagonal()
        else:
            a, slope2 = self._layer(1, scales[1], shifts[1], h)
            divergence = ((slope1 @ (self._weight(1).T * loop)) * slope2).sum(-1)
            if self._is_residual(1):
                divergence = divergence + slope1 @ loop.diagonal()
                a = h + a
            h = a
        return torch.addcmul(self.out(h), gain, x), divergence + self.n_features * gain[..., 0]

    def _shallow_at(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The closed form at one time: weights take up the modulations once, then the rows pass in
        blocks that stay in the cache."""
        scales, shifts, gain = self._modulations(t)
        with_slope = ACTIVATIONS[self.activation].with_slope
        weights = [
            (self._weight(i) * scale[:, None]).T.contiguous() for i, scale in enumerate(scales)
        ]
        biases = [
            torch.addcmul(shift, cast(nn.Linear, self.layers[i]).bias, scale)
            for i, (scale, shift) in enumerate(zip(scales, shifts, strict=True))
        ]
        loop = (
            self._weight(0) * scales[0][:, None]
        ) @ self.out.weight  # from the last hidden layer through x to the first
        direct = loop.diagonal() if len(self.layers) == 1 or self._is_residual(1) else None
        through = weights[1] * loop if len(self.layers) == 2 else None
        out = self.out.weight.T.contiguous()
        values, divergences = torch.empty_like(x), torch.empty_like(x[:, 0])
        n_rows = max(1, _HIDDEN_ELEMENTS // max(self.hidden_layer_sizes))
        for rows, value, divergence in zip(
            x.split(n_rows), values.split(n_rows), divergences.split(n_rows), strict=True
        ):
            h, slope = with_slope(torch.addmm(biases[0], rows, weights[0]))
            divergence.copy_(self.n_features * gain[0])
            if direct is not None:
                divergence.add_(slope @ direct)
            if through is not None:
                a, slope2 = with_slope(torch.addmm(biases[1], h, weights[1]))
                divergence.add_((slope @ through).mul_(slope2).sum(-1))
                h = h.add_(a) if self._is_residual(1) else a
            torch.addmm(self.out.bias, h, out, out=value).addcmul_(rows, gain)
        return values, divergences

    def _deep(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Any number of hidden layers: tangents of shape (D, B, H) with the values of shape (B,
        H)."""
        scales, shifts, gain = self._modulations(t)
        h, tangents = self._hidden_with_tangents(scales, shifts, x)
        divergence = torch.bmm(tangents, self.out.weight[:, :, None]).sum(dim=(0, 2))
        return torch.addcmul(self.out(h), gain, x), divergence + self.n_features * gain[..., 0]


class AveragedField(VelocityField):
    """Mean of several fields: a field itself, whose divergence is the mean of theirs.  Averaging
    regressions lowers their variance.

    Parameters
    ----------
    members : sequence of VelocityField of the same dimension

    Examples
    --------
    Between fields that carry a standard normal to means 1 and 3, the average carries it to mean 2.

    >>> import torch
    >>> from skinterflow.interflow import AveragedField, MixtureField, NormalMixture
    >>> one, two, three = (
    ...     MixtureField(NormalMixture(torch.ones(1), torch.full((1, 2), m), torch.eye(2)[None]))
    ...     for m in (1.0, 2.0, 3.0)
    ... )
    >>> t, x = torch.tensor(0.5), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(AveragedField([one, three])(t, x), two(t, x), atol=1e-5)
    True
    """

    def __init__(self, members: Sequence[VelocityField]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.n_features, self.n_estimates = members[0].n_features, members[0].n_estimates

    def fields(self) -> list[VelocityField]:
        return [cast(VelocityField, member) for member in self.members]

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.stack([member(t, x) for member in self.members]).mean(dim=0)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        values, divergences = zip(
            *(cast(VelocityField, member).value_and_divergence(t, x) for member in self.members),
            strict=True,
        )
        return torch.stack(values).mean(dim=0), torch.stack(divergences).mean(dim=0)

    def at(self, t: Tensor, dtype: torch.dtype) -> Snapshot:
        snapshots = [cast(VelocityField, member).at(t, dtype) for member in self.members]
        return weighted_sum(snapshots, [1.0 / len(snapshots)] * len(snapshots))


class FrozenField(VelocityField):
    """A field that will not change any more, and keeps its snapshots.

    Parameters
    ----------
    field : VelocityField

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import MixtureField, NormalMixture
    >>> from skinterflow.interflow.fields import FrozenField
    >>> field = FrozenField(MixtureField(NormalMixture.standard(2)))
    >>> t = torch.tensor(0.5, dtype=torch.float64)
    >>> field.at(t, torch.float32) is field.at(t, torch.float32)
    True
    """

    def __init__(self, field: VelocityField) -> None:
        super().__init__()
        self.field = field
        self.n_features, self.n_estimates = field.n_features, field.n_estimates
        n_weights = sum(parameter.numel() for parameter in field.parameters())
        self._most_kept = _KEPT_NUMBERS // max(n_weights, _KEPT_NUMBERS // _MOST_SNAPSHOTS)
        self._kept: dict[tuple[float, torch.dtype], Snapshot] = {}

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.field(t, x))

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.field.value_and_divergence(t, x)

    def at(self, t: Tensor, dtype: torch.dtype) -> Snapshot:
        key = float(t), dtype
        snapshot = self._kept.get(key)
        if snapshot is None:
            snapshot = self.field.at(t, dtype)
            if len(self._kept) < self._most_kept:
                self._kept[key] = snapshot
        return snapshot
