"""File format of saved models: safetensors with a digest over every byte, written atomically.

A file holds a tree of plain data, as JSON in the header, and the arrays that the tree refers to.
None of it is executed.  The header also holds the SHA-256 digest of the whole file, computed with
zeros in place of the digest itself, so that any change is detected.  Any reader of safetensors can
open such a file.
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

FORMAT_VERSION = 2
"""Version that `pack` writes and the latest that `unpack` reads; raise it when older releases
cannot read new files."""

MAX_BYTES = 2**32
"""Default maximum size of a file: 4 GiB, where models of the default widths take a megabyte."""

_STALE_SECONDS = 10.0
"""Age above which an unlocked temporary file is stale; a younger one may be about to be locked."""
_FORMAT = "skinterflow"
_LENGTH_BYTES = 8
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64


def pack(tree: Any, arrays: Mapping[str, NDArray[Any]], kind: str) -> bytes:
    """Build the content of a file.

    Parameters
    ----------
    tree : None, bool, int, finite float, str, and lists of these and dicts of them with str keys
    arrays : mapping of name to array, of a dtype that safetensors supports
    kind : str, what the file holds, which :func:`unpack` checks

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
    header += b" " * (-len(header) % _LENGTH_BYTES)  # safetensors wants the arrays aligned
    data = len(header).to_bytes(_LENGTH_BYTES, "little") + header + tensors[start:]
    place = _place_of_digest(data)
    return data[: place.start] + _digest(data, place) + data[place.stop :]


