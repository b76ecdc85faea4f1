"""
Outliers and model choice in a Pipeline
=======================================

A tutorial for data scientists. Which rows of a table are unusual, and which density estimator
should decide?

The data are ten measurements of each of 569 tumours, with missing values. Kernel densities,
Gaussian mixtures and :class:`~skinterflow.InterpolantFlowDensity` are compared by cross-validation
in a ``Pipeline``, a grid search selects the parameters of the flow, and a threshold on the
log-density finds rows that were corrupted on purpose.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.impute import KNNImputer
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinterflow import DegenerateDataWarning, InterpolantFlowDensity

# %%
# A table with missing values
# ---------------------------
#
# Two values in a hundred are missing. A third of the rows is set aside for the end.

random = np.random.default_rng(0)
X = load_breast_cancer(as_frame=True).data.iloc[:, :10]
X = X.mask(random.random(X.shape) < 0.02)
train, test = train_test_split(X, test_size=0.33, random_state=0)
train.describe().T[["count", "mean", "std", "min", "max"]].round(2)

# %%
# A density requires finite numbers, so missing values are imputed first. ``KNNImputer`` uses the
# mean of similar rows. (The median of the column would give many rows the same value, where there
# is no density.) Similarity requires columns of comparable scale, hence the scaler before it, which
# ignores missing values.


def pipeline(estimator):
    return make_pipeline(StandardScaler(), KNNImputer(), estimator)


# %%
# Three estimators, one criterion
# -------------------------------
#
# The criterion is the mean log-likelihood of held-out rows, in nats per row. All pipelines have the
# same scaler, so their scores are in the same units. ``KernelDensity.score`` is a sum, not a mean;
# a custom scorer treats all methods alike.


def log_likelihood(pipeline, X, y=None):
    return pipeline.score_samples(X).mean()


folds = KFold(3, shuffle=True, random_state=0)
candidates = {
    f"KernelDensity, bandwidth {width}": KernelDensity(bandwidth=width) for width in (0.3, 0.5, 0.8)
}
for n in (2, 4, 8):
    candidates[f"GaussianMixture, {n} components"] = GaussianMixture(
        n, reg_covar=1e-3, random_state=0
    )
scores = {
    name: cross_val_score(pipeline(estimator), train, cv=folds, scoring=log_likelihood).mean()
    for name, estimator in candidates.items()
}

# %%
# The flow also has parameters, and ``GridSearchCV`` selects among them. With its defaults, the
# estimator would select `end_time`, the counterpart of a bandwidth, and the length of the training
# by itself, on rows that it holds out; this is recommended for a final fit. For a quick search over
# many settings, the fit here is short and uses all rows.

quick = InterpolantFlowDensity(
    hidden_layer_sizes=(64, 64), max_iter=200, early_stopping=False, atol=2e-2, random_state=0
)
search = GridSearchCV(
    pipeline(quick),
    {
        "interpolantflowdensity__scaling": ["power", "whiten"],
        "interpolantflowdensity__end_time": [0.95, 1.0],
    },
    cv=folds,
    scoring=log_likelihood,
    refit=False,
).fit(train)
for parameters, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    name = ", ".join(f"{key.split('__')[1]}={value}" for key, value in parameters.items())
    scores[f"flow, {name}"] = score

pd.Series(scores, name="nats per row").sort_values().round(2).to_frame()

# %%
# The power map is better than whitening alone, because the columns are skewed. An earlier end time,
# which gives a smoother density, is also better: no rows were held out to decide when to stop these
# fits.
#
# A threshold for outliers
# ------------------------
#
# The final fit has the best scaling and otherwise default parameters. The threshold is a low
# quantile of the log-density of the fitted rows: one row in fifty is considered unusual.

flow = pipeline(
    InterpolantFlowDensity(
        scaling=search.best_params_["interpolantflowdensity__scaling"], random_state=0
    )
).fit(train)
threshold = np.quantile(flow.score_samples(train), 0.02)
log_density = flow.score_samples(test)
print(
    f"{(log_density < threshold).sum()} of {len(test)} held-out rows lie below the threshold of "
    f"{threshold:.1f} nats."
)
test.assign(log_density=log_density).nsmallest(3, "log_density").round(2)

# %%
# More held-out rows than one in fifty are below the threshold, because fitted rows have a somewhat
# higher density than new ones. If the rate of alarms matters, compute the quantile from separate
# rows.
#
# Are unusual rows found? One value in each of these rows is swapped with that of another tumour.
# Every *column* has the same distribution as before; only the combinations are wrong. This is where
# a joint density is needed.

spoilt = test.copy()
for row, column in enumerate(random.integers(0, test.shape[1], len(test))):
    spoilt.iloc[row, column] = test.iloc[random.integers(len(test)), column]
fits = {
    "KernelDensity": pipeline(KernelDensity(bandwidth=0.5)).fit(train),
    "GaussianMixture": pipeline(GaussianMixture(4, reg_covar=1e-3, random_state=0)).fit(train),
    "IsolationForest": pipeline(IsolationForest(random_state=0)).fit(train),
    "InterpolantFlowDensity": flow,
}
is_clean = np.repeat([True, False], len(test))
figure, axes = plt.subplots(1, len(fits), figsize=(13, 3.2), layout="constrained")
for axis, (name, fit) in zip(axes, fits.items(), strict=True):
    clean, odd = fit.score_samples(test), fit.score_samples(spoilt)
    area = roc_auc_score(is_clean, np.concatenate([clean, odd]))
    lowest, highest = np.quantile(np.concatenate([clean, odd]), [0.1, 1.0])
    bins = np.linspace(lowest, highest, 25)
    for rows, label in ((clean, "as measured"), (odd, "one value swapped")):
        axis.hist(np.clip(rows, lowest, None), bins, alpha=0.6, label=label)
    axis.set(
        title=f"{name}\narea under the ROC curve {area:.2f}",
        xlabel="score (lowest bin: that or less)",
    )
axes[0].set_ylabel("rows")
axes[0].legend()
plt.show()

# %%
# The mixture and the flow separate the rows best: they model the dependence between the columns. A
# kernel density with one bandwidth for all directions models less of it, and ``IsolationForest``,
# which considers one column at a time, hardly any.
#
# What a scaler before the estimator does to the score
# ----------------------------------------------------
#
# The log-density of a pipeline refers to the input of the *last* step, which is standardised rows.
# In the units of the table, it is lower by the sum of the logarithms of the scales, and so is the
# threshold. Outliers remain outliers, but pipelines with different scalers cannot be compared, and
# a grid search over scalers is meaningless.

shift = np.log(flow["standardscaler"].scale_).sum()
mean = log_density.mean()
print(
    f"Mean log-density of held-out rows: {mean:.2f} nats per standardised row, {mean - shift:.2f} "
    "per row of the table."
)

# %%
# For this reason the estimator has the parameter `scaling`: its Jacobian is part of the density,
# and the search above could compare its values.
#
# Warnings are about the data
# ---------------------------
#
# A column of rounded numbers has no density: a flow can concentrate any amount of density on each
# number, and the likelihood is meaningless. The estimator warns about it.

rounded = X.dropna()[["mean radius", "mean texture"]].round(0)
small = InterpolantFlowDensity(
    hidden_layer_sizes=(16, 16), max_iter=30, early_stopping=False, random_state=0
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", DegenerateDataWarning)
    small.fit(rounded)
for warning in caught:
    print(f"{warning.category.__name__}: {warning.message}")

# %%
# Whole numbers can be declared instead: the density then assigns a probability mass to each of
# them, and there is no warning.

small.set_params(integer_features=["mean radius", "mean texture"]).fit(rounded)
