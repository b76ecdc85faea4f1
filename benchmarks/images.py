"""Bits per dimension of images: a U-Net against the default network and Gaussian mixtures.

scikit-learn's digits, 8 x 8 pixels with 17 levels::

    python benchmarks/images.py

Other images from a ``.npz`` file, whose first array has the shape (n, H, W) or (n, H, W, C) and
whole numbers from 0 to 255, or from a folder of images of one size::

    python benchmarks/images.py --images fashion.npz --test-rows 500 --max-time 1500
    python benchmarks/images.py --images cifar10.npz --channels 128 256 256 --attention 16 \\
        --max-iter 100000 --device cuda

A fifth of the images, at random, is for the test.  All columns are dequantised by uniform noise;
the Gaussian mixture is fitted to images with noise, with the number of components and the kind of
covariances with the best bits on a fifth of the training images.  "error" is the Monte Carlo error
of noise and probes, "solver" the estimated error of the ODE solve, and "rows" the standard error by
the choice of the test images.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Record, Rows, parser, print_table, report, rounded, save_table
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from skinterflow import InterpolantFlowDensity
from skinterflow.interflow import Solver, UNet
from skinterflow.metrics import bits_per_dimension

_COMPONENTS, _COVARIANCES = (1, 5, 10, 20), ("full", "diag")


def read_images(place: str) -> tuple[Rows, tuple[int, ...], int]:
    """Flattened images, their shape, and the number of levels."""
    if place == "digits":
        return load_digits().data, (8, 8), 17
    path = Path(place)
    if path.is_dir():
        from matplotlib.image import imread

        files = sorted(file for file in path.iterdir() if file.is_file())
        images = np.stack([_whole(imread(file)) for file in files])
    else:
        with np.load(path) as arrays:
            images = arrays[arrays.files[0]]
    if images.ndim not in (3, 4):
        raise ValueError(f"Images must be of shape (n, H, W) or (n, H, W, C), got {images.shape}.")
    if images.ndim == 4:
        images = np.moveaxis(images, 3, 1)
    return images.reshape(len(images), -1).astype(np.float64), images.shape[1:], 256


def _whole(image: Rows) -> Rows:
    """Levels from 0 to 255; matplotlib reads PNG files as numbers in [0, 1]."""
    return np.round(255.0 * image) if image.dtype.kind == "f" else image


def flow(field: UNet | None, n_features: int, options: argparse.Namespace) -> Any:
    """A density by the U-Net, or by the default network."""
    return InterpolantFlowDensity(
        field=field,
        integer_features=list(range(n_features)),
        scaling="standardize" if field is not None else "gaussianize",
        early_stopping=False,
        solver=Solver(atol=0.01 * n_features, rtol=0.0),
        batch_size=128,
        learning_rate_init=3e-3 if field is not None else "auto",
        max_iter=options.max_iter,
        max_time=options.max_time,
        device=options.device,
        random_state=0,
    )


def mixture(X: Rows, n_levels: int) -> GaussianMixture:
    """The Gaussian mixture with the best bits on a fifth of the rows, fitted to the others."""
    noisy = X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)
    n = len(X) // 5
    choices = []
    for n_components, kind in itertools.product(_COMPONENTS, _COVARIANCES):
        candidate = GaussianMixture(n_components, covariance_type=kind, random_state=0)
        candidate.fit(noisy[n:])
        bits = bits_per_dimension(candidate, X[:n], n_levels=n_levels, n_draws=2, random_state=0)
        choices.append((bits.value, n_components, kind))
    _, n_components, kind = min(choices)
    return GaussianMixture(n_components, covariance_type=kind, random_state=0).fit(noisy)


def measure(name: str, options: argparse.Namespace) -> Record:
    """Fit one method, and score the test images."""
    X, shape, n_levels = read_images(options.images)
    order = np.random.default_rng(0).permutation(len(X))
    test, train = X[order[: len(X) // 5]], X[order[len(X) // 5 :]]
    generator = torch.Generator().manual_seed(0)
    fits: dict[str, Callable[[], Any]] = {
        "U-Net": lambda: flow(
            UNet(shape, options.channels, 1, options.attention, generator=generator),
            X.shape[1],
            options,
        ).fit(train),
        "MLP": lambda: flow(None, X.shape[1], options).fit(train),
        "Gaussian mixture": lambda: mixture(train, n_levels),
    }
    started = time.perf_counter()
    density = fits[name]()
    fitted = time.perf_counter()
    density.sample(16)
    drawn = time.perf_counter()
    bits = bits_per_dimension(
        density,
        test[: options.test_rows],
        n_levels=n_levels,
        n_draws=options.draws,
        n_probes=options.probes,
        random_state=0,
    )
    return {
        "method": name,
        "bits per dimension": round(bits.value, 3),
        "error": rounded(bits.monte_carlo_error, 2),
        "solver": rounded(bits.solver_error, 2),
        "rows": rounded(bits.sampling_error, 2),
        "fit, s": round(fitted - started, 1),
        "16 samples, s": round(drawn - fitted, 1),
        "scoring, s": round(time.perf_counter() - drawn, 1),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", default="digits")
    arguments.add_argument("--methods", nargs="*", default=["Gaussian mixture", "MLP", "U-Net"])
    arguments.add_argument("--channels", nargs="*", type=int, default=[16, 32])
    arguments.add_argument("--attention", type=int)
    arguments.add_argument("--max-iter", type=int, default=1_000)
    arguments.add_argument("--max-time", type=float)
    arguments.add_argument("--test-rows", type=int, default=360)
    arguments.add_argument("--draws", type=int, default=4)
    arguments.add_argument("--probes", type=int)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    table = []
    for name in options.methods:
        table.append(measure(name, options))
        report(table[-1])
        save_table(table, "images")
    print_table(save_table(table, "images"))


if __name__ == "__main__":
    main()
