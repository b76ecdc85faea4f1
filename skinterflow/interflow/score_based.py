r"""Score-based diffusion as a special case of a path (paper 2 [1]_, section 5.1).

Score-based diffusion turns data into noise by an Ornstein-Uhlenbeck process in a time ``tau`` of
its own, ``dZ = -Z dtau + sqrt(2) dW`` from ``Z_0 = x1`` (equation 5.1), whose law given ``x1`` is
that of

.. math:: e^{-\tau} x_1 + \sqrt{1 - e^{-2 \tau}}\, z, \qquad z \sim N(0, I)

(equation 5.4).  With ``t = exp(-tau)`` this is the path ``t x1 + sqrt(1 - t^2) x0`` from a standard
normal base, :class:`~skinterflow.interflow.interpolants.VariancePreserving` (equation 5.5), on
which the drift follows from the score alone, ``b = (x + s) / t`` (equations 5.6 and 5.10).  The
noise level ``epsilon = 1 / t`` gives the two equations of score-based diffusion:

- backward in time ``b - s / t = x / t``, the Ornstein-Uhlenbeck process (equation 5.7);
- forward in time ``b + s / t = (x + 2 s) / t``, the process that makes samples (equation 5.8).

Both are singular at ``t = 0``, which is ``tau = infinity``: they start at a later time, where the
law is not yet normal, and are biased for this reason.  Any other noise level has the same marginal
law, and one that is finite at ``t = 0`` has no such bias (equation 5.9).  A
:class:`~skinterflow.interflow.flows.Diffusion` takes any of them.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skinterflow.interflow.interpolants import (
    AffineInterpolant,
    VariancePreserving,
    expand_as_leading,
)
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.quantities import Quantities
from skinterflow.interflow.sde import NoiseLevel

_LAST_TIME = 1.0 - 1e-8
"""Where ``alpha alpha'`` is evaluated instead of at ``t = 1``, at which ``alpha'`` may be
infinite."""


def flow_time(tau: Tensor) -> Tensor:
    """Time on the path, ``t = exp(-tau)``, of a time of the Ornstein-Uhlenbeck process.

    Parameters
    ----------
    tau : Tensor of any shape, not negative

    Returns
    -------
    Tensor of the same shape, in (0, 1]

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import flow_time
    >>> flow_time(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.3679])
    """
    return torch.exp(-tau)


def diffusion_time(t: Tensor) -> Tensor:
    """Time of the Ornstein-Uhlenbeck process, ``tau = -log(t)``, of a time on the path.

    Parameters
    ----------
    t : Tensor of any shape, in (0, 1]

    Returns
    -------
    Tensor of the same shape

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import diffusion_time
    >>> diffusion_time(torch.tensor([1.0, 0.5]))
    tensor([0.0000, 0.6931])
    """
    return 0.0 - torch.log(t)  # not -0.0 at the data


def noising_level(interpolant: AffineInterpolant) -> NoiseLevel:
    r"""Noise level for which the diffusion backward in time adds noise without knowing the data.

    From a standard normal base, without a noise term, it is

    .. math:: \epsilon = \alpha^2 \dot\beta / \beta - \alpha \dot\alpha,
        \qquad b - \epsilon s = (\dot\beta / \beta)\, x .

    On the variance-preserving path it is ``1 / t``, that of score-based diffusion (paper 2,
    equations 5.7 and 5.8).  It is infinite where ``beta`` is zero, so a diffusion with this level
    cannot start at ``t = 0``.

    Parameters
    ----------
    interpolant : AffineInterpolant

    Returns
    -------
    callable, noise level at a time

    Examples
    --------
    >>> from skinterflow.interflow import VariancePreserving, noising_level
    >>> round(noising_level(VariancePreserving())(0.25), 6)
    4.0
    """

    @torch.no_grad()
    def level(t: float) -> float:
        time = torch.tensor(min(t, _LAST_TIME), dtype=torch.float64)
        alpha, beta, alpha_rate, beta_rate = map(float, interpolant.weights(time))
        if beta == 0.0:
            return math.inf
        return alpha**2 * beta_rate / beta - alpha * alpha_rate

    return level


class ScoreModel(Quantities):
    """A score that was learned in the time of score-based diffusion, as quantities of a path.

    The drift is ``b = (x + s) / t``, so that a model from elsewhere gives a flow with a
    log-density, and diffusions with any noise level (paper 2, equations 5.6 to 5.10).

    Parameters
    ----------
    model : callable
        ``model(tau, x)``, the score of the Ornstein-Uhlenbeck process ``dZ = -Z dtau + sqrt(2) dW``
        at times of shape () or (B,) and points of shape (B, D).  For a variance-preserving process
        of rate ``r``, ``dZ = -r Z / 2 ds + sqrt(r) dW``, the time ``tau`` is half of the integral
        of ``r``.
    first_time : float in (0, 1)
        At earlier times on the path, the drift is that of this time, because errors of the score
        are divided by `t`.

    Raises
    ------
    ValueError
        If `first_time` is not between 0 and 1.

    Examples
    --------
    Data from N(3, 1): the score of the process is ``3 exp(-tau) - x``, and the flow moves all
    points by 3.

    >>> import torch
    >>> from skinterflow.interflow import CustomField, Flow, ScoreModel
    >>> model = ScoreModel(lambda tau, x: 3.0 * torch.exp(-tau)[..., None] - x)
    >>> x0 = torch.tensor([[-1.0], [0.0]])
    >>> torch.allclose(Flow(CustomField(model.drift, n_features=1)).push(x0), x0 + 3.0, atol=1e-2)
    True
    """

    path = StochasticInterpolant(VariancePreserving())

    def __init__(self, model: Callable[[Tensor, Tensor], Tensor], first_time: float = 0.01) -> None:
        if not 0.0 < first_time < 1.0:
            raise ValueError(
                f"first_time must be between 0 and 1, got {first_time!r}; errors of the score are "
                "divided by it."
            )
        self.model = model
        self.first_time = first_time

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        return self.drift_and_score(t, x)[0]

    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        inside = t.clamp(min=self.first_time)
        score = self.model(diffusion_time(inside), x)
        return (x + score) / expand_as_leading(inside, x), score

    def noise_fraction(self, t: float) -> float:
        return 1.0
