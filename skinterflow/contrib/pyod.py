"""Adapter of InterpolantFlowOutlierDetector to PyOD, whose detectors score outliers high.

It requires PyOD (``pip install skinterflow[pyod]``).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skinterflow.outliers import InterpolantFlowOutlierDetector

try:
    from pyod.models.base import BaseDetector
except ImportError as error:
    raise ImportError(
        "skinterflow.contrib.pyod requires PyOD. You can install it with `pip install "
        "skinterflow[pyod]`."
    ) from error

__all__ = ["InterpolantFlowOD"]


class InterpolantFlowOD(BaseDetector):
    """InterpolantFlowOutlierDetector with the interface of PyOD.

    Parameters
    ----------
    detector : InterpolantFlowOutlierDetector or None, default=None
        Detector to fit, which is cloned; None has default parameters.
    contamination : float in (0, 0.5], default=0.1
        Fraction of the training rows that are outliers, which PyOD derives `threshold_` and
        `labels_` from.

    Attributes
    ----------
    detector_ : InterpolantFlowOutlierDetector
        The fitted detector.
    decision_scores_ : ndarray of shape (n_samples,)
        Scores of the training rows, by members that did not see them: `held_out_scores_` with the
        opposite sign.
    threshold_ : float
        Score from which rows are outliers.
    labels_ : ndarray of shape (n_samples,)
        1 for training rows that are outliers, and 0 for all others.

    Examples
    --------
    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowOutlierDetector
    >>> from skinterflow.contrib.pyod import InterpolantFlowOD
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> detector = InterpolantFlowOD(
    ...     InterpolantFlowOutlierDetector(max_iter=20, random_state=0)
    ... ).fit(X)
    >>> detector.predict([[0.0, 9.0]])
    array([1])
    """

    def __init__(
        self,
        detector: InterpolantFlowOutlierDetector | None = None,
        *,
        contamination: float = 0.1,
    ) -> None:
        super().__init__(contamination=contamination)
        self.detector = detector

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the detector.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        X = check_array(X)
        self._set_n_classes(y)
        detector = InterpolantFlowOutlierDetector() if self.detector is None else self.detector
        self.detector_ = clone(detector).fit(X)
        held_out = self.detector_.held_out_scores_
        self.decision_scores_ = -(self.detector_.score_samples(X) if held_out is None else held_out)
        self._process_decision_scores()
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute the score of each row; the higher, the more of an outlier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        check_is_fitted(self, ["detector_"])
        return -self.detector_.score_samples(X)
