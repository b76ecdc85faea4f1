"""Files: every byte counts, and a file is written whole or not at all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skinterflow import SavedModelError
from skinterflow._persistence import container
from skinterflow._persistence.container import MAX_BYTES, pack, read_whole, unpack, write_atomically

ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3),
    "b.c": np.array(True),
    "none": np.zeros((0, 3), dtype=np.float32),
}
TREE = {"a": [1, 2.5, None, "x\ud800"], "\N{GREEK SMALL LETTER GAMMA}": {"true": True}}


def with_header(change, arrays=ARRAYS, tree=TREE):
    """A file whose header is changed and whose digest is right again, as somebody with bad intent
    would write it."""
    data = pack(tree, arrays, "thing")
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    text = change(header) or json.dumps(header, separators=(",", ":"))
    text = text.replace(header["__metadata__"]["sha256"], "0" * 64).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + data[start:]
    place = container._place_of_digest(data)
    return data[: place.start] + container._digest(data, place) + data[place.stop :]


def test_round_trip():
    data = pack(TREE, ARRAYS, "thing")
    assert data == pack(TREE, ARRAYS, "thing")
    tree, arrays = unpack(data, "thing")
    assert tree == TREE
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert unpack(pack(None, {}, ""), "") == (None, {})
    assert unpack(with_header(lambda header: None), "thing")[0] == TREE


def test_fortran_and_big_endian_arrays():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3)).astype(">f8")
    np.testing.assert_array_equal(unpack(pack(0, {"a": array}, "x"), "x")[1]["a"], array)


def test_every_byte_is_checked():
    data = pack(TREE, ARRAYS, "thing")
    for place in range(len(data)):
        for flipped in (1, 32):
            changed = bytearray(data)
            changed[place] ^= flipped
            with pytest.raises(SavedModelError, match="damaged"):
                unpack(bytes(changed), "thing")
    for length in range(len(data)):
        with pytest.raises(SavedModelError, match="damaged"):
            unpack(data[:length], "thing")
    with pytest.raises(SavedModelError, match="damaged"):
        unpack(data + b" ", "thing")


def test_another_kind_and_newer_formats(monkeypatch):
    with pytest.raises(SavedModelError, match="holds thing, not checkpoint"):
        unpack(pack(TREE, ARRAYS, "thing"), "checkpoint")

    def newer(header):
        header["__metadata__"] |= {"format_version": "3", "skinterflow": "9.0"}

    with pytest.raises(SavedModelError, match=r"skinterflow 9\.0 in version 3.*upgrade"):
        unpack(with_header(newer), "thing")


def other_format(header):
    header["__metadata__"]["format"] = "pickle"


def no_tree(header):
    del header["__metadata__"]["tree"]


def tree_of(text):
    def change(header):
        header["__metadata__"]["tree"] = text

    change.__name__ = f"tree {text[:10]}"
    return change


def array_outside(header):
    header["a"]["data_offsets"] = [0, 10**15]


def huge_array(header):
    header["a"]["shape"] = [10**12, 10**12]


def unknown_dtype(header):
    header["a"]["dtype"] = "BF16"


def duplicate_key(header):
    text = json.dumps(header, separators=(",", ":"))
    return text[:-1] + ',"a":' + json.dumps(header["a"]) + "}"


@pytest.mark.parametrize(
    "change",
    [
        other_format,
        no_tree,
        tree_of("[" * 100_000),
        tree_of('{"a":1,"a":2}'),
        tree_of("[NaN]"),
        tree_of("9" * 10_000),
        tree_of(""),
        array_outside,
        huge_array,
        unknown_dtype,
        duplicate_key,
    ],
    ids=lambda change: change.__name__,
)
def test_hostile_headers(change):
    with pytest.raises(SavedModelError, match=r"is not valid|has the format"):
        unpack(with_header(change), "thing")


def test_atomic_write(tmp_path):
    path = tmp_path / "model"
    write_atomically(path, b"old")
    write_atomically(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link"
    link.symlink_to(path)
    write_atomically(link, b"newer")
    assert link.is_symlink()
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("function", ["fsync", "rename"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied"),
        KeyboardInterrupt(),
    ],
)
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, function, error):
    def fail(*args, **kwargs):
        raise error

    path = tmp_path / "model"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, {"rename": "replace"}.get(function, function), fail)
    message = (
        None
        if isinstance(error, KeyboardInterrupt)
        else r"Nothing was written.*(space left|denied).*model'$"
    )
    with pytest.raises(type(error), match=message):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_read_only_disk(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.open", fail)
    with pytest.raises(OSError, match=r"Nothing was written.*Read-only file system.*model'$"):
        write_atomically(tmp_path / "model", b"new")
    assert not list(tmp_path.iterdir())


def test_places_where_no_file_can_be(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a directory; give a file in it"):
        write_atomically(tmp_path, b"new")
    with pytest.raises(FileNotFoundError, match=r"does not exist; create '.*away' first"):
        write_atomically(tmp_path / "away" / "model", b"new")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="neither a file nor a directory"):
        write_atomically(tmp_path / "pipe", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_permissions_of_the_replaced_file_are_kept(tmp_path):
    path = tmp_path / "model"
    mask = os.umask(0o027)
    try:
        write_atomically(path, b"old")
        assert path.stat().st_mode & 0o777 == 0o640  # those of any new file
        for mode in (0o600, 0o444):
            path.chmod(mode)
            write_atomically(path, b"new")
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(mask)


KILLED = """
import os, sys, time
from skinterflow._persistence import container

