r"""Atoms: single values of a column that have a probability of their own, next to a continuum.

A column of rainfall has many zeros, and a density over the other values.  The law of a row is a
mass and a density,

.. math:: p(x) = P(m)\, p(x_A \mid m),

where the pattern `m` says which entries are at which atom, and `A` are the entries that are at
none.  In flow units a row is coded by ``D + K`` numbers: its `D` entries, with zero for those at an
atom, and one indicator, zero or one, for each of the `K` atoms.  One field serves all patterns.  It
reads the indicators and moves only the entries in `A`, so that for each pattern it is a field, and
its flow a density, in as many dimensions as `A` has entries.  The dimensions that do not move count
for nothing in the base, :class:`AtomBase`, and in the divergence.

Which indicator belongs to which column is said by `incidence`, a matrix of shape (K, D) with a
single one in each of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.noise import Gamma, StochasticInterpolant
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.snapshots import Snapshot

_NEAR = 2.0**-23
"""Relative distance at which a number counts as an atom: what rounding to float32 may move it."""


def at_atoms(x: Tensor, values: Tensor, incidence: Tensor) -> Tensor:
    """Indicators of the atoms that the entries of rows are at.

    An entry is at an atom if it differs from it by no more than rounding to float32.

    Parameters
    ----------
    x : Tensor of shape (B, D), rows in data units
    values : Tensor of shape (K,), the atoms
    incidence : Tensor of shape (K, D), see the module

    Returns
    -------
    Tensor of bool of shape (B, K)

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.atoms import at_atoms
    >>> at_atoms(torch.tensor([[0.0, 3.0]]), torch.zeros(2), torch.eye(2))
    tensor([[ True, False]])
    """
    return (x[:, incidence.argmax(dim=1)] - values).abs() <= _NEAR * values.abs()


def moving(indicators: Tensor, incidence: Tensor) -> Tensor:
    """One for the entries that are at no atom, zero for the others.

    Parameters
    ----------
    indicators : Tensor of shape (..., K), near zero or one
    incidence : Tensor of shape (K, D), see the module

    Returns
    -------
    Tensor of shape (..., D)

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.atoms import moving
    >>> moving(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    tensor([[1., 1., 0.]])
    """
    return 1.0 - (indicators > 0.5).to(indicators) @ incidence.to(indicators)


class _Coded(nn.Module):
    """What reads coded rows: it knows which entries of a row move."""

    incidence: Tensor

    def _set_incidence(self, incidence: Tensor) -> None:
        # Not part of the state, which holds what is trained.
        self.register_buffer("incidence", incidence, persistent=False)

    def _masks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One where coded rows move, and one where they have indicators, both of their shape."""
        indicators = x[..., self.incidence.shape[1] :]
        moves = moving(indicators, self.incidence)
        none = torch.zeros_like(indicators)
        return torch.cat([moves, none], -1), torch.cat([torch.zeros_like(moves), none + 1.0], -1)


class AtomField(_Coded, VelocityField):
    """A field of coded rows: entries at an atom, and indicators, have velocity zero.

    The velocity depends on the pattern, and not on the entries at an atom.

    Parameters
    ----------
    network : ResidualMLP of ``D + K`` features, whose values for the indicators are not used
    incidence : Tensor of shape (K, D), see the module

    Examples
    --------
    The first row is at the only atom, that of the first column.

    >>> import torch
    >>> from skinterflow.interflow import AtomField, ResidualMLP
    >>> network = ResidualMLP(
    ...     3, hidden_layer_sizes=(8,), generator=torch.Generator().manual_seed(0)
    ... )
    >>> _ = torch.nn.init.ones_(network.out.weight)  # it starts at zero
    >>> field = AtomField(network, incidence=torch.tensor([[1.0, 0.0]]))
    >>> rows = torch.tensor([[0.0, 0.5, 1.0], [0.3, 0.5, 0.0]])
    >>> field(torch.tensor(0.5), rows).detach() == 0.0
    tensor([[ True, False,  True],
            [False, False,  True]])
    """

    def __init__(self, network: ResidualMLP, incidence: Tensor) -> None:
        super().__init__()
        self.network = network
        self.n_features = network.n_features
        self._set_incidence(incidence)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        moves, held = self._masks(x)
        return cast(Tensor, self.network(t, x * (moves + held))) * moves

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        moves, held = self._masks(x)
        v, slopes = self.network.value_and_slopes(t, x * (moves + held))
        return v * moves, (slopes * moves).sum(-1)

    def at(self, t: Tensor, dtype: torch.dtype) -> Snapshot:
        network, n_columns = self.network.network_at(t, dtype), self.incidence.shape[1]
        incidence = self.incidence.to(dtype)

        def masked(x: Tensor) -> tuple[Tensor, Tensor]:
            """The rows with zeros at the atoms, and one for the columns that move."""
            x, moves = x.clone(), moving(x[:, n_columns:], incidence)
            x[:, :n_columns].mul_(moves)
            return x, moves

        def held(v: Tensor, moves: Tensor) -> Tensor:
            v[:, :n_columns].mul_(moves)
            v[:, n_columns:].zero_()
            return v

        def velocity(x: Tensor) -> Tensor:
            x, moves = masked(x)
            return held(network.velocity(x), moves)

        def with_divergence(x: Tensor) -> tuple[Tensor, Tensor]:
            x, moves = masked(x)
            v, slopes = network.with_slopes(x, n_columns)
            return held(v, moves), slopes.mul_(moves).sum(dim=1)

        return Snapshot(velocity, with_divergence, dtype, 1.0 + n_columns)

    def hidden_weights(self) -> list[nn.Parameter]:
        return self.network.hidden_weights()


class AtomPath(_Coded, StochasticInterpolant):
    """The path of coded rows: entries at an atom stay at zero, and indicators stay as they are.

    Their regression targets are zero.

    Parameters
    ----------
    interpolant : Interpolant
    gamma : Gamma, or None for a path without a noise term
    incidence : Tensor of shape (K, D), see the module

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import AtomPath, Linear
    >>> path = AtomPath(Linear(), None, incidence=torch.tensor([[1.0, 0.0]]))
    >>> x1 = torch.tensor([[0.0, 4.0, 1.0]])
    >>> xt, targets = path.regression(("b",), torch.tensor(0.5), torch.zeros(1, 3), x1, None)
    >>> xt, targets["b"]
    (tensor([[0., 2., 1.]]), tensor([[0., 4., 0.]]))
    """

    def __init__(self, interpolant: Interpolant, gamma: Gamma | None, incidence: Tensor) -> None:
        super().__init__(interpolant, gamma)
        self._set_incidence(incidence)

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None) -> Tensor:
        moves, held = self._masks(x1)
        return super().forward(t, x0, x1, z) * moves + x1 * held

    def regression(
        self, quantities: Sequence[str], t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        moves, held = self._masks(x1)
        point, targets = super().regression(quantities, t, x0, x1, z)
        return point * moves + x1 * held, {name: y * moves for name, y in targets.items()}


class AtomBase(_Coded, Scaling):
    """The base of coded rows: a standard normal of the entries that move.

    As a map it is the identity.  Its log-determinant removes all other dimensions from the density
    of a standard normal in ``D + K`` dimensions.

    Parameters
    ----------
    incidence : Tensor of shape (K, D), see the module

    Examples
    --------
    Of two entries the first is at an atom, and the density is that of one dimension.

    >>> import torch
    >>> from skinterflow.interflow import AtomBase
    >>> from skinterflow.interflow.flows import base_log_prob
    >>> base = AtomBase(incidence=torch.tensor([[1.0, 0.0]]))
    >>> round(float(base_log_prob(base, torch.tensor([[0.0, 0.0, 1.0]]))), 2)
    -0.92
    """

    is_identity = True

    def __init__(self, incidence: Tensor) -> None:
        super().__init__()
        self._set_incidence(incidence)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, u: Tensor) -> Tensor:
        return u

    def log_abs_det(self, x: Tensor) -> Tensor:
        still = 1.0 - self._masks(x)[0]
        return -0.5 * (still * (x.square() + math.log(2.0 * math.pi))).sum(-1)


