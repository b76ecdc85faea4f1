"""How sphinx-gallery runs and orders the examples; ``conf.py`` names these functions."""

from pathlib import Path

FIRST = (
    "quickstart.py",
    "outliers_and_model_choice.py",
    "alarms_at_a_stated_rate.py",
    "prediction_with_uncertainty.py",
    "photometric_redshifts.py",
    "reweighting.py",
    "calibration_and_regions.py",
)


def no_plot_file(gallery_conf: object, script_vars: object) -> list[str]:
    """The argument that every example gets: an empty path, because the gallery takes the figures
    itself."""
    return [""]


class Order:
    """The quick start and the tutorials as they are in ``FIRST``, then the rest by file name."""

    def __init__(self, src_dir: str | Path) -> None:
        pass

    def __call__(self, filename: str | Path) -> tuple[int, str]:
        name = str(filename)
        return (FIRST.index(name) if name in FIRST else len(FIRST), name)
