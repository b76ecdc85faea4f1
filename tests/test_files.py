"""Files: every byte counts, and a file is written whole or not at all."""

import json
import os

import numpy as np
import pytest

from skinterflow import SavedModelError, _files
from skinterflow._files import pack, unpack, write_atomically

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b.c": np.array(True), "none": np.zeros((0, 3), dtype=np.float32)}
TREE = {"a": [1, 2.5, None, "x\ud800"], "\N{GREEK SMALL LETTER GAMMA}": {"true": True}}


def with_header(change, arrays=ARRAYS, tree=TREE):
    """A file whose header is changed and whose digest is right again, as somebody with bad intent would write it."""
    data = pack(tree, arrays, "thing")
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    text = change(header) or json.dumps(header, separators=(",", ":"))
    text = text.replace(header["__metadata__"]["sha256"], "0" * 64).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + data[start:]
    place = _files._place_of_digest(data)
    return data[: place.start] + _files._digest(data, place) + data[place.stop :]


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
        header["__metadata__"] |= {"format_version": "2", "skinterflow": "9.0"}

    with pytest.raises(SavedModelError, match=r"skinterflow 9\.0 in version 2.*upgrade"):
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
    with pytest.raises(SavedModelError, match=r"makes no sense|is of the format"):
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
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, function, error):
    def fail(*args, **kwargs):
        raise error

    path = tmp_path / "model"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, {"rename": "replace"}.get(function, function), fail)
    message = None if isinstance(error, KeyboardInterrupt) else r"Nothing was written.*(space left|denied).*model'$"
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
    with pytest.raises(IsADirectoryError, match=r"is a directory; name a file in it"):
        write_atomically(tmp_path, b"new")
    with pytest.raises(FileNotFoundError, match=r"does not exist; create '.*away' first"):
        write_atomically(tmp_path / "away" / "model", b"new")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="neither a file nor a directory"):
        write_atomically(tmp_path / "pipe", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
