"""
Denoise digits from pairs
=========================

Noisy images are carried to clean ones, trained on pairs of the same image with and without noise.

With ``fit(X0, X1, paired=True)``, row i of the first set belongs to row i of the second (Albergo,
Boffi and Vanden-Eijnden 2023, definition 2.1). Without pairs, the map takes the paths between all
noisy and all clean images. It also carries noisy digits to clean digits, but less often to their
own. Several noisy copies of each image keep the network from learning the noise by heart.

Run with ``python examples/denoise_digits.py``; the plot is saved to ``denoise_digits.png`` or to
the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from skinterflow import InterpolantTransport

NOISE, N_COMPONENTS, N_TEST, N_COPIES, N_SHOWN = 4.0, 20, 297, 8, 8


def plot(images, pca):
    """A row of images for each entry, from the principal components."""
    figure, axes = plt.subplots(
        len(images), N_SHOWN, figsize=(N_SHOWN, 1.15 * len(images)), layout="constrained"
    )
    for line, (title, rows) in zip(axes, images.items(), strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
        for axis, pixels in zip(line, pca.inverse_transform(rows[:N_SHOWN]), strict=True):
            axis.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
            axis.set_axis_off()
    return figure


def main(path="denoise_digits.png", max_iter=600):
    random = np.random.default_rng(0)
    pixels = load_digits().data[random.permutation(1797)]
    pca = PCA(N_COMPONENTS, random_state=0).fit(pixels[N_TEST:])
    # One unit for all columns, so that the paths are those of an image that loses its noise.
    unit = np.sqrt(pca.explained_variance_[0])

    def pairs(images):
        noisy = images + NOISE * random.standard_normal(images.shape)
        return pca.transform(noisy) / unit, pca.transform(images) / unit

    X0, X1 = pairs(np.repeat(pixels[N_TEST:], N_COPIES, axis=0))
    noisy, clean = pairs(pixels[:N_TEST])
    images = {"noisy": noisy}
    for title, paired in (("map without pairs", False), ("map with pairs", True)):
        transport = InterpolantTransport(
            scaling=None,
            hidden_layer_sizes=(128, 128, 128),
            max_iter=int(max_iter),
            random_state=0,
        ).fit(X0, X1, paired=paired)
        images[title] = transport.transform(noisy)
    images["clean"] = clean
    for title, rows in images.items():
        error = unit * np.sqrt(((rows - clean) ** 2).sum(axis=1).mean())
        print(f"{title}: distance from the clean images {error:.1f}")
    figure = plot({title: unit * rows for title, rows in images.items()}, pca)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