def stop(descriptor):
    print("written", flush=True)
    time.sleep(60)

os.fsync = stop
container.write_atomically(sys.argv[1], b"new")
"""


@pytest.mark.slow
def test_what_killed_writes_left_is_removed(tmp_path):
    """But not what belongs to a living process, to another file, or to somebody else."""
    path = tmp_path / "model"
    write_atomically(path, b"old")
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        (temporary,) = tmp_path.glob(".skinterflow-*.tmp")
        os.utime(temporary, (0, 0))
        write_atomically(path, b"newer")
        assert temporary.exists()  # its process lives
        process.kill()
    write_atomically(tmp_path / "another", b"new")
    own = tmp_path / f".{'0' * 16}.tmp"
    own.touch()
    assert temporary.exists()
    write_atomically(path, b"newest")
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "another", own])
    assert path.read_bytes() == b"newest"


def test_a_temporary_file_that_is_new_is_left_alone(tmp_path):
    """It may be about to be locked."""
    path = tmp_path / "model"
    temporary = tmp_path / f"{container._temporary_prefix(path)}{'0' * 16}.tmp"
    temporary.touch()
    write_atomically(path, b"new")
    assert temporary.exists()
    os.utime(temporary, (0, 0))
    write_atomically(path, b"new")
    assert not temporary.exists()


def test_long_names(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"new")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"new"


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(
                SavedModelError,
                match="neither a file nor a directory, but a pipe, a device or a socket",
            ):
                read_whole(path, MAX_BYTES)
    with pytest.raises(IsADirectoryError, match="is a directory; give the file in it"):
        read_whole(tmp_path, MAX_BYTES)
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_whole(tmp_path / "nothing", MAX_BYTES)
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_whole(tmp_path / "link", 5) == b"12345"
    (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
    with pytest.raises(SavedModelError, match="pipe"):
        read_whole(tmp_path / "link to a pipe", MAX_BYTES)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    status = os.stat(tmp_path / "file")
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda path: status)
        with pytest.raises(SavedModelError, match="pipe"):
            read_whole(tmp_path / "pipe", MAX_BYTES)


def test_files_that_are_too_large_are_not_read(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        SavedModelError, match=r"has 1,099,511,627,776 bytes, and was not read.*raise max_bytes"
    ):
        read_whole(path, MAX_BYTES)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (b"x", TypeError, "path must be a string or a path.*got b'x'"),
        (3, TypeError, "path must be a string or a path.*got 3"),
        (None, TypeError, "path must be a string or a path"),
        ("", ValueError, "path must not be empty"),
        ("a\0b", ValueError, "null character"),
    ],
)
def test_what_is_no_path(path, error, message):
    with pytest.raises(error, match=message):
        write_atomically(path, b"new")
    with pytest.raises(error, match=message):
        read_whole(path, MAX_BYTES)
