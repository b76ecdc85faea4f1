"""Training: a generator of steps.

``for step in train(objective, batches, ...)``: the caller's loop looks, reports, keeps and stops; the generator only learns.
Muon for the hidden layers' weights and AdamW for all else, with a linear warm-up and a cosine decay; an exponential moving average (EMA)
of the weights is what is meant to be used.

A path that is learned plays against the field: the field minimises the loss ``G``, the path maximises it (paper 1, proposition 2).  As the
minimum of ``G`` is minus the transport action, this shortens the path.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from skinterflow.interflow.muon import Muon

Tensors = tuple[Tensor, ...] | list[Tensor]

_EMA_DECAY = 0.999
_MUON_RATE = 2.0
"""Learning rate of Muon relative to that of AdamW."""
OPPONENT_RATE = 0.2
"""Learning rate of the parameters that maximise, relative to that of AdamW: the field must follow."""
OPPONENT_START = 0.5
"""Part of the steps before those parameters move: maximising against a field that knows nothing leads astray."""
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
    maximized: Sequence[nn.Parameter] = (),
    maximized_rate: float = OPPONENT_RATE,
    maximized_from: float = OPPONENT_START,
) -> Iterator[Step]:
    """Minimise the weighted mean of ``objective(*inputs)`` and yield every step.

    Parameters
    ----------
    objective : nn.Module with ``forward(*inputs) -> loss per row``
    batches : iterable of ``(inputs, weight)``, the weights of the shape of the loss or None
    max_iter : int, number of steps, over which the learning rate decays
    learning_rate, weight_decay : float
    hidden_weights : sequence of nn.Parameter with two axes, those of the objective's parameters that Muon is to train
    maximized : sequence of nn.Parameter, those that are to raise the loss instead: of a path or a base
    maximized_rate : float, their learning rate relative to that of the others
    maximized_from : float in [0, 1], part of the steps before they move

    Yields
    ------
    Step
    """
    optimizers = make_optimizers(objective, hidden_weights, maximized, learning_rate, weight_decay, maximized_rate)
    schedules = [_schedule(optimizer, max_iter, maximized_from) for optimizer in optimizers]
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


def make_optimizers(
    objective: nn.Module,
    hidden_weights: Sequence[nn.Parameter],
    maximized: Sequence[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    maximized_rate: float = OPPONENT_RATE,
) -> list[torch.optim.Optimizer]:
    """The optimisers of :func:`train`: AdamW, and Muon if there are hidden weights."""
    others = [p for p in objective.parameters() if p.requires_grad and p not in {*hidden_weights, *maximized}]
    groups: list[dict[str, Any]] = [{"params": others}]
    if maximized:
        groups.append({"params": list(maximized), "maximize": True, "lr": maximized_rate * learning_rate, "weight_decay": 0.0})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    ]
    if hidden_weights:
        # Weight decay acts in proportion to the learning rate: the same strength for both.
        optimizers.append(Muon(hidden_weights, _MUON_RATE * learning_rate, weight_decay / _MUON_RATE))
    return optimizers


def _schedule(optimizer: torch.optim.Optimizer, max_iter: int, maximized_from: float) -> torch.optim.lr_scheduler.LambdaLR:
    def factor(k: int) -> float:
        return _learning_rate_factor(k, max_iter)

    def opponent(k: int) -> float:
        return factor(k) if k >= maximized_from * max_iter else 0.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, [opponent if g.get("maximize") else factor for g in optimizer.param_groups])


def _learning_rate_factor(k: int, max_iter: int) -> float:
    warmup = min(_WARMUP_STEPS, 1 + _WARMUP_FRACTION * max_iter)
    return min(1.0, (k + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, k / max_iter)))


def _update_average(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
    """EMA whose decay grows with the number of steps, so that the first weights are soon forgotten."""
    n = int(n_averaged)
    torch._foreach_lerp_(averaged, current, 1.0 - min(_EMA_DECAY, (1.0 + n) / (10.0 + n)))
