"""The README, the docs and the examples say what runs."""

import doctest
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/index.rst",
        "docs/user_guide.rst",
        "docs/columns.rst",
        "docs/one_field.rst",
        "docs/displays.rst",
        "docs/latent.rst",
        "docs/saving.rst",
        "docs/authors_code.rst",
        "docs/mathematics.rst",
    ],
)
def test_code_blocks_run(name):
    result = doctest.testfile(str(ROOT / name), module_relative=False, optionflags=FLAGS)
    assert result.failed == 0
    assert result.attempted > 0 or name == "docs/mathematics.rst"


@pytest.mark.slow
def test_quickstart_beats_the_tuned_classics(tmp_path, capsys, monkeypatch):
    """The example runs whole, writes its plot, and the flow comes out best."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = tmp_path / "quickstart.png"
    runpy.run_path(str(ROOT / "examples/quickstart.py"))["main"](path)
    printed = capsys.readouterr().out
    scores = dict(re.findall(r"^  (\w+) +(-?\d+\.\d+)$", printed, re.M))
    assert max(scores, key=lambda name: float(scores[name])) == "InterpolantFlowDensity"
    assert len(scores) == 3
    assert path.stat().st_size > 10_000


def test_constraints_cover_the_commands():
    """Both commands install with the constraints, so that a plain torch does not pull in gigabytes."""
    commands = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    installs = [line for command in commands for line in command.splitlines() if "pip install" in line]
    assert len(installs) >= 2
    assert all("-c constraints.txt" in line for line in installs)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "quickstart"))
def test_gallery_runs(name, tmp_path, capsys, monkeypatch):
    """Every example runs whole, on few steps, says something and writes its plot."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = tmp_path / "plot.png"
    runpy.run_path(str(ROOT / f"examples/{name}.py"))["main"](path, max_iter=20)
    assert "nan" not in capsys.readouterr().out
    assert path.stat().st_size > 10_000
