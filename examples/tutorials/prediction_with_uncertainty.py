r"""
Prediction with uncertainty: the diabetes data
==============================================

A tutorial for data scientists. How will the disease of a patient have progressed in a year, and how
far off may the prediction be?

``InterpolantFlowRegressor`` predicts the whole distribution of an output given the features. Its
mean, quantiles, intervals and density agree with each other, because they belong to one model. It
is compared with a regressor of the mean whose errors are assumed to be normal.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict, train_test_split

from skinterflow import (
    ConditionalDensityDisplay,
    InterpolantFlowRegressor,
    PITDisplay,
    PredictionIntervalDisplay,
)
from skinterflow.metrics import crps, log_likelihood_scorer

# sphinx_gallery_thumbnail_number = 1

# %%
# One fit
# -------
#
# Ten features of 442 patients, and a measure of the disease one year later. Features need no
# preparation. The training is short, so that this page builds quickly; keep the default of
# `max_iter` for real data.

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
model = InterpolantFlowRegressor(trunk_layer_sizes=(64, 64, 64), max_iter=300, random_state=0).fit(
    X_train, y_train
)
print(f"Coefficient of determination: {model.score(X_test, y_test):.2f}")

# %%
# Intervals
# ---------
#
# The patients are ordered by the predicted median. The legend compares the probability of an
# interval with the fraction of the patients in it.

PredictionIntervalDisplay.from_estimator(model, X_test, y_test)
plt.show()

# %%
# The intervals are narrow where little is predicted, and longer upward than downward there. Along
# the body mass index, intervals differ between patients with the same index, because they depend on
# the other features as well.

PredictionIntervalDisplay.from_estimator(model, X_test, y_test, feature="bmi", coverages=[0.8])
plt.show()

# %%
# The distribution of one patient
# -------------------------------
#
# How does the distribution change with one feature? The others are fixed: at their medians on the
# left, and at the values of one patient on the right.

figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
for axis, row in zip(axes, (None, 3), strict=True):
    ConditionalDensityDisplay.from_estimator(
        model, X_test, "bmi", row=row, grid_resolution=40, ax=axis
    )
    axis.set_title("medians" if row is None else "one patient")
plt.show()

# %%
# Such a map shows what the model predicts for other values of the feature, not what would happen to
# a patient who changes it.
#
# Questions that an interval does not answer are answered by the distribution function, such as the
# probability of a value above 250:

above = 1 - model.cdf(X_test[:4], np.full(4, 250.0))
for patient, probability in zip(X_test.index[:4], above, strict=True):
    print(f"patient {patient:3d}: {probability:.0%}")

# %%
# Is it calibrated?
# -----------------
#
# The probability integral transform is the predicted probability of an output up to the observed
# one. It is uniform for new patients if the predicted distributions are right.

PITDisplay.from_estimator(model, X_test, y_test)
plt.show()

# %%
# Is it better than a normal error?
# ---------------------------------
#
# A ridge regression has nearly the same mean. With normal errors of the deviation of its
# cross-validated residuals, its distributions are all of the same width and shape. The continuous
# ranked probability score (CRPS) and the mean log-likelihood compare the distributions. The score
# is in units of the output, and lower is better; of the log-likelihood, in nats, higher is better.

ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(X_train, y_train)
residual = y_train - cross_val_predict(ridge, X_train, y_train)
normal = norm(ridge.predict(X_test), residual.std())
levels = (np.arange(99) + 0.5) / 99
scores = {
    "flow": (
        crps(y_test, model.predict_quantiles(X_test, levels), levels),
        log_likelihood_scorer(model, X_test, y_test),
    ),
    "ridge": (
        crps(y_test, np.transpose([normal.ppf(level) for level in levels]), levels),
        normal.logpdf(y_test).mean(),
    ),
}
for name, (score, log_likelihood) in scores.items():
    print(f"{name:<6} CRPS {score:5.2f}, log-likelihood {log_likelihood:6.3f}")

# %%
# These are the scores of one split of a small data set, and the difference is small; cross-validate
# to compare models. ``from_predictions`` draws the calibration of the other model. Its
# distributions have the same width for all patients, which the histogram does not show, since it is
# a mean over them: calibration alone does not make a good prediction.

PITDisplay.from_predictions(normal.cdf(y_test))
plt.show()
