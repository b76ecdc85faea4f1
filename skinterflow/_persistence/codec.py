"""Encoding of objects as plain data, for pickles, skops and saved files of an estimator.

The data are a tree of JSON values and the arrays that it refers to by name.  Values that JSON lacks
are dicts with one key, the name of their type: ``{"tuple": [...]}``,
``{"tensor": "name of the array"}``.

Objects of the registered classes (:mod:`skinterflow._persistence.registry`) are rebuilt by their
constructors, from arguments of the declared types, and then get their weights.  No other class can
come out of a tree, and no other code is run.  An object that occurs twice is decoded as one object.
"""

from __future__ import annotations

import math
import reprlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from numbers import Real
from pathlib import Path, PurePath
from types import UnionType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skinterflow._persistence.registry import BY_CLASS_NAME, Component, component_of
from skinterflow._version import __version__
from skinterflow.exceptions import SavedModelError

_DTYPES = {
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
}
_TORCH_DTYPES = {str(getattr(torch, name)): getattr(torch, name) for name in (*_DTYPES, "bfloat16")}
_N_WORDS = 624
"""Number of words in the state of a Mersenne twister."""


def encode(value: Any, *, keep_objects: bool = False) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Encode a value as a tree of plain data and arrays.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, torch.device, torch.dtype, NumPy scalar, RandomState, path,
        NumPy array of numbers or strings, tensor, or object of a registered class; lists and tuples
        of these, and dicts of them with str or int keys.
    keep_objects : bool, default=False
        Leave other objects in the tree as they are, for pickle.

    Returns
    -------
    tree : JSON values, and objects that were left as they are
    arrays : dict of arrays, which may share memory with `value`

    Raises
    ------
    TypeError
        If `value` contains an object of another class and `keep_objects` is False; the message
        names its place.
    """
    encoder = _Encoder(keep_objects)
    return encoder.encode(value, ""), encoder.arrays


def check_can_be_saved(components: Mapping[str, Any]) -> None:
    """Raise unless every component can be written to a file.

    Parameters
    ----------
    components : mapping of parameter to value

    Raises
    ------
    TypeError
        With the parameter, its value and the way out.
    """
    for parameter, value in components.items():
        try:
            encode(value)
        except TypeError as error:
            raise TypeError(
                f"{parameter}={reprlib.repr(value)} cannot be written to a checkpoint, because "
                f"{type(value).__qualname__}, or a part of it, is not a class of skinterflow; use "
                "a class of skinterflow, or set checkpoint=None."
            ) from error


def decode(tree: Any, arrays: Mapping[str, NDArray[Any]], *, keep_objects: bool = False) -> Any:
    """Rebuild the value that :func:`encode` was given, on the CPU and without shared memory.

    Parameters
    ----------
    tree, arrays : as returned by :func:`encode`, or from an untrusted source
    keep_objects : bool, default=False
        Accept objects in the tree; never for a tree from a file.

    Raises
    ------
    SavedModelError
        If :func:`encode` cannot have returned them.
    """
    try:
        return _Decoder(arrays, keep_objects).decode(tree)
    except SavedModelError:
        raise
    except Exception as error:  # a hostile tree can raise anything from a constructor
        raise SavedModelError(
            f"An object cannot be built from the data ({type(error).__name__}: {error}); do not "
            "trust them."
        ) from error


class _Encoder:
    def __init__(self, keep_objects: bool) -> None:
        self.keep_objects = keep_objects
        self.arrays: dict[str, NDArray[Any]] = {}
        self.numbers: dict[int, int] = {}

    def encode(self, value: Any, name: str) -> Any:
        """Tree of a value, whose place in the whole is `name`, such as ``"field.depth"``."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind in (list, tuple, nn.ModuleList):
            items = [self.encode(item, f"{name}.{k}") for k, item in enumerate(value)]
            return {"tuple": items} if kind is tuple else items
        if kind is dict and all(type(key) in (str, int) for key in value):
            return {
                "dict": [
                    [key, self.encode(item, f"{name}.{key}" if name else str(key))]
                    for key, item in value.items()
                ]
            }
        if (component := component_of(kind)) is not None:
            return self._object(value, name, component)
        if kind is torch.device or (kind is torch.dtype and str(value) in _TORCH_DTYPES):
            return {kind.__name__: str(value)}
        if isinstance(value, PurePath):
            return {"path": str(value)}
        if (
            kind is np.random.RandomState
            and not self.keep_objects
            and value.get_state(legacy=False)["bit_generator"] == "MT19937"
        ):
            return {"random_state": self.encode(value.get_state(legacy=False), name)}
        return self._array(value, name) or self._other(value, name)

    def _array(self, value: Any, name: str) -> Any:
        """Reference to an array, scalar or tensor; None if the value cannot be stored as one."""
        if isinstance(value, torch.Tensor):
            storable = (
                str(value.dtype).removeprefix("torch.") in _DTYPES and value.layout == torch.strided
            )
            return (
                {"tensor": self._stored(value.detach().cpu().numpy(), name)} if storable else None
            )
        if isinstance(value, np.str_):
            return str(value)
        if isinstance(value, np.generic) and value.dtype.name in _DTYPES:
            return {"scalar": self._stored(np.asarray(value), name)}
        if type(value) not in (np.ndarray, np.memmap):
            return None
        if value.dtype.name in _DTYPES:
            return {"array": self._stored(value, name)}
        if value.dtype.kind == "U" and value.dtype.itemsize:
            return {"unicode": self._stored(_code_points(value), name)}
        strings = value.ravel().tolist() if value.dtype.kind == "O" else [None]
        if all(type(string) is str for string in strings):
            return {"strings": {"values": strings, "shape": list(value.shape)}}
        return None

    def _stored(self, array: NDArray[Any], name: str) -> str:
        """Store an array and return its name: that of its place, made unique."""
        while name in self.arrays or name in ("", "__metadata__"):
            name += "+"
        self.arrays[name] = array
        return name

    def _object(self, value: Any, name: str, component: Component) -> Any:
        if id(value) in self.numbers:
            return {"same": self.numbers[id(value)]}
        cls: Any = type(value)
        content: dict[str, Any] = {
            "name": cls.__name__,
            "arguments": {
                key: self.encode(getattr(value, key), f"{name}.{key}") for key in _hints(cls)
            },
            # Cached properties are stored, not recomputed: a path may have been trained further
            # since they were computed, and a loaded model must give the same results.
            "cached": {
                key: self.encode(vars(value)[key], f"{name}.{key}")
                for key in _cached(cls)
                if key in vars(value)
            },
        }
        if component.has_weights:
            content["weights"] = {
                key: self._stored(weight.cpu().numpy(), f"{name}.{key}")
                for key, weight in value.state_dict().items()
            }
            content["fixed"] = [
                key for key, parameter in value.named_parameters() if not parameter.requires_grad
            ]
        content["number"] = self.numbers[id(value)] = len(self.numbers)
        return {"object": content}

    def _other(self, value: Any, name: str) -> Any:
        if not self.keep_objects:
            raise TypeError(
                f"{name or 'This'} is {value!r}, of the class "
                f"{type(value).__module__}.{type(value).__qualname__}. A file holds only plain "
                "data and skinterflow's own objects, so that loading it runs no other code; use "
                "joblib.dump, and joblib.load if you trust the file."
            )
        return {"kept": value}


