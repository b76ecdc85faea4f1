"""Columns with bounds and columns of whole numbers: parameters, support and probability mass.

A whole number `k` stands for its cell ``[k - 1/2, k + 1/2)``.  Training adds uniform noise that
spreads rows over their cells, drawn anew for every batch (dequantisation), and the mass of `k` is
the integral of the density over the cell ([1]_, [2]_).

References
----------
.. [1] Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016.
.. [2] Hoogeboom, Cohen and Tomczak, "Learning discrete distributions by dequantization", 2020.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import qmc
from torch import Tensor

from skinterflow._data.atoms import Atoms, estimate_masses, find_atoms
from skinterflow._data.degenerate import (
    constant_widths,
    evenly_spaced,
    row_blocks,
    shown,
    spread_constant_columns,
    spread_whole_numbers,
    warn_columns,
)
from skinterflow._data.scaling import estimate_bounds, estimate_scaling
from skinterflow._runtime import as_float
from skinterflow.interflow.atoms import AtomScaling
from skinterflow.interflow.flows import Estimate
from skinterflow.interflow.quadrature import fejer
from skinterflow.interflow.scaling import Compose, Scaling

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pair = Sequence[float | None] | None
BoundsLike = Mapping[Any, Pair] | Sequence[Pair] | NDArray[Any] | None
AtomsLike = str | Mapping[Any, ArrayLike] | None

LARGEST, SMALLEST = 1e150, 1e-150
"""Largest absolute value and smallest range of a column: squares stay finite and positive."""
_ON_BOUND = 0.05
"""Fraction of the rows on a bound that counts as a point mass."""
_SOBOL_POINTS = 32
_FEJER = 10
_N_LEVELS = 3
_BLOCK_ROWS = 2**14
"""Number of points, nodes times rows, at which the density is evaluated together."""


@dataclass(frozen=True)
class Columns:
    """Declared properties of the columns of `X`.

    Parameters
    ----------
    bounds : array of shape (D, 2)
        Inclusive bounds, infinite on an open side; whole numbers for columns of whole numbers.
    whole : array of shape (D,) of bool
        Columns of whole numbers.
    names : sequence of D str
        Names of the columns in messages.
    atoms : Atoms or None
        Values with a probability of their own; None is no such value.
    """

    bounds: Array
    whole: Mask
    names: Sequence[str]
    atoms: Atoms | None = None

    @property
    def edges(self) -> Array:
        """Bounds of the density, shape (D, 2); for whole numbers, the outer edges of the cells."""
        return self.bounds + np.outer(self.whole, (-0.5, 0.5))

    def check_rows(
        self, X: NDArray[Any], name: str = "X", parameter: str = "integer_features"
    ) -> None:
        """Raise unless all rows are within the bounds, and whole where they must be.

        Parameters
        ----------
        X : array of shape (n, D)
        name : str
            Name of the rows in messages.
        parameter : str
            Name of the parameter that declares the whole numbers.

        Raises
        ------
        ValueError
            With the columns and the numbers of rows.
        """
        self._refuse(
            X,
            lambda block: {j: ~self._is_whole(block[:, j]) for j in _where(self.whole)},
            parameter,
            lambda j: "not whole",
            name,
        )
        self._check_inside(X, self.bounds, name)

    def check_in_cells(self, X: NDArray[Any]) -> None:
        """Raise unless all rows are in the support of the density.

        Unlike :meth:`check_rows`, this accepts any point in the cell of a whole number, because the
        flow has a latent for it.

        Raises
        ------
        ValueError
            With the columns and the numbers of rows.
        """
        self._check_inside(X, self.edges)

    def in_support(self, X: NDArray[Any]) -> Mask:
        """Whether each row is within the bounds, and whole where it must be: shape (n,)."""
        if not self.whole.any() and not np.isfinite(self.bounds).any():
            return np.ones(len(X), dtype=bool)  # without reading rows that may be on disk
        return np.concatenate([self._block_in_support(block) for block in row_blocks(X)])

    def _block_in_support(self, X: NDArray[Any]) -> Mask:
        possible = np.ones(len(X), dtype=bool)
        for outside in self._outside(X, self.bounds).values():
            possible &= ~outside
        for j in _where(self.whole):
            possible &= self._is_whole(X[:, j])
        return possible

    def scored(
        self, X: NDArray[Any], score: Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Log-densities and errors of the rows, minus infinity and zero outside the support.

        Parameters
        ----------
        X : array of shape (n, D)
        score : callable, rows in the support to their log-densities and errors
        """
        possible = self.in_support(X)
        if possible.all():
            return score(X)
        value, error = np.full(len(X), -np.inf, dtype=X.dtype), np.zeros(len(X), dtype=X.dtype)
        if possible.any():
            value[possible], error[possible] = score(X[possible])
        return value, error

    def log_mass(
        self,
        log_density: Callable[[Tensor], Estimate],
        x: Tensor,
        tolerance: Callable[[Tensor], Tensor],
    ) -> Estimate:
        """Logarithm of the density integrated over the cells of whole numbers, shape (B,).

        The error includes the difference of two quadrature rules.  Rows for which the difference is
        above the tolerance are integrated again, by a rule with more nodes.

        Parameters
        ----------
        log_density : callable, rows of shape (B, D) to log-densities and their errors
        x : Tensor of shape (B, D)
        tolerance : callable, values of shape (B, 1) to their accepted errors, shape (B,)
        """
        if not self.whole.any():
            return log_density(x)
        n_columns = int(self.whole.sum())
        rows = torch.arange(len(x), device=x.device)
        coarse, result = self._integrals(log_density, x, cell_rules(n_columns, 0))
        difference = (result.value - coarse).abs()
        for level in range(1, _N_LEVELS):
            rows = rows[difference[rows] > tolerance(result.value[rows, None])]
            if not len(rows):
                break
            (finer,) = self._integrals(log_density, x[rows], cell_rules(n_columns, level))[1:]
            # A conservative factor: with four times the nodes the error is a quarter or less.
            difference[rows] = 0.5 * (finer.value - result.value[rows]).abs()
            for whole, part in zip(result, finer, strict=True):
                whole[rows] = part
        unresolved = result.unresolved | (difference > tolerance(result.value[:, None]))
        return Estimate(result.value, result.error + difference, unresolved)

    def _integrals(
        self, log_density: Callable[[Tensor], Estimate], x: Tensor, rules: CellRules
    ) -> tuple[Tensor, Estimate]:
        """Log-integrals over the cells by the coarse rule, and by the fine one with errors."""
        nodes = np.zeros((len(rules.offsets), len(self.whole)))
        nodes[:, self.whole] = rules.offsets
        groups = torch.from_numpy(nodes).to(x).split(max(1, _BLOCK_ROWS // len(x)))
        parts = [log_density((group[:, None] + x).flatten(0, 1)) for group in groups]
        value, error, unresolved = (
            torch.cat(column).reshape(len(nodes), len(x)) for column in zip(*parts, strict=True)
        )
        coarse, fine = (
            value + torch.from_numpy(log_weights).to(value)[:, None]
            for log_weights in (rules.coarse, rules.fine)
        )
        error = (fine.softmax(dim=0) * error).sum(dim=0)
        return coarse.logsumexp(dim=0), Estimate(
            fine.logsumexp(dim=0), error, unresolved.any(dim=0)
        )

    def rounded_and_clipped(self, X: NDArray[Any]) -> NDArray[Any]:
        """Round whole numbers, and clip rows to the bounds in their dtype."""
        low, high = _in_dtype(self.bounds, X).T
        # A bound that is rounded to float32 may lie outside; take the next number inside.
        low = np.where(low < self.bounds[:, 0], np.nextafter(low, np.inf, dtype=X.dtype), low)
        high = np.where(high > self.bounds[:, 1], np.nextafter(high, -np.inf, dtype=X.dtype), high)
        return np.clip(np.where(self.whole, np.rint(X), X), low, high)

    def spread(self, X: NDArray[Any], random: np.random.RandomState) -> NDArray[Any]:
        """Add uniform noise to whole numbers, which spreads rows over their cells."""
        return (
            np.where(self.whole, X + random.uniform(-0.5, 0.5, X.shape), X)
            if self.whole.any()
            else X
        )

    def with_atoms_of(self, x: Tensor, points: Tensor) -> Tensor:
        """Points with the atoms of the rows `x`, both of shape (B, D)."""
        return points if self.atoms is None else self.atoms.held(points, x)

    def with_density(self, u: Tensor, target: Scaling) -> Tensor:
        """Rows in flow units without those that are at atoms in all columns, unless all are."""
        if self.atoms is None:
            return u
        dense = torch.from_numpy(~self.atoms.reached(target.inverse(u).cpu().numpy()).all(axis=1))
        return u[dense.to(u.device)] if dense.any() else u

    def warn_point_masses(self, X: NDArray[Any], widths: Array) -> None:
        """Warn of columns with many rows on a bound."""
        X = evenly_spaced(X)
        on_bound = (X[:, None] == _in_dtype(self.bounds, X).T).any(axis=1).mean(axis=0) > _ON_BOUND
        warn_columns(
            self.names,
            on_bound & ~self.whole & (widths == 0) & ~self._has_atoms(),
            f"have more than {_ON_BOUND:.0%} of their rows on a bound, and such a point mass has "
            "no density; drop or spread those rows",
        )

    def estimate_scaling(
        self,
        scaling: str | Scaling | None,
        X: NDArray[Any],
        weight: Array,
        widths: Array,
        generator: torch.Generator,
        gaussianized: Sequence[int] | None = None,
    ) -> Scaling:
        """Estimate a scaling of rows spread over their cells, composed with the map of the bounds.

        For the parameters, see :func:`skinterflow._data.scaling.estimate_scaling`.
        """
        if self.atoms is not None:
            return self._estimate_atom_scaling(
                self.atoms,
                scaling,
                evenly_spaced(X),
                evenly_spaced(weight),
                widths,
                generator,
                gaussianized,
            )
        bounded = np.isfinite(self.bounds).any()
        if not bounded and not self.whole.any():
            return estimate_scaling(scaling, X, weight, widths, generator, gaussianized)
        x = spread_constant_columns(evenly_spaced(X), widths, generator)
        x = spread_whole_numbers(x, self.whole, generator)
        weight = evenly_spaced(weight)
        if not bounded:
            return estimate_scaling(
                scaling, x, weight, np.zeros_like(widths), generator, gaussianized
            )
        bounds = estimate_bounds(self.edges, x, weight)
        mapped = bounds(torch.from_numpy(x)).numpy()
        unbounded = estimate_scaling(
            scaling, mapped, weight, np.zeros_like(widths), generator, gaussianized
        )
        return Compose([bounds, unbounded])

    def _estimate_atom_scaling(
        self,
        atoms: Atoms,
        scaling: str | Scaling | None,
        X: NDArray[Any],
        weight: Array,
        widths: Array,
        generator: torch.Generator,
        gaussianized: Sequence[int] | None,
    ) -> AtomScaling:
        """Scaling of the columns without atoms together, and of each other column alone.

        That of a column with atoms is estimated from the entries that are at none.
        """
        free = np.flatnonzero(~atoms.flagged)
        groups = [group for group in (free, *np.flatnonzero(atoms.flagged)[:, None]) if len(group)]
        reached, parts = atoms.reached(X), []
        for columns in groups:
            rows = ~reached[:, columns[0]]
            chosen = None if gaussianized is None else set(gaussianized)
            parts.append(
                self._part(columns).estimate_scaling(
                    scaling,
                    X[np.ix_(rows, columns)],
                    weight[rows],
                    widths[columns],
                    generator,
                    None if chosen is None else [k for k, j in enumerate(columns) if j in chosen],
                )
            )
        masses = estimate_masses(atoms, X, weight)
        values = torch.from_numpy(atoms.values.copy())
        return AtomScaling(values, masses, list(map(torch.from_numpy, groups)), parts)

    def _part(self, columns: NDArray[np.int64]) -> Columns:
        """Some of the columns, without their atoms."""
        names = [self.names[j] for j in columns]
        return Columns(self.bounds[columns], self.whole[columns], names)

    def _has_atoms(self) -> Mask:
        return np.zeros(len(self.whole), dtype=bool) if self.atoms is None else self.atoms.flagged

    @staticmethod
    def _is_whole(column: NDArray[Any]) -> Mask:
        return np.asarray(np.rint(column) == column)

    def _outside(self, X: NDArray[Any], bounds: Array) -> dict[int, Mask]:
        """Rows outside the bounds, by column."""
        # Compared in the dtype of the rows: a float32 row on the bound is not outside by rounding.
        low, high = _in_dtype(bounds, X).T
        return {
            j: (X[:, j] < low[j]) | (X[:, j] > high[j])
            for j in _where(np.isfinite(bounds[:, 0]) | np.isfinite(bounds[:, 1]))
        }

    def _check_inside(self, X: NDArray[Any], bounds: Array, name: str = "X") -> None:
        self._refuse(
            X,
            lambda block: self._outside(block, bounds),
            "bounds",
            lambda j: f"outside [{bounds[j, 0]:g}, {bounds[j, 1]:g}]",
            name,
        )

    def _refuse(
        self,
        X: NDArray[Any],
        wrong: Callable[[NDArray[Any]], dict[int, Mask]],
        parameter: str,
        what: Callable[[int], str],
        name: str,
    ) -> None:
        """Raise if rows are wrong; these are counted in blocks, as `X` may be on disk."""
        columns = list(wrong(X[:0]))
        if not columns:
            return
        counts = np.zeros(len(columns), dtype=np.int64)
        for block in row_blocks(X):
            counts += [int(rows.sum()) for rows in wrong(block).values()]
        refused = [
            f"{self.names[j]} ({count} of {len(X)} rows {what(j)})"
            for j, count in zip(columns, counts, strict=True)
            if count
        ]
        if refused:
            raise ValueError(
                f"{name} has values that {parameter} does not allow in {shown(refused)}; drop "
                f"those rows or change {parameter}."
            )


def resolve_columns(
    bounds: BoundsLike, integer_features: ArrayLike | None, names: Sequence[str]
) -> Columns:
    """Validate the parameters `bounds` and `integer_features` for columns of these names.

    Raises
    ------
    ValueError
        If a named column does not exist, or if the bounds of a column are not a pair of increasing
        numbers with an allowed value between them.
    """
    whole = _resolve_mask(integer_features, names)
    resolved = np.tile((-np.inf, np.inf), (len(names), 1))
    for j, pair in _by_column(bounds, names).items():
        low, high = _checked_pair(pair, names[j])
        if whole[j]:
            low, high = np.ceil(low), np.floor(high)
            if low > high:
                raise ValueError(
                    f"bounds of {names[j]} contain no whole number, got {pair!r}; widen them."
                )
        resolved[j] = low, high
    return Columns(resolved, whole, names)


def output_names(n_outputs: int) -> list[str]:
    """Names of the outputs of a regression in messages."""
    return ["y"] if n_outputs == 1 else [f"output {j}" for j in range(n_outputs)]


def resolve_outputs(bounds: Any, whole: bool, n_outputs: int) -> Columns:
    """Validate the parameters `bounds` and `integer_target` for the outputs of a regression.

    Parameters
    ----------
    bounds : pair, sequence of pairs or None
        A pair of numbers or None holds for the only output.
    whole : bool
        Whether the outputs are whole numbers.
    n_outputs : int

    Raises
    ------
    ValueError
        If there is not one pair of increasing numbers for each output.
    """
    sequence = isinstance(bounds, Sequence) or (isinstance(bounds, np.ndarray) and bounds.ndim > 0)
    pairs = [bounds] if n_outputs == 1 and sequence and len(bounds) == 2 else bounds
    if bounds is not None and (not sequence or len(pairs) != n_outputs):
        raise ValueError(
            "bounds must be a pair (low, high), or a sequence of one pair for each of the "
            f"{n_outputs} outputs of y, got {reprlib.repr(bounds)}."
        )
    return resolve_columns(pairs, [whole] * n_outputs, output_names(n_outputs))


def resolve_atoms(atoms: AtomsLike, columns: Columns, X: NDArray[Any]) -> Columns:
    """The columns with the atoms that the parameter gives, or that are found for "auto".

    Parameters
    ----------
    atoms : "auto", mapping of column name or number to values, or None
    columns : Columns
    X : array of shape (n, D)

    Raises
    ------
    ValueError
        If a named column does not exist or has whole numbers, if rows are so large that their
        squares overflow, if the values are not finite numbers
        within the bounds, or if a column has no other values.
    """
    if atoms is None:
        return columns
    check_magnitudes(X, columns.names)
    if isinstance(atoms, str):
        found = find_atoms(X, ~columns.whole & (constant_widths(X) == 0), columns.names)
    else:
        numbers = [_resolve_column(key, columns.names, "atoms") for key in atoms]
        _check_once(numbers, atoms, "atoms")
        values = [
            _checked_atoms(values, j, columns)
            for j, values in zip(numbers, atoms.values(), strict=True)
        ]
        found = Atoms.of(dict(zip(numbers, values, strict=True)), len(columns.names))
        found.check_rows(X, columns.names)
    return replace(columns, atoms=found) if len(found) else columns


def _checked_atoms(values: Any, j: int, columns: Columns) -> Array:
    """Validate the atoms of a column: different numbers that it can have."""
    name = columns.names[j]
    if columns.whole[j]:
        raise ValueError(
            f"atoms name {name}, which is in integer_features and has a mass at each number "
            "already; remove it from one of them."
        )
    numbers = list(values) if isinstance(values, Sequence | np.ndarray | set) else [values]
    if not all(isinstance(v, Real) and np.isfinite(as_float(v)) for v in numbers):
        raise ValueError(
            f"atoms of {name} must be finite numbers, such as [0.0], got {reprlib.repr(values)}."
        )
    low, high = columns.bounds[j]
    atoms = np.unique([as_float(v) for v in numbers])
    outside = atoms[(atoms < low) | (atoms > high)]
    if len(outside):
        raise ValueError(
            f"atoms of {name} include {outside[0]:g}, which is outside its bounds "
            f"[{low:g}, {high:g}]; change atoms or bounds."
        )
    if (np.abs(np.diff(atoms)) <= 1e-6 * np.abs(atoms[1:])).any():
        raise ValueError(
            f"atoms of {name} must differ by more than rounding to float32, got "
            f"{reprlib.repr(values)}; keep one of them."
        )
    return atoms


def check_magnitudes(X: NDArray[Any], names: Sequence[str]) -> None:
    """Raise unless means and variances of the columns can be computed.

    Raises
    ------
    ValueError
        If values are so large that their squares overflow, or if the range of a column is so small
        that its square underflows.
    """
    lowest, highest = X.min(axis=0).astype(np.float64), X.max(axis=0).astype(np.float64)
    ranges = highest / 2 - lowest / 2
    for wrong, what in (
        (
            np.maximum(-lowest, highest) > LARGEST,
            f"have absolute values above {LARGEST:g}, whose squares overflow",
        ),
        (
            (ranges > 0) & (ranges < SMALLEST),
            f"range over less than {SMALLEST:g}, whose square is zero",
        ),
    ):
        if wrong.any():
            columns = shown([name for name, flag in zip(names, wrong, strict=True) if flag])
            raise ValueError(
                f"{wrong.sum()} column(s) {what}: {columns}; use other units for them."
            )


class CellRules(NamedTuple):
    """Quadrature rule for the integral over a cell, with a coarse rule on a subset of its nodes.

    Attributes
    ----------
    offsets : array of shape (K, n_columns), nodes in ``(-1/2, 1/2)``
    fine, coarse : arrays of shape (K,)
        Logarithms of the weights, minus infinity for nodes that the coarse rule does not use.
    """

    offsets: Array
    fine: Array
    coarse: Array


def cell_rules(n_columns: int, level: int) -> CellRules:
    """Quadrature rules of a level; each level has about four times as many nodes as the last.

    One column has Fejer rules of 9, 39 and 159 nodes.  Several columns have the first 32, 128 and
    512 Sobol points, shifted to the middle of their strata.  The coarse rule uses every other node,
    or the first half.
    """
    if n_columns == 1:
        n = _FEJER * 4**level
        nodes, weights = (part.numpy() for part in fejer(n))
        coarse = np.zeros_like(weights)
        coarse[1::2] = fejer(n // 2)[1].numpy()
        offsets = nodes[:, None]
    else:
        n = _SOBOL_POINTS * 4**level
        offsets = qmc.Sobol(n_columns, scramble=False).random(n) + 0.5 / n - 0.5
        weights = np.full(n, 1.0 / n)
        coarse = np.where(np.arange(n) < n // 2, 2.0 / n, 0.0)
    with np.errstate(divide="ignore"):
        return CellRules(offsets, np.log(weights), np.log(coarse))


def _by_column(bounds: BoundsLike, names: Sequence[str]) -> dict[int, Any]:
    if bounds is None:
        return {}
    if isinstance(bounds, Mapping):
        numbers = [_resolve_column(key, names, "bounds") for key in bounds]
        _check_once(numbers, bounds, "bounds")
        return dict(zip(numbers, bounds.values(), strict=True))
    if np.ndim(np.asarray(bounds, dtype=object)) == 0:
        raise ValueError(
            f"bounds must be a dict, or hold a pair or None for each of the {len(names)} columns, "
            f"got {bounds!r}."
        )
    if len(bounds) != len(names):
        raise ValueError(
            f"bounds has {len(bounds)} entries, but X has {len(names)} columns; give a pair or "
            "None for each, or a dict."
        )
    return dict(enumerate(bounds))


def _check_once(numbers: Sequence[int], given: Mapping[Any, Any], parameter: str) -> None:
    if len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{parameter} name a column twice, by name and by number, got keys {list(given)!r}; "
            "use one key for each column."
        )


def _checked_pair(pair: Any, name: str) -> tuple[float, float]:
    """Validate the bounds of a column: two increasing numbers, infinite for an open side."""
    if pair is None:
        return -np.inf, np.inf
    sides = list(pair) if isinstance(pair, Sequence | np.ndarray) else []
    if len(sides) != 2 or not all(side is None or isinstance(side, Real) for side in sides):
        raise ValueError(
            f"bounds of {name} must be a pair (low, high) of numbers, with None for an open side, "
            f"got {pair!r}."
        )
    low, high = (
        open_side if side is None else as_float(side)
        for side, open_side in zip(sides, (-np.inf, np.inf), strict=True)
    )
    if not low < high:
        raise ValueError(
            f"bounds of {name} must be (low, high) with low < high, got {reprlib.repr(pair)}."
        )
    if any(LARGEST < abs(side) < np.inf for side in (low, high)):
        raise ValueError(
            f"bounds of {name} must be at most {LARGEST:g} in absolute value, because their "
            f"squares overflow, got {reprlib.repr(pair)}; use None for an open side or other units."
        )
    return low, high


def _resolve_mask(features: Any, names: Sequence[str]) -> Mask:
    mask = np.zeros(len(names), dtype=bool)
    if features is None:
        return mask
    if np.ndim(np.asarray(features, dtype=object)) == 0:
        raise ValueError(
            f"integer_features must be a sequence of columns or a boolean mask, got {features!r}."
        )
    features = list(features)
    if features and all(isinstance(feature, bool | np.bool_) for feature in features):
        if len(features) != len(names):
            raise ValueError(
                f"integer_features is a mask of {len(features)} columns, but X has {len(names)}; "
                "give one value for each column."
            )
        return np.array(features, dtype=bool)
    mask[[_resolve_column(feature, names, "integer_features") for feature in features]] = True
    return mask


def _resolve_column(key: Any, names: Sequence[str], parameter: str) -> int:
    if isinstance(key, Integral) and 0 <= int(key) < len(names):
        return int(key)
    if isinstance(key, str) and key in names:
        return list(names).index(key)
    raise ValueError(
        f"{parameter} names {key!r}, but the columns of X are {shown(names)}, or 0 to "
        f"{len(names) - 1} by number."
    )


def _where(mask: Mask) -> list[int]:
    return [int(j) for j in np.flatnonzero(mask)]


def _in_dtype(bounds: Array, X: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return bounds.astype(X.dtype)
