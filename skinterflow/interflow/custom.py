r"""Custom fields: any function or module ``v(t, x)`` as a velocity field.

A :class:`~skinterflow.interflow.fields.VelocityField` computes its divergence itself.  For any
other function the divergence is the sum of the slopes ``dv_i / dx_i``, computed exactly by
reverse-mode differentiation with one backward pass for each column.  Above `EXACT_COLUMNS` columns
it is Hutchinson's estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skinterflow.interflow.derivatives import directional_slopes
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.warn import warn

EXACT_COLUMNS = 128
"""Largest number of columns for which the divergence of a function is computed exactly."""
N_PROBES = 16
"""Number of probes of Hutchinson's estimate for more columns."""
_KINKED = ("Relu", "LeakyRelu", "Prelu", "Rrelu", "Hard", "Threshold", "Softshrink", "MaxPool")
"""First letters of the operations with kinks in torch's record of a computation."""
_SLOPE_NUMBERS = 2**22
"""Largest size of a block, rows times the square of the columns, which limits the memory."""


class CustomField(VelocityField):
    """A function ``v(t, x)`` as a velocity field with a divergence and any number of batch axes.

    Parameters
    ----------
    function : VelocityField, nn.Module or callable
        ``v(t, x)`` with times of shape (B,), rows of shape (B, D) and values of shape (B, D).  The
        value of a row must not depend on other rows.
    n_features : int, dimension D

    Examples
    --------
    In two dimensions the divergence of ``-2 x`` is -4.

    >>> import torch
    >>> from skinterflow.interflow import CustomField
    >>> class Contraction(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.rate = torch.nn.Parameter(torch.tensor(2.0))
    ...
    ...     def forward(self, t, x):
    ...         return -self.rate * x
    >>> field = CustomField(Contraction(), n_features=2)
    >>> with torch.no_grad():
    ...     value, divergence = field.value_and_divergence(torch.tensor(0.5), torch.ones(3, 2))
    >>> divergence
    tensor([-4., -4., -4.])
    """

    def __init__(self, function: Any, n_features: int) -> None:
        super().__init__()
        self.function = function
        self.n_features = n_features
        own = isinstance(function, VelocityField)
        if own:
            self.n_estimates = function.n_estimates
        elif n_features > EXACT_COLUMNS:
            self.n_estimates = N_PROBES

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.n_features)
        times = t.to(x.dtype).expand(x.shape[:-1]).reshape(-1)
        value: Tensor = self.function(times, rows)
        return value.reshape(x.shape)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.function, VelocityField):
            return self.function.value_and_divergence(t, x)
        if self.n_estimates is not None:
            probes = Hutchinson(self, self.n_estimates).probes.to(x)
            return directional_slopes(lambda y: self(t, y), x, probes)
        n_rows = max(1, _SLOPE_NUMBERS // self.n_features**2)
        times = t.expand(len(x)).split(n_rows) if len(x) > n_rows else [t]
        parts = [self._with_slopes(*part) for part in zip(times, x.split(n_rows), strict=True)]
        values, divergences = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(divergences)

    def _with_slopes(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value, shape (B, D), and divergence, shape (B,), of a block of rows."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            value = self(t, x)
            divergence = torch.zeros_like(value[:, 0])
            if value.requires_grad:
                for j in range(self.n_features):
                    (slopes,) = torch.autograd.grad(
                        value[:, j].sum(),
                        x,
                        create_graph=differentiable,
                        retain_graph=True,
                        materialize_grads=True,
                    )
                    divergence = divergence + slopes[:, j]
        return (value, divergence) if differentiable else (value.detach(), divergence.detach())


def check_function(function: Callable[[Tensor, Tensor], Any], n_features: int) -> None:
    """Raise unless a function is a valid velocity field.

    Parameters
    ----------
    function : VelocityField, nn.Module or callable, see :class:`CustomField`
    n_features : int, dimension D

    Raises
    ------
    ValueError
        If it fails, or if its values have a wrong shape, are not finite, depend on other rows or
        cannot be differentiated, or if it has layers of batch normalisation or dropout in training
        mode.

    Warns
    -----
    UserWarning
        If its slopes jump, as with ReLU.

    Examples
    --------
    >>> from skinterflow.interflow.custom import check_function
    >>> check_function(lambda t, x: t[:, None] * x, n_features=3)
    >>> check_function(lambda t, x: x[:, :2], n_features=3)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: field must give velocities of the shape of the rows, (4, 3), but gives (4, 2)...
    """
    n = getattr(function, "n_features", n_features)
    if isinstance(function, VelocityField) and n != n_features:
        raise ValueError(f"field has {n} columns, but the rows have {n_features}.")
    parameter = next(function.parameters(), None) if isinstance(function, nn.Module) else None
    like = torch.empty(0) if parameter is None else parameter
    _check_modes(function)
    t, x = torch.linspace(0.1, 0.9, 4).to(like), torch.linspace(-1.0, 1.0, 4 * n_features).to(like)
    x = x.reshape(4, n_features).requires_grad_()
    try:
        with torch.enable_grad():
            value = function(t, x)
            alone = function(t[:1], x[:1])
    except Exception as error:
        raise ValueError(
            f"field failed for times of shape (4,) and rows of shape {tuple(x.shape)} "
            f"({type(error).__name__}: {error}); it must be v(t, x)."
        ) from error
    if not isinstance(value, Tensor) or value.shape != x.shape:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            "field must give velocities of the shape of the rows, "
            f"{tuple(x.shape)}, but gives {given}; reshape within the field."
        )
    if not value.isfinite().all():
        raise ValueError("field gives velocities that are not finite for rows in [-1, 1].")
    _check_rows_are_independent(value, alone)
    _check_differentiable(function, t, x, value)
    kinks = _kinks(value, x)
    if kinks:
        warn(
            f"field has activations with kinks ({', '.join(sorted(kinks))}), at which its "
            "divergence jumps, so that the log-density is inaccurate and slow; use smooth "
            "activations such as SiLU."
        )


def _check_modes(function: Callable[[Tensor, Tensor], Any]) -> None:
    """Raise if a layer of a module computes something else in training than in scoring."""
    for name, layer in function.named_modules() if isinstance(function, nn.Module) else ():
        mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if layer.training and (mixes or drops):
            raise ValueError(
                f"field has a layer of {'batch normalisation' if mixes else 'dropout'} in training "
                f"mode, {name or 'itself'} ({type(layer).__name__}), so that the velocity of a row "
                f"{'depends on other rows' if mixes else 'is random'}; "
                f"{'use GroupNorm, or' if mixes else 'remove it, or'} call eval() on the layer."
            )


def _kinks(value: Tensor, x: Tensor) -> set[str]:
    """Operations between the rows `x` and the values whose slopes jump, by name."""
    users: dict[Any, list[Any]] = {}
    waiting = [value.grad_fn] if value.grad_fn is not None else []
    while waiting:
        node: Any = waiting.pop()
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in users:
                users[earlier] = []
                waiting.append(earlier)
            if earlier is not None:
                users[earlier].append(node)
    # Only what depends on the rows: a kink in a function of the time alone is no jump in x.
    waiting = [node for node in users if getattr(node, "variable", None) is x]
    reached = set(waiting)
    while waiting:
        later = [node for node in users.get(waiting.pop(), ()) if node not in reached]
        reached.update(later)
        waiting.extend(later)
    names = {type(node).__name__.partition("Backward")[0] for node in reached}
    return {name for name in names if name.startswith(_KINKED)}


def _check_rows_are_independent(value: Tensor, alone: Tensor) -> None:
    if not torch.allclose(alone, value[:1], rtol=1e-3, atol=1e-4):
        raise ValueError(
            "The velocity that field gives for a row depends on the other rows, or is random; "
            "remove layers such as batch normalisation and dropout."
        )


def _check_differentiable(
    function: Callable[[Tensor, Tensor], Any], t: Tensor, x: Tensor, value: Tensor
) -> None:
    depends = not torch.equal(function(t, x.detach() + 0.5), value)
    try:
        slopes = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
    except RuntimeError:
        slopes = None
    if depends and slopes is None:
        raise ValueError(
            "field cannot be differentiated with respect to the rows: its values depend on them, "
            "but have no gradient. Compute them with torch, without detach, item or numpy."
        )
