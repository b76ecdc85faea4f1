r"""Alternative objectives: another loss of the score, a penalty on slopes, and crossed batches.

- :class:`ScoreObjective` learns the score from its divergence, ``E[|s|^2 + 2 div s]`` (paper 2
  [2]_, equation 2.30; Hyvarinen [3]_).  It needs no noise of a known law on the path.
- :class:`PenalizedObjective` adds ``lambda E|grad v|^2`` to the loss of a velocity, which bounds
  its slopes (paper 1 [1]_, appendix), and with them the factor of proposition 3.
- :class:`CrossedObjective` combines every base point of a batch with every row and every time
  (paper 1, equation I.1).

They are trained by :func:`~skinterflow.interflow.training.train`, as other objectives are.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
.. [3] Hyvarinen, "Estimation of non-normalized statistical models by score matching", Journal of
    Machine Learning Research 6, 2005.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skinterflow.interflow.derivatives import vector_jacobian_product
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.times import TimeLaw, stratified_uniform


class ScoreObjective(PathObjective):
    r"""The loss of a score by its divergence (paper 2, equation 2.30).

    .. math:: |\hat s_t(x_t)|^2 + 2 \nabla \cdot \hat s_t(x_t)

    Its minimiser is ``grad log rho_t``, with minimum ``-E|s|^2``, on any path: between two data
    sets without a noise term, under any coupling, and on paths that are not affine.  Where the
    noise of the path has a known law, the loss of :func:`~skinterflow.interflow.path_loss` is
    cheaper, because it needs no divergence.

    Parameters
    ----------
    field : VelocityField, for the score; with estimates of the divergence, their mean is used
    path : StochasticInterpolant, or Interpolant for a path without a noise term
    time_law : TimeLaw
    base : Scaling or None, see :class:`PathObjective`

    Examples
    --------
    The score of a standard normal at every time is ``-x``, and its loss ``x^2 - 2``.

    >>> import torch
    >>> from skinterflow.interflow import Beta, CustomField, ScoreObjective, Trigonometric
    >>> score = CustomField(lambda t, x: -x, n_features=1)
    >>> objective = ScoreObjective(score, Trigonometric(), Beta())
    >>> x = torch.full((1, 1), 3.0)
    >>> objective(x, x, t=torch.tensor([0.0])).tolist()
    [7.0]
    """

    def loss(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None) -> Tensor:
        xt = self.path(t, x0, x1, z)
        batch = xt.shape[:-1]
        rows = xt.reshape(-1, xt.shape[-1])
        score, divergence = self.field.value_and_divergence(t.expand(batch).reshape(-1), rows)
        mean_divergence = divergence.reshape(len(rows), -1).mean(dim=1)
        return (score.square().sum(-1) + 2.0 * mean_divergence).reshape(batch)


class PenalizedObjective(PathObjective):
    r"""The loss of a field with a penalty on its slopes (paper 1, appendix).

    .. math:: \lambda \| \nabla \hat v_t(x_t) \|_F^2

    The penalty is exact, with one backward pass for each column.

    Parameters
    ----------
    field, path, time_law, base : see :class:`PathObjective`
    penalty : float, the `lambda` above, not negative

    Raises
    ------
    ValueError
        If the penalty is negative or not finite.

    Examples
    --------
    The field ``2 x`` in the plane has the squared slopes ``2^2 + 2^2``.

    >>> import torch
    >>> from skinterflow.interflow import Beta, CustomField, Linear, PenalizedObjective
    >>> field = CustomField(lambda t, x: 2.0 * x, n_features=2)
    >>> objective = PenalizedObjective(field, Linear(), Beta(), penalty=0.5)
    >>> zero = torch.zeros(1, 2)
    >>> objective(zero, zero, t=torch.tensor([0.5]))
    tensor([4.])
    """

    def __init__(
        self,
        field: VelocityField,
        path: StochasticInterpolant | Interpolant,
        time_law: TimeLaw,
        base: Scaling | None = None,
        *,
        penalty: float,
    ) -> None:
        super().__init__(field, path, time_law, base)
        if not 0.0 <= penalty < math.inf:
            raise ValueError(f"penalty must be finite and not negative, got {penalty!r}.")
        self.penalty = penalty

    def loss(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None) -> Tensor:
        slopes = squared_slopes(self.field, t, self.path(t, x0, x1, z))
        return super().loss(t, x0, x1, z) + self.penalty * slopes


def squared_slopes(field: VelocityField, t: Tensor, x: Tensor) -> Tensor:
    """Sum of the squares of all slopes ``dv_i / dx_j`` of a field at each point.

    Parameters
    ----------
    field : VelocityField
    t : Tensor that broadcasts with the batch axes of `x`
    x : Tensor of shape ``(*batch, D)``

    Returns
    -------
    Tensor of the batch shape

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import CustomField
    >>> from skinterflow.interflow.alternatives import squared_slopes
    >>> field = CustomField(lambda t, x: x.square(), n_features=2)
    >>> squared_slopes(field, torch.tensor(0.5), torch.tensor([[1.0, 2.0]]))
    tensor([20.])
    """
    value, pull_back = vector_jacobian_product(lambda y: field(t, y), x)

    def of_component(direction: Tensor) -> Tensor:
        (slopes,) = pull_back(direction.expand_as(value))
        return slopes.square().sum(-1)

    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.func.vmap(of_component)(identity).sum(0)


class CrossedObjective(PathObjective):
    r"""The loss of every base point with every row at every time (paper 1, equation I.1).

    .. math::
        \frac{1}{K n} \sum_{k=1}^K \sum_{i=1}^n
        |\hat v_{t_k}(I_{t_k}(x_0^i, x_1^j))|^2 - 2 \partial_t I_{t_k} \cdot \hat v_{t_k}

    for row `j`.  It uses each row of a small batch many times, with the same expectation as
    :class:`PathObjective`; a network is evaluated at ``K n N`` points.  The pairs are independent,
    so given pairs and other couplings do not go with it.

    Parameters
    ----------
    field, path, time_law, base : see :class:`PathObjective`
    n_times : int, number K of times, at least 1

    Raises
    ------
    ValueError
        If `n_times` is less than 1.

    Examples
    --------
    Three base points, five rows and two times: one loss for each row.

    >>> import torch
    >>> from skinterflow.interflow import Beta, CrossedObjective, Linear, ResidualMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     objective = CrossedObjective(ResidualMLP(2, (8,)), Linear(), Beta(), n_times=2)
    ...     loss = objective(torch.zeros(3, 2), torch.ones(5, 2))
    >>> loss.shape
    torch.Size([5])
    """

    def __init__(
        self,
        field: VelocityField,
        path: StochasticInterpolant | Interpolant,
        time_law: TimeLaw,
        base: Scaling | None = None,
        *,
        n_times: int,
    ) -> None:
        super().__init__(field, path, time_law, base)
        if n_times < 1:
            raise ValueError(f"n_times must be at least 1, got {n_times!r}.")
        self.n_times = n_times

    def draw(self, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw times, shape (K,), and noise of the shape of the points that are given.

        These are the base points: each has its own noise, with all rows and at all times.
        """
        u = stratified_uniform(self.n_times, x1.device, generator)
        t, z = self.time_law.quantile(u).to(x1.dtype), self.path.draw(x1, generator)
        return (t,) if z is None else (t, z)

    def forward(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """Loss of each row.

        Parameters
        ----------
        x0 : Tensor of shape (n, D)
        x1 : Tensor of shape (N, D)
        t : Tensor of shape (K,), or None to draw times and noise from torch's global random state
        z : Tensor of shape (n, D), or None without a noise term

        Returns
        -------
        Tensor of shape (N,)

        Raises
        ------
        ValueError
            If the rows are not of the shapes (n, D) and (N, D).
        """
        if x0.ndim != 2 or x1.ndim != 2 or x0.shape[1] != x1.shape[1]:
            raise ValueError(
                "Rows must be of the shapes (n, D) and (N, D), got "
                f"{tuple(x0.shape)} and {tuple(x1.shape)}."
            )
        if t is None:
            return self(x0, x1, *self.draw(x0))
        sizes = (len(t), len(x0), len(x1), x1.shape[1])
        starts = self.base(x0)[:, None].expand(sizes).flatten(1, 2)
        noise = None if z is None else z[:, None].expand(sizes).flatten(1, 2)
        losses = self.loss(t[:, None], starts, x1.expand(sizes).flatten(1, 2), noise)
        return losses.reshape(sizes[:3]).mean(dim=(0, 1))
