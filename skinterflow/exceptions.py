"""Warnings and errors that a user can meet."""

from skinterflow.interflow.flows import AccuracyWarning

__all__ = ["AccuracyWarning", "DegenerateDataWarning", "DistillationWarning", "SavedModelError"]


class DegenerateDataWarning(UserWarning):
    """Some columns have no density: constant, collinear, duplicated, integer-valued, or with many
    rows on a bound.

    Examples
    --------
    The second column is constant.

    >>> import warnings
    >>> import numpy as np
    >>> from skinterflow import DegenerateDataWarning, InterpolantFlowDensity
    >>> X = np.column_stack([np.linspace(0.0, 1.0, 20) ** 2, np.ones(20)])
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... )
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always", DegenerateDataWarning)
    ...     density = density.fit(X)
    >>> print(caught[0].message)  # doctest: +ELLIPSIS
    1 column(s) are constant and given a width of ...: column 1.
    """


class DistillationWarning(UserWarning):
    """The student did not become the model.

    Examples
    --------
    A fit that rather fails than keeps the field that the student was to replace.

    >>> import warnings
    >>> import numpy as np
    >>> from skinterflow import DistillationWarning, InterpolantFlowDensity
    >>> X = np.random.default_rng(0).normal(size=(20, 2))
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,),
    ...     student_layer_sizes=(8,),
    ...     max_iter=1,
    ...     early_stopping=False,
    ...     random_state=0,
    ... )
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", DistillationWarning)
    ...     density = density.fit(X)
    >>> density.distillation_loss_ < 1.0
    True
    """


class SavedModelError(ValueError):
    """A file does not hold the model that it should: damaged, altered, of another class, or of a
    newer release.

    Examples
    --------
    >>> import os, tempfile
    >>> from skinterflow import InterpolantFlowDensity, SavedModelError
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model")
    ...     with open(path, "w") as file:
    ...         _ = file.write("no model")
    ...     try:
    ...         InterpolantFlowDensity.load(path)
    ...     except SavedModelError as error:
    ...         print("refused")
    refused
    """
