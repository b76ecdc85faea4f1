"""Bits per dimension of images: a U-Net against the default network and a Gaussian mixture.

scikit-learn's digits, 8 x 8 pixels with 17 levels::

    python benchmarks/images.py

Fashion-MNIST, from the folder with the four files ``*-ubyte.gz``, as Debian's package
dataset-fashion-mnist has them, with 35 minutes of training::

    python benchmarks/images.py --data DIR --methods U-Net --channels 16 32 64 --batch-size 32 \\
        --learning-rate 0.002 --max-iter 7000 --max-time 2100 --test-rows 384 --probes 1

Other images from a ``.npz`` file whose arrays have the shape (n, H, W) or (n, H, W, C) and whole
numbers from 0 to 255, or from a folder of images of one size.  A second array, or a subfolder
"test" next to one named "train", has the test images; otherwise they are a fifth of all, at random.
For example, on a GPU::

    python benchmarks/images.py --data cifar10.npz --methods U-Net --channels 128 256 256 \\
        --blocks 2 --attention 16 --batch-size 128 --max-iter 300000 --device cuda

All columns are dequantised by uniform noise.  The U-Net has one scaling for all pixels, which maps
the levels of all pixels together to the normal law, and keeps what is the same everywhere in the
image the same.  The Gaussian mixture is fitted to images with noise; the number of components and
the kind of covariances are those with the best bits on a fifth of the training images.  Each method
is measured in a process of its own, with its peak memory.

"MLP" is the estimator with its defaults.  "Monte Carlo" is the standard error of noise and probes,
and "rows" the standard error by the choice of the test images.  "solver" is the error of the ODE
solve: the mean estimate of all rows, or, for the U-Net with its fixed number of steps, the change
of the mean of 64 images with twice as many.
"""

import argparse
import gzip
import itertools
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import (
    Record,
    answer,
    environment,
    measure_alone,
    parser,
    peak_memory_mb,
    report,
    rounded,
    save_table,
    some_rows,
    synchronize,
    write_table,
)
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from skinterflow import InterpolantFlowDensity
from skinterflow.interflow import AccuracyWarning, Gaussianize, Solver, UNet
from skinterflow.metrics import BitsPerDimension, bits_per_dimension

_METHODS = ("Gaussian mixture", "MLP", "U-Net")
_COMPONENTS, _COVARIANCES = (1, 5, 10, 20), ("full", "diag")
_N_CELLS, _CELL_RANGE, _OVERLAP, _NARROWEST = 24, 3.2, 1.5, 0.05
_SCALING_PIXELS = 200_000
_GRID, _CHECKED_ROWS = 64, 64
_UNREACHED = 5e-2
"""A lower tolerance would ask for float64 where rows are far from the centre, at twice the cost."""

Pixels = NDArray[Any]


class Images(NamedTuple):
    """Flattened images with whole numbers from 0 to ``n_levels - 1``."""

    train: Pixels
    test: Pixels
    shape: tuple[int, ...]
    n_levels: int


def read_images(place: str) -> Images:
    """Images of scikit-learn, of a file or of a folder.

    Raises
    ------
    ValueError
        If the images do not all have one shape, (H, W) or (H, W, C).
    """
    path, n_levels = Path(place), 256
    if place == "digits":
        parts, n_levels = [load_digits().images], 17
    elif path.is_dir():
        parts = _idx_files(path) or _image_files(path)
    else:
        with np.load(path) as arrays:
            parts = [arrays[name] for name in arrays.files if arrays[name].ndim in (3, 4)][:2]
    if not parts or any(part.ndim not in (3, 4) for part in parts):
        raise ValueError(
            f"{place} must have images of the shape (H, W) or (H, W, C), got arrays of the shapes "
            f"{[part.shape for part in parts]}."
        )
    channels_first = [np.moveaxis(part, 3, 1) if part.ndim == 4 else part for part in parts]
    rows = [part.reshape(len(part), -1).astype(np.float32) for part in channels_first]
    if len(rows) == 1:
        order = np.random.default_rng(0).permutation(len(rows[0]))
        n_test = len(order) // 5
        rows = [rows[0][order[n_test:]], rows[0][order[:n_test]]]
    return Images(rows[0], rows[1], channels_first[0].shape[1:], n_levels)


