"""Nonlinear scalings of single columns.

:class:`YeoJohnson` is a power map [1]_, :class:`Bounds` maps bounded columns to the whole line, and
:class:`Gaussianize` makes columns normal [2]_.

References
----------
.. [1] Yeo and Johnson, "A new family of power transformations to improve normality or symmetry",
    Biometrika 87, 2000.
.. [2] Chen and Gopinath, "Gaussianization", NIPS 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skinterflow.interflow.scaling import Scaling


class YeoJohnson(Scaling):
    r"""Yeo-Johnson power map per column, ``sign(x) ((1 + |x|)^m - 1) / m``.

    The exponent `m` is ``lambda`` for ``x >= 0`` and ``2 - lambda`` for ``x < 0`` (Yeo and Johnson,
    2000).

    Parameters
    ----------
    lambdas : Tensor of shape (D,), in [0, 2], for which the map is onto the whole line

    Examples
    --------
    ``lambda = 1`` is the identity, and ``lambda = 0`` is ``log(1 + x)`` for positive `x`.

    >>> import math, torch
    >>> from skinterflow.interflow import YeoJohnson
    >>> scaling, x = YeoJohnson(torch.tensor([1.0, 0.0])), torch.tensor([[3.0, math.e - 1.0]])
    >>> (
    ...     torch.allclose(scaling(x), torch.tensor([[3.0, 1.0]])),
    ...     torch.allclose(scaling.inverse(scaling(x)), x),
    ... )
    (True, True)
    """

    lambdas: Tensor

    def __init__(self, lambdas: Tensor) -> None:
        super().__init__()
        self.register_buffer("lambdas", lambdas)

    def forward(self, x: Tensor) -> Tensor:
        m, side = self._exponent(x), _side(x)
        log = (side * x).log1p()
        return side * torch.where(m == 0, log, torch.expm1(m * log) / _nonzero(m))

    def inverse(self, u: Tensor) -> Tensor:
        m, side = self._exponent(u), _side(u)
        size = side * u
        return side * torch.expm1(torch.where(m == 0, size, torch.log1p(m * size) / _nonzero(m)))

    def log_abs_det(self, x: Tensor) -> Tensor:
        return ((self._exponent(x) - 1.0) * (_side(x) * x).log1p()).sum(-1)

    def _exponent(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, self.lambdas, 2.0 - self.lambdas)


def _side(x: Tensor) -> Tensor:
    """Sign of `x`, but 1 at zero, where derivatives would otherwise vanish."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def _nonzero(m: Tensor) -> Tensor:
    """`m` with zeros replaced, which would give NaN in derivatives of the unused branch."""
    return torch.where(m == 0, 1.0, m)


