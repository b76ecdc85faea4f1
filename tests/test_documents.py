"""The README, the docs and the examples say what runs."""

import ast
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


def test_constraints_cover_the_commands():
    """Both commands install with the constraints, so that a plain torch does not pull in gigabytes."""
    commands = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    installs = [line for command in commands for line in command.splitlines() if "pip install" in line]
    assert len(installs) >= 2
    assert all("-c constraints.txt" in line for line in installs)


EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_are_pages_of_the_gallery(path):
    """The build of the pages runs them whole; an example that closes its figure or has no title would have no picture, or no page."""
    source = path.read_text()
    title, line, blank = ast.get_docstring(ast.parse(source)).splitlines()[:3]
    assert (line, blank) == ("=" * len(title), "")
    assert "plt.close" not in source


def test_the_order_of_the_gallery_names_examples():
    assert set(runpy.run_path(str(ROOT / "docs/gallery.py"))["FIRST"]) <= {path.name for path in EXAMPLES}