def _idx_files(folder: Path) -> list[Pixels]:
    """Arrays of the files of images that MNIST's format has, training first; none if there are
    none."""
    found = sorted(folder.glob("*-images-idx3-ubyte.gz"), reverse=True)  # train, t10k
    parts = []
    for path in found:
        with gzip.open(path) as file:
            sizes = np.frombuffer(file.read(16), ">i4")[1:]
            parts.append(np.frombuffer(file.read(), np.uint8).reshape(sizes))
    return parts


def _image_files(folder: Path) -> list[Pixels]:
    """Images of the subfolders "train" and "test", or of the folder itself."""
    from matplotlib.image import imread

    both = [folder / "train", folder / "test"]
    folders = both if all(part.is_dir() for part in both) else [folder]
    parts = []
    for part in folders:
        read = [imread(file) for file in sorted(part.iterdir()) if file.is_file()]
        # matplotlib reads PNG files as numbers in [0, 1].
        parts.append(
            np.stack(
                [np.round(255.0 * image) if image.dtype.kind == "f" else image for image in read]
            )
        )
    return parts


def shared_scaling(X: Pixels) -> Gaussianize:
    """One map of all pixels, which carries the law of their levels with noise to a normal one.

    The law is a Gaussian mixture with a component for each cell between quantiles.
    """
    random = np.random.default_rng(0)
    values = X.ravel()[random.integers(X.size, size=_SCALING_PIXELS)].astype(np.float64)
    values = np.sort(values + random.uniform(-0.5, 0.5, len(values)))
    edges = ndtr(np.linspace(-_CELL_RANGE, _CELL_RANGE, _N_CELLS - 1))
    cell = np.searchsorted(edges, (np.arange(len(values)) + 0.5) / len(values))
    mass, total, squares = (np.bincount(cell, values**k, _N_CELLS) for k in range(3))
    means = total / mass
    deviations = _OVERLAP * np.sqrt(np.maximum(squares / mass - means**2, 0.0))
    parts = (mass / mass.sum(), means, np.maximum(deviations, _NARROWEST))
    n = X.shape[1]
    return Gaussianize(
        torch.arange(n), *(torch.from_numpy(np.tile(part, (n, 1))) for part in parts)
    )


def flow(images: Images, options: argparse.Namespace, **parameters: Any) -> Any:
    """A density that is fitted with these parameters and the defaults for all others."""
    return InterpolantFlowDensity(
        **parameters,
        integer_features=list(range(images.train.shape[1])),
        max_time=options.max_time,
        device=options.device,
        random_state=0,
    ).fit(images.train)


def fixed_steps(n_steps: int) -> Solver:
    """A solver whose tolerance, in nats, no row reaches, so that all have the same steps."""
    return Solver(atol=_UNREACHED, rtol=0.0, n_steps=n_steps, max_refinements=0)


def fitted_u_net(images: Images, options: argparse.Namespace) -> Any:
    """The density by the U-Net, fitted or read from a file."""
    if options.model is not None and options.model.exists():
        return InterpolantFlowDensity.load(options.model)
    generator = torch.Generator().manual_seed(0)
    field = UNet(
        images.shape, options.channels, options.blocks, options.attention, generator=generator
    )
    density = flow(
        images,
        options,
        field=field,
        scaling=shared_scaling(images.train),
        early_stopping=False,
        batch_size=options.batch_size,
        learning_rate_init=options.learning_rate,
        max_iter=options.max_iter,
        solver=fixed_steps(options.steps),
    )
    if options.model is not None:
        density.save(options.model)
    return density


def mixture(images: Images) -> GaussianMixture:
    """The Gaussian mixture with the best bits on a fifth of the rows, fitted to the others."""
    X = images.train.astype(np.float64)
    noisy = X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)
    n = len(X) // 5
    choices = []
    for n_components, kind in itertools.product(_COMPONENTS, _COVARIANCES):
        candidate = GaussianMixture(n_components, covariance_type=kind, random_state=0)
        candidate.fit(noisy[n:])
        bits = bits_per_dimension(
            candidate, X[:n], n_levels=images.n_levels, n_draws=2, random_state=0
        )
        choices.append((bits.value, n_components, kind))
    _, n_components, kind = min(choices)
    print(f"{n_components} components, {kind}", file=sys.stderr)
    return GaussianMixture(n_components, covariance_type=kind, random_state=0).fit(noisy)