class _Decoder:
    def __init__(self, arrays: Mapping[str, NDArray[Any]], keep_objects: bool) -> None:
        self.arrays = arrays
        self.objects: dict[int, Any] = {}
        self.builders: dict[str, Callable[[Any], Any]] = {
            "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}.__getitem__,
            "tuple": lambda items: tuple(map(self.decode, items)),
            "dict": self._dict,
            "array": lambda name: np.array(self.arrays[name]),
            "scalar": lambda name: self.arrays[name].reshape(1)[0],
            "tensor": self._tensor,
            "strings": lambda content: _strings(**content),
            "unicode": lambda name: _from_code_points(self.arrays[name]),
            "object": lambda content: self._object(**content),
            "same": self.objects.__getitem__,
            "device": torch.device,
            "dtype": _TORCH_DTYPES.__getitem__,
            "path": Path,
            "random_state": lambda state: _random_state(self.decode(state)),
        }
        if keep_objects:
            self.builders["kept"] = lambda value: value

    def decode(self, tree: Any) -> Any:
        if tree is None or type(tree) in (bool, int, float, str):
            return tree
        if type(tree) is list:
            return [self.decode(item) for item in tree]
        ((key, content),) = tree.items()
        return self.builders[key](content)

    def _dict(self, pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        content = {key: self.decode(item) for key, item in pairs}
        if len(content) < len(pairs) or not all(type(key) in (str, int) for key in content):
            raise ValueError(
                f"the keys {list(content)[:10]} are not strings or integers, or occur twice"
            )
        return content

    def _tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def _object(
        self,
        name: str,
        arguments: Mapping[str, Any],
        cached: Mapping[str, Any],
        number: int,
        weights: Mapping[str, str] | None = None,
        fixed: Sequence[str] = (),
    ) -> Any:
        if name not in BY_CLASS_NAME:
            raise SavedModelError(
                f"The data hold an object of the class {name!r}, which skinterflow {__version__} "
                "cannot load."
            )
        cls, _, has_weights = BY_CLASS_NAME[name]
        given = {key: self.decode(tree) for key, tree in arguments.items()}
        check_types(given, _hints(cls))
        if has_weights:
            built: Any = _with_weights(
                cls,
                given,
                {key: self._tensor(array) for key, array in (weights or {}).items()},
                fixed,
            )
        else:
            built = cls(**given)
        derived = {key: self.decode(tree) for key, tree in cached.items()}
        check_types(
            derived,
            {
                key: typing.get_type_hints(method.func)["return"]
                for key, method in _cached(cls).items()
            },
        )
        vars(built).update(derived)
        self.objects[number] = built
        return built


def _with_weights(
    cls: type,
    arguments: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    fixed: Sequence[str],
) -> nn.Module:
    """Build a module with these weights; those in `fixed` do not require a gradient.

    It is built on the meta device, so that hostile sizes in `arguments` allocate no memory.
    """
    if any(
        len(value) > len(weights) for value in arguments.values() if isinstance(value, list | tuple)
    ):
        raise ValueError(f"a {cls.__name__} has more layers than weights")
    with torch.device("meta"):
        module: nn.Module = cls(**arguments)
    module.load_state_dict(weights, assign=True)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in fixed)
    return module


