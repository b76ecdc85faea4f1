"""
The colours of another photograph
=================================

A map between two sets of pixels gives one photograph the colours of another.

Every pixel is a row of three columns: red, green and blue. ``InterpolantTransport`` learns to carry
the colours of a Chinese temple to those of a flower (scikit-learn's ``load_sample_images``).
Neither density of colours is known, and pixels are not paired.

Run with ``python examples/recolour_an_image.py``; the plot is saved to ``recolour_an_image.png`` or
to the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

from skinterflow import InterpolantTransport


def plot(pictures):
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    random = np.random.default_rng(0)
    for (upper, lower), (title, picture) in zip(axes.T, pictures.items(), strict=True):
        upper.imshow(picture)
        upper.set_title(title)
        upper.axis("off")
        pixels = random.permutation(picture.reshape(-1, 3))[:3000]
        lower.scatter(pixels[:, 0], pixels[:, 2], s=4, c=pixels)
        lower.set(xlabel="red", ylabel="blue", xlim=(0, 1), ylim=(0, 1))
    return figure


def main(path="recolour_an_image.png", max_iter=1000):
    temple, flower = (image[::4, ::4] / 255 for image in load_sample_images().images)
    random = np.random.default_rng(0)
    # Colours are whole numbers of 0 to 255: noise of one step spreads them.
    sides = [
        picture.reshape(-1, 3) + random.uniform(-0.5, 0.5, (picture.size // 3, 3)) / 255
        for picture in (temple, flower)
    ]
    transport = InterpolantTransport(
        hidden_layer_sizes=(64, 64, 64), max_iter=int(max_iter), atol=5e-2, random_state=0
    ).fit(*sides)
    recoloured = np.clip(
        transport.transform(temple.reshape(-1, 3).astype(np.float32)), 0, 1
    ).reshape(temple.shape)
    for name, picture in (
        ("temple", temple),
        ("flower", flower),
        ("recoloured temple", recoloured),
    ):
        print(f"mean colour of the {name}: {np.round(picture.mean(axis=(0, 1)), 2)}")
    figure = plot(
        {"temple": temple, "flower": flower, "temple in the colours of the flower": recoloured}
    )
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
