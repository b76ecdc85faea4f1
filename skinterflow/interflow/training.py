"""Training: a generator of steps.

``for step in train(objective, batches, ...)``: the caller's loop looks, reports, keeps and stops; the generator only learns.
AdamW with a linear warm-up and a cosine decay; an exponential moving average (EMA) of the weights is what is meant to be used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]

_EMA_DECAY = 0.999
_WARMUP_STEPS = 100
_WARMUP_FRACTION = 0.1
"""The warm-up takes the smaller of these, so that a short training is not all warm-up."""


@dataclass(frozen=True)
class Step:
    """One gradient step.

    Attributes
    ----------
    number : int, counted from 1
    loss : Tensor of shape (), weighted mean loss of the batch before the step, detached
    averaged : nn.Module, the objective with averaged weights; it goes on changing with the next step
    """

    number: int
    loss: Tensor
    averaged: nn.Module


def train(
    objective: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    *,
    max_iter: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
) -> Iterator[Step]:
    """Minimise the weighted mean of ``objective(x0, x1)`` and yield every step.

    Parameters
    ----------
    objective : nn.Module with ``forward(x0, x1) -> loss per row``
    batches : iterable of ``(x0, x1, weight)``, the weights of shape (B,) or None
    max_iter : int, number of steps, over which the learning rate decays
    learning_rate, weight_decay : float

    Yields
    ------
    Step
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _learning_rate_factor(k, max_iter))
    averaged = AveragedModel(objective, multi_avg_fn=_update_average)
    for number, (x0, x1, weight) in zip(range(1, max_iter + 1), batches, strict=False):
        loss = objective(x0, x1)
        loss = loss.mean() if weight is None else (loss * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(objective)
        yield Step(number, loss.detach(), averaged.module)


def _learning_rate_factor(k: int, max_iter: int) -> float:
    warmup = min(_WARMUP_STEPS, 1 + _WARMUP_FRACTION * max_iter)
    return min(1.0, (k + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, k / max_iter)))


def _update_average(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
    """EMA whose decay grows with the number of steps, so that the first weights are soon forgotten."""
    n = int(n_averaged)
    torch._foreach_lerp_(averaged, current, 1.0 - min(_EMA_DECAY, (1.0 + n) / (10.0 + n)))