def _strings(values: Sequence[str], shape: Sequence[int]) -> NDArray[Any]:
    if not all(type(value) is str for value in values):
        raise TypeError("an array of strings holds something else")
    return np.array(values, dtype=object).reshape(shape)


def _code_points(strings: NDArray[Any]) -> NDArray[np.uint32]:
    """Code points of strings of up to N characters, shape ``(*shape, N)``: safetensors has none."""
    points = np.frombuffer(strings.astype(strings.dtype.newbyteorder("<")).tobytes(), dtype="<u4")
    return points.reshape(*strings.shape, strings.dtype.itemsize // 4)


def _from_code_points(points: NDArray[Any]) -> NDArray[Any]:
    strings = (
        np.frombuffer(points.astype("<u4").tobytes(), dtype=f"<U{points.shape[-1]}")
        .reshape(points.shape[:-1])
        .copy()
    )
    strings.tolist()  # raises if a code point is not valid
    return strings


def _random_state(state: dict[str, Any]) -> np.random.RandomState:
    words, place = state["state"]["key"], state["state"]["pos"]
    # NumPy does not check the position and would read out of bounds.
    if words.shape != (_N_WORDS,) or words.dtype != np.uint32 or not 0 <= place <= _N_WORDS:
        raise ValueError(f"a random state of {words.shape} words is at place {place}")
    random = np.random.RandomState(0)
    random.set_state(state)
    return random


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise unless each value matches its type hint.

    Raises
    ------
    TypeError
        With the name, the value and the hint.
    """
    for name, value in values.items():
        if name not in hints or not _fits(value, hints[name]):
            raise TypeError(
                f"{name} should be {hints.get(name, 'absent')}, but is {str(value)[:100]!r}"
            )


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin in (tuple, list, Sequence, Iterable):
        return isinstance(value, list | tuple) and all(
            any(_fits(item, choice) for choice in inner) for item in value
        )
    if hint in (int, float):
        return isinstance(value, Real if hint is float else int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, origin or hint)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """Type hints of a constructor's arguments, except `generator`: drawn weights are stored."""
    return {
        name: hint
        for name, hint in typing.get_type_hints(cls.__init__).items()
        if name not in ("return", "generator")
    }


@cache
def _cached(cls: Any) -> dict[str, cached_property[Any]]:
    return {
        name: value
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, cached_property)
    }
