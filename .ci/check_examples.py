"""What the examples printed when the pages were built: numbers, and the flow as the best method of
the quick start."""

import re
import sys
from pathlib import Path

PAGES = Path(__file__).parent.parent / "docs/auto_examples"


def printed(page: Path) -> str:
    """Output blocks of a page of the gallery."""
    blocks = re.findall(r"sphx-glr-script-out\n\n.*?\n\n((?: .*\n|\n)*)", page.read_text())
    return "\n".join(blocks)


def faults() -> list[str]:
    """A sentence for each thing that is not as it should be."""
    pages = [page for page in sorted(PAGES.rglob("*.rst")) if (page.with_suffix(".py")).exists()]
    found = [
        f"{page.name} printed NaN or infinity."
        for page in pages
        if re.search(r"\b(nan|inf)\b", printed(page), re.I)
    ]
    scores = dict(re.findall(r"^ +(\w+) +(-?\d+\.\d+)$", printed(PAGES / "quickstart.rst"), re.M))
    if (
        len(scores) != 3
        or max(scores, key=lambda name: float(scores[name])) != "InterpolantFlowDensity"
    ):
        found.append(
            "The quick start should find InterpolantFlowDensity the best of three methods, but "
            f"printed {scores}."
        )
    return found if pages else ["No page of an example was built."]


if __name__ == "__main__":
    sys.exit("\n".join(faults()) or None)