def scored(
    density: Any, images: Images, options: argparse.Namespace
) -> tuple[BitsPerDimension, float]:
    """Bits of the test images, and the error of the solver.

    With fixed steps, the error is the change of the mean bits of some images, with the same noise
    and the same probes, when the steps are doubled.
    """
    arguments = {
        "n_levels": images.n_levels,
        "n_draws": options.draws,
        "n_probes": options.probes,
        "random_state": 0,
    }
    test = some_rows(images.test, options.test_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        bits = bits_per_dimension(density, test, **arguments)
        if not isinstance(getattr(density, "solver", None), Solver):
            return bits, bits.solver_error
        few, arguments["n_draws"] = test[:_CHECKED_ROWS], 2
        coarse = bits_per_dimension(density, few, **arguments)
        density.set_params(solver=fixed_steps(2 * options.steps))
        fine = bits_per_dimension(density, few, **arguments)
    return bits, abs(fine.value - coarse.value)


def measure(name: str, options: argparse.Namespace) -> Record:
    """Fit one method, draw a grid of samples, and score the test images."""
    images = read_images(options.data)
    fits: dict[str, Callable[[], Any]] = {
        "U-Net": lambda: fitted_u_net(images, options),
        "MLP": lambda: flow(images, options),
        "Gaussian mixture": lambda: mixture(images),
    }
    began, began_cpu = time.perf_counter(), time.process_time()
    density = fits[name]()
    synchronize(options.device)
    fitted_cpu = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        drawn = density.sample(_GRID)
    sampled, sampled_cpu = time.perf_counter(), time.process_time()
    if options.samples is not None:
        rows = drawn[0] if isinstance(drawn, tuple) else drawn
        np.savez(options.samples, rows.reshape(-1, *images.shape))
    fit_peak = peak_memory_mb()
    bits, solver_error = scored(density, images, options)
    return {
        "data": options.data if options.data == "digits" else Path(options.data).stem,
        "method": name,
        "bits per dimension": round(bits.value, 4),
        "Monte Carlo": rounded(bits.monte_carlo_error, 2),
        "solver": rounded(solver_error, 2),
        "rows": rounded(bits.sampling_error, 2),
        "test images": min(options.test_rows or len(images.test), len(images.test)),
        "steps": getattr(density, "n_iter_", None) if name != "Gaussian mixture" else None,
        "fit to samples, s": round(sampled - began, 1),
        "fit, s of CPU": round(fitted_cpu - began_cpu, 1),
        "64 samples, s of CPU": round(sampled_cpu - fitted_cpu, 1),
        "scoring, s of CPU": round(time.process_time() - sampled_cpu, 1),
        "peak of fit, MB": round(fit_peak),
        "peak, MB": round(peak_memory_mb()),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", default="digits", help='"digits", a .npz file or a folder')
    arguments.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    arguments.add_argument("--channels", nargs="+", type=int, default=[16, 32])
    arguments.add_argument("--blocks", type=int, default=1, help="residual blocks of a level")
    arguments.add_argument("--attention", type=int, help="height of the maps with attention")
    arguments.add_argument("--batch-size", type=int, default=128)
    arguments.add_argument("--learning-rate", type=float, default=3e-3)
    arguments.add_argument("--max-iter", type=int, default=600, help="steps of the U-Net")
    arguments.add_argument("--max-time", type=float, help="limit on each fit, in seconds")
    arguments.add_argument("--test-rows", type=int, help="at most so many test images are scored")
    arguments.add_argument("--draws", type=int, default=4)
    arguments.add_argument("--probes", type=int, help="the exact divergence of the MLP by default")
    arguments.add_argument("--steps", type=int, default=12, help="of the solver, for the U-Net")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--model", type=Path, help="file that keeps the U-Net, once fitted")
    arguments.add_argument("--samples", type=Path, help="file for the samples of the last method")
    arguments.add_argument(
        "--timeout", type=float, default=86_400.0, help="seconds after which a method is given up"
    )
    arguments.add_argument("--one", choices=_METHODS, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        answer(lambda: [measure(options.one, options)])
        return
    table: list[Record] = []
    name = "images-digits" if options.data == "digits" else "images-fashion"
    print(f"{environment(options.device)}\n")
    for method in options.methods:
        passed = [*sys.argv[1:], "--one", method]
        for row in measure_alone(__file__, passed, timeout=options.timeout):
            table.append({"method": method, **row})
            report(table[-1])
            save_table(table, name)
    write_table(table, name, arguments, options.device)


if __name__ == "__main__":
    main()