class Bounds(Scaling):
    r"""Map from bounded columns to the whole line, ``u = Phi^-1(U(x))`` per column.

    ``Phi^-1`` is the quantile function of the standard normal law, and `U` is

    - ``(x - lower) / (upper - lower)`` between two bounds,
    - ``1 - 2^(-(x - lower) / scale)`` above a lower bound,
    - ``2^(-(upper - x) / scale)`` below an upper bound.

    Uniform columns between two bounds and exponential columns above or below one bound become
    normal, and a density that is smooth and positive at a bound gets a tail as light as the normal.
    The logarithms of both tails of `U` are computed separately, so that precision is kept at both
    ends.

    Columns without bounds are not changed.  A point on a bound or beyond it is moved inside by a
    millionth of the distance between the bounds, or of `scale`, and has the finite density of that
    point.  All other points are mapped exactly.

    Parameters
    ----------
    lower, upper : Tensors of shape (D,), infinite where there is no bound
    scale : Tensor of shape (D,)
        Positive; the distance from a single bound that is mapped to zero, such as the median.

    Examples
    --------
    A column of fractions, between 0 and 1, and one of waiting times, above 0.

    >>> import math, torch
    >>> from skinterflow.interflow import Bounds
    >>> scaling = Bounds(torch.zeros(2), torch.tensor([1.0, math.inf]), torch.tensor([1.0, 5.0]))
    >>> torch.allclose(scaling(torch.tensor([[0.5, 5.0]])), torch.zeros(1, 2), atol=1e-6)
    True
    >>> x = scaling.inverse(torch.tensor([[-3.0, 2.0]]))
    >>> bool(((x > 0) & (x < torch.tensor([1.0, math.inf]))).all())
    True
    """

    lower: Tensor
    upper: Tensor
    scale: Tensor

    def __init__(self, lower: Tensor, upper: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self._is_free(), x, self._mapped(*self._distances(x)))

    def inverse(self, u: Tensor) -> Tensor:
        below, above = torch.special.log_ndtr(u), torch.special.log_ndtr(-u)
        width, lower, upper = self._width(), _finite(self.lower), _finite(self.upper)
        between = torch.where(u < 0, lower + width * below.exp(), upper - width * above.exp())
        step = self.scale / math.log(2.0)
        beyond = torch.where(torch.isfinite(self.lower), lower - step * above, upper + step * below)
        return torch.where(self._is_free(), u, torch.where(self._has_two(), between, beyond))

    def log_abs_det(self, x: Tensor) -> Tensor:
        distances = self._distances(x)
        distance = torch.where(torch.isfinite(self.lower), *distances) / self.scale
        log_slope = torch.where(
            self._has_two(),
            -self._width().log(),
            math.log(math.log(2.0)) - math.log(2.0) * distance - self.scale.log(),
        )
        log_normal = -0.5 * (self._mapped(*distances).square() + math.log(2.0 * math.pi))
        return torch.where(self._is_free(), 0.0, log_slope - log_normal).sum(-1)

    def _is_free(self) -> Tensor:
        return ~(torch.isfinite(self.lower) | torch.isfinite(self.upper))

    def _has_two(self) -> Tensor:
        return torch.isfinite(self.lower) & torch.isfinite(self.upper)

    def _width(self) -> Tensor:
        return torch.where(self._has_two(), self.upper - self.lower, 1.0)

    def _distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positive distances from the lower and the upper bound; arbitrary where there is none."""
        unit = torch.where(self._has_two(), self._width(), self.scale)
        below = torch.where(torch.isfinite(self.lower), x - _finite(self.lower), unit)
        above = torch.where(torch.isfinite(self.upper), _finite(self.upper) - x, unit)
        on_lower, on_upper, inside = below <= 0, above <= 0, _INSIDE * unit
        return (
            torch.where(on_lower, inside, torch.where(on_upper, unit - inside, below)),
            torch.where(on_upper, inside, torch.where(on_lower, unit - inside, above)),
        )

    def _mapped(self, below: Tensor, above: Tensor) -> Tensor:
        """Normal quantile of `U`, from the logarithm of its smaller tail."""
        two, has_lower, width = self._has_two(), torch.isfinite(self.lower), self._width()
        half_lives = math.log(2.0) * torch.where(has_lower, below, above) / self.scale
        log_near, log_far = torch.log(-torch.expm1(-half_lives)), -half_lives
        log_below = torch.where(
            two,
            (torch.where(two, below, 0.5) / width).log(),
            torch.where(has_lower, log_near, log_far),
        )
        log_above = torch.where(
            two,
            (torch.where(two, above, 0.5) / width).log(),
            torch.where(has_lower, log_far, log_near),
        )
        return _quantile_of_tails(log_below, log_above)


_INSIDE = 1e-6
"""Distance by which a point on a bound is moved inside, relative to the width or the scale."""


def _finite(bound: Tensor) -> Tensor:
    """`bound` with infinity replaced, which would give NaN in derivatives of the unused branch."""
    return torch.where(torch.isfinite(bound), bound, 0.0)


class Gaussianize(Scaling):
    r"""Map from columns to normal columns, ``u = Phi^-1(F(x))`` per column.

    `F` is the cumulative distribution function of a normal mixture for each column (Chen and
    Gopinath, 2000).  If a column has the law of its mixture, ``u`` is standard normal.  The map is
    smooth, and almost linear far from the mixture.  The logarithms of both tails of `F` are
    computed separately, so that precision is kept at both ends.  Other columns are not changed.

    Parameters
    ----------
    columns : int Tensor of shape (C,), indices of the columns to map
    weights : Tensor of shape (C, K)
        Weights of the components, not negative and with sum one for each column.
    means, deviations : Tensors of shape (C, K)
        Means and positive standard deviations of the components, in units of the columns.

    Examples
    --------
    The mixture of the second column has modes at -2 and 2, and its median at 0.

    >>> import torch
    >>> from skinterflow.interflow import Gaussianize
    >>> scaling = Gaussianize(
    ...     torch.tensor([1]),
    ...     torch.tensor([[0.5, 0.5]]),
    ...     torch.tensor([[-2.0, 2.0]]),
    ...     torch.ones(1, 2),
    ... )
    >>> x = torch.tensor([[7.0, 0.0], [7.0, 2.0]])
    >>> torch.allclose(scaling(x), torch.tensor([[7.0, 0.0], [7.0, 0.6744]]), atol=1e-3)
    True
    >>> torch.allclose(scaling.inverse(scaling(x)), x, atol=1e-5)
    True
    """

    columns: Tensor
    weights: Tensor
    means: Tensor
    deviations: Tensor

    def __init__(self, columns: Tensor, weights: Tensor, means: Tensor, deviations: Tensor) -> None:
        super().__init__()
        for name, value in (
            ("columns", columns),
            ("weights", weights),
            ("means", means),
            ("deviations", deviations),
        ):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self._with_columns(x, self._in_blocks(self._mapped, x))

    def inverse(self, u: Tensor) -> Tensor:
        return self._with_columns(u, self._in_blocks(self._unmapped, u))

    def log_abs_det(self, x: Tensor) -> Tensor:
        return self._in_blocks(lambda block: self._mapped_with_log_slope(block)[1].sum(-1), x)

    def _with_columns(self, rows: Tensor, columns: Tensor) -> Tensor:
        return rows.to(columns.dtype).index_copy(1, self.columns, columns)

    def _in_blocks(self, work: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply `work` to the columns in blocks of rows, which limits the memory."""
        n_rows = max(1, _BLOCK_NUMBERS // max(1, self.weights.numel()))
        return torch.cat([work(block) for block in rows[:, self.columns].split(n_rows)])

    def _standardized(self, x: Tensor) -> Tensor:
        """`x`, (B, C), standardized by each component, (B, C, K)."""
        return (x[..., None] - self.means) / self.deviations

    def _mapped(self, x: Tensor) -> Tensor:
        """Normal quantile of `F`, from the logarithm of its smaller tail."""
        z = self._standardized(x)
        return _quantile_of_tails(self._log_mass_below(z), self._log_mass_below(-z))

    def _log_mass_below(self, z: Tensor) -> Tensor:
        """Logarithm of the mass of the mixture below standardized points."""
        mass = 0.5 * (self.weights * torch.erfc(-math.sqrt(0.5) * z)).sum(-1)
        tiny = torch.finfo(mass.dtype).tiny / torch.finfo(mass.dtype).eps
        log_mass = mass.clamp(min=tiny).log()
        if (mass < tiny).any():  # ten times slower, and rarely needed
            return torch.where(
                mass < tiny,
                torch.logsumexp(self.weights.log() + torch.special.log_ndtr(z), dim=-1),
                log_mass,
            )
        return log_mass

    def _mapped_with_log_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`_mapped` and the logarithm of its slope, ``f(x) / phi(u)``, without common factors."""
        mapped = self._mapped(x)
        log_density = torch.logsumexp(
            self.weights.log() - self.deviations.log() - 0.5 * self._standardized(x).square(),
            dim=-1,
        )
        return mapped, log_density + 0.5 * mapped.square()

    def _unmapped(self, u: Tensor) -> Tensor:
        """Inverse of `_mapped`."""
        x = self._solved(u.detach())
        mapped, log_slope = self._mapped_with_log_slope(x)
        # One more Newton step, which squares the error and is differentiable.
        return x - (mapped - u) * (-log_slope).exp()

    @torch.no_grad()
    def _solved(self, u: Tensor) -> Tensor:
        """Approximate inverse of `_mapped`, by Newton steps with bisection as a safeguard.

        A step bisects the bracket where Newton's would leave it or converge more slowly.
        """
        low, high = self._bracket(u)
        x, moved = 0.5 * (low + high), high - low
        near, rows = _NEAR * self.deviations.amin(-1), torch.arange(len(u), device=u.device)
        for _ in range(_MAX_NEWTON_STEPS):
            mapped, log_slope = self._mapped_with_log_slope(x[rows])
            excess, at = mapped - u[rows], x[rows]
            low[rows], high[rows] = (
                torch.where(excess < 0, at, low[rows]),
                torch.where(excess > 0, at, high[rows]),
            )
            step = at - excess * (-log_slope).exp()
            fast = (
                (step > low[rows]) & (step < high[rows]) & ((step - at).abs() < 0.5 * moved[rows])
            )
            x[rows] = torch.where(fast, step, 0.5 * (low[rows] + high[rows]))
            moved[rows] = (x[rows] - at).abs()
            rows = rows[(moved[rows] > near).any(-1)]
            if not len(rows):
                break
        return x

    def _bracket(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the inverse of `_mapped`: neighbours in a table.

        Beyond the ends of the table, the bounds are the extreme quantiles of the components.
        """
        ends = torch.tensor([[-_TABLE_END], [_TABLE_END]], dtype=u.dtype, device=u.device).expand(
            2, u.shape[1]
        )
        lowest, highest = self._range_of_quantiles(ends)
        table = torch.lerp(
            lowest[0],
            highest[1],
            torch.linspace(0.0, 1.0, _TABLE_SIZE, dtype=u.dtype, device=u.device)[:, None],
        )
        above = torch.searchsorted(self._mapped(table).T.contiguous(), u.T.contiguous()).T
        low, high = self._range_of_quantiles(u)
        low = torch.where(above > 0, table.gather(0, (above - 1).clamp(min=0)), low)
        return low, torch.where(
            above < _TABLE_SIZE, table.gather(0, above.clamp(max=_TABLE_SIZE - 1)), high
        )

    def _range_of_quantiles(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest quantile of the components."""
        quantiles = self.means + self.deviations * u[..., None]
        weighted = self.weights > 0
        return torch.where(weighted, quantiles, math.inf).amin(-1), torch.where(
            weighted, quantiles, -math.inf
        ).amax(-1)


_BLOCK_NUMBERS = 2**20
"""Largest number of values, one for each component and row, in a block."""
_TABLE_SIZE = 256
_TABLE_END = 5.0
"""Normal quantile at the end of a table."""
_MAX_NEWTON_STEPS = 60
"""Bisections that reduce any bracket to the resolution of its numbers."""
_NEAR = 1e-6
"""Size of the last Newton step, relative to the smallest deviation of the mixture."""


def _quantile_of_tails(log_below: Tensor, log_above: Tensor) -> Tensor:
    """Normal quantile from the logarithms of the mass below and above it.

    Only the smaller mass is used, for precision.
    """
    is_below = log_below < log_above
    # Not torch.minimum, whose derivative at a tie, the median, averages two that cancel.
    return torch.where(is_below, -1.0, 1.0) * _normal_quantile(
        torch.where(is_below, log_below, log_above)
    )


_FAR = -600.0
"""Logarithm of the smallest tail that is computed without an asymptotic expansion."""


def _normal_quantile(log_tail: Tensor) -> Tensor:
    """The `u >= 0` with standard normal mass ``exp(log_tail)``, at most 1/2, above it."""
    near = -torch.special.ndtri(log_tail.clamp(min=_FAR).exp())
    y = -log_tail.clamp(max=_FAR)
    u = (2.0 * y - (4.0 * math.pi * y).log()).sqrt()
    for _ in range(2):  # Newton steps, which square the error and divide it by u
        mills = math.sqrt(0.5 * math.pi) * torch.special.erfcx(u / math.sqrt(2.0))
        u = u + mills * (torch.special.log_ndtr(-u) + y)
    return torch.where(log_tail > _FAR, near, u)
