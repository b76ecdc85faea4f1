"""Files of models: safetensors with a digest over every byte, written whole or not at all.

A file is a tree of plain data, as JSON in the header, and the arrays that it names.  Nothing in it is ever run.  The header holds the
SHA-256 digest of the whole file, with zeros in the digest's own place, so that no byte can change unseen.  Any reader of safetensors opens
such a file, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import sklearn
import torch
from numpy.typing import NDArray

from skinterflow._version import __version__

FORMAT_VERSION = 1
"""Version of what `pack` writes, and the last that `unpack` reads; raise it when older releases could not read a new file."""

_FORMAT = "skinterflow"
_LENGTH_BYTES = 8
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64


class SavedModelError(ValueError):
    """A file does not hold the model that it should: damaged, altered, of another class, or of a newer release.

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


def pack(tree: Any, arrays: Mapping[str, NDArray[Any]], kind: str) -> bytes:
    """Content of a file.

    Parameters
    ----------
    tree : None, bool, int, finite float, str, and lists of these and dicts of them with str keys
    arrays : mapping of name to array, of a dtype that safetensors has
    kind : str, what the file holds; :func:`unpack` must ask for the same

    Returns
    -------
    bytes, the same for the same input
    """
    tensors = safetensors.numpy.save({name: np.array(array, order="C") for name, array in arrays.items()})
    start = _LENGTH_BYTES + int.from_bytes(tensors[:_LENGTH_BYTES], "little")
    metadata = {
        "format": _FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "skinterflow": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "sha256": _NO_DIGEST,
        "tree": json.dumps(tree, allow_nan=False, separators=(",", ":")),
    }
    header = json.dumps({"__metadata__": metadata, **json.loads(tensors[_LENGTH_BYTES:start])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    data = len(header).to_bytes(_LENGTH_BYTES, "little") + header + tensors[start:]
    place = _place_of_digest(data)
    return data[: place.start] + _digest(data, place) + data[place.stop :]


def unpack(data: bytes, kind: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Tree and arrays of a file, once every byte has been checked.

    Parameters
    ----------
    data : bytes, as :func:`pack` gives them
    kind : str, what the file should hold

    Returns
    -------
    tree, arrays : what :func:`pack` was given; the arrays may be read-only

    Raises
    ------
    SavedModelError
        If it is not such a file, holds something else, or was written by a newer release.
    """
    place = _place_of_digest(data)
    if data[place] != _digest(data, place):
        raise SavedModelError("The file is damaged or was altered: its content does not have the digest that it names; take another copy.")
    try:
        metadata = _checked_metadata(_parsed(_header(data))["__metadata__"], kind)
        return _parsed(metadata["tree"]), safetensors.numpy.load(data)
    except SavedModelError:
        raise
    except Exception as error:  # whatever a hostile header meets
        raise SavedModelError(f"The content of the file makes no sense ({type(error).__name__}: {error}); do not trust it.") from error


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole, or leave what was there: by a temporary file beside it that takes its name when all is on the disk.

    Parameters
    ----------
    path : path of a file, new or to be replaced
    data : bytes

    Raises
    ------
    IsADirectoryError, FileExistsError
        If there is something else than a file.
    FileNotFoundError
        If the directory does not exist.
    OSError
        If the disk cannot be written, such as PermissionError.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory; name a file in it, such as {str(target / 'model.safetensors')!r}.")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{str(path)!r} is neither a file nor a directory, and is not replaced by a file; choose another name.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The directory of {str(path)!r} does not exist; create {str(target.parent)!r} first.")
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        reason = f"Nothing was written, and an older file of that name is as it was: {error.strerror or error}"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _header(data: bytes) -> bytes:
    return data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")]


def _place_of_digest(data: bytes) -> slice:
    """Where the header names the digest, counted from the first byte."""
    found = list(_DIGEST.finditer(_header(data)))
    if len(found) != 1:
        raise SavedModelError("The file is not one that skinterflow saved, or it is damaged: its header has no digest.")
    start, stop = found[0].span(1)
    return slice(_LENGTH_BYTES + start, _LENGTH_BYTES + stop)


def _digest(data: bytes, place: slice) -> bytes:
    """SHA-256 of all bytes, with zeros in the place of the digest."""
    view, sha256 = memoryview(data), hashlib.sha256()
    for part in (view[: place.start], _NO_DIGEST.encode(), view[place.stop :]):
        sha256.update(part)
    return sha256.hexdigest().encode()


def _checked_metadata(metadata: dict[str, str], kind: str) -> dict[str, str]:
    if metadata["format"] != _FORMAT:
        raise SavedModelError(f"The file is of the format {metadata['format']!r}, not {_FORMAT!r}.")
    if int(metadata["format_version"]) > FORMAT_VERSION:
        raise SavedModelError(
            f"The file was written by skinterflow {metadata['skinterflow']} in version {metadata['format_version']} of the format, and "
            f"this is skinterflow {__version__}, which reads versions up to {FORMAT_VERSION}; upgrade skinterflow."
        )
    if metadata["kind"] != kind:
        raise SavedModelError(f"The file holds {metadata['kind']}, not {kind}; load it as what it is.")
    return metadata


def _parsed(text: str | bytes) -> Any:
    """JSON without duplicate keys and without numbers that are no numbers."""
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key occurs twice among {keys[:10]}")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
