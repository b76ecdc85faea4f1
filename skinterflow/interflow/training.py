"""Training: a generator of steps.

In ``for step in train(objective, batches, ...)`` the generator takes gradient steps, and the loop
of the caller validates, reports, saves and stops.  Muon trains the weights of hidden layers and
AdamW all other parameters, with a linear warm-up and a cosine decay of the learning rate.  The
model to use is the exponential moving average (EMA) of the weights.

Within :func:`skinterflow.interflow.processes.all_ranks`, each batch is the share of this rank, and
gradients are summed over the ranks: all take the same step, that of the whole batch.

If the path is learned, the field minimises the loss ``G`` and the path maximises it (paper 1 [1]_,
proposition 2).  As the minimum of ``G`` is minus the transport action, this shortens the path.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from skinterflow.interflow.muon import Muon
from skinterflow.interflow.processes import interrupted, n_ranks, total

Tensors = tuple[Tensor, ...] | list[Tensor]

_EMA_DECAY = 0.999
_MUON_RATE = 2.0
"""Learning rate of Muon relative to that of AdamW."""
MAXIMIZED_RATE = 0.2
"""Learning rate of maximising parameters relative to that of AdamW: low, so that the field can
follow."""
MAXIMIZED_FROM = 0.5
"""Fraction of the steps before maximising parameters change: their gradient is useless while the
field is untrained."""
_WARMUP_STEPS = 100
_WARMUP_FRACTION = 0.1
"""The warm-up is the shorter of the two, so that a short training is not only warm-up."""


@dataclass(frozen=True)
class Step:
    """One gradient step.

    Attributes
    ----------
    number : int, counted from 1
    loss : Tensor of shape (), weighted mean loss of the batch before the step, detached
    averaged : nn.Module
        The objective with averaged weights, which the next step updates in place.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Beta, Linear, PathObjective, ResidualMLP, train
    >>> with torch.random.fork_rng(devices=[]):
    ...     objective = PathObjective(ResidualMLP(2, hidden_layer_sizes=(8, 8)), Linear(), Beta())
    ...     step = next(
    ...         train(objective, [((torch.zeros(64, 2), torch.ones(64, 2)), None)], max_iter=1)
    ...     )
    >>> step.number, step.loss.shape, type(step.averaged).__name__
    (1, torch.Size([]), 'PathObjective')
    """

    number: int
    loss: Tensor
    averaged: nn.Module


class Training:
    """A training that can be stopped, saved and resumed.

    Its state is the number of steps, the weights, their average, and the moments of the optimisers;
    the learning rate follows from the number of steps.  To resume, the caller has to supply the
    batches from that number on.

    Parameters
    ----------
    objective : nn.Module with ``forward(*inputs) -> loss per row``, trained in place
    max_iter : int or None
        Number of steps, over which the learning rate decays.  With None the number is not limited,
        and the learning rate is constant after the warm-up.
    learning_rate, weight_decay, hidden_weights, maximized, maximized_rate, maximized_from, elapsed
        See :func:`train`.

    Attributes
    ----------
    number : int, steps so far

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Beta, PathObjective, ResidualMLP, Training, Trigonometric
    >>> with torch.random.fork_rng():
    ...     training = Training(
    ...         PathObjective(ResidualMLP(2, (4,)), Trigonometric(), Beta()), max_iter=10
    ...     )
    ...     for step in training.steps([((torch.randn(8, 2), torch.randn(8, 2)), None)] * 3):
    ...         state = training.state_dict()
    >>> training.number, state["number"]
    (3, 3)
    """

    def __init__(
        self,
        objective: nn.Module,
        *,
        max_iter: int | None,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        hidden_weights: Sequence[nn.Parameter] = (),
        maximized: Sequence[nn.Parameter] = (),
        maximized_rate: float = MAXIMIZED_RATE,
        maximized_from: float = MAXIMIZED_FROM,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        self.objective = objective
        self.max_iter = max_iter
        self.elapsed = elapsed or _no_time
        self.maximized_from = maximized_from
        self.number = 0
        self._optimizers = make_optimizers(
            objective, hidden_weights, maximized, learning_rate, weight_decay, maximized_rate
        )
        self._rates = [
            [group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers
        ]
        self._averaged = AveragedModel(objective, multi_avg_fn=_update_average)

    @property
    def averaged(self) -> nn.Module:
        """The objective with averaged weights, which the next step updates in place."""
        return self._averaged.module

    def steps(self, batches: Iterable[tuple[Sequence[Tensor], Tensor | None]]) -> Iterator[Step]:
        """Take a step for each batch, until `max_iter` steps are taken or the time is used up.

        Parameters
        ----------
        batches : iterable of ``(inputs, weight)``, the weights of the shape of the loss or None

        Yields
        ------
        Step

        Raises
        ------
        KeyboardInterrupt
            On all ranks of a process group, after a step during which one noted a Ctrl-C.
        """
        numbers = (
            itertools.count(self.number + 1)
            if self.max_iter is None
            else range(self.number + 1, self.max_iter + 1)
        )
        for number, (inputs, weight) in zip(numbers, batches, strict=False):
            losses = self.objective(*inputs)
            losses = losses if weight is None else losses * weight
            stops = False
            if n_ranks() == 1:
                loss = losses.mean()
                self._set_gradients(loss)
            else:
                loss, stops = self._set_common_gradients(losses)
            if self._optimizers:  # a custom field may have no parameters
                self._descend()
            self.number = number
            yield Step(number, loss.detach(), self.averaged)
            if stops:
                raise KeyboardInterrupt
            if self.elapsed() >= 1.0:
                return

    def _set_gradients(self, loss: Tensor) -> None:
        if self._optimizers:
            self.objective.zero_grad(set_to_none=True)
            loss.backward()

    def _set_common_gradients(self, losses: Tensor) -> tuple[Tensor, bool]:
        """Set the gradients of the mean loss over all ranks.

        Returns this loss, and whether a rank noted a Ctrl-C.
        """
        loss = losses.sum()
        self._set_gradients(loss)
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
        last = loss.new_tensor([float(loss.detach()), losses.numel(), interrupted()])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), last])
        total(flat)
        *means, loss, _, n_interrupted = (
            part / flat[-2] for part in flat.split([*(g.numel() for g in gradients), 1, 1, 1])
        )
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return loss[0], bool(n_interrupted > 0)

    def _descend(self) -> None:
        """Update the weights and their average."""
        self._set_learning_rates()
        for optimizer in self._optimizers:
            optimizer.step()
        self._averaged.update_parameters(self.objective)

    def state_dict(self) -> dict[str, Any]:
        """State from which a training with the same arguments can resume; tensors are copies."""
        state = {
            "number": self.number,
            "objective": dict(self.objective.state_dict()),
            "averaged": dict(self._averaged.state_dict()),
            "optimizers": [optimizer.state_dict()["state"] for optimizer in self._optimizers],
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state, with the learning rates of this training.

        Parameters
        ----------
        state : dict, from :meth:`state_dict`

        Raises
        ------
        RuntimeError, ValueError
            If it does not match the objective.
        """
        self.number = int(state["number"])
        self.objective.load_state_dict(state["objective"])
        self._averaged.load_state_dict(state["averaged"])
        for optimizer, moments in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(
                {
                    "state": copy.deepcopy(moments),
                    "param_groups": optimizer.state_dict()["param_groups"],
                }
            )

    def _set_learning_rates(self) -> None:
        elapsed = self.elapsed()
        factor = _learning_rate_factor(self.number, self.max_iter, elapsed)
        waits = (
            self.max_iter is not None
            and max(self.number / self.max_iter, elapsed) < self.maximized_from
        )
        for optimizer, rates in zip(self._optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = 0.0 if waits and group.get("maximize") else rate * factor


def train(
    objective: nn.Module,
    batches: Iterable[tuple[Sequence[Tensor], Tensor | None]],
    *,
    max_iter: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    hidden_weights: Sequence[nn.Parameter] = (),
    maximized: Sequence[nn.Parameter] = (),
    maximized_rate: float = MAXIMIZED_RATE,
    maximized_from: float = MAXIMIZED_FROM,
    elapsed: Callable[[], float] | None = None,
) -> Iterator[Step]:
    """Minimise the weighted mean of ``objective(*inputs)``, one step at a time.

    See propositions 1 and 2 of paper 1.

    Parameters
    ----------
    objective : nn.Module with ``forward(*inputs) -> loss per row``
    batches : iterable of ``(inputs, weight)``, the weights of the shape of the loss or None
    max_iter : int, number of steps, over which the learning rate decays
    learning_rate, weight_decay : float
    hidden_weights : sequence of nn.Parameter with two axes
        Parameters of the objective that Muon trains.
    maximized : sequence of nn.Parameter
        Parameters, of a path or a base, that maximise the loss.
    maximized_rate : float, learning rate of `maximized` relative to that of the others
    maximized_from : float in [0, 1], fraction of the steps before `maximized` change
    elapsed : callable or None
        Returns the elapsed fraction of a time budget.  The learning rate decays with the larger of
        it and the fraction of the steps.  The training ends at 1, but takes at least one step.

    Yields
    ------
    Step

    Examples
    --------
    Each row moves by 3 in both columns: an untrained field has loss 0, and the minimum is
    ``-|v|^2 = -18``.

    >>> import itertools, torch
    >>> from skinterflow.interflow import Beta, Linear, PathObjective, ResidualMLP, train
    >>> x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> with torch.random.fork_rng(devices=[]):
    ...     objective = PathObjective(ResidualMLP(2, hidden_layer_sizes=(16, 16)), Linear(), Beta())
    ...     batches = itertools.repeat(((x0, x0 + 3.0), None))
    ...     losses = [
    ...         float(step.loss)
    ...         for step in train(objective, batches, max_iter=30, learning_rate=0.03)
    ...     ]
    >>> losses[0] == 0.0, -18.0 <= losses[-1] < -12.0
    (True, True)
    """
    training = Training(
        objective,
        max_iter=max_iter,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        hidden_weights=hidden_weights,
        maximized=maximized,
        maximized_rate=maximized_rate,
        maximized_from=maximized_from,
        elapsed=elapsed,
    )
    yield from training.steps(batches)


def make_optimizers(
    objective: nn.Module,
    hidden_weights: Sequence[nn.Parameter],
    maximized: Sequence[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    maximized_rate: float = MAXIMIZED_RATE,
) -> list[torch.optim.Optimizer]:
    """The optimisers of :class:`Training`: AdamW, and Muon if there are hidden weights.

    Parameters
    ----------
    objective : nn.Module
    hidden_weights : sequence of nn.Parameter with two axes, for Muon
    maximized : sequence of nn.Parameter, which maximise the loss
    learning_rate, weight_decay : float
    maximized_rate : float, learning rate of `maximized` relative to that of the others

    Returns
    -------
    list of torch.optim.Optimizer

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import ResidualMLP
    >>> from skinterflow.interflow.training import make_optimizers
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ResidualMLP(2, hidden_layer_sizes=(8, 8))
    >>> optimizers = make_optimizers(
    ...     field, field.hidden_weights(), [], learning_rate=2e-3, weight_decay=1e-2
    ... )
    >>> [type(optimizer).__name__ for optimizer in optimizers]
    ['AdamW', 'Muon']
    """
    others = [
        p
        for p in objective.parameters()
        if p.requires_grad and p not in {*hidden_weights, *maximized}
    ]
    if not (others or maximized or hidden_weights):
        return []
    groups: list[dict[str, Any]] = [{"params": others}]
    if maximized:
        groups.append(
            {
                "params": list(maximized),
                "maximize": True,
                "lr": maximized_rate * learning_rate,
                "weight_decay": 0.0,
            }
        )
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            groups, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
    ]
    if hidden_weights:
        # The effect of weight decay is proportional to the learning rate: make it equal for both.
        optimizers.append(
            Muon(hidden_weights, _MUON_RATE * learning_rate, weight_decay / _MUON_RATE)
        )
    return optimizers


def _no_time() -> float:
    return 0.0


def _learning_rate_factor(k: int, max_iter: int | None, elapsed: float = 0.0) -> float:
    """Learning rate after `k` steps and a fraction of the time, relative to its maximum."""
    if max_iter is None:
        return min(1.0, (k + 1) / _WARMUP_STEPS)
    warmup = min(_WARMUP_STEPS, 1 + _WARMUP_FRACTION * max_iter)
    risen = min(1.0, max((k + 1) / warmup, elapsed / _WARMUP_FRACTION))
    return risen * 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(k / max_iter, elapsed))))


def _update_average(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
    """Update an EMA whose decay grows with the number of steps, to discard early weights soon."""
    n = int(n_averaged)
    torch._foreach_lerp_(averaged, current, 1.0 - min(_EMA_DECAY, (1.0 + n) / (10.0 + n)))
