"""Objects as plain data and back: what pickles, skops and saved files of an estimator have in
common.

The data are a tree, of what JSON has, and arrays that it refers to by name.  Objects of the classes
in `CLASSES` are built anew by their constructors, from arguments of the declared types, and given
their weights: no other class can come out of a tree, and nothing else is run.  An object that
occurs twice is one object after the way there and back, too.  What JSON lacks is a dict of one key,
which says what it is: ``{"tuple": [...]}``, ``{"tensor": "name of the array"}``.
"""

from __future__ import annotations

import math
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

from skinterflow._files import SavedModelError
from skinterflow._version import __version__
from skinterflow.interflow.couplings import Independent, OptimalTransport
from skinterflow.interflow.fields import AveragedField, ResidualMLP
from skinterflow.interflow.grading import Grading
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads, SharedTrunk
from skinterflow.interflow.interpolants import (
    EncodingDecoding,
    Fourier,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from skinterflow.interflow.latent import (
    Brownian,
    LearnedGamma,
    Normalized,
    Quadratic,
    Sigmoid,
    SineSquared,
    StochasticInterpolant,
)
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.ode import Calibration
from skinterflow.interflow.scaling import Compose, LearnedGaussian, Standardize, Whiten
from skinterflow.interflow.times import Beta

_WEIGHTED: tuple[type[nn.Module], ...] = (
    Fourier,
    LearnedGamma,
    LearnedGaussian,
    ResidualMLP,
    SharedTrunk,
)
"""Modules that make parameters of their own."""

_GIVEN: tuple[type, ...] = (
    AveragedField,
    Beta,
    Bounds,
    Brownian,
    Calibration,
    Compose,
    EncodingDecoding,
    Gaussianize,
    Grading,
    HeadedDrift,
    Independent,
    Linear,
    Mirror,
    Normalized,
    OptimalTransport,
    Quadratic,
    SeparateHeads,
    Sigmoid,
    SineSquared,
    Standardize,
    StochasticInterpolant,
    Trigonometric,
    VariancePreserving,
    Whiten,
    YeoJohnson,
)
"""What is all that its constructor is given."""

CLASSES: dict[str, type] = {cls.__name__: cls for cls in (*_WEIGHTED, *_GIVEN)}
"""Classes whose objects can be written, by name.  Each keeps the arguments of its constructor as
attributes of the same names."""

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
"""Words in the state of a Mersenne twister."""


def encode(value: Any, *, keep_objects: bool = False) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Tree and arrays of a value.

    Parameters
    ----------
    value : None
        Bool, int, float, str, torch.device, torch.dtype, NumPy scalar, RandomState, path, NumPy
        array of numbers or strings,. tensor, object of one of `CLASSES`; lists and tuples of them,
        and dicts with str or int keys
    keep_objects : bool, default=False
        Leave other objects in the tree as they are, for pickle.

    Returns
    -------
    tree : what JSON has, and the objects that were kept
    arrays : dict of arrays, which may share memory with `value`

    Raises
    ------
    TypeError
        If an object is of another class and not to be kept, with its place in `value`.
    """
    encoder = _Encoder(keep_objects)
    return encoder.encode(value, ""), encoder.arrays


def decode(tree: Any, arrays: Mapping[str, NDArray[Any]], *, keep_objects: bool = False) -> Any:
    """What :func:`encode` was given, with memory of its own, on the CPU.

    Parameters
    ----------
    tree, arrays : from :func:`encode`, or from somebody who means no good
    keep_objects : bool, default=False
        Take objects in the tree as they are; never for a tree from a file.

    Raises
    ------
    SavedModelError
        If that is not what :func:`encode` gives.
    """
    try:
        return _Decoder(arrays, keep_objects).decode(tree)
    except SavedModelError:
        raise
    except Exception as error:  # whatever a hostile tree meets
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
        """Tree of what is at the place `name`."""
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
        if kind in CLASSES.values():
            return self._object(value, name)
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
        """Reference to an array, a scalar or a tensor, or None if it is none of those or cannot be
        written."""
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
        """Name under which an array was stored: that of its place, unless another has it."""
        while name in self.arrays or name in ("", "__metadata__"):
            name += "+"
        self.arrays[name] = array
        return name

    def _object(self, value: Any, name: str) -> Any:
        if id(value) in self.numbers:
            return {"same": self.numbers[id(value)]}
        cls: Any = type(value)
        content: dict[str, Any] = {
            "name": cls.__name__,
            "arguments": {
                key: self.encode(getattr(value, key), f"{name}.{key}") for key in _hints(cls)
            },
            # They are not computed anew, because a path that was learned after it was looked at may
            # have others.
            "cached": {
                key: self.encode(vars(value)[key], f"{name}.{key}")
                for key in _cached(cls)
                if key in vars(value)
            },
        }
        if cls in _WEIGHTED:
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
                f"{type(value).__module__}.{type(value).__qualname__}. A file holds plain data and "
                "skinterflow's own objects alone, so that loading it runs no other code; use "
                "joblib.dump, and joblib.load where you trust the file."
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
            raise ValueError(f"the keys {list(content)[:10]} are no keys of a dict, or occur twice")
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
        if name not in CLASSES:
            raise SavedModelError(
                f"The data hold an object of the class {name!r}, which is none that skinterflow "
                f"{__version__} can load."
            )
        cls = CLASSES[name]
        given = {key: self.decode(tree) for key, tree in arguments.items()}
        check_types(given, _hints(cls))
        if cls in _WEIGHTED:
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
    """A module with these weights, those in `fixed` not to be learned: built without memory first,
    so that no size makes it take any."""
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
    """Code points of strings of N characters at most, shape ``(*shape, N)``."""
    points = np.frombuffer(strings.astype(strings.dtype.newbyteorder("<")).tobytes(), dtype="<u4")
    return points.reshape(*strings.shape, strings.dtype.itemsize // 4)


def _from_code_points(points: NDArray[Any]) -> NDArray[Any]:
    strings = (
        np.frombuffer(points.astype("<u4").tobytes(), dtype=f"<U{points.shape[-1]}")
        .reshape(points.shape[:-1])
        .copy()
    )
    strings.tolist()  # raises for what is no character
    return strings


def _random_state(state: dict[str, Any]) -> np.random.RandomState:
    words, place = state["state"]["key"], state["state"]["pos"]
    # NumPy would read outside of the words.
    if words.shape != (_N_WORDS,) or words.dtype != np.uint32 or not 0 <= place <= _N_WORDS:
        raise ValueError(f"a random state of {words.shape} words is at place {place}")
    random = np.random.RandomState(0)
    random.set_state(state)
    return random


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise unless each value has a type hint that it fits.

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
    """Types of the arguments of a constructor, but for a generator: it drew weights that are
    stored."""
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
