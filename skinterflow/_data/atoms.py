"""Atoms of columns: which values have a probability of their own, and how large it is.

A value is found to be an atom if it is repeated far more often than its neighbours, and than all
values that are no atoms.  In rounded data, where every value is repeated, neighbours are about
equally frequent, and so are the simple fractions among finer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skinterflow._data.degenerate import evenly_spaced, shown, warn_columns
from skinterflow.interflow.atoms import AtomMasses, at_atoms

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FRACTION, _COPIES = 0.01, 10
"""Smallest fraction of the rows, and number of rows, that an atom has."""
_EXCESS, _N_NEIGHBOURS = 10, 10
"""How much more frequent an atom is than the median of this many neighbouring values."""
_GAP = 3
"""How much more frequent an atom is than the most frequent value that is none."""
_CONTINUUM = 10
"""Distinct values other than atoms that a column has at least, if its atoms are found."""
_FEW_VALUES, _MEAN_COPIES = 20, 10
"""A column with so few values, and so many copies of each, is no continuum."""
_EM_STEPS = 100


@dataclass(frozen=True)
class Atoms:
    """Atoms of the columns.

    Parameters
    ----------
    values : array of shape (K,)
    columns : int array of shape (K,), the column of each
    n_features : int, number D of columns
    """

    values: Array
    columns: NDArray[np.int64]
    n_features: int

    @classmethod
    def of(cls, by_column: dict[int, Any], n_features: int) -> Atoms:
        """Atoms from the values of each column, sorted by column and value."""
        pairs = [(j, v) for j in sorted(by_column) for v in np.unique(by_column[j])]
        return cls(
            np.array([v for _, v in pairs], dtype=np.float64),
            np.array([j for j, _ in pairs], dtype=np.int64),
            n_features,
        )

    def __len__(self) -> int:
        return len(self.values)

    def by_column(self) -> dict[int, Array]:
        """The values of each column that has any."""
        return {int(j): self.values[self.columns == j] for j in np.unique(self.columns)}

    @property
    def incidence(self) -> torch.Tensor:
        """Which atom belongs to which column, shape (K, D), see `interflow.atoms`."""
        incidence = torch.zeros(len(self), self.n_features, dtype=torch.float64)
        incidence[torch.arange(len(self)), torch.from_numpy(self.columns)] = 1.0
        return incidence

    @property
    def flagged(self) -> Mask:
        """Columns that have atoms, shape (D,)."""
        return np.isin(np.arange(self.n_features), self.columns)

    def indicators(self, X: NDArray[Any]) -> Mask:
        """Which atoms the entries of the rows are at, shape (n, K)."""
        if not len(self):
            return np.zeros((len(X), 0), dtype=bool)
        x = torch.from_numpy(np.array(X, dtype=np.float64))
        found: Mask = at_atoms(x, torch.from_numpy(self.values), self.incidence).numpy()
        return found

    def reached(self, X: NDArray[Any]) -> Mask:
        """Which entries of the rows are at an atom, shape (n, D)."""
        return np.asarray(self.indicators(X) @ self.incidence.numpy() > 0)

    def held(self, points: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Points with the atoms of the rows `x`, both of shape (B, D)."""
        if not len(self):
            return points
        at = torch.from_numpy(self.reached(x.cpu().numpy())).to(x.device)
        return torch.where(at, x, points)

    def too_few(self, X: NDArray[Any]) -> Mask:
        """Columns with less than two values that are at no atom, shape (D,)."""
        few, reached = np.zeros(self.n_features, dtype=bool), self.reached(X)
        for j in np.unique(self.columns):
            few[j] = len(np.unique(X[~reached[:, j], j])) < 2
        return few

    def check_rows(self, X: NDArray[Any], names: Sequence[str]) -> None:
        """Raise unless each column has values that are at no atom.

        Raises
        ------
        ValueError
            With the names of the columns.
        """
        few = self.too_few(X)
        if few.any():
            raise ValueError(
                "atoms need a column with at least two other values, but all or all but one of "
                f"the values are atoms in {_named(names, few)}; drop the column, or name it in "
                "integer_features if its values are whole numbers."
            )

    def check_free(self, X: NDArray[Any], names: Sequence[str]) -> None:
        """Raise if a row has an entry at an atom, which has no latent.

        Raises
        ------
        ValueError
            With the number of rows and the names of the columns.
        """
        reached = self.reached(X)
        if reached.any():
            columns: Mask = np.asarray(reached.any(axis=0))
            raise ValueError(
                f"{reached.any(axis=1).sum()} of {len(X)} rows are at an atom of "
                f"{_named(names, columns)}, where there is no latent; drop those rows."
            )


