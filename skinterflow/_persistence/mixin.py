"""Saving and loading of estimators: the state that they are pickled by, and files that no code
hides in."""

from __future__ import annotations

import os
import reprlib
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skinterflow._persistence.codec import check_types, decode, encode
from skinterflow._persistence.container import (
    FORMAT_VERSION,
    MAX_BYTES,
    checked_path,
    pack,
    read_whole,
    unpack,
    write_atomically,
)
from skinterflow._runtime import named_device
from skinterflow.exceptions import SavedModelError

_NOT_WRITTEN = {
    "_metadata_request",
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
    "_callback_fit_ctx",
    "_parent_callback_ctx",
}
"""What scikit-learn keeps in an estimator that concerns one program: requests for metadata and
callbacks."""
_STATE_KEYS = {"format_version", "tree", "arrays"}


class Storable(BaseEstimator):
    """An estimator that is pickled as plain data, and saved to files that hold nothing else."""

    _fitted_parts: ClassVar[frozenset[str]]
    """Private attributes, with declared types, that a fitted estimator has."""
    _other_parts: ClassVar[frozenset[str]] = frozenset({"_sklearn_output_config"})
    """Private attributes that it may have."""

    def __getstate__(self) -> dict[str, Any]:
        tree, arrays = encode(super().__getstate__(), keep_objects=True)
        return {"format_version": FORMAT_VERSION, "tree": tree, "arrays": arrays}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if (
            not isinstance(state, Mapping)
            or state.keys() != _STATE_KEYS
            or type(state["format_version"]) is not int
        ):
            raise SavedModelError(
                f"That is not the state of a pickled {type(self).__name__}, which __getstate__ "
                "gives; pickle it anew."
            )
        if state["format_version"] > FORMAT_VERSION:
            raise SavedModelError(
                f"This {type(self).__name__} was pickled by a newer release of skinterflow, in "
                f"version {state['format_version']} of the state; this one reads versions up to "
                f"{FORMAT_VERSION}; upgrade skinterflow."
            )
        attributes = decode(state["tree"], state["arrays"], keep_objects=True)
        if not isinstance(attributes, dict):
            raise SavedModelError(
                f"The pickled state holds no attributes of a {type(self).__name__}, but "
                f"{reprlib.repr(attributes)}."
            )
        super().__setstate__(attributes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a file that holds no code.

        The file is one of safetensors with a JSON header: parameters, fitted attributes and
        weights.  Two things that scikit-learn keeps in an estimator are not written: requests for
        metadata (``set_fit_request``) and callbacks.

        Parameters
        ----------
        path : str or path
            Name of the file; an older one is replaced when the new one is whole, and its
            permissions are kept.

        Raises
        ------
        TypeError
            If a parameter is an object of a class that is not skinterflow's own: joblib can store
            that.  If the path is none.
        ValueError
            If the estimator has an attribute that is not its own.
        OSError
            If the file cannot be written; an older one is then as it was.

        See Also
        --------
        load : Read the file.
        """
        check_is_fitted(self)
        path = checked_path(path, "path")
        self._validate_params()
        attributes = {name: value for name, value in vars(self).items() if name not in _NOT_WRITTEN}
        strange = [name for name in attributes if not self._may_have(name)]
        if strange:
            raise ValueError(
                f"{type(self).__name__} has no attribute {strange[0]!r} of its own to be saved; "
                "delete it, or use joblib.dump."
            )
        write_atomically(path, pack(*encode(attributes), type(self).__name__))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Self:
        """Read a model that :meth:`save` wrote, on this machine or another.

        No code in the file is run, because there is none; every byte is checked first.

        Parameters
        ----------
        path : str or path
        device : str, torch.device or None, default=None
            Where the model is to be used; None is the `device` that it was saved with.
        max_bytes : int, default=2**32
            Size of the largest file that is read: 4 GiB.

        Returns
        -------
        estimator : fitted, with equal parameters, attributes and results

        Raises
        ------
        SavedModelError
            If the file is damaged, was altered, holds another estimator or values that no fit
            gives, comes from a newer release, is larger than `max_bytes`, or is no regular file.
        TypeError, ValueError
            If the path or the device is none.
        OSError
            If it cannot be read, such as FileNotFoundError.
        """
        if device is not None:
            named_device(device)
        path = checked_path(path, "path")
        content = read_whole(path, max_bytes)
        try:
            estimator = cls._rebuilt(decode(*unpack(content, cls.__name__)))
        except SavedModelError as error:
            raise SavedModelError(f"{cls.__name__}.load({path!r}): {error}") from error
        return estimator if device is None else estimator.set_params(device=device)

    @classmethod
    def _rebuilt(cls, attributes: Mapping[str, Any]) -> Self:
        """A fitted estimator with these parameters and fitted attributes, once they have been
        checked."""
        try:
            names = cls._get_param_names()
            estimator = cls(**{name: value for name, value in attributes.items() if name in names})
            estimator._validate_params()
            fitted = {name: value for name, value in attributes.items() if name not in names}
            cls._check_fitted(fitted)
        except Exception as error:  # whatever hostile attributes meet
            raise SavedModelError(
                f"The data are not those of a fitted {cls.__name__} ({error}); do not trust them."
            ) from error
        estimator.__dict__.update(fitted)
        return estimator

    @classmethod
    def _check_fitted(cls, fitted: Mapping[str, Any]) -> None:
        strange = [name for name in fitted if not cls._may_have(name)]
        missing = cls._fitted_parts - fitted.keys()
        if strange or missing:
            raise ValueError(
                f"the attributes {sorted(map(str, strange))} are strange, and {sorted(missing)} "
                "are missing"
            )
        hints = typing.get_type_hints(cls)
        check_types({name: fitted[name] for name in fitted if name in hints}, hints)

    @classmethod
    def _may_have(cls, name: str) -> bool:
        """Whether an attribute is a parameter, a private one that is declared, or a public fitted
        one."""
        public = name.isidentifier() and name.endswith("_") and not name.startswith("_")
        return (
            public
            or name in cls._fitted_parts
            or name in cls._other_parts
            or name in cls._get_param_names()
        )
