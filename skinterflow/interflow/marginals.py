"""Scalings of single columns that are not linear: power maps, bounds, and columns made normal."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skinterflow.interflow.scaling import Scaling


class YeoJohnson(Scaling):
    r"""Yeo-Johnson power map per column: ``sign(x) ((1 + |x|)^m - 1) / m`` with ``m = lambda`` for
    ``x >= 0``, else ``2 - lambda``.

    Parameters
    ----------
    lambdas : Tensor of shape (D,), in [0, 2], the range in which the map is onto the whole line

    References
    ----------
    Yeo and Johnson, "A new family of power transformations to improve normality or symmetry",
    Biometrika 87, 2000.

    Examples
    --------
    A power of 1 changes nothing, and 0 is the logarithm of ``1 + x`` for positive `x`.

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
    """1 or -1: unlike the sign it is not zero at zero, where derivatives would then vanish."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def _nonzero(m: Tensor) -> Tensor:
    """`m` with zeros replaced, so that the branch which is not taken leaves no NaN in
    derivatives."""
    return torch.where(m == 0, 1.0, m)


class Bounds(Scaling):
    r"""Columns with bounds to the whole line, by the quantile function of the normal law:
    ``u = Phi^-1(U(x))`` per column.

    ``U(x) = (x - lower) / (upper - lower)`` between two bounds, ``1 - 2^(-(x - lower) / scale)``
    above a lower one, and ``2^(-(upper - x) / scale)`` below an upper one.  A uniform and an
    exponential column, with their bounds, become normal, and a density that is smooth and positive
    up to its bound has a tail there as light as the normal.  Both tails of `U` are computed as
    logarithms of their own, so that no digits are lost at either end.

    Columns without bounds are left as they are.  A point on a bound, or beyond it, is moved inside
    by a millionth of the width between two bounds, or of `scale`: its density is finite, and that
    of its neighbour.  All others are mapped exactly.

    Parameters
    ----------
    lower, upper : Tensors of shape (D,), infinite where there is no bound
    scale : Tensor of shape (D,)
        Positive: the distance from a single bound that is mapped to zero, such as the median.

    Examples
    --------
    A column of shares, between 0 and 1, and one of waiting times, above 0.

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
        """Positive distances from the lower and the upper bound; where there is none, any positive
        number."""
        unit = torch.where(self._has_two(), self._width(), self.scale)
        below = torch.where(torch.isfinite(self.lower), x - _finite(self.lower), unit)
        above = torch.where(torch.isfinite(self.upper), _finite(self.upper) - x, unit)
        on_lower, on_upper, inside = below <= 0, above <= 0, _INSIDE * unit
        return (
            torch.where(on_lower, inside, torch.where(on_upper, unit - inside, below)),
            torch.where(on_upper, inside, torch.where(on_lower, unit - inside, above)),
        )

    def _mapped(self, below: Tensor, above: Tensor) -> Tensor:
        """Normal quantile of `U`, from the logarithm of the smaller of its tails."""
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
"""How far a point on a bound is moved inside, relative to the width or the scale."""


def _finite(bound: Tensor) -> Tensor:
    """`bound`, and zero where there is none, so that the branch which is not taken leaves no NaN in
    derivatives."""
    return torch.where(torch.isfinite(bound), bound, 0.0)


