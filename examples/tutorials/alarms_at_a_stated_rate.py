"""
Alarms at a stated rate
=======================

A tutorial on :class:`~skinterflow.InterpolantFlowOutlierDetector`. Which rows of a table are unlike
the others, how many false alarms are to be expected, and which columns are to blame?

The data are 569 tumours with 30 measurements each. The detector is fitted to benign ones only, and
is then shown benign tumours that it has not seen, and malignant ones.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skinterflow import InterpolantFlowOutlierDetector, OutlierExplanationDisplay

# %%
# Fit
# ---

data = load_breast_cancer(as_frame=True)
benign, malignant = data.data[data.target == 1], data.data[data.target == 0]
train, test = train_test_split(benign, test_size=0.4, random_state=0)
detector = InterpolantFlowOutlierDetector(random_state=0).fit(train)

# %%
# Scores are high for normal rows. ``IsolationForest`` has the same interface, and separates these
# rows as well. What it does not have is what follows.

forest = IsolationForest(random_state=0).fit(train)
is_benign = np.repeat([True, False], [len(test), len(malignant)])
for name, fitted in (("detector", detector), ("forest", forest)):
    scores = np.concatenate([fitted.score_samples(test), fitted.score_samples(malignant)])
    print(f"{name}: area under the ROC curve {roc_auc_score(is_benign, scores):.3f}")

# %%
# p-values
# --------
#
# The p-value of a row is about the probability that a normal row has as low a score. Those of
# normal rows are therefore uniform: a level of 0.05 causes an alarm for about one normal row in
# twenty, which can be said before any test row is seen.

levels = np.linspace(0.0, 0.2, 41)
normal, odd = detector.p_values(test), detector.p_values(malignant)
figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
for p_values, label in ((normal, "benign, not seen before"), (odd, "malignant")):
    axis.step(levels, [(p_values <= level).mean() for level in levels], label=label)
axis.plot(levels, levels, color="gray", linestyle=":", label="level")
axis.set(xlabel="level", ylabel="fraction of rows with an alarm")
axis.legend()
plt.show()
print(f"At the level 0.05: {(normal <= 0.05).mean():.3f} false alarms.")

# %%
# When many rows are tested, even a small level causes many false alarms. The procedure of Benjamini
# and Hochberg bounds their fraction among the alarms instead.

adjusted = detector.p_values(pd.concat([test, malignant]), adjust="fdr")
alarms = adjusted <= 0.1
print(f"{alarms.sum()} alarms, of which {(alarms & is_benign).sum()} are benign.")

# %%
# Reasons
# -------
#
# The contributions of the columns to the score of the most unusual tumour. Those of all columns add
# up to the difference between its score and that of a typical tumour nearby.

lowest = malignant.iloc[[detector.score_samples(malignant).argmin()]]
OutlierExplanationDisplay.from_estimator(detector, lowest, max_features=10)
plt.show()

# %%
# Many rows are shown as a map.

OutlierExplanationDisplay.from_estimator(detector, malignant, max_rows=20)
plt.show()
