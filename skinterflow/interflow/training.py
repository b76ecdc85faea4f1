"""Training: a generator of steps.

``for step in train(objective, batches, ...)``: the caller's loop looks, reports, keeps and stops; the generator only learns.
Muon for the hidden layers' weights and AdamW for all else, with a linear warm-up and a cosine decay; an exponential moving average (EMA)
of the weights is what is meant to be used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from skinterflow.interflow.muon import Muon

Tensors = tuple[Tensor, ...] | list[Tensor]

_EMA_DECAY = 0.999
_MUON_RATE = 2.0
"""Learning rate of Muon relative to that of AdamW."""
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
    batches: Iterable[tuple[Sequence[Tensor], Tensor | None]],
    *,
    max_iter: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    hidden_weights: Sequence[nn.Parameter] = (),
) -> Iterator[Step]:
    """Minimise the weighted mean of ``objective(*inputs)`` and yield every step.

    Parameters
    ----------
    objective : nn.Module with ``forward(*inputs) -> loss per row``
    batches : iterable of ``(inputs, weight)``, the weights of the shape of the loss or None
    max_iter : int, number of steps, over which the learning rate decays
    learning_rate, weight_decay : float
    hidden_weights : sequence of nn.Parameter with two axes, those of the objective's parameters that Muon is to train

    Yields
    ------
    Step
    """
    optimizers = _optimizers(objective, hidden_weights, learning_rate, weight_decay)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda k: _learning_rate_factor(k, max_iter)) for o in optimizers]
    averaged = AveragedModel(objective, multi_avg_fn=_update_average)
    for number, (inputs, weight) in zip(range(1, max_iter + 1), batches, strict=False):
        loss = objective(*inputs)
        loss = loss.mean() if weight is None else (loss * weight).mean()
        objective.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        averaged.update_parameters(objective)
        yield Step(number, loss.detach(), averaged.module)


def _optimizers(
    objective: nn.Module, hidden_weights: Sequence[nn.Parameter], learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    hidden = set(hidden_weights)
    others = [p for p in objective.parameters() if p.requires_grad and p not in hidden]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    ]
    if hidden:
        # Weight decay acts in proportion to the learning rate: the same strength for both.
        optimizers.append(Muon(hidden_weights, _MUON_RATE * learning_rate, weight_decay / _MUON_RATE))
    return optimizers


def _learning_rate_factor(k: int, max_iter: int) -> float:
    warmup = min(_WARMUP_STEPS, 1 + _WARMUP_FRACTION * max_iter)
    return min(1.0, (k + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, k / max_iter)))


def _update_average(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
    """EMA whose decay grows with the number of steps, so that the first weights are soon forgotten."""
    n = int(n_averaged)
    torch._foreach_lerp_(averaged, current, 1.0 - min(_EMA_DECAY, (1.0 + n) / (10.0 + n)))
