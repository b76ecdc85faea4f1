r"""Control of the likelihood by what was learned (paper 2 [1]_, sections 2.4 and 2.5).

Let ``rho_t`` be the density of the path, with drift `b` and score `s`, and ``rho'_t`` that of the
flow of a learned drift ``b'`` from the same base.  The relative entropy at time `T` is (lemma 2.4,
equation 2.39)

.. math::

    KL(\rho_T \| \rho'_T) = \int_0^T E\left[
        \left(s_t(x_t) - \nabla \log \rho'_t(x_t)\right) \cdot
        \left(b_t(x_t) - b'_t(x_t)\right) \right] dt ,

so that a small error of the drift does not suffice: the Fisher divergence
``E|s - grad log rho'|^2`` must be small as well.  As `b` enters linearly, the rate of the path,
whose conditional mean it is, may replace it.  The score of the path may not be replaced in the same
way, because it is multiplied by the rate.  If the score ``s'`` of the fit takes its place, the
result is too small by ``E (s - s') . (b - b')``.  Where the score follows from the drift,
``s - s' = g (b - b')`` with a positive factor, and the result is a lower bound.

Without any score, the relative entropy is the cross-entropy ``-E log rho'_T(x_T)`` less the entropy
of the data, which is not known.  Cross-entropies of the flow and of the diffusions in both
directions follow from their log-densities.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.flows import PathEstimate, Pushforward
from skinterflow.interflow.quantities import Quantities

_N_TIMES = 8


class CrossEntropy(NamedTuple):
    """Cross-entropy ``-E log p(x)`` of rows relative to the density of a diffusion, in nats.

    Attributes
    ----------
    value : float
        By the logarithms of the means over paths.  With a finite number of paths it is too large
        in the mean, by less the more paths there are.
    standard_error : float, of the mean over the rows, which includes that of their paths
    upper_bound : float, by the means of the logarithms (Jensen)

    Examples
    --------
    >>> from skinterflow.interflow import CrossEntropy
    >>> CrossEntropy(value=1.42, standard_error=0.02, upper_bound=1.5).upper_bound
    1.5
    """

    value: float
    standard_error: float
    upper_bound: float


def cross_entropy(estimate: PathEstimate) -> CrossEntropy:
    """Cross-entropy of independent rows from their log-densities by random paths.

    See section 2.5 of paper 2, equations 2.63 to 2.68; for the flow it is ``-log_prob(x).mean()``.

    Parameters
    ----------
    estimate : PathEstimate of two rows or more

    Returns
    -------
    CrossEntropy

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import PathEstimate, cross_entropy
    >>> estimate = PathEstimate(
    ...     torch.tensor([-1.0, -3.0]), torch.tensor([0.1, 0.1]), torch.tensor([-1.5, -3.5])
    ... )
    >>> [round(part, 3) for part in cross_entropy(estimate)]
    [2.0, 1.0, 2.5]
    """
    value = estimate.value
    return CrossEntropy(
        float(-value.mean()),
        float(value.std()) / math.sqrt(len(value)),
        float(-estimate.lower_bound.mean()),
    )


class LikelihoodErrors(NamedTuple):
    """Terms of lemma 2.4: integrals over time of means along the path, in flow units.

    Attributes
    ----------
    divergence : float, the relative entropy by the lemma, in nats
    standard_error : float, of the divergence
    fisher : float, the Fisher divergence ``E|s - grad log rho'|^2``
    drift : float, ``E|b - b'|^2``; an upper bound of it if the true drift is not known
    score : float, ``E|s - s'|^2``; zero if the true score is not known

    Examples
    --------
    >>> from skinterflow.interflow import LikelihoodErrors
    >>> errors = LikelihoodErrors(
    ...     divergence=0.1, standard_error=0.01, fisher=0.09, drift=0.16, score=0.0
    ... )
    >>> round(errors.bound, 2)
    0.12
    """

    divergence: float
    standard_error: float
    fisher: float
    drift: float
    score: float

    @property
    def bound(self) -> float:
        """Bound of the relative entropy by the inequality of Cauchy and Schwarz.

        It is one if the true score is known.
        """
        return math.sqrt(self.fisher * self.drift)


@torch.no_grad()
def likelihood_errors(
    learned: Quantities,
    density: Pushforward,
    x0: Tensor,
    x1: Tensor,
    z: Tensor | None = None,
    *,
    reference: Quantities | None = None,
    end_time: float = 1.0,
) -> LikelihoodErrors:
    """Relative entropy and Fisher divergence of a learned flow by lemma 2.4 of paper 2.

    Parameters
    ----------
    learned : Quantities, whose drift is the field of the flow
    density : Pushforward of that flow from the base of the path
    x0, x1 : Tensors of shape (B, D)
        Pairs in random order; each is used at one of 8 evenly spaced times.
    z : Tensor of shape (B, D), standard normal, or None for a path without a noise term
    reference : Quantities or None
        The true drift and score.  None takes the rate of the path for the drift, which leaves the
        divergence without bias, and the learned score for the true one, which makes it too small.
    end_time : float in (0, 1], the time `T` of the divergence

    Returns
    -------
    LikelihoodErrors

    Examples
    --------
    On the trigonometric path between standard normals nothing moves.  With the constant drift 1/2,
    the flow ends at N(1/2, 1), with the divergence 1/8.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Flow,
    ...     MixtureField,
    ...     NormalMixture,
    ...     Pushforward,
    ...     likelihood_errors,
    ... )
    >>> exact = MixtureField(NormalMixture.standard(1))
    >>> class Drifting(MixtureField):
    ...     def drift_and_score(self, t, x):
    ...         drift, score = super().drift_and_score(t, x)
    ...         return drift + 0.5, score
    ...
    ...     def value_and_divergence(self, t, x):
    ...         value, divergence = super().value_and_divergence(t, x)
    ...         return value + 0.5, divergence
    >>> learned = Drifting(NormalMixture.standard(1))
    >>> generator = torch.Generator().manual_seed(0)
    >>> x0, x1 = torch.randn(2, 160, 1, generator=generator, dtype=torch.float64)
    >>> errors = likelihood_errors(learned, Pushforward(Flow(learned)), x0, x1, reference=exact)
    >>> round(errors.divergence, 2), round(errors.drift, 2)
    (0.12, 0.25)
    """
    n_times = min(_N_TIMES, len(x0))
    terms = []
    for k in range(n_times):
        t = x0.new_tensor((k + 0.5) / n_times * end_time)
        rows = slice(k, None, n_times)
        noise = None if z is None else z[rows]
        times = t.expand(len(x0[rows]))
        xt, targets = learned.path.regression(("b",), times, x0[rows], x1[rows], noise)
        drift, score = learned.drift_and_score(t, xt)
        true = (targets["b"], score) if reference is None else reference.drift_and_score(t, xt)
        differences = true[0] - drift, true[1] - density.score(xt, float(t)).value
        terms.append(_products(*differences, true[1] - score))
    means = end_time * torch.stack([term.mean(dim=0) for term in terms]).mean(dim=0)
    variances = torch.stack([term[:, 0].var(correction=0) / len(term) for term in terms])
    return LikelihoodErrors(
        divergence=float(means[0]),
        standard_error=end_time * float(variances.sum().sqrt()) / n_times,
        fisher=float(means[1]),
        drift=float(means[2]),
        score=float(means[3]),
    )


def _products(drift: Tensor, flow_score: Tensor, score: Tensor) -> Tensor:
    """Integrands of the divergence, the Fisher divergence and two errors, shape (B, 4)."""
    pairs = ((flow_score, drift), (flow_score, flow_score), (drift, drift), (score, score))
    return torch.stack([(a * b).sum(dim=-1) for a, b in pairs], dim=1)