class AtomMasses(nn.Module):
    r"""Probabilities of patterns: which entries of a row are at which atom.

    They are a mixture of the frequencies of whole patterns, and of the product over the columns of
    their shares, so that a pattern that was never seen has a positive probability.  They add up to
    one over all patterns.

    Parameters
    ----------
    incidence : Tensor of shape (K, D), see the module
    shares : Tensor of shape (K,)
        Probability of each atom in its column, for the product; positive, with a sum below one in
        each column.
    patterns : Tensor of shape (P, K), indicators of different patterns
    frequencies : Tensor of shape (P,), with sum one
    mixing : float in [0, 1), weight of the frequencies

    Examples
    --------
    Two columns that are at their atoms together, in half of the rows.

    >>> import torch
    >>> from skinterflow.interflow import AtomMasses
    >>> masses = AtomMasses(
    ...     torch.eye(2),
    ...     torch.tensor([0.5, 0.5]),
    ...     torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
    ...     torch.tensor([0.5, 0.5]),
    ...     mixing=0.8,
    ... )
    >>> masses.log_prob(torch.tensor([[1.0, 1.0], [1.0, 0.0]])).exp()
    tensor([0.4500, 0.0500])
    """

    incidence: Tensor
    shares: Tensor
    patterns: Tensor
    frequencies: Tensor

    def __init__(
        self,
        incidence: Tensor,
        shares: Tensor,
        patterns: Tensor,
        frequencies: Tensor,
        mixing: float,
    ) -> None:
        super().__init__()
        self.register_buffer("incidence", incidence)
        self.register_buffer("shares", shares)
        self.register_buffer("patterns", patterns)
        self.register_buffer("frequencies", frequencies)
        self.mixing = mixing

    def log_prob(self, indicators: Tensor) -> Tensor:
        """Log-probabilities of patterns, shape (B, K): shape (B,)."""
        log_frequency = self._frequency(indicators).log() + math.log(max(self.mixing, 1e-300))
        return torch.logaddexp(log_frequency, self.log_product(indicators) + self._log_rest())

    def log_product(self, indicators: Tensor) -> Tensor:
        """Logarithm of the product over the columns, shape (B,)."""
        indicators = (indicators > 0.5).to(self.shares)
        free = (1.0 - self.shares @ self.incidence).log()
        return indicators @ self.shares.log() + moving(indicators, self.incidence) @ free

    def marginals(self) -> Tensor:
        """Probability that the column of an atom is at it, for each atom, shape (K,)."""
        return self.mixing * (self.frequencies @ self.patterns) + (1 - self.mixing) * self.shares

    def draw(self, u: Tensor) -> Tensor:
        """Random patterns, shape (n, K), from uniform numbers in [0, 1) of shape (n, 1 + D)."""
        whole = torch.searchsorted(
            self.frequencies.cumsum(0), u[:, 0].contiguous() / max(self.mixing, 1e-300), right=True
        ).clamp(max=len(self.patterns) - 1)
        same_column = (self.incidence @ self.incidence.T).tril(-1)
        start = same_column @ self.shares
        place = u[:, 1 + self.incidence.argmax(dim=1)]
        product = ((place >= start) & (place < start + self.shares)).to(self.patterns)
        return torch.where(u[:, :1] < self.mixing, self.patterns[whole], product)

    def _frequency(self, indicators: Tensor) -> Tensor:
        """Frequencies of patterns, zero for those that were not seen, shape (B,)."""
        both = torch.cat([self.patterns > 0.5, indicators > 0.5])
        distinct, number = torch.unique(both, dim=0, return_inverse=True)
        n = len(self.patterns)
        table = self.frequencies.new_zeros(len(distinct))
        return table.index_copy(0, number[:n], self.frequencies)[number[n:]]

    def _log_rest(self) -> float:
        return math.log1p(-self.mixing)


