"""Gradient-boosted trees as plain arrays, which can be saved without code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCK_ROWS = 4_096


@dataclass(frozen=True)
class BoostedTrees:
    """Trees of a gradient boosting, with numbers of nodes that count over all trees.

    Parameters
    ----------
    baseline : float
    roots : array of shape (n_trees,)
    feature, left, right : arrays of shape (n_nodes,)
        A leaf is its own child on both sides.
    threshold, value : arrays of shape (n_nodes,)
        A row goes left if its feature is at most the threshold.
    """

    baseline: float
    roots: Integers
    feature: Integers
    left: Integers
    right: Integers
    threshold: Array
    value: Array

    def predict(self, X: Array) -> Array:
        """Predict rows of numbers without NaN, shape (n, d): shape (n,)."""
        blocks = [X[start : start + _BLOCK_ROWS] for start in range(0, len(X), _BLOCK_ROWS)]
        return np.concatenate([self._predict(block) for block in blocks] or [np.empty(0)])

    def _predict(self, X: Array) -> Array:
        rows = np.arange(len(X))[:, None]
        node = np.broadcast_to(self.roots, (len(X), len(self.roots)))
        for _ in range(len(self.left)):
            goes_left = X[rows, self.feature[node]] <= self.threshold[node]
            child = np.where(goes_left, self.left[node], self.right[node])
            if (child == node).all():
                break
            node = child
        prediction: Array = self.baseline + self.value[node].sum(axis=1)
        return prediction


def boosted_trees(model: HistGradientBoostingRegressor) -> BoostedTrees:
    """Trees of a fitted model of squared errors, without categorical columns."""
    nodes = [tree.nodes for (tree,) in model._predictors]
    roots = np.cumsum([0, *map(len, nodes)])[:-1]
    own = [np.arange(len(part)) for part in nodes]
    leaf = [part["is_leaf"].astype(bool) for part in nodes]

    def joined(name: str) -> Integers:
        """Children, whose numbers count over all trees."""
        return np.concatenate(
            [
                start + np.where(end, self_, part[name].astype(np.int64))
                for start, end, self_, part in zip(roots, leaf, own, nodes, strict=True)
            ]
        )

    every, ends = np.concatenate(nodes), np.concatenate(leaf)
    return BoostedTrees(
        baseline=float(np.ravel(model._baseline_prediction)[0]),
        roots=roots.astype(np.int64),
        feature=np.where(ends, 0, every["feature_idx"]).astype(np.int64),
        left=joined("left"),
        right=joined("right"),
        threshold=every["num_threshold"].astype(np.float64),
        value=np.where(ends, every["value"], 0.0).astype(np.float64),
    )
