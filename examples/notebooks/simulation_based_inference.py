# %% [markdown]
# # Simulation-based inference
#
# A simulator turns parameters into observations; its likelihood is not needed. A flow of the parameters, conditional on what was simulated,
# is the posterior of any observation. For two moons the posterior is known, so that it can be checked. Guide:
# [scikit-learn and sbi](../../docs/en/scikit-learn.md).

# %%
import math

import torch
from matplotlib import pyplot as plt

import pushforward as pf

seed = torch.Generator().manual_seed
moons = pf.data.TwoMoons()
data = moons.dataset(10_000, seed(0))  # parameters, with their simulation as condition
print(data)

# %% [markdown]
# A conditional spline flow, trained by likelihood. (The package sbi trains it, too:
# `NPE(prior, density_estimator=pf.estimators.sbi_density("nsf"))`.)

# %%
torch.manual_seed(0)
model = pf.models.nsf(2, 5, hidden=(64, 64), cond_features=2, preprocess="standardise")
model = pf.Trainer(model, data, steps=800, batch_size=256, lr=2e-3, ema=0.99, log_every=400).fit().averaged_model.eval()

# %% [markdown]
# Over new pairs of parameters and observations, the mean gap between the known and the learned log-density is their Kullback-Leibler
# divergence: 0 is perfect, and the prior has the value below.

# %%
theta, x = moons.draw(2000, seed(1))
with torch.no_grad():
    known = moons.log_posterior(theta, x)
    gap = float((known - model.log_prob(theta, x)).mean())
prior_gap = float((known + math.log(4)).mean())
print(f"KL divergence from the known posterior: learned {gap:.2f} nats, prior {prior_gap:.2f} nats")

# %% [markdown]
# For one observation: the total variation between samples and exact draws in cells of 0.1 (two sets of exact draws differ, too).

# %%
observed = torch.zeros(2)


def shares(theta):
    index = ((theta + 1) * 10).long().clamp(0, 19)
    return (20 * index[:, 0] + index[:, 1]).bincount(minlength=400) / len(theta)


made = model.sample(4000, observed.expand(4000, 2), generator=seed(2))
exact, again = (moons.sample_posterior(4000, observed, seed(k)) for k in (3, 4))
distance, noise = (float(0.5 * (shares(one) - shares(exact)).abs().sum()) for one in (made, again))
upper = float((made.sum(1) > 0).float().mean())
print(f"total variation: learned {distance:.3f}, exact draws {noise:.3f}; share of the upper moon {upper:.2f}")

# %% [markdown]
# Samples of the flow, and exact draws. A flow is a continuous map of one Gaussian, so that a thin bridge joins the moons; longer training
# makes it thinner.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), sharex=True, sharey=True, layout="constrained")
for axis, (title, points) in zip(axes, (("learned posterior", made), ("known posterior", exact)), strict=True):
    axis.scatter(*points[:2000].T, s=2, alpha=0.4)
    axis.set(title=title, xlabel="parameter 1", ylabel="parameter 2", xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), aspect="equal")

# %% [markdown]
# The numbers of this page.

# %%
results = {"gap": gap, "prior gap": prior_gap, "distance": distance, "noise": noise, "upper": upper}
results
