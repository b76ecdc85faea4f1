"""Warnings that point at the user's line, at any depth of the call stack."""

from __future__ import annotations

import sys
import warnings

from skinterflow.interflow.processes import rank

_PASSED_THROUGH = frozenset({"skinterflow", "sklearn", "joblib", "torch", "torchdiffeq"})
"""Packages whose frames lie between a user's call and our code."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first frame outside this package and the libraries that call it.

    Of the ranks of a process group, only the first one warns.

    Parameters
    ----------
    message : str
    category : type of Warning

    Examples
    --------
    >>> import warnings
    >>> from skinterflow.interflow.warn import warn
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("The learning rate is high.")
    >>> print(caught[0].message)
    The learning rate is high.
    """
    if rank() > 0:
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and _package(frame.f_globals) in _PASSED_THROUGH:
        frame = frame.f_back
    namespace = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=namespace.get("__name__"),
        # With a registry, Python shows the same text only once for each line.
        registry=namespace.setdefault("__warningregistry__", {}),
    )


def _package(namespace: dict[str, object]) -> str:
    return str(namespace.get("__name__", "")).partition(".")[0]