def find_atoms(X: NDArray[Any], candidates: Mask, names: Sequence[str]) -> Atoms:
    """Find the atoms of the candidate columns, in at most 100,000 evenly spaced rows.

    An atom has at least 1% of the rows and 10 rows, is at least 10 times as frequent as the median
    of its 10 neighbours and 3 times as frequent as every value that is no atom, and the column has
    at least 10 such values.  Columns of whole numbers have none.  The function warns of columns
    that have a few other values only.

    Parameters
    ----------
    X : array of shape (n, D)
    candidates : array of shape (D,) of bool
    names : sequence of D str, for the warning
    """
    rows, found = evenly_spaced(X), {}
    few = np.zeros(X.shape[1], dtype=bool)
    for j in np.flatnonzero(candidates):
        column = np.sort(rows[:, j])
        least = max(_COPIES, int(np.ceil(_FRACTION * len(column))))
        if not (column[least - 1 :] == column[: -least + 1]).any():  # nothing is frequent
            continue
        values, counts = np.unique(column, return_counts=True)
        if (np.rint(values) == values).all():
            continue
        atoms = _frequent(values, counts, least)
        if len(values) - atoms.sum() >= _CONTINUUM and atoms.any():
            found[int(j)] = values[atoms].astype(np.float64)
        few[j] = len(values) <= min(_FEW_VALUES, len(column) / _MEAN_COPIES)
    warn_columns(
        names,
        few,
        f"have at most {_FEW_VALUES} different values, and no density; multiply them so that they "
        "are whole numbers and name them in integer_features, or drop them",
    )
    return Atoms.of(found, X.shape[1])


def _frequent(values: NDArray[Any], counts: NDArray[np.int64], least: int) -> Mask:
    """Which of the sorted values are far more frequent than their neighbours and the others."""
    frequent = np.zeros(len(values), dtype=bool)
    falling = np.sort(counts)[::-1]
    gaps = np.flatnonzero((falling[:-1] >= least) & (falling[:-1] >= _GAP * falling[1:]))
    if not len(gaps):
        return frequent
    for k in np.flatnonzero(counts >= falling[gaps[-1]]):
        start = max(0, k - _N_NEIGHBOURS)
        near = np.r_[start:k, k + 1 : min(len(values), k + 1 + _N_NEIGHBOURS)]
        near = near[np.argsort(np.abs(values[near] - values[k]), kind="stable")][:_N_NEIGHBOURS]
        frequent[k] = len(near) > 0 and counts[k] >= _EXCESS * np.median(counts[near])
    return frequent


def estimate_masses(atoms: Atoms, X: NDArray[Any], weight: Array) -> AtomMasses:
    """Estimate the probabilities of patterns.

    The weight of the frequencies of whole patterns, against the product over the columns, maximises
    the likelihood of each row by the frequencies of the other rows.

    Parameters
    ----------
    atoms : Atoms
    X : array of shape (n, D)
    weight : array of shape (n,), positive
    """
    indicators = atoms.indicators(X)
    weight = weight * (len(weight) / weight.sum())
    n_states = 1 + np.bincount(atoms.columns, minlength=atoms.n_features)[atoms.columns]
    # Half a row is added to each state, so that no share is zero or one.
    shares = (weight @ indicators + 0.5) / (len(weight) + 0.5 * n_states)
    patterns, number = np.unique(indicators, axis=0, return_inverse=True)
    totals = np.bincount(number.ravel(), weight)
    masses = AtomMasses(
        atoms.incidence,
        torch.from_numpy(shares),
        torch.from_numpy(patterns.astype(np.float64)),
        torch.from_numpy(totals / len(weight)),
        0.0,
    )
    product = masses.log_product(masses.patterns).exp().numpy()[number.ravel()]
    others = (totals[number.ravel()] - weight) / (len(weight) - weight).clip(1e-12)
    masses.mixing = _mixing(others.clip(0.0), product, weight / len(weight))
    return masses


def _mixing(one: Array, other: Array, p: Array) -> float:
    """Weight of the first of two probabilities of each row that maximises the likelihood."""
    mixing = 0.5
    for _ in range(_EM_STEPS):
        mixing = float(p @ (mixing * one / (mixing * one + (1.0 - mixing) * other)))
    # One row more, of a pattern that was not seen, bounds the weight away from one.
    return min(mixing, 1.0 - 1.0 / (len(p) + 1))


def _named(names: Sequence[str], flagged: Mask) -> str:
    return shown([name for name, flag in zip(names, flagged, strict=True) if flag])
