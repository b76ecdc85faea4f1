"""The result files in ``benchmarks/published/``, from which `tables.py` writes the tables of README
and docs.

A file has one or more runs, each with its command, commit, date, versions, machine and rows.  A
script overwrites the file when it is run with the command below; with another choice of data sets
or methods it replaces only the rows that it measured again.  Any other option makes it a quick
look, whose result goes to ``benchmarks/results/`` alone.
"""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]

FOLDER = Path(__file__).parent / "published"
COMMANDS = {
    "quickstart": "python benchmarks/quickstart.py",
    "defaults-small": "python benchmarks/defaults.py --small",
    "defaults-large": "python benchmarks/defaults.py --data-dir DIR",
    "simple_peers": "python benchmarks/simple_peers.py",
    "equal_time": "python benchmarks/equal_time.py --data-dir DIR",
    "rnade": "python benchmarks/rnade.py --data-dir DIR",
    "growth-rows": "python benchmarks/growth.py rows",
    "growth-dimensions": "python benchmarks/growth.py dimensions",
    "larger_than_memory": "python benchmarks/larger_than_memory.py --score-rows 50000",
    "processes": "python benchmarks/processes.py",
    "kills": "python benchmarks/kills.py",
    "training_step": (
        "python benchmarks/training_step.py --widths 128 128 128 128 --seconds 30 --max-seconds 20"
    ),
    "cost-field": "python benchmarks/cost.py field",
    "cost-solver": (
        "python benchmarks/cost.py solver --data-dir DIR --rows 100 --dtypes float64 --atols 0.1 "
        "0.01 0.001 0.0001"
    ),
    "rates": "python benchmarks/rates.py --data-dir DIR --old DIR",
    "latency": "python benchmarks/latency.py",
    "students": "python benchmarks/students.py --data-dir DIR --steps 1500",
    "atoms": "python benchmarks/atoms.py",
    "regression": "python benchmarks/regression.py --data-dir DIR",
    "error_bars": "python benchmarks/error_bars.py",
    "outliers": "python benchmarks/outliers.py --data-dir DIR",
    "images-digits": "python benchmarks/images.py",
    "masses": "python benchmarks/masses.py",
    "bridges": "python benchmarks/bridges.py",
    "reflow": "python benchmarks/reflow.py",
    "paths": "python benchmarks/paths.py --targets checkerboard",
    "latent-checkerboard": "python benchmarks/latent.py checkerboard",
    "latent-scales": "python benchmarks/latent.py scales --rows 5000 --max-iter 500 --steps 40",
    "latent-mixture": "python benchmarks/latent.py mixture --rows 10000 --max-iter 300 --steps 60",
    "bsds300": (
        "python benchmarks/bsds300.py --data-dir DIR --seconds 0 --test-rows 2000 --dtype float32 "
        "--atol 0.05"
    ),
}
KEYS = {
    "defaults-small": ("data", "method"),
    "defaults-large": ("data", "method"),
    "simple_peers": ("data", "method"),
    "equal_time": ("data", "method", "precision"),
    "rnade": ("data", "method"),
    "images-digits": ("method",),
    "rates": ("data",),
    "students": ("data", "widths"),
    "regression": ("data", "method"),
    "outliers": ("protocol", "data", "method", "seed"),
    "larger_than_memory": ("what",),
    "paths": ("target", "choice"),
}
"""Columns that say which row of an earlier run a new one replaces; files that are not listed are
replaced whole."""
_PLACES = {"data", "data_dir", "directory", "model", "models", "old", "plot", "samples", "timeout"}
"""Options that change no figure."""
_CHOICES = {"sets", "methods", "choices", "protocols", "seeds", "widths"}
"""Options that leave out rows."""


def is_published(name: str, arguments: argparse.ArgumentParser) -> bool:
    """Whether this process was started with the command that stands above the published table.

    Parameters
    ----------
    name : str, of the file
    arguments : the parser of the script
    """
    given = vars(arguments.parse_args())
    standard = vars(arguments.parse_args(shlex.split(COMMANDS[name])[2:]))
    free = _PLACES | (_CHOICES if name in KEYS else set())
    return all(given[option] == standard[option] for option in given if option not in free)


def publish(
    name: str, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], folder: Path = FOLDER
) -> Path:
    """Write the rows of a run into its file, in place of those that it measured again.

    Parameters
    ----------
    name : str, of the file
    rows : one record for each row of the table
    about : commit, date, versions and machine
    folder : where the files are
    """
    path = folder / f"{name}.json"
    earlier = json.loads(path.read_text())["runs"] if path.exists() and name in KEYS else []
    measured = {_key(name, row) for row in rows}
    kept = [
        {**run, "rows": [row for row in run["rows"] if _key(name, row) not in measured]}
        for run in earlier
    ]
    run = {"command": COMMANDS[name], **about, "rows": [_finite(row) for row in rows]}
    path.write_text(_json({"runs": [run for run in [*kept, run] if run["rows"]]}))
    return path


def runs(name: str, folder: Path = FOLDER) -> list[Record]:
    """The runs of a file."""
    found: list[Record] = json.loads((folder / f"{name}.json").read_text())["runs"]
    return found


def rows(name: str, folder: Path = FOLDER) -> list[Record]:
    """The rows of all runs of a file."""
    return [row for run in runs(name, folder) for row in run["rows"]]


def _key(name: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in KEYS.get(name, ()))


def _finite(row: Mapping[str, Any]) -> Record:
    """The row with None for NaN, which JSON does not know."""
    return {column: None if value != value else value for column, value in row.items()}


def _json(content: Mapping[str, Any]) -> str:
    """JSON with a line for each row, so that a difference can be read."""
    lines = []
    for run in content["runs"]:
        head = [
            f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},"
            for key, value in run.items()
            if key != "rows"
        ]
        body = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in run["rows"])
        lines.append("\n".join(["  {", *head, '   "rows": [', body, "   ]", "  }"]))
    return '{\n "runs": [\n' + ",\n".join(lines) + "\n ]\n}\n"
