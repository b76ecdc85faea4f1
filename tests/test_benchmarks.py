"""The tables of README and docs are those of the published result files, and compare what can be
compared."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_wine

from skinterflow import DegenerateDataWarning, InterpolantFlowDensity

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import _common  # noqa: E402
import _published  # noqa: E402
import tables  # noqa: E402
import tabular  # noqa: E402

EVIDENCE = ("evidence", "quality", "speed", "what_we_tried")


def written_by_hand(name):
    """A document without its tables."""
    return tables._MARKED.sub("", (ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_tables_of_a_document_are_those_of_the_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert tables.updated(text, tables.Results()) == text, "Run `python benchmarks/tables.py`."


def test_every_table_stands_in_one_document():
    found = [
        table
        for name in tables.DOCUMENTS
        for table in tables.marked((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(tables.TABLES)


def test_no_table_of_figures_is_written_by_hand():
    for name in EVIDENCE:
        assert ".. list-table::" not in written_by_hand(f"docs/{name}.rst")
    assert "\n|" not in written_by_hand("README.md")


def test_no_figure_of_a_table_is_repeated_by_hand():
    """Log-likelihoods of one nat and more; smaller numbers may mean something else."""
    shown = {
        figure
        for name in tables.DOCUMENTS
        for found in tables._MARKED.finditer((ROOT / name).read_text(encoding="utf-8"))
        for figure in re.findall(r"-?[1-9]\d*\.\d\d(?= ±)", found[0])
    }
    assert len(shown) > 40
    for name in (
        "README.md",
        *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.rst")),
    ):
        if name != "docs/what_we_tried.rst":  # single runs of other settings
            assert shown.isdisjoint(re.findall(r"-?\b\d+\.\d\d\b", written_by_hand(name))), name


def test_every_published_command_is_that_of_its_script():
    assert {path.stem for path in _published.FOLDER.glob("*.json")} == set(_published.COMMANDS)
    for command in _published.COMMANDS.values():
        assert (ROOT / command.split()[1]).is_file()


def test_a_changed_figure_changes_its_table(tmp_path):
    shutil.copytree(_published.FOLDER, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "defaults-large.json"
    path.write_text(path.read_text(encoding="utf-8").replace("-9.16", "-9.61"), encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    new = tables.updated(text, tables.Results(tmp_path))
    assert (
        new
        == text.replace("**-9.16** |\n| parkinsons 5875x15", "**-9.61** |\n| parkinsons 5875x15")
        != text
    )


def test_a_marker_that_names_no_table_is_an_error():
    with pytest.raises(KeyError, match="nowhere"):
        tables.updated("<!-- table: nowhere -->\n<!-- end of table -->\n", tables.Results())


def test_a_run_replaces_the_rows_that_it_measured_again(tmp_path):
    about = {"commit": "a", "date": "2026-01-01", "versions": {}, "machine": "one"}
    first = [
        {"data": name, "method": "flow", "log-likelihood": value}
        for name, value in (("iris", 1.0), ("wine", 2.0))
    ]
    _published.publish("defaults-small", first, about, tmp_path)
    _published.publish(
        "defaults-small",
        [{**first[1], "log-likelihood": float("nan")}],
        {**about, "commit": "b"},
        tmp_path,
    )
    assert [
        (run["commit"], run["rows"]) for run in _published.runs("defaults-small", tmp_path)
    ] == [
        ("a", [first[0]]),
        ("b", [{**first[1], "log-likelihood": None}]),
    ]
    assert "NaN" not in (tmp_path / "defaults-small.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ([], True),
        (["--data-dir", "elsewhere"], True),
        (["--sets", "iris"], True),
        (["--max-iter", "10"], False),
    ],
)
def test_a_quick_look_is_not_published(monkeypatch, given, published):
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data-dir", required=False)
    arguments.add_argument("--sets", nargs="*")
    arguments.add_argument("--max-iter", type=int)
    monkeypatch.setattr(sys, "argv", ["script", *given])
    assert _published.is_published("rnade", arguments) is published


def test_files_say_where_they_come_from():
    for name in _published.COMMANDS:
        for run in _published.runs(name):
            assert {"command", "commit", "date", "versions", "machine", "rows"} <= set(run)
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"])
            json.dumps(run, allow_nan=False)


@pytest.mark.parametrize("name", _common.SMALL)
def test_log_likelihoods_of_the_small_sets_can_be_compared(name):
    """By the package's own warning (an error here), on the rows as they are and as they are
    fitted."""
    X = _common.load(name, None)
    _common.check_density_exists(name, X)
    InterpolantFlowDensity(
        hidden_layer_sizes=(4,), max_iter=1, early_stopping=False, random_state=0
    ).fit(_common.fold(X, 0)[0])
    shown = {
        row["data"]
        for row in _published.rows("defaults-small")
        if row["data"].startswith(f"{name} ")
    }
    assert shown == {f"{name} {X.shape[0]}x{X.shape[1]}"}


@pytest.mark.parametrize(
    "X",
    [load_wine().data, load_diabetes(scaled=False).data, np.ones((20, 2))],
    ids=["wine", "diabetes", "constant"],
)
def test_whole_number_columns_are_refused(X):
    with pytest.raises(
        ValueError,
        match=r"cannot be compared on 'all': \d column\(s\) are (integer-valued|constant)",
    ):
        _common.check_density_exists("all", X)
    with pytest.warns(DegenerateDataWarning):
        InterpolantFlowDensity(
            hidden_layer_sizes=(4,), max_iter=1, early_stopping=False, random_state=0
        ).fit(X)


def archive(folder):
    """The five sets of the archive in small, with columns that are left out."""
    random = np.random.default_rng(0)
    for name in ("power", "gas", "hepmass", "miniboone", "BSDS300"):
        (folder / name).mkdir()
    np.save(folder / "power/data.npy", random.normal(size=(100, 8)))
    table = pd.DataFrame(random.normal(size=(100, 3)), columns=["a", "b", "c"])
    table["copy of a"] = table["a"]
    table[["Time", "Meth", "Eth"]] = 0.0
    table.to_pickle(folder / "gas/ethylene_CO.pickle")
    for part, extra in (("train", []), ("test", ["extra"])):
        table = pd.DataFrame(random.normal(size=(60, 4)), columns=["label", "a", "repeated", "b"])
        table["label"], table["repeated"] = np.arange(60) % 2, 0.5 * (np.arange(60) // 30)
        table[extra] = 1.0
        table.to_csv(folder / f"hepmass/1000_{part}.csv", index=False)
    np.save(folder / "miniboone/data.npy", 5.0 + random.normal(size=(100, 3)))
    with h5py.File(folder / "BSDS300/BSDS300.hdf5", "w") as file:
        for part, n in (("train", 20), ("validation", 5), ("test", 10)):
            file[part] = random.normal(size=(n, 63)).astype(np.float32)


def test_tabular_sets_are_those_of_the_archive(tmp_path):
    archive(tmp_path)
    shapes = {name: [X.shape for X in load(tmp_path)] for name, load in tabular.SETS.items()}
    assert shapes == {
        "POWER": [(81, 6), (9, 6), (10, 6)],
        "GAS": [(81, 3), (9, 3), (10, 3)],
        "HEPMASS": [(27, 2), (3, 2), (30, 2)],
        "MINIBOONE": [(81, 3), (9, 3), (10, 3)],
        "BSDS300": [(20, 63), (5, 63), (10, 63)],
    }
    train, validation, test = tabular.SETS["MINIBOONE"](tmp_path)
    np.testing.assert_allclose(np.vstack([train, validation]).mean(axis=0), 0.0, atol=1e-12)
    assert np.abs(test.mean(axis=0)).max() > 1e-3


class Checked(InterpolantFlowDensity):
    """A density whose parameters are checked, and which is not fitted."""

    def fit(self, X, X_val=None):
        self._validate_params()
        assert (len(X), len(X_val)) == (81, 9)
        return self

    def score_samples(self, X):
        return np.arange(len(X)) - 15.0


def test_a_tabular_set_is_fitted_and_compared(tmp_path, monkeypatch):
    archive(tmp_path)
    monkeypatch.setattr(tabular, "InterpolantFlowDensity", Checked)
    given = ["--data-dir", str(tmp_path), "--max-iter", "2", "--hidden-layer-sizes", "4"]
    row = tabular.measure("MINIBOONE", tabular.arguments().parse_args(given))
    assert (row["training rows"], row["test rows"], row["log-likelihood"]) == (81, 10, -10.5)
    assert row["standard error"] == pytest.approx(0.957, abs=1e-3)
    assert row["InterFlow (published)"] == -10.42


@pytest.mark.parametrize("name", tabular.SETS)
def test_a_missing_file_of_the_archive_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"(?i){name}.*is missing; download data.tar.gz of"):
        tabular.SETS[name](tmp_path)