class Gaussianize(Scaling):
    r"""Columns made normal: ``u = Phi^-1(F(x))`` in each, with the distribution function `F` of a
    normal mixture of its own.

    Where a column has the law of its mixture, ``u`` is standard normal.  The map is smooth, and
    nearly a straight line far outside.  Both tails of `F` are computed as logarithms of their own,
    so that no digits are lost at either end.  Columns that are not named are left as they are.

    Parameters
    ----------
    columns : int Tensor of shape (C,), numbers of the columns that are mapped
    weights : Tensor of shape (C, K)
        The weights of the components, not negative and one in sum for each column.
    means, deviations : Tensors of shape (C, K)
        Those of the components, in the units of the columns; the deviations positive.

    References
    ----------
    Chen and Gopinath, "Gaussianization", NIPS 2000.

    Examples
    --------
    The second column lies around -2 and 2, and its distribution function is one half in the middle.

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
        """`work` on the columns, over blocks of rows whose numbers, one for every component, are
        few enough."""
        n_rows = max(1, _BLOCK_NUMBERS // max(1, self.weights.numel()))
        return torch.cat([work(block) for block in rows[:, self.columns].split(n_rows)])

    def _standardized(self, x: Tensor) -> Tensor:
        """`x`, (B, C), in the units of every component: (B, C, K)."""
        return (x[..., None] - self.means) / self.deviations

    def _mapped(self, x: Tensor) -> Tensor:
        """Normal quantile of `F`, from the logarithm of the smaller of its tails."""
        z = self._standardized(x)
        return _quantile_of_tails(self._log_mass_below(z), self._log_mass_below(-z))

    def _log_mass_below(self, z: Tensor) -> Tensor:
        """Logarithm of the mixture's mass below points that are given in units of its
        components."""
        mass = 0.5 * (self.weights * torch.erfc(-math.sqrt(0.5) * z)).sum(-1)
        tiny = torch.finfo(mass.dtype).tiny / torch.finfo(mass.dtype).eps
        log_mass = mass.clamp(min=tiny).log()
        if (mass < tiny).any():  # ten times slower, and seldom needed
            return torch.where(
                mass < tiny,
                torch.logsumexp(self.weights.log() + torch.special.log_ndtr(z), dim=-1),
                log_mass,
            )
        return log_mass

    def _mapped_with_log_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `_mapped`, and the logarithm of its slope ``f(x) / phi(u)``: of the densities without
        the factor that they share."""
        mapped = self._mapped(x)
        log_density = torch.logsumexp(
            self.weights.log() - self.deviations.log() - 0.5 * self._standardized(x).square(),
            dim=-1,
        )
        return mapped, log_density + 0.5 * mapped.square()

    def _unmapped(self, u: Tensor) -> Tensor:
        """Points that are mapped to `u`."""
        x = self._solved(u.detach())
        mapped, log_slope = self._mapped_with_log_slope(x)
        # One more of Newton's steps, which squares the error, and of which derivatives are taken.
        return x - (mapped - u) * (-log_slope).exp()

    @torch.no_grad()
    def _solved(self, u: Tensor) -> Tensor:
        """Points that are nearly mapped to `u`: Newton's steps, or halvings where those leave the
        bracket or are slower than they."""
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
        """Points below and above what is mapped to `u`: neighbours in a table.

        Beyond its ends, a quantile of a mixture lies between those of its components.
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
        """Least and largest of the components' quantiles."""
        quantiles = self.means + self.deviations * u[..., None]
        weighted = self.weights > 0
        return torch.where(weighted, quantiles, math.inf).amin(-1), torch.where(
            weighted, quantiles, -math.inf
        ).amax(-1)


_BLOCK_NUMBERS = 2**20
_TABLE_SIZE = 256
_TABLE_END = 5.0
"""Normal quantile at the end of a table."""
_MAX_NEWTON_STEPS = 60
"""As many halvings take any bracket to the resolution of its numbers."""
_NEAR = 1e-6
"""Last of Newton's steps, relative to the least deviation of the mixture."""


def _quantile_of_tails(log_below: Tensor, log_above: Tensor) -> Tensor:
    """The `u` that divides the standard normal law into masses of these logarithms, from the
    smaller of the two."""
    is_below = log_below < log_above
    # Not the minimum, whose derivative at a tie, the median, is the mean of two that cancel.
    return torch.where(is_below, -1.0, 1.0) * _normal_quantile(
        torch.where(is_below, log_below, log_above)
    )


_FAR = -600.0
"""Logarithm of the smallest tail that is looked at as a number."""


def _normal_quantile(log_tail: Tensor) -> Tensor:
    """The `u >= 0` above which the standard normal law has a mass of ``exp(log_tail)``, at most one
    half."""
    near = -torch.special.ndtri(log_tail.clamp(min=_FAR).exp())
    y = -log_tail.clamp(max=_FAR)
    u = (2.0 * y - (4.0 * math.pi * y).log()).sqrt()
    for _ in range(2):  # Newton, whose error here is squared and divided by u
        mills = math.sqrt(0.5 * math.pi) * torch.special.erfcx(u / math.sqrt(2.0))
        u = u + mills * (torch.special.log_ndtr(-u) + y)
    return torch.where(log_tail > _FAR, near, u)
