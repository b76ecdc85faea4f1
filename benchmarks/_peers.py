"""The methods of `equal_time.py` but for the neural peers: fitted within a time budget, then asked
for log-densities and samples.

A peer keeps a tenth of the training rows to tune on or to stop by, and everything that it needs
counts towards its budget.
"""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from _common import Rows
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity


class Density(ABC):
    """One method.

    Attributes
    ----------
    dtypes : what it is scored in
    max_test_rows : most test rows that it is scored on, or None for all
    batch_rows : rows that it is given at a time
    """

    dtypes: ClassVar[Sequence[type]] = (np.float32,)
    max_test_rows: int | None = None
    batch_rows: int = 2_000

    @abstractmethod
    def fit(self, train: NDArray[np.float64], seconds: float) -> None:
        """Fit within the time budget."""

    @abstractmethod
    def log_prob(self, rows: Rows) -> Rows:
        """Log-density of each row, in nats."""

    @abstractmethod
    def sample(self, n_rows: int) -> Any:
        """Draw rows."""

    def log_density_error(self, rows: Rows) -> float:
        """Mean absolute error of `log_prob` by a tighter solve, where there is one; else NaN."""
        return math.nan


class Ours(Density):
    """The estimator with nothing set but its random state; it takes the time that it takes."""

    dtypes = (np.float64, np.float32)
    batch_rows = 1_024
    parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self, n_features: int, device: str = "cpu", max_iter: str | int = "auto") -> None:
        self.estimator = InterpolantFlowDensity(
            random_state=0, device=device, max_iter=max_iter, **self.parameters
        )

    def fit(self, train: NDArray[np.float64], seconds: float) -> None:
        self.estimator.fit(train)

    def log_prob(self, rows: Rows) -> Rows:
        return self.estimator.score_samples(rows)

    def sample(self, n_rows: int) -> Any:
        return self.estimator.sample(n_rows, random_state=0)

    def log_density_error(self, rows: Rows) -> float:
        tight = copy.deepcopy(self.estimator).set_params(atol=1e-7, rtol=1e-7)
        return float(
            np.abs(self.log_prob(rows) - tight.score_samples(rows.astype(np.float64))).mean()
        )


class OursWide(Ours):
    """With a student for scoring, at a tolerance that leaves mean errors below 0.01 nats."""

    dtypes = (np.float32,)
    batch_rows = 4_096
    parameters: ClassVar[dict[str, Any]] = {"student_layer_sizes": (384, 192), "atol": 0.1}


class OursNarrow(OursWide):
    """With a smaller student."""

    parameters: ClassVar[dict[str, Any]] = {"student_layer_sizes": (128, 128), "atol": 0.1}


class TunedKernelDensity(Density):
    """Gaussian kernel: a coarse grid of bandwidths, then ever finer around the best, by held-out
    log-likelihood while there is time.

    At a relative tolerance of 1e-4, which prunes its tree and makes it several times faster.
    """

    dtypes = (np.float64,)
    batch_rows = 500
    _JUDGE_ROWS = 2_000

    def __init__(self, n_features: int) -> None:
        self.model = KernelDensity()

    def fit(self, train: NDArray[np.float64], seconds: float) -> None:
        started = time.perf_counter()
        kept, judge = held_out(train)
        judge = judge[: self._JUDGE_ROWS]  # the slowest part by far
        scores: dict[float, float] = {}
        spacing, slowest = math.log(300.0) / 8, 0.0
        waiting = [math.log(0.01) + k * spacing for k in (4, 3, 5, 2, 6, 1, 7, 0, 8)]
        while waiting and time.perf_counter() - started + 1.5 * slowest < seconds:
            trial, log_bandwidth = time.perf_counter(), waiting.pop(0)
            scores[log_bandwidth] = self._with_bandwidth(log_bandwidth).fit(kept).score(judge)
            slowest = max(slowest, time.perf_counter() - trial)
            if not waiting and spacing > 0.02:
                best, spacing = max(scores, key=lambda h: scores[h]), spacing / 2
                waiting = [best - spacing, best + spacing]
        self.model = self._with_bandwidth(max(scores, key=lambda h: scores[h])).fit(train)

    def _with_bandwidth(self, log_bandwidth: float) -> KernelDensity:
        return KernelDensity(bandwidth=math.exp(log_bandwidth), rtol=1e-4)

    def log_prob(self, rows: Rows) -> Rows:
        return self.model.score_samples(rows)

    def sample(self, n_rows: int) -> Any:
        return self.model.sample(n_rows, random_state=0)


class TunedGaussianMixture(Density):
    """Full covariances: ever more components, then other starts around the best number, by held-out
    log-likelihood while there is time.

    Trials see at most 20,000 rows; the best goes on from there on all of them.
    """

    dtypes = (np.float64,)
    batch_rows = 10_000
    _N_COMPONENTS = (1, 2, 4, 7, 11, 16, 23, 32, 45, 64, 80, 100)
    _TRIAL_ROWS = 20_000
    _MAX_STARTS = 20

    def __init__(self, n_features: int) -> None:
        self.model = GaussianMixture()

    def fit(self, train: NDArray[np.float64], seconds: float) -> None:
        started = time.perf_counter()
        kept, judge = held_out(train)
        kept = kept[: self._TRIAL_ROWS]
        best_score, per_component, n_best = -math.inf, 0.0, 1
        trials = [(n, 0) for n in self._N_COMPONENTS]
        while trials:
            n, seed = trials.pop(0)
            last_fit = 0.5 * n_best * len(train) / len(kept)  # it starts near its end
            if time.perf_counter() - started + per_component * (1.3 * n + last_fit) > seconds:
                continue  # a smaller number may still fit in
            trial = time.perf_counter()
            model = GaussianMixture(n, reg_covar=1e-6, random_state=seed).fit(kept)
            per_component = (time.perf_counter() - trial) / n
            score = model.score(judge)
            if score > best_score:
                best_score, n_best, self.model = score, n, model
            if not trials and seed < self._MAX_STARTS:
                trials = [
                    (n, seed + 1)
                    for n in sorted({max(1, round(n_best / 1.2)), n_best, round(n_best * 1.2)})
                ]
        self.model = GaussianMixture(
            n_best,
            reg_covar=1e-6,
            means_init=self.model.means_,
            weights_init=self.model.weights_ / self.model.weights_.sum(),
            precisions_init=self.model.precisions_,
        ).fit(train)

    def log_prob(self, rows: Rows) -> Rows:
        return self.model.score_samples(rows)

    def sample(self, n_rows: int) -> Any:
        return self.model.sample(n_rows)


def held_out(train: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nine tenths to fit, one tenth to judge by."""
    order = np.random.default_rng(1).permutation(len(train))
    return train[order[len(train) // 10 :]], train[order[: len(train) // 10]]
