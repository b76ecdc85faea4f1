"""What "auto" means: parameters of the estimator turned into rows that judge, fields and a recipe.

Below `CROSS_FIT_BELOW` rows every row is held out from one of several small fields; from there one part of the rows is held out from
one larger field.  `benchmarks/defaults.py` measures these choices.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from skinterflow._fitting import Recipe
from skinterflow.interflow.fields import AveragedField, ResidualMLP, VelocityField
from skinterflow.interflow.interpolants import Interpolant, Linear, Trigonometric, check_endpoints
from skinterflow.interflow.times import Beta

INTERPOLANTS: dict[str, type[Interpolant]] = {"trigonometric": Trigonometric, "linear": Linear}
CROSS_FIT_BELOW = 2_000
_N_FOLDS = 4
_LARGE = 10_000


def held_out_rows(n_rows: int, early_stopping: str | bool, validation_fraction: float) -> list[Tensor]:
    """Row numbers that judge each member: a partition for cross-fitting, else one part, empty if nothing is held out."""
    order = torch.randperm(n_rows)
    if not early_stopping:
        return [order[:0]]
    if early_stopping == "auto" and n_rows < CROSS_FIT_BELOW:
        n_folds = min(_N_FOLDS, n_rows)
        return [order[k::n_folds] for k in range(n_folds)]
    return [order[: min(n_rows - 1, max(1, round(validation_fraction * n_rows)))]]


def new_fields(n_fields: int, n_features: int, hidden_layer_sizes: str | Sequence[int], activation: str) -> list[VelocityField]:
    """Untrained fields.

    Raises
    ------
    ValueError
        If the widths are not positive integers.
    """
    if isinstance(hidden_layer_sizes, str):
        widths = np.array((64,) * 3 if n_fields > 1 else (128,) * 4)
    else:
        widths = np.atleast_1d(np.asarray(hidden_layer_sizes))
    if widths.dtype.kind not in "iu" or widths.ndim != 1 or not len(widths) or (widths < 1).any():
        raise ValueError(f"hidden_layer_sizes must be 'auto' or one or more integers of at least 1, got {hidden_layer_sizes!r}.")
    return [ResidualMLP(n_features, widths.tolist(), activation) for _ in range(n_fields)]


def continued_fields(n_fields: int, previous: VelocityField) -> list[VelocityField]:
    """Copies of the members of a fitted field, to train on."""
    members = list(cast(Sequence[VelocityField], previous.members)) if isinstance(previous, AveragedField) else [previous]
    return [copy.deepcopy(members[k % len(members)]) for k in range(n_fields)]


def resolve_recipe(
    *,
    n_rows: int,
    n_features: int,
    cross_fitted: bool,
    interpolant: str | Interpolant,
    time_beta: Sequence[float],
    end_time: str | float,
    alpha: float,
    batch_size: str | int,
    learning_rate_init: str | float,
    max_iter: str | int,
    n_iter_no_change: int,
    tol: float,
    verbose: bool,
) -> Recipe:
    """The recipe of a fit on `n_rows` rows.

    Raises
    ------
    ValueError
        If the path misses its endpoints, or `time_beta` is not two positive numbers.
    """
    path = INTERPOLANTS[interpolant]() if isinstance(interpolant, str) else copy.deepcopy(interpolant)
    check_endpoints(path, n_features)
    if len(time_beta) != 2:
        raise ValueError(f"time_beta must be the two parameters of a Beta law, such as (1.0, 0.5), got {time_beta!r}.")
    return Recipe(
        interpolant=path,
        time_law=Beta(*map(float, time_beta)),
        weight_decay=alpha / n_rows,
        batch_size=_auto(batch_size, 128 if cross_fitted else 512 if n_rows < _LARGE else 1_024),
        learning_rate=_auto(learning_rate_init, 0.01 if cross_fitted else 0.005),
        max_iter=_auto(max_iter, 2_500 if cross_fitted else 8_000),
        n_iter_no_change=n_iter_no_change,
        tol=tol,
        end_time=_auto(end_time, None),
        verbose=verbose,
    )


def _auto(value: Any, chosen: Any) -> Any:
    return chosen if isinstance(value, str) else value
