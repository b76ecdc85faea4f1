"""Files of models: safetensors with a digest over every byte, written whole or not at all.

A file is a tree of plain data, as JSON in the header, and the arrays that it names.  Nothing in it
is ever run.  The header holds the SHA-256 digest of the whole file, with zeros in the digest's own
place, so that no byte can change unseen.  Any reader of safetensors opens such a file, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
import sklearn
import torch
from numpy.typing import NDArray

from skinterflow._version import __version__
from skinterflow.exceptions import SavedModelError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION = 1
"""Version of what `pack` writes, and the last that `unpack` reads; raise it when older releases
could not read a new file."""

MAX_BYTES = 2**32
"""Size of the largest file that is read unless a larger one is asked for: 4 GiB, where models of
the default widths take a megabyte."""

_STALE_SECONDS = 10.0
"""Age from which on an unlocked temporary file was left behind, and is not just about to be
locked."""
_FORMAT = "skinterflow"
_LENGTH_BYTES = 8
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64


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
    tensors = safetensors.numpy.save(
        {name: np.array(array, order="C") for name, array in arrays.items()}
    )
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
    header = json.dumps(
        {"__metadata__": metadata, **json.loads(tensors[_LENGTH_BYTES:start])},
        separators=(",", ":"),
    ).encode()
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
        raise SavedModelError(
            "The file is damaged or was altered: its content does not have the digest that it "
            "names; take another copy."
        )
    try:
        metadata = _checked_metadata(_parsed(_header(data))["__metadata__"], kind)
        return _parsed(metadata["tree"]), safetensors.numpy.load(data)
    except SavedModelError:
        raise
    except Exception as error:  # whatever a hostile header meets
        raise SavedModelError(
            f"The content of the file makes no sense ({type(error).__name__}: {error}); do not "
            "trust it."
        ) from error


def checked_path(path: Any, name: str) -> str:
    """A path as a string.

    Raises
    ------
    TypeError
        If it is no string and no path-like object that gives one.
    ValueError
        If it is empty, or has a null character.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(
            f"{name} must be a string or a path, such as 'model.safetensors', got {path!r}."
        )
    if not text or "\0" in text:
        raise ValueError(f"{name} must not be empty, nor have a null character, got {text!r}.")
    return text


def read_whole(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Content of a regular file; nothing else is waited for, or read.

    Parameters
    ----------
    path : path of a file
    max_bytes : int, largest size that is read

    Raises
    ------
    IsADirectoryError
        If it is a directory.
    SavedModelError
        If it is neither a file nor a directory, such as a pipe or a device, or larger than
        `max_bytes`.
    OSError
        If it cannot be read, such as FileNotFoundError.
    """
    text = checked_path(path, "path")
    _check_regular(
        os.stat(text), text
    )  # before it is opened, because opening a device may do something
    # A pipe that took its place since then would not be waited for, and is refused, too.
    descriptor = os.open(
        text,
        os.O_RDONLY
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_BINARY", 0)
        | getattr(os, "O_CLOEXEC", 0),
    )
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_regular(status, text)
        if status.st_size > max_bytes:
            raise SavedModelError(
                f"{text!r} has {status.st_size:,} bytes, and was not read, because the most are "
                f"{max_bytes:,}; raise max_bytes if it is a model that you expect to be so large."
            )
        return file.read(status.st_size)


def _check_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(
            f"{path!r} is a directory; name the file in it that the model was saved to."
        )
    if not stat.S_ISREG(status.st_mode):
        raise SavedModelError(
            f"{path!r} is neither a file nor a directory, but a pipe, a device or a socket, and "
            "was not read."
        )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole, or leave what was there: by a temporary file beside it that takes its
    name when all is on the disk.

    The file has the permissions of the one that it replaces, or those of any new file.  What
    earlier writes of the same file left, because their processes were killed, is removed; a
    temporary file is locked for as long as its process lives.

    Parameters
    ----------
    path : path of a file, new or to be replaced
    data : bytes

    Raises
    ------
    TypeError, ValueError
        If the path is none.
    IsADirectoryError, FileExistsError
        If there is something else than a file.
    FileNotFoundError
        If the directory does not exist.
    OSError
        If the disk cannot be written, such as PermissionError.
    """
    path = checked_path(path, "path")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(
            f"{path!r} is a directory; name a file in it, such as "
            f"{str(target / 'model.safetensors')!r}."
        )
    if target.exists() and not target.is_file():
        raise FileExistsError(
            f"{path!r} is neither a file nor a directory, and is not replaced by a file; choose "
            "another name."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"The directory of {path!r} does not exist; create {str(target.parent)!r} first."
        )
    _remove_stale(target)
    temporary = target.with_name(f"{_temporary_prefix(target)}{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            _lock(file)
            if target.exists() and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)
    except OSError as error:
        reason = f"Nothing was written, and an older file of that name is as it was: {error.strerror or error}"
        raise OSError(error.errno, reason, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_prefix(target: Path) -> str:
    """How the names of temporary files of a target begin: of equal length for all, because names of
    files must not be long."""
    return f".skinterflow-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"


def _lock(file: BinaryIO) -> None:
    """Lock a temporary file until it is closed, by its process or with it."""
    if fcntl is not None:
        with contextlib.suppress(
            OSError
        ):  # file systems without locks, where nothing is removed, either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_stale(target: Path) -> None:
    """Remove temporary files of a target that no living process holds; what cannot be removed is no
    cause to fail."""
    if fcntl is None:
        return
    for left in target.parent.glob(f"{_temporary_prefix(target)}*.tmp"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            if (
                time.time() - os.fstat(file.fileno()).st_mtime > _STALE_SECONDS
            ):  # older than the moment before a new one is locked
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process lives
                left.unlink()


def _header(data: bytes) -> bytes:
    return data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")]


def _place_of_digest(data: bytes) -> slice:
    """Where the header names the digest, counted from the first byte."""
    found = list(_DIGEST.finditer(_header(data)))
    if len(found) != 1:
        raise SavedModelError(
            "The file is not one that skinterflow saved, or it is damaged: its header has no "
            "digest."
        )
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
            f"The file was written by skinterflow {metadata['skinterflow']} in version "
            f"{metadata['format_version']} of the format, and this is skinterflow {__version__}, "
            f"which reads versions up to {FORMAT_VERSION}; upgrade skinterflow."
        )
    if metadata["kind"] != kind:
        raise SavedModelError(
            f"The file holds {metadata['kind']}, not {kind}; load it as what it is."
        )
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
