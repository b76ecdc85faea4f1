"""Custom warnings and errors."""

from skinterflow.interflow.flows import AccuracyWarning
from skinterflow.interflow.processes import ProcessGroupError

__all__ = [
    "AccuracyWarning",
    "DegenerateDataWarning",
    "DistillationWarning",
    "ProcessGroupError",
    "SavedModelError",
]


class DegenerateDataWarning(UserWarning):
    """Warning for data without a density.

    Columns may be constant, collinear, duplicated or integer-valued, or have many rows on a bound;
    many rows may be exact copies of other rows.

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
    """Warning that the student was rejected, so that the trained field is the model.

    Examples
    --------
    A fit that fails if the student is rejected.

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
    """Error for a saved model that is damaged, altered, of another class or of a newer release.

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