class AtomScaling(Scaling):
    """From rows to coded rows, with the probability of their patterns.

    It is not onto, unlike other scalings: rows of shape (B, D) have codes of shape (B, D + K).  Its
    log-determinant is the sum over the entries that are at no atom, plus the log-probability of the
    pattern.

    Parameters
    ----------
    values : Tensor of shape (K,), the atoms in data units
    masses : AtomMasses
    columns : sequence of int Tensors, which together have each column once
        A column that has atoms is alone.
    parts : sequence of Scaling, each of the columns with the same place in `columns`

    Examples
    --------
    The mass at zero of the only column is 0.3, and the others have the scale 2.

    >>> import torch
    >>> from skinterflow.interflow import AtomMasses, AtomScaling, Standardize
    >>> one, pattern = torch.ones(1, 1), torch.tensor([[1.0], [0.0]])
    >>> masses = AtomMasses(one, torch.tensor([0.3]), pattern, torch.tensor([0.3, 0.7]), mixing=0.5)
    >>> part = Standardize(torch.zeros(1), torch.tensor([2.0]))
    >>> scaling = AtomScaling(torch.zeros(1), masses, [torch.tensor([0])], [part])
    >>> x = torch.tensor([[0.0], [3.0]])
    >>> scaling(x)
    tensor([[0.0000, 1.0000],
            [1.5000, 0.0000]])
    >>> scaling.log_abs_det(x).exp()
    tensor([0.3000, 0.3500])
    """

    values: Tensor
    fill: Tensor

    def __init__(
        self,
        values: Tensor,
        masses: AtomMasses,
        columns: Sequence[Tensor],
        parts: Sequence[Scaling],
    ) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.masses = masses
        self.columns = list(columns)
        self.parts = nn.ModuleList(parts)
        self._order = torch.cat(self.columns).argsort().tolist()
        with torch.no_grad():
            # What entries at an atom are replaced by: a point at which every part is finite.
            zeros = values.new_zeros(1, len(self._order))
            self.register_buffer("fill", self._joined([p.inverse(u) for p, u in self._each(zeros)]))

    def forward(self, x: Tensor) -> Tensor:
        indicators, moves, filled = self._split(x)
        u = self._joined([part(columns) for part, columns in self._each(filled)])
        return torch.cat([u * moves, indicators], dim=1)

    def inverse(self, u: Tensor) -> Tensor:
        """Coded rows to rows; without indicators, of shape (B, D), no entry is at an atom."""
        incidence = self.masses.incidence
        u, indicators = u.tensor_split([len(self._order)], dim=1)
        x = self._joined([part.inverse(columns) for part, columns in self._each(u)])
        if not indicators.shape[1]:
            return x
        atoms = (indicators > 0.5).to(x) @ (incidence * self.values[:, None]).to(x)
        return torch.where(moving(indicators, incidence) > 0, x, atoms)

    def log_abs_det(self, x: Tensor) -> Tensor:
        indicators, moves, filled = self._split(x)
        total = self.masses.log_prob(indicators).to(x)
        for (part, columns), of_row in zip(self._each(filled), self._columns(moves), strict=True):
            total = total + part.log_abs_det(columns) * of_row.prod(dim=1)
        return total

    def log_mass(self, x: Tensor) -> Tensor:
        """Log-probability of the pattern of each row, shape (B,)."""
        return self.masses.log_prob(self._split(x)[0])

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indicators, which entries move, and the rows with the others replaced."""
        indicators = at_atoms(x, self.values.to(x), self.masses.incidence).to(x)
        moves = moving(indicators, self.masses.incidence)
        return indicators, moves, torch.where(moves > 0, x, self.fill.to(x))

    def _columns(self, x: Tensor) -> Iterator[Tensor]:
        return (x[:, columns.to(x.device)] for columns in self.columns)

    def _each(self, x: Tensor) -> Iterator[tuple[Scaling, Tensor]]:
        """The parts with their columns of rows of shape (B, D)."""
        return zip((cast(Scaling, part) for part in self.parts), self._columns(x), strict=True)

    def _joined(self, columns: Sequence[Tensor]) -> Tensor:
        """Columns of the parts as rows of shape (B, D)."""
        return torch.cat(list(columns), dim=1)[:, self._order]
