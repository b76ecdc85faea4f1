"""Pickling, saving and loading of estimators, as plain data without code."""

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
    "_cache",
    "_metadata_request",
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
    "_callback_fit_ctx",
    "_parent_callback_ctx",
}
"""Attributes that are not saved: cached models, and metadata requests and callbacks of
scikit-learn, which belong to one program."""
_STATE_KEYS = {"format_version", "tree", "arrays"}


class SerializableMixin(BaseEstimator):
    """Mixin for estimators that are pickled and saved as plain data."""

    _fitted_parts: ClassVar[frozenset[str]]
    """Private attributes, with declared types, that every fitted estimator has."""
    _other_parts: ClassVar[frozenset[str]] = frozenset({"_sklearn_output_config"})
    """Private attributes that a fitted estimator may have."""

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in super().__getstate__().items() if name != "_cache"}
        tree, arrays = encode(state, keep_objects=True)
        return {"format_version": FORMAT_VERSION, "tree": tree, "arrays": arrays}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if (
            not isinstance(state, Mapping)
            or state.keys() != _STATE_KEYS
            or type(state["format_version"]) is not int
        ):
            raise SavedModelError(
                f"This is not the state of a pickled {type(self).__name__} that __getstate__ "
                "returns; pickle the estimator again."
            )
        if state["format_version"] > FORMAT_VERSION:
            raise SavedModelError(
                f"This {type(self).__name__} was pickled by a newer release of skinterflow, in "
                f"version {state['format_version']} of the state, but this release reads versions "
                f"up to {FORMAT_VERSION}; upgrade skinterflow."
            )
        attributes = decode(state["tree"], state["arrays"], keep_objects=True)
        if not isinstance(attributes, dict):
            raise SavedModelError(
                f"The pickled state holds no attributes of a {type(self).__name__}, got "
                f"{reprlib.repr(attributes)}."
            )
        super().__setstate__(attributes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a file that holds no code.

        The file has the safetensors format, with parameters, fitted attributes and weights.
        Metadata requests (``set_fit_request``) and callbacks of scikit-learn are not saved.

        Parameters
        ----------
        path : str or path-like
            Name of the file.  An existing file is replaced once the new one is complete, and its
            permissions are kept.

        Raises
        ------
        TypeError
            If a parameter is an object whose class is not part of skinterflow (use joblib for such
            an estimator), or if the path is not valid.
        ValueError
            If the estimator has an attribute that its class does not define, or if the path is
            empty.
        OSError
            If the file cannot be written; an existing file is then unchanged.

        See Also
        --------
        load : Read the file.
        """
        check_is_fitted(self)
        path = checked_path(path, "path")
        self._validate_params()
        attributes = self._saved_attributes()
        unknown = [name for name in attributes if not self._may_have(name)]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} defines no attribute {unknown[0]!r}, so that it cannot be "
                "saved; delete it, or use joblib.dump."
            )
        write_atomically(path, pack(*encode(attributes), type(self).__name__))

    def _saved_attributes(self) -> dict[str, Any]:
        """Attributes that :meth:`save` writes, and from which :meth:`_rebuilt` starts."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_WRITTEN}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Self:
        """Load a model that :meth:`save` wrote, on this or another machine.

        The file holds no code, and every byte of it is checked before it is used.

        Parameters
        ----------
        path : str or path-like
            Name of the file.
        device : str, torch.device or None, default=None
            Value of the `device` parameter; None is the value that was saved.
        max_bytes : int, default=2**32
            Maximum size of the file: 4 GiB.

        Returns
        -------
        estimator : fitted, with the same parameters, attributes and results

        Raises
        ------
        SavedModelError
            If the file is damaged or altered, holds another estimator or invalid values, was
            written by a newer release, is larger than `max_bytes`, or is not a regular file.
        TypeError, ValueError
            If the path or the device is not valid.
        OSError
            If the file cannot be read, such as FileNotFoundError.
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
        """Return a fitted estimator with these parameters and attributes, after checking them."""
        try:
            names = cls._get_param_names()
            estimator = cls(**{name: value for name, value in attributes.items() if name in names})
            estimator._validate_params()
            fitted = {name: value for name, value in attributes.items() if name not in names}
            cls._check_fitted(fitted)
        except Exception as error:  # hostile attributes can raise anything from a check
            raise SavedModelError(
                f"The data are not those of a fitted {cls.__name__} ({error}); do not trust them."
            ) from error
        estimator.__dict__.update(fitted)
        return estimator

    @classmethod
    def _check_fitted(cls, fitted: Mapping[str, Any]) -> None:
        unknown = [name for name in fitted if not cls._may_have(name)]
        missing = cls._fitted_parts - fitted.keys()
        if unknown or missing:
            raise ValueError(
                f"the attributes {sorted(map(str, unknown))} are unknown, and {sorted(missing)} "
                "are missing"
            )
        hints = typing.get_type_hints(cls)
        check_types({name: fitted[name] for name in fitted if name in hints}, hints)

    @classmethod
    def _may_have(cls, name: str) -> bool:
        """Whether a name is a parameter, a declared private attribute or a public fitted one."""
        public = name.isidentifier() and name.endswith("_") and not name.startswith("_")
        return (
            public
            or name in cls._fitted_parts
            or name in cls._other_parts
            or name in cls._get_param_names()
        )