def unpack(data: bytes, kind: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Return the tree and the arrays of a file, after checking every byte.

    Parameters
    ----------
    data : bytes, as returned by :func:`pack`
    kind : str, what the file should hold

    Returns
    -------
    tree, arrays : the arguments of :func:`pack`; the arrays may be read-only

    Raises
    ------
    SavedModelError
        If the file is damaged or of another kind, or was written by a newer release.
    """
    place = _place_of_digest(data)
    if data[place] != _digest(data, place):
        raise SavedModelError(
            "The file is damaged or was altered: its content does not match its digest; use "
            "another copy."
        )
    try:
        metadata = _checked_metadata(_parsed(_header(data))["__metadata__"], kind)
        return _parsed(metadata["tree"]), safetensors.numpy.load(data)
    except SavedModelError:
        raise
    except Exception as error:  # a hostile header can raise anything from a parser
        raise SavedModelError(
            f"The content of the file is not valid ({type(error).__name__}: {error}); do not "
            "trust it."
        ) from error


def checked_path(path: Any, name: str) -> str:
    """Return a path as a string.

    Raises
    ------
    TypeError
        If it is neither a string nor a path-like object of one.
    ValueError
        If it is empty or contains a null character.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(
            f"{name} must be a string or a path, such as 'model.safetensors', got {path!r}."
        )
    if not text or "\0" in text:
        raise ValueError(f"{name} must not be empty or contain a null character, got {text!r}.")
    return text


def read_whole(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file; a pipe or a device is refused without waiting for it.

    Parameters
    ----------
    path : path of a file
    max_bytes : int, maximum size of the file

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
    # Checked before it is opened, because opening a device can have side effects, and again after:
    # a pipe may have replaced the file in between, which O_NONBLOCK opens without waiting.
    _check_regular(os.stat(text), text)
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
                f"{text!r} has {status.st_size:,} bytes, and was not read, because the maximum is "
                f"{max_bytes:,}; raise max_bytes if you expect a model of this size."
            )
        return file.read(status.st_size)


def _check_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(
            f"{path!r} is a directory; give the file in it that the model was saved to."
        )
    if not stat.S_ISREG(status.st_mode):
        raise SavedModelError(
            f"{path!r} is neither a file nor a directory, but a pipe, a device or a socket, and "
            "was not read."
        )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file completely or not at all.

    The data go to a temporary file in the same directory, which is renamed when it is on the disk.
    The file has the permissions of the one that it replaces, or those of any new file.  Temporary
    files that killed processes left behind are removed; a temporary file is locked while its
    process is alive.

    Parameters
    ----------
    path : path of a file, new or to be replaced
    data : bytes

    Raises
    ------
    TypeError, ValueError
        If the path is not valid.
    IsADirectoryError, FileExistsError
        If the path exists and is not a file.
    FileNotFoundError
        If the directory does not exist.
    OSError
        If the disk cannot be written, such as PermissionError.
    """
    path = checked_path(path, "path")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(
            f"{path!r} is a directory; give a file in it, such as "
            f"{str(target / 'model.safetensors')!r}."
        )
    if target.exists() and not target.is_file():
        raise FileExistsError(
            f"{path!r} is neither a file nor a directory, and is not replaced; choose another name."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"The directory of {path!r} does not exist; create {str(target.parent)!r} first."
        )
    _remove_stale(target)
    _replace(target, data, path)


def _replace(target: Path, data: bytes, path: str) -> None:
    """Write the data to a locked temporary file, then rename it; `path` is for messages."""
    temporary = target.with_name(f"{_temporary_prefix(target)}{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            _lock(file)
            if target.exists() and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            # The data must be on the disk before the rename, or a power failure could leave an
            # empty file under the name.
            os.fsync(file.fileno())
            temporary.replace(target)
    except OSError as error:
        reason = (
            "Nothing was written, and an existing file of that name is unchanged: "
            f"{error.strerror or error}"
        )
        raise OSError(error.errno, reason, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_prefix(target: Path) -> str:
    """Prefix of a target's temporary files: a hash, because file names have a maximum length."""
    return f".skinterflow-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"


def _lock(file: BinaryIO) -> None:
    """Lock a temporary file until it is closed or its process ends."""
    if fcntl is not None:
        # A file system without locks raises, here and in `_remove_stale`, which removes nothing.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_stale(target: Path) -> None:
    """Remove the temporary files of a target that no live process holds, ignoring errors."""
    if fcntl is None:
        return
    for stale in target.parent.glob(f"{_temporary_prefix(target)}*.tmp"):
        with contextlib.suppress(OSError), stale.open("rb") as file:
            # A new file is unlocked for a moment after it is created, so its age counts as well.
            if time.time() - os.fstat(file.fileno()).st_mtime > _STALE_SECONDS:
                # Raises while the process that wrote the file is alive.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stale.unlink()


def _header(data: bytes) -> bytes:
    return data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")]


def _place_of_digest(data: bytes) -> slice:
    """Position of the digest, in bytes of the file."""
    found = list(_DIGEST.finditer(_header(data)))
    if len(found) != 1:
        raise SavedModelError(
            "The file was not saved by skinterflow, or it is damaged: its header has no digest."
        )
    start, stop = found[0].span(1)
    return slice(_LENGTH_BYTES + start, _LENGTH_BYTES + stop)


def _digest(data: bytes, place: slice) -> bytes:
    """SHA-256 of all bytes, with zeros in place of the digest."""
    view, sha256 = memoryview(data), hashlib.sha256()
    for part in (view[: place.start], _NO_DIGEST.encode(), view[place.stop :]):
        sha256.update(part)
    return sha256.hexdigest().encode()


def _checked_metadata(metadata: dict[str, str], kind: str) -> dict[str, str]:
    if metadata["format"] != _FORMAT:
        raise SavedModelError(f"The file has the format {metadata['format']!r}, not {_FORMAT!r}.")
    if int(metadata["format_version"]) > FORMAT_VERSION:
        raise SavedModelError(
            f"The file was written by skinterflow {metadata['skinterflow']} in version "
            f"{metadata['format_version']} of the format, but skinterflow {__version__} reads "
            f"versions up to {FORMAT_VERSION}; upgrade skinterflow."
        )
    if metadata["kind"] != kind:
        raise SavedModelError(
            f"The file holds {metadata['kind']}, not {kind}; load it with the class that saved it."
        )
    return metadata


def _parsed(text: str | bytes) -> Any:
    """Parse JSON, refusing duplicate keys, NaN and infinity."""
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key occurs twice among {keys[:10]}")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")
