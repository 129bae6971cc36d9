# %% [markdown]
# # The density of a table
#
# How likely is each row of a table? `FlowDensity` is an estimator of scikit-learn that fits a normalizing flow, with Gaussians where a flow
# is no better. Guide: [scikit-learn](../../docs/en/scikit-learn.md).

# %% [markdown]
# The table: 569 tumours with 30 measurements each, of which a fifth is held out.

# %%
import math

from matplotlib import pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import pushforward as pf

X = load_breast_cancer(as_frame=True).data
train, test = train_test_split(X, test_size=0.2, random_state=0)
print(train.shape, test.shape)

# %% [markdown]
# One member and 300 steps keep this short; leave both arguments out for the best density.

# %%
density = pf.estimators.FlowDensity(ensemble=1, max_steps=300, random_state=0).fit(train)
print({name: round(weight, 2) for name, weight in density.weights_.items()})

# %% [markdown]
# The baseline is the best of scikit-learn's Gaussian mixtures. Both log-densities are in nats per row, in the units of the table: a
# density of standardised rows is lower by the logarithm of their scales.

# %%
scaler = StandardScaler().fit(train)
log_scale = sum(math.log(scale) for scale in scaler.scale_)
mixtures = [GaussianMixture(k, covariance_type="full", reg_covar=1e-2, random_state=0).fit(scaler.transform(train)) for k in (1, 2, 3)]
mixture = max(one.score(scaler.transform(test)) for one in mixtures) - log_scale
flow = density.score(test)
print(f"held-out log-density per row: FlowDensity {flow:.1f} nats, best Gaussian mixture {mixture:.1f} nats")

# %% [markdown]
# Samples are rows with the columns of the table. The picture shows two of them, of which one is nearly the square of the other.

# %%
made = density.sample(len(test), random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharex=True, sharey=True, layout="constrained")
for axis, (title, rows) in zip(axes, (("held-out rows", test), ("samples", made)), strict=True):
    axis.scatter(rows["mean radius"], rows["mean area"], s=8, alpha=0.6)
    axis.set(title=title, xlabel="mean radius", ylabel="mean area")

# %% [markdown]
# The numbers of this page.

# %%
results = {"flow": flow, "mixture": float(mixture), "columns": made.shape[1]}
results
