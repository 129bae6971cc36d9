# %% [markdown]
# # Anomaly detection
#
# A density of normal rows finds others: those of low density. Here normal rows are handwritten digits other than eights, and anomalies
# are eights, which the model never sees in training.
#
# Guides: [outliers](../../docs/en/outliers.md), [scikit-learn](../../docs/en/scikit-learn.md).

# %%
import numpy
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import pushforward as pf

X, y = load_digits(return_X_y=True)
train, test = train_test_split(X[y != 8], test_size=0.3, random_state=0)
reduced = PCA(20, random_state=0).fit(train)  # 20 columns hold 90 % of the variance of 64 pixels
train, test, anomalous = (reduced.transform(rows) for rows in (train, test, X[y == 8]))
print(len(train), "normal rows to fit,", len(test), "normal and", len(anomalous), "anomalous rows to find")

# %% [markdown]
# `score_samples` is the log-density in nats; the lower, the more anomalous.

# %%
detector = pf.estimators.FlowDensity(ensemble=1, max_steps=300, random_state=0).fit(train)
forest = IsolationForest(random_state=0).fit(train)
rows, truth = numpy.concatenate([test, anomalous]), numpy.repeat([0, 1], [len(test), len(anomalous)])
auc = {name: roc_auc_score(truth, -one.score_samples(rows)) for name, one in (("FlowDensity", detector), ("IsolationForest", forest))}
print({name: round(float(value), 3) for name, value in auc.items()})

# %% [markdown]
# `predict` returns -1 below a threshold that 5 % of held-out normal rows are below, so that false alarms are rare.

# %%
found = detector.predict(rows) == -1
false_alarms, detected = found[truth == 0].mean(), found[truth == 1].mean()
print(f"false alarms {false_alarms:.0%}, anomalies found {detected:.0%}")

# %% [markdown]
# The log-densities of both kinds, the lowest drawn at the left end, and the threshold.

# %%
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
scores = detector.score_samples(rows)
low = numpy.percentile(scores, 2)
for label, name in enumerate(("normal", "anomalous")):
    axis.hist(scores[truth == label].clip(low), bins=numpy.linspace(low, scores.max(), 50), alpha=0.6, label=name)
axis.axvline(detector.offset_, color="black", linestyle="--", label="threshold")
axis.set(xlabel="log-density, nats", ylabel="rows")
axis.legend()

# %% [markdown]
# The numbers of this page.

# %%
results = {"auc": float(auc["FlowDensity"]), "auc of the forest": float(auc["IsolationForest"])}
results |= {"false alarms": float(false_alarms), "detected": float(detected)}
results
