"""Rows in the formats that people have: written to a memory map in one pass, or read in place.

Whatever the format, the rows are those of the array in float32, and a fit is that of the array.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from skinterflow import InterpolantFlowDensity, InterpolantTransport, to_memmap
from skinterflow._data import batches, memmap, sources
from skinterflow._data import stored as stored_rows
from skinterflow._data.degenerate import row_blocks
from skinterflow._data.memmap import opened
from skinterflow._data.stored import StoredRows
from skinterflow._runtime import suppress_feature_name_warning
from skinterflow.interflow import Solver
from tests.helpers import QUICK

# A solver of its own steps is not calibrated, which takes most of the time of so short a fit.
TINY = QUICK | {
    "hidden_layer_sizes": (8,),
    "max_iter": 3,
    "batch_size": 250,
    "solver": Solver("rk4", 0.1, 0.0),
}
N_ROWS, NAMES = 250, ["a", "b", "c"]
FORMATS = {
    "numpy": [],
    "memmap": [],
    "parquet": ["pyarrow"],
    "folder": ["pyarrow"],
    "table": ["pyarrow"],
    "batch": ["pyarrow"],
    "dataset": ["pyarrow"],
    "zarr": ["zarr"],
    "hdf5": ["h5py"],
    "hdf5 in chunks": ["h5py"],
    "dask array": ["dask.array"],
    "dask frame": ["dask.dataframe", "pandas"],
}
NAMED = {"parquet", "folder", "table", "batch", "dataset", "dask frame"}


def modules(name):
    return [
        pytest.importorskip(module, reason=f"{module} is not installed") for module in FORMATS[name]
    ]


def arrow_table(X):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return pa.table(dict(zip(NAMES, X.T, strict=True)))


def write_folder(X, folder, n_files=3):
    """Parquet files of 100 rows or less in a group, one of them in a folder below."""
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    (folder / "z").mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    for number, part in enumerate(np.array_split(X, n_files)):
        name = f"{number}.parquet" if number < n_files - 1 else "z/last.pq"
        pq.write_table(arrow_table(part), folder / name, row_group_size=50)
    return folder


def stored(name, X, folder):
    """The rows in a format."""
    found = modules(name)
    if name == "numpy":
        return X
    if name == "memmap":
        np.save(folder / "X.npy", X)
        return np.load(folder / "X.npy", mmap_mode="r")
    if name in ("folder", "parquet"):
        written = write_folder(X, folder / "parquet", 1 if name == "parquet" else 3)
        return str(written) if name == "folder" else written / "z/last.pq"
    if name == "dataset":
        return pytest.importorskip("pyarrow.dataset").dataset(write_folder(X, folder / "parquet"))
    if name in ("table", "batch"):
        table = arrow_table(X)
        return table if name == "table" else table.to_batches()[0]
    if name == "zarr":
        array = found[0].create_array(
            folder / "X.zarr", shape=X.shape, dtype=X.dtype, chunks=(40, 2)
        )
        array[:] = X
        return array
    if name.startswith("hdf5"):
        chunks = (40, 2) if name != "hdf5" else None
        return found[0].File(folder / "X.h5", "w").create_dataset("X", data=X, chunks=chunks)
    if name == "dask array":
        return found[0].from_array(X, chunks=(70, 2))
    return found[0].from_pandas(found[1].DataFrame(X, columns=NAMES), npartitions=3)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(N_ROWS, 3))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("block_rows", [16, 2**16])
def test_the_rows_are_those_of_the_array(name, block_rows, X, tmp_path, monkeypatch):
    """In blocks that end within parts or span them, and some columns in another order."""
    monkeypatch.setattr(sources, "BLOCK_ROWS", block_rows)
    source = stored(name, X, tmp_path)
    rows = to_memmap(source, tmp_path / "all.npy")
    assert isinstance(rows, np.memmap)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, X.astype(np.float32))
    columns = ["c", "a"] if name in NAMED else [2, 0]
    some = to_memmap(source, tmp_path / "some.npy", columns=columns)
    np.testing.assert_array_equal(some, X[:, [2, 0]].astype(np.float32))
    assert {path.name for path in tmp_path.glob("*.npy*")} <= {"all.npy", "some.npy", "X.npy"}


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint32, np.float16, np.float32])
def test_numbers_of_other_types(dtype, tmp_path):
    X = np.arange(12).reshape(4, 3).astype(dtype)
    for number, source in enumerate((X, arrow_table(X))):
        rows = to_memmap(source, tmp_path / f"{number}.npy")
        np.testing.assert_array_equal(rows, X.astype(np.float32))


def interrupt(source, path, part):
    """Convert until Ctrl-C in the middle of a part, and return the parts that were begun."""
    kind, begun = type(sources.open_source(source)), []

    def interrupted(self, number, read=kind.read):
        begun.append(number)
        blocks = read(self, number)
        yield next(blocks)
        if number == part:
            raise KeyboardInterrupt
        yield from blocks

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "read", interrupted)
        if part is None:
            to_memmap(source, path)
        else:
            with pytest.raises(KeyboardInterrupt):
                to_memmap(source, path)
            assert not path.exists()
    return begun


@pytest.mark.parametrize("name", ["parquet", "folder", "zarr", "hdf5", "dask array", "dask frame"])
def test_an_interrupted_conversion_is_resumed(name, X, tmp_path, monkeypatch):
    """No part that was whole is read twice, and the file is not there before it is complete."""
    monkeypatch.setattr(sources, "BLOCK_ROWS", 40)
    source, path = stored(name, X, tmp_path), tmp_path / "rows.npy"
    assert interrupt(source, path, 2) == [0, 1, 2]
    begun = interrupt(source, path, None)
    assert begun == list(range(2, sources.open_source(source).n_parts))
    np.testing.assert_array_equal(np.load(path), X.astype(np.float32))
    assert not list(tmp_path.glob("rows.npy.*"))


def change_a_file(folder, path):
    os.utime(folder / "0.parquet", ns=(0, 0))


def lose_the_rows(folder, path):
    path.with_name("rows.npy.part").write_bytes(b"")


def spoil_the_note(folder, path):
    path.with_name("rows.npy.part.json").write_text("[1, 2")


@pytest.mark.parametrize("change", [change_a_file, lose_the_rows, spoil_the_note])
def test_what_is_not_the_same_conversion_starts_anew(change, X, tmp_path):
    folder, path = write_folder(X, tmp_path / "parquet"), tmp_path / "rows.npy"
    interrupt(folder, path, 2)
    change(folder, path)
    assert interrupt(folder, path, None) == list(range(6))
    np.testing.assert_array_equal(np.load(path), X.astype(np.float32))


def test_the_progress_is_noted_from_time_to_time(X, tmp_path, monkeypatch):
    """So that a conversion that was killed is resumed as well."""
    monkeypatch.setattr(memmap, "_SECONDS", 0.0)
    folder, renamed = write_folder(X, tmp_path / "parquet"), []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: renamed.append(b.name) or replace(a, b))
    to_memmap(folder, tmp_path / "rows.npy")
    assert renamed == ["rows.npy.part.json"] * 6 + ["rows.npy"]


def test_two_processes_do_not_write_one_file(X, tmp_path):
    pytest.importorskip("fcntl", reason="Windows locks no files")
    path = tmp_path / "rows.npy"
    with (
        memmap._locked(tmp_path / "rows.npy.part"),
        pytest.raises(BlockingIOError, match=r"Another process is writing '.*rows\.npy\.part'"),
    ):
        to_memmap(X, path)
    assert to_memmap(X, path).shape == X.shape


def folder_with(change):
    """A folder of two files, of which the second is changed."""

    def written(folder, X):
        pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        table = arrow_table(X)
        pq.write_table(table, folder / "0.parquet")
        pq.write_table(change(table), folder / "1.parquet", write_statistics=False)
        return folder

    return written


def with_null(table, kind=None):
    values = [None, *table["b"].to_pylist()[1:]]
    return table.set_column(1, "b", [values if kind is None else list(map(kind, values))])


def with_strings(table):
    return table.set_column(1, "b", [list(map(str, table["b"].to_pylist()))])


def no_files(folder, X):
    (folder / "notes.txt").touch()
    return folder


def no_parquet(folder, X):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    np.save(folder / "X.npy", X)
    return folder / "X.npy"


def frame_with(change):
    def made(folder, X):
        pd = pytest.importorskip("pandas")
        dd = pytest.importorskip("dask.dataframe", reason="dask is not installed")
        return dd.from_pandas(change(pd.DataFrame(X, columns=NAMES)), npartitions=2)

    return made


def hdf5(shape, dtype):
    def written(folder, X):
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        return h5py.File(folder / "X.h5", "w").create_dataset("X", shape=shape, dtype=dtype)

    return written


NULLABLE = frame_with(lambda frame: frame.assign(b=frame["b"].astype("Float64").mask(frame.a > 0)))
REFUSED = [
    (no_files, {}, ValueError, r"The folder '.*' has no Parquet files, whose names end with"),
    (no_parquet, {}, ValueError, r"X\.npy' is not a Parquet file, or is damaged \(.*numpy\.load"),
    (lambda folder, X: folder / "x", {}, FileNotFoundError, r"no file or folder '.*x'; a path is"),
    (
        folder_with(lambda table: table.cast(with_b("float32"))),
        {},
        ValueError,
        r"different schemas: column b is double in .*0\.parquet, but float in .*1\.parquet; write",
    ),
    (
        folder_with(lambda table: table.drop_columns(["c"])),
        {},
        ValueError,
        r"column c is double in .*0\.parquet, but missing in .*1\.parquet",
    ),
    (
        folder_with(with_null),
        {},
        ValueError,
        r"1 column\(s\) of .*1\.parquet have missing values: b \(1 rows\); drop or impute",
    ),
    (
        lambda folder, X: with_null(arrow_table(X)),
        {},
        ValueError,
        r"1 column\(s\) have missing values: b \(1 rows\); drop",
    ),
    (NULLABLE, {}, ValueError, r"1 column\(s\) have missing values: b \("),
    (
        lambda folder, X: with_strings(arrow_table(X)),
        {},
        ValueError,
        r"1 column\(s\) are not numbers: b \(string\); leave them out by columns=, or encode",
    ),
    (
        frame_with(lambda frame: frame.assign(b="x")),
        {},
        ValueError,
        r"1 column\(s\) are not numbers: b \(",
    ),
    (
        lambda folder, X: arrow_table(X),
        {"columns": ["a", "d"]},
        ValueError,
        "columns has 'd', but the columns of the source are a, b, c",
    ),
    (
        lambda folder, X: arrow_table(X),
        {"columns": ["a", "a"]},
        ValueError,
        r"columns must be a sequence of different columns, at least one, got \['a', 'a'\]",
    ),
    (
        lambda folder, X: arrow_table(X),
        {"columns": "ab"},
        ValueError,
        "columns must be a sequence of different columns, at least one, got 'ab'",
    ),
    (
        lambda folder, X: X,
        {"columns": [3]},
        ValueError,
        "columns has 3, but the columns of an array are numbers from 0 to 2",
    ),
    (
        lambda folder, X: X[:, 0],
        {},
        ValueError,
        r"Expected an array of rows and columns, got the shape \(250,\); reshape",
    ),
    (
        hdf5((4, 2), "S3"),
        {},
        ValueError,
        r"Expected an array of numbers, got the dtype \|S3; convert it",
    ),
    (hdf5((0, 2), "f4"), {}, ValueError, "The source has no rows; choose another one"),
    (
        lambda folder, X: 1e39 * X,
        {},
        ValueError,
        "Column 0 has values above 3.4e38, which float32 cannot hold; use other units",
    ),
    (
        lambda folder, X: X.tolist(),
        {},
        TypeError,
        "source must be a path, an Arrow table or dataset, .*, got list; convert it",
    ),
]


def with_b(kind):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return pa.schema([("a", pa.float64()), ("b", kind), ("c", pa.float64())])


@pytest.mark.parametrize(("source", "given", "error", "message"), REFUSED)
def test_sources_that_are_refused(source, given, error, message, X, tmp_path):
    """By a sentence, and nothing of a file remains."""
    (tmp_path / "source").mkdir()
    with pytest.raises(error, match=message):
        to_memmap(source(tmp_path / "source", X), tmp_path / "rows.npy", **given)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_missing_values_are_found_before_the_work(X, tmp_path, monkeypatch):
    """If the files have statistics, as they have unless one asks for none."""
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    pq.write_table(with_null(arrow_table(X)), tmp_path / "X.parquet")
    monkeypatch.setattr(sources.ParquetSource, "read", None)
    with pytest.raises(ValueError, match=r"of .*X\.parquet have missing values: b \(1 rows\)"):
        to_memmap(tmp_path / "X.parquet", tmp_path / "rows.npy")
    with pytest.raises(TypeError, match="NoneType"):  # without the column, the work begins
        to_memmap(tmp_path / "X.parquet", tmp_path / "rows.npy", columns=["a"])


def test_parquet_without_pyarrow(X, tmp_path, monkeypatch):
    (tmp_path / "X.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r"read by pyarrow\. You can install it with `pip install skinterflow"
    ):
        to_memmap(tmp_path / "X.parquet", tmp_path / "rows.npy")


def scored(density, X):
    return density.score_samples(X[:20]).tolist()


@pytest.fixture(scope="module")
def of_array(X):
    """A density of the rows in float64 and in float32."""
    return {dtype: quick().fit(X.astype(dtype)) for dtype in (np.float64, np.float32)}


def quick():
    bounds = [(-9.0, None), None, None]
    return InterpolantFlowDensity(**TINY, early_stopping=False, bounds=bounds)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name]])
def test_a_fit_and_its_scores_are_those_of_the_array(name, X, of_array, tmp_path):
    """zarr and HDF5 in their precision, the others in float32."""
    source = stored(name, X, tmp_path)
    dtype = np.float64 if name.startswith(("zarr", "hdf5")) else np.float32
    density, expected = quick().fit(source), of_array[dtype]
    rows = X.astype(dtype)
    with suppress_feature_name_warning():
        assert scored(density, rows) == scored(expected, rows)
        np.testing.assert_array_equal(density.score_samples(source), expected.score_samples(rows))
        np.testing.assert_array_equal(density.transform(source), expected.transform(rows))
    names = getattr(density, "feature_names_in_", None)
    assert (names is None) if name not in NAMED else (names.tolist() == NAMES)


@pytest.mark.parametrize("name", ["folder", "hdf5 in chunks", "zarr"])
def test_the_other_ways_that_rows_are_used(name, X, tmp_path, monkeypatch):
    """Streamed, as held-out rows, with a checkpoint, with weights, and by a transport."""
    monkeypatch.setattr(batches, "_IN_MEMORY_ELEMENTS", 100)
    source = stored(name, X, tmp_path)
    rows = X.astype(np.float64 if name != "folder" else np.float32)
    weight = np.arange(float(N_ROWS)) + (name == "zarr")  # of HDF5, without a row
    parameters = TINY | {"checkpoint": tmp_path / "checkpoint", "end_time": 1.0}
    fits = [
        InterpolantFlowDensity(**parameters).fit(each, sample_weight=weight, X_val=each)
        for each in (source, rows)
    ]
    with suppress_feature_name_warning():
        assert scored(fits[0], rows) == scored(fits[1], rows)
    maps = [InterpolantTransport(**TINY).fit(each, each) for each in (source, rows)]
    with suppress_feature_name_warning():
        np.testing.assert_array_equal(maps[0].transform(source), maps[1].transform(rows))
        np.testing.assert_array_equal(
            maps[0].inverse_transform(source), maps[1].inverse_transform(rows)
        )


def test_the_names_of_columns_are_known(X, tmp_path):
    folder = write_folder(X, tmp_path / "parquet")
    density = InterpolantFlowDensity(**TINY, early_stopping=False, bounds={"b": (-9.0, 9.0)})
    density.fit(folder)
    assert density.bounds_.tolist() == [[-np.inf, np.inf], [-9.0, 9.0], [-np.inf, np.inf]]
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(arrow_table(X).rename_columns(["a", "c", "b"]))
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
        quick().fit(X).score_samples(stored("hdf5", X[:, :2], tmp_path))


@pytest.mark.parametrize("name", ["folder", "hdf5"])
def test_rows_that_cannot_be_fitted(name, X, tmp_path):
    """By the messages of arrays; nothing of the estimator changes."""
    spoiled, density = X.copy(), quick()
    spoiled[200, 1] = np.nan
    before = dict(vars(density))
    for rows, message in (
        (spoiled, "Input X contains NaN"),
        (X[:1], r"1 sample\(s\).*minimum of 2"),
        (np.where(X > 2, -10.0, X), r"bounds does not allow in .* \(\d+ of 250 rows outside"),
    ):
        part = tmp_path / message[:7]
        part.mkdir()
        with pytest.raises(ValueError, match=message):
            density.fit(stored(name, rows, part))
    assert vars(density) == before


def test_rows_by_number(X, tmp_path, monkeypatch):
    """In any order, repeated, by a mask and by a slice, as of an array."""
    monkeypatch.setattr(memmap, "_LARGE_BYTES", 0)
    monkeypatch.setattr(stored_rows, "_MAPPED_ROWS", 30)
    for name in ("hdf5 in chunks", "zarr", "memmap"):
        rows = opened(stored(name, X, tmp_path))
        assert isinstance(rows, StoredRows)
        keys = [3, [5, 2, 2, 7], np.arange(N_ROWS)[::-1], X[:, 0] > 0, slice(3, 90, 7), []]
        for key in [*keys, slice(20, 90)]:
            numbers = np.array(key, dtype=int) if isinstance(key, list) else key
            np.testing.assert_array_equal(rows[numbers], X[numbers])
        assert (rows.size, len(rows), rows.dtype) == (X.size, len(X), X.dtype)
        np.testing.assert_array_equal(rows.min(axis=0), X.min(axis=0))
        np.testing.assert_array_equal(np.asarray(rows), X)


def test_a_large_memory_map_is_used_as_its_array(X, of_array, tmp_path, monkeypatch):
    monkeypatch.setattr(memmap, "_LARGE_BYTES", 0)
    rows = stored("memmap", X, tmp_path)
    density, expected = quick().fit(rows), of_array[np.float64]
    assert scored(density, X) == scored(expected, X)
    np.testing.assert_array_equal(density.score_samples(rows), expected.score_samples(X))
    density.set_params(n_jobs=2)
    np.testing.assert_array_equal(density.transform(rows), expected.transform(X))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
def test_pages_that_were_read_leave_the_memory_of_the_process(tmp_path):
    def resident_mb():
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssFile:\s+(\d+)", status)[1]) / 1024

    np.save(tmp_path / "X.npy", np.ones((2**20, 8)))  # 64 MB
    rows = StoredRows(np.load(tmp_path / "X.npy", mmap_mode="r"), None)
    before = resident_mb()
    assert sum(block.sum() for block in row_blocks(rows)) == 2**23
    assert rows[::20].sum() == 8 * len(range(0, 2**20, 20))
    assert resident_mb() < before + 16
    np.asarray(rows.array).sum()
    assert resident_mb() > before + 48


def test_changes_of_a_private_memory_map_are_kept(tmp_path):
    np.save(tmp_path / "X.npy", np.zeros((100, 2)))
    array = np.load(tmp_path / "X.npy", mmap_mode="c")
    array[5] = 1.0
    rows = StoredRows(array, None)
    assert rows[:].sum() == rows[np.arange(100)].sum() == 2.0


def test_a_temporary_file_does_not_outlive_the_rows(X, tmp_path, monkeypatch):
    folder = write_folder(X, tmp_path / "parquet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "parquet" / "z"))
    rows = opened(folder)
    assert [path.name for path in (folder / "z").iterdir()] == ["last.pq"]
    np.testing.assert_array_equal(np.asarray(rows), X.astype(np.float32))
