"""What a release still lacks: an address in place of the placeholders, a dated changelog, one
version everywhere.

python .ci/check_release.py      # a line for each thing; exit status 1 if there is one
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "example.invalid/OWNER"
WITH_ADDRESS = ("setup.cfg", "README.md")


def faults(root: Path = ROOT) -> list[str]:
    """A sentence for each thing that stands between this tree and a release."""
    found = []
    for name in WITH_ADDRESS:
        for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1):
            if PLACEHOLDER in line:
                found.append(
                    f"{name}, line {number}: put the project's address in place of {PLACEHOLDER}."
                )
    version = re.search(
        r'__version__ = "(.+)"', (root / "skinterflow/_version.py").read_text(encoding="utf-8")
    )[1]
    cited = re.search(
        r"^version: (.+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.M
    )[1]
    if cited != version:
        found.append(f"CITATION.cff cites version {cited}, the package is {version}.")
    if not re.search(
        rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$",
        (root / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.M,
    ):
        found.append(
            f"CHANGELOG.md has no section with a date for version {version}: ## {version} "
            "(YYYY-MM-DD)"
        )
    return found


if __name__ == "__main__":
    sys.exit("\n".join(faults()) or None)
