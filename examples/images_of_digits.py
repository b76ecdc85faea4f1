"""
Images of digits
================

A U-Net as the field: samples, images between two images, and new images near an image.

Rows are flattened images of 8 x 8 pixels with 17 levels.  `integer_features` adds uniform noise in
the training, and samples are whole numbers.  There are three pictures.

* Samples of the density.
* Images between two images: the latents of both are connected by a great circle, and its points are
  carried back to images.
* New images from old ones: a diffusion on the mirror path ``x_t = x_1 + gamma(t) z`` carries an
  image to another one of the same density (Albergo, Boffi and Vanden-Eijnden 2023, table 4).  A low
  noise level keeps it near the old one.  The first line has the old images.

Run with ``python examples/images_of_digits.py``; the plot is saved to ``images_of_digits.png`` or
to the path given as argument.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.interflow import Solver, UNet

N_LEVELS, NOISE = 17, (0.2, 0.5, 1.0, 2.0, 5.0)
PAIRS = ((0, 3), (1, 10), (2, 4), (5, 6), (7, 8), (9, 11))


def fitted_density(images, max_iter):
    field = UNet((8, 8), channels=(16, 32), generator=torch.Generator().manual_seed(0))
    return InterpolantFlowDensity(
        field=field,
        integer_features=list(range(64)),
        scaling="standardize",
        early_stopping=False,
        solver=Solver(atol=1.0),
        batch_size=128,
        learning_rate_init=3e-3,
        max_iter=max_iter,
        random_state=0,
    ).fit(images)


def between(density, first, last, n=8):
    """Images between pairs of images, by latents on the great circles through theirs."""
    one, other = (density.transform(rows)[:, None] for rows in (first, last))
    lengths = [np.linalg.norm(latent, axis=2, keepdims=True) for latent in (one, other)]
    angle = np.arccos((one * other).sum(axis=2, keepdims=True) / lengths[0] / lengths[1])
    part = np.linspace(0.0, 1.0, n)[:, None]
    latents = (np.sin((1 - part) * angle) * one + np.sin(part * angle) * other) / np.sin(angle)
    return density.inverse_transform(latents.reshape(-1, 64)).reshape(latents.shape)


def resampled(images, rows, max_iter):
    """For each noise level, one new image for each of the rows."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, images.shape)
    mirror = InterpolantTransport(
        interpolant="mirror",
        gamma="brownian",
        scaling="standardize",
        hidden_layer_sizes=(128, 128, 128),
        max_iter=max_iter,
        random_state=0,
    ).fit(images + noise)
    return [mirror.sample(rows, random_state=0, epsilon=level, n_steps=60) for level in NOISE]


def show(axis, title, rows):
    """A list of rows of images, one below the other."""
    tiles = np.concatenate(
        [np.concatenate([np.pad(row.reshape(8, 8), 1) for row in line], axis=1) for line in rows]
    )
    axis.imshow(tiles, cmap="gray_r", vmin=0, vmax=N_LEVELS - 1)
    axis.set(title=title, xticks=[], yticks=[])


def main(path="images_of_digits.png", max_iter=250):
    images, started = load_digits().data, time.perf_counter()
    density = fitted_density(images, int(max_iter))
    samples = density.sample(48, random_state=0).reshape(6, 8, 64)
    print(f"From the fit to the samples: {time.perf_counter() - started:.0f} s.")
    first, last = np.transpose(PAIRS)
    lines = between(density, images[first], images[last])
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    show(axes[0], "samples", samples)
    show(axes[1], "between the first image and the last", lines)
    near = [images[:8], *resampled(images, images[:8], 2 * int(max_iter))]
    show(axes[2], f"images; resampled at noise {NOISE[0]:g} to {NOISE[-1]:g}", near)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
