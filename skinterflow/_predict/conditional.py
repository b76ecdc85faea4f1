"""ConditionalModel: a mixture of conditional flows, which computes what a regressor predicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri, ndtri_exp
from torch import Tensor

from skinterflow._data.columns import Columns
from skinterflow.interflow import processes
from skinterflow.interflow.conditional import ConditionalFlow, ConditionalMLP
from skinterflow.interflow.flows import Estimate, standard_normal_log_prob
from skinterflow.interflow.monotone import MonotoneMixture, latent_nodes, log_normal_mass
from skinterflow.interflow.scaling import Scaling

Array = NDArray[np.float64]

_NODES = (25, 49, 97, 193)
"""Numbers of nodes of the tables of quantiles; rows whose table is not accurate take the next."""
_TABLE_ERROR = 2e-4
"""Accepted error of the interpolation in a table, as a probability."""
_TABLE_ATOL = 5e-4
"""Accepted error of the values in a table, as a probability."""
TABLE_TOLERANCE = _TABLE_ERROR + _TABLE_ATOL
"""Error of a distribution function above which the answer of its table is unresolved."""
_SAMPLE_ATOL = 4e-3
"""Accepted error of a sample, in flow units."""
_BLOCK_ROWS = 2**12
_MEAN_SAMPLES = 128
"""Samples of which the mean of several outputs is taken."""
_FARTHEST = 1e6
"""Distance, in flow units, beyond which the density counts as zero."""
_NARROW_CELL = 1e-3
"""Width of the cell of a whole number, in latents, below which its density counts as constant."""
_LIKELY, _MOST_CELLS = 5.5, 128
"""Latent up to which whole numbers count in a mean, and how many are summed."""


class Conditions(NamedTuple):
    """What the outputs are conditioned on.

    Attributes
    ----------
    features : array of shape (n, d), encoded
    shift : array of shape (n, k), prediction of the base regressor in scaled units; zero without
    """

    features: Array
    shift: Array

    def rows(self, index: Any) -> Conditions:
        """The rows with these numbers."""
        return Conditions(self.features[index], self.shift[index])


class Units(NamedTuple):
    """Units of a member: outputs are ``(scaled - shift) / size``, without `shift` if not `shifted`.

    Attributes
    ----------
    shifted : bool
    size : array of shape (k,)
    """

    shifted: bool
    size: Array

    def rows(self, scaled: Array, conditions: Conditions) -> Array:
        """Outputs in the units of the member, followed by the context: shape (n, k + d)."""
        outputs = (scaled - self.shifted * conditions.shift) / self.size
        return np.hstack([outputs, self.context(conditions)])

    def context(self, conditions: Conditions) -> Array:
        """Features, followed by the prediction of the base regressor."""
        return np.hstack([conditions.features, self.shifted * conditions.shift])


class Answer(NamedTuple):
    """Answers from tables of quantiles.

    Attributes
    ----------
    value : array of shape (n, q)
    unresolved : boolean array of shape (n,)
        Rows whose finest table is still above `TABLE_TOLERANCE`.
    """

    value: Array
    unresolved: NDArray[np.bool_]


@dataclass(frozen=True)
class ConditionalModel:
    """A mixture of conditional flows on one device.

    Parameters
    ----------
    scaling : Scaling, float64, of the outputs
    columns : Columns
        Bounds and whole numbers of the outputs.
    fields : sequence of ConditionalMLP
    units : sequence of Units, of each field
    weights : array of shape (len(fields),), of sum one
    end_time : float
    atol : float
    device : torch.device
    """

    scaling: Scaling
    columns: Columns
    fields: Sequence[ConditionalMLP]
    units: Sequence[Units]
    weights: Array
    end_time: float
    atol: float
    device: torch.device

    def log_density(self, conditions: Conditions, y: Array) -> Estimate:
        """Log-density of outputs, shape (n, k), in their units; of whole numbers, the log-mass."""
        question = self._log_mass if self.columns.whole.any() else self._log_density
        value, error, unresolved = self._blocks(question, conditions, y)
        possible = self._on_device(self.columns.in_support(y))
        return Estimate(
            torch.where(possible, value, -torch.inf),
            torch.where(possible, error, 0.0),
            unresolved & possible,
        )

    def cdf(self, conditions: Conditions, y: Array) -> Estimate:
        """Distribution function at points of one output, shape (n, q)."""
        low, high = self.columns.edges[0]
        given = np.floor(y) + 0.5 if self.columns.whole.any() else y
        value, error, unresolved = self._blocks(self._cdf, conditions, given)
        points = self._tensor(given)
        value = torch.where(points <= low, 0.0, torch.where(points >= high, 1.0, value))
        return Estimate(value, error, unresolved)

    def quantiles(self, conditions: Conditions, levels: Array) -> Answer:
        """Quantiles of one output, shape (n, q)."""
        return self.quantiles_of_latents(conditions, ndtri(levels))

    def quantiles_of_latents(self, conditions: Conditions, z: Array) -> Answer:
        """Quantiles of one output for the levels ``Phi(z)``, shape (n, q)."""
        wanted = self._tensor(z)

        def question(mixture: MonotoneMixture, rows: NDArray[np.int64]) -> Tensor:
            return self._unscaled(mixture.quantiles_of_latents(wanted))

        outputs, unresolved = self._tabulated(conditions, question)
        return Answer(self._possible(outputs), unresolved)

    def _possible(self, outputs: Array) -> Array:
        """Outputs within their bounds, and whole where they must be; without minus zeros."""
        return np.asarray(self.columns.rounded_and_clipped(outputs) + 0.0)

    def latents(self, conditions: Conditions, y: Array) -> Answer:
        """Latents ``Phi^-1(F(y))`` of one output for each row, shape (n, 1), of the same tables."""
        scaled = self.scaling(self._tensor(y)).cpu().numpy()

        def question(mixture: MonotoneMixture, rows: NDArray[np.int64]) -> Tensor:
            points = self._tensor(scaled[rows])
            tails = [mixture.log_tail(points, torch.tensor(upper))[0] for upper in (False, True)]
            return torch.stack(tails, dim=-1)[:, 0]

        tails, unresolved = self._tabulated(conditions, question)
        below, above = tails[:, :1], tails[:, 1:]
        return Answer(np.where(below < above, ndtri_exp(below), -ndtri_exp(above)), unresolved)

    def mean(self, conditions: Conditions) -> Answer:
        """Means of the outputs, shape (n, k); of several outputs, of samples without a table."""
        if self.fields[0].n_outputs == 1:
            question = self._mean_of_whole if self.columns.whole.any() else self._mean
            return self._tabulated(conditions, question)
        random = np.random.RandomState(0)
        z, member = self._drawn(_MEAN_SAMPLES // 2, random)
        z, member = np.concatenate([z, -z]), np.concatenate([member, member])
        blocks = [
            self._pushed(conditions.rows(block), z, member).mean(axis=1)
            for block in _own_blocks_of(len(conditions.features))
        ]
        value = _gathered(blocks, len(conditions.features))
        return Answer(value, np.zeros(len(value), dtype=bool))

    def sample(
        self, conditions: Conditions, n_samples: int, random: np.random.RandomState
    ) -> Array:
        """Samples of the outputs, shape (n, n_samples, k)."""
        n, k = len(conditions.features), self.fields[0].n_outputs
        z = random.standard_normal((n, n_samples, k))
        member = self._members(random.uniform(size=(n, n_samples)))
        drawn = [
            self._pushed(conditions.rows(block), z[block], member[block])
            for block in _own_blocks_of(n, max(1, _BLOCK_ROWS // n_samples))
        ]
        return _gathered(drawn, n)

    def _drawn(self, n: int, random: np.random.RandomState) -> tuple[Array, NDArray[np.int64]]:
        z = random.standard_normal((n, self.fields[0].n_outputs))
        return z, self._members(random.uniform(size=n))

    def _members(self, u: Array) -> NDArray[np.int64]:
        """Numbers of the members that uniform numbers select, by their weights."""
        edges = np.cumsum(self.weights)[:-1]
        return np.searchsorted(edges, u, side="right")

    def _pushed(self, conditions: Conditions, z: Array, member: NDArray[np.int64]) -> Array:
        """Base points, carried by the flow of a member each: shape (n, s, k)."""
        n = len(conditions.features)
        z = np.broadcast_to(z, (n, *z.shape[-2:]))
        member = np.broadcast_to(member, z.shape[:2])
        scaled = np.empty(z.shape)
        for k, units in enumerate(self.units):
            row, place = np.nonzero(member == k)
            given = conditions.rows(row)
            context = self._tensor(units.context(given)).float()
            points = self._tensor(z[row, place][:, None]).float()
            carried = self._flow(k, torch.float32, _SAMPLE_ATOL).push(context, points).y
            outputs = carried[:, 0].double().cpu().numpy()
            scaled[row, place] = units.size * outputs + units.shifted * given.shift
        flat = self._tensor(scaled.reshape(n * z.shape[1], -1))
        drawn: Array = self.scaling.inverse(flat).cpu().numpy().reshape(z.shape)
        return self._possible(drawn)

    def _log_density(self, conditions: Conditions, y: Array) -> Estimate:
        log_det = self.scaling.log_abs_det(self._tensor(y))
        values, errors = [], []
        for k, units in enumerate(self.units):
            carried, _, near = self._pulled(k, conditions, y[:, None])
            value = (standard_normal_log_prob(carried.y) + carried.log_det)[:, 0]
            value = value - float(np.log(units.size).sum()) + log_det
            values.append(torch.where(near[:, 0], value, -torch.inf))
            errors.append(carried.error)
        value, share = self._mixed(torch.stack(values))
        error = (share * torch.stack(errors)).sum(0)
        return Estimate(value, error, ~(error <= self.atol))

    def _log_mass(self, conditions: Conditions, y: Array) -> Estimate:
        """Logarithms of the probabilities of whole numbers, shape (n, 1).

        They are differences of the distribution function; for cells so narrow that these would
        be rounding errors, the mean of the densities at both edges.
        """
        edges = y + np.array([-0.5, 0.5])
        low, high = self._open_sides(edges)
        log_det = self.scaling.log_abs_det(self._tensor(edges.reshape(-1, 1))).reshape(edges.shape)
        values, errors = [], []
        for k, units in enumerate(self.units):
            carried, outputs, near = self._pulled(k, conditions, edges[:, :, None])
            z = torch.where(near, carried.y[..., 0], torch.inf * outputs.sign()[..., 0])
            z = torch.where(low, -torch.inf, torch.where(high, torch.inf, z))
            density = standard_normal_log_prob(carried.y) + carried.log_det + log_det
            density = density.logsumexp(dim=-1) - float(np.log(2.0 * units.size[0]))
            narrow = (z.diff(dim=-1)[:, 0] < _NARROW_CELL) & near.all(dim=-1)
            values.append(torch.where(narrow, density, log_normal_mass(z[:, 0], z[:, 1])))
            errors.append(carried.error)
        value, share = self._mixed(torch.stack(values))
        error = (share * torch.stack(errors)).sum(0)
        return Estimate(value, error, ~(error <= self.atol))

    def _open_sides(self, edges: Array) -> tuple[Tensor, Tensor]:
        """Edges of cells beyond which there is nothing, below and above."""
        low, high = self.columns.edges[0]
        return self._on_device(edges <= low), self._on_device(edges >= high)

    def _mixed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of the mixture, and the share of each member in it."""
        joint = values + torch.log(self._tensor(self.weights))[:, None]
        total = torch.logsumexp(joint, dim=0)
        share = torch.exp(joint - torch.where(torch.isfinite(total), total, 0.0))
        return total, share

    def _cdf(self, conditions: Conditions, y: Array) -> Estimate:
        values, errors = [], []
        for k in range(len(self.fields)):
            carried, outputs, near = self._pulled(k, conditions, y[:, :, None])
            latent = torch.where(near, carried.y[..., 0], torch.inf * outputs.sign()[..., 0])
            values.append(torch.special.ndtr(latent))
            errors.append(carried.error)
        weights = self._tensor(self.weights)
        value = torch.einsum("k,knq->nq", weights, torch.stack(values))
        error = (weights[:, None] * torch.stack(errors)).sum(0)
        return Estimate(value, error, ~(error <= self.atol))

    def _pulled(self, k: int, conditions: Conditions, y: Array) -> tuple[Any, Tensor, Tensor]:
        """Points, shape (n, q, k), carried to the base of a member, with their outputs in its
        units; and which of them are near enough to the data for that."""
        units, shape = self.units[k], y.shape
        scaled = self.scaling(self._tensor(y.reshape(-1, shape[-1]))).reshape(shape)
        shift = self._tensor(units.shifted * conditions.shift)[:, None]
        outputs = (scaled - shift) / self._tensor(units.size)
        near = outputs.abs().amax(dim=-1) < _FARTHEST  # NaN counts as far
        context = self._tensor(units.context(conditions))
        points = torch.where(near[..., None], outputs, 0.0)
        return self._flow(k, torch.float64, self.atol).pull(context, points), outputs, near

    def _mean(self, mixture: MonotoneMixture, rows: NDArray[np.int64]) -> Tensor:
        return mixture.mean(self._unscaled(mixture.values))[:, None]

    def _mean_of_whole(self, mixture: MonotoneMixture, rows: NDArray[np.int64]) -> Tensor:
        """Means of whole numbers, from the probabilities of all that are likely.

        If there are more of them than `_MOST_CELLS`, the distribution is so wide that rounding
        does not change its mean.
        """
        mean = self._mean(mixture, rows)[:, 0]
        ends = mixture.quantiles_of_latents(self._tensor(np.array([-_LIKELY, _LIKELY])))
        first, last = self._unscaled(ends).round().T
        few = last - first < _MOST_CELLS
        cells = first[:, None] + torch.arange(_MOST_CELLS, device=mean.device)
        edges = self.scaling((cells + 0.5).reshape(-1, 1)).reshape(cells.shape)
        above = 1.0 - mixture.cdf(edges)[0]
        above = torch.where(cells + 0.5 < self.columns.edges[0, 1], above, 0.0)
        return torch.where(few, first + above.sum(dim=-1), mean)[:, None]

    def _unscaled(self, scaled: Tensor) -> Tensor:
        """One output in its units, of any shape."""
        return self.scaling.inverse(scaled.reshape(-1, 1)).reshape(scaled.shape)

    def _tabulated(
        self,
        conditions: Conditions,
        question: Callable[[MonotoneMixture, NDArray[np.int64]], Tensor],
    ) -> Answer:
        """Ask tables of the quantiles of all rows, each with as many nodes as it needs.

        The question is asked with a table, and with the numbers of its rows.
        """
        values, unresolved, n_rows = [], [], len(conditions.features)
        for block in _own_blocks_of(n_rows):
            part = conditions.rows(block)
            answer, rows = np.empty(0), np.arange(len(part.features))
            error = np.empty(len(rows))
            for n_nodes in _NODES:
                mixture, error_of_nodes = self._table(part.rows(rows), n_nodes)
                value = question(mixture, block.start + rows).cpu().numpy()
                if n_nodes == _NODES[0]:
                    answer = value
                answer[rows] = value
                between = mixture.error()
                error[rows] = (between + error_of_nodes).cpu().numpy()
                rows = rows[(between > _TABLE_ERROR).cpu().numpy()]
                if not len(rows):
                    break
            values.append(answer)
            unresolved.append(~(error <= TABLE_TOLERANCE))
        return Answer(_gathered(values, n_rows), _gathered(unresolved, n_rows))

    def _table(self, conditions: Conditions, n_nodes: int) -> tuple[MonotoneMixture, Tensor]:
        """Table of the maps to the scaled output, which has no bounds, and its error at the nodes,
        as a probability, shape (n,)."""
        z, n = latent_nodes(n_nodes).to(self.device), len(conditions.features)
        tables, errors, weights = [], [], self._tensor(self.weights)
        for k, units in enumerate(self.units):
            context = self._tensor(units.context(conditions))
            points = z[None, :, None].expand(n, -1, 1)
            outputs, error = self._increasing(k, context, points)
            shift = self._tensor(units.shifted * conditions.shift)
            tables.append(outputs * float(units.size[0]) + shift)
            errors.append(error)
        mixture = MonotoneMixture(torch.stack(tables, dim=1), weights)
        return mixture, torch.stack(errors, dim=1) @ weights

    def _increasing(self, k: int, context: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points of a table, shape (n, J), and errors of the rows, as probabilities; in float64 if
        float32 is not enough for a row."""
        quick = self._flow(k, torch.float32, _TABLE_ATOL)
        carried = quick.push_many(context.float(), points.float())
        outputs, error = carried.y[..., 0].double(), carried.error.double()
        wrong = (outputs.diff(dim=-1) <= 0).any(dim=-1) | ~(error <= _TABLE_ATOL)
        if wrong.any():
            exact = self._flow(k, torch.float64, _TABLE_ATOL)
            carried = exact.push_many(context[wrong], points[wrong])
            outputs[wrong], error[wrong] = carried.y[..., 0], carried.error
            floor = torch.finfo(torch.float64).eps * (1.0 + outputs.abs().amax(-1, keepdim=True))
            ramp = floor * torch.arange(outputs.shape[-1], device=self.device)
            # What is left is rounding: an increasing sequence that differs by no more.
            outputs[wrong] = (outputs.cummax(dim=-1).values + ramp)[wrong]
        return outputs, error

    def _blocks(
        self, question: Callable[[Conditions, Array], Estimate], conditions: Conditions, y: Array
    ) -> Estimate:
        with torch.no_grad():
            parts = [
                question(conditions.rows(block), y[block])
                for block in _own_blocks_of(len(y), max(1, 4 * _BLOCK_ROWS // y.shape[1]))
            ]
        columns = zip(*parts, strict=True)
        return Estimate(*(processes.gathered(torch.cat(column), len(y)) for column in columns))

    def _flow(self, k: int, dtype: torch.dtype, atol: float) -> ConditionalFlow:
        field = self.fields[k]
        if next(field.parameters()).dtype != dtype:
            field = copy.deepcopy(field).to(dtype)
        return ConditionalFlow(field, self.end_time, atol)

    def _on_device(self, mask: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.asarray(mask)).to(self.device)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float64)).to(self.device)


def _own_blocks_of(n_rows: int, size: int = _BLOCK_ROWS) -> list[slice]:
    """Blocks of this rank's share of the rows."""
    own = processes.own_rows(n_rows)
    starts = range(own.start, max(own.stop, 1), size)
    return [slice(start, min(start + size, own.stop)) for start in starts]


def _gathered(blocks: Sequence[NDArray[Any]], n_rows: int) -> NDArray[Any]:
    """Values of all rows, from those of the blocks of each rank."""
    values = np.concatenate(blocks)
    return processes.gathered(torch.from_numpy(values), n_rows).numpy()
