# %% [markdown]
# # Inverse problems
#
# One unconditional model restores images of any known measurement, without training for it. Here digits of 8 by 8 pixels are measured as
# means of 2 by 2 blocks, with noise. Guide: [inverse problems](../../docs/en/inverse-problems.md).

# %%
import torch
from matplotlib import pyplot as plt

import pushforward as pf

seed = torch.Generator().manual_seed
digits, test = pf.data.load("digits"), pf.data.load("digits", "test")
data = pf.data.Dataset("digits", digits.x, levels=digits.levels)  # without labels
torch.manual_seed(0)
model = pf.models.rectified_flow(pf.nn.MLP.Config((256, 256)), data.shape, levels=data.levels)
model = pf.Trainer(model, data, steps=1000, batch_size=128, lr=2e-3, ema=0.99, log_every=500).fit().averaged_model.eval()

# %% [markdown]
# The measurement of ten test digits: 16 numbers for 64 pixels, with noise of half a grey level.

# %%
blocks = pf.measurements.Downsample(2, noise=0.5)
x = test.x[:10]
y = blocks.draw(x, seed(0))
print(tuple(x.shape), "->", tuple(y.shape))

# %% [markdown]
# Eight samples of the posterior for each digit, by guidance with the measurement (MMPS).

# %%
each = 8
guidance = pf.guidance.MMPS(blocks, y.repeat_interleave(each, 0))
made = model.sample(10 * each, guidance=guidance, sampler=pf.samplers.EulerMaruyama(30), generator=seed(1))
made = (made - 0.5).view(10, each, 1, 8, 8)  # samples are real numbers, half a cell above the integers that were measured

# %% [markdown]
# Samples should agree with y up to its noise, and their mean should be nearer to the digit than interpolation, which knows no digits.

# %%
misfit = float((blocks(made.flatten(0, 1)) - y.repeat_interleave(each, 0)).square().mean().sqrt())
interpolated = torch.nn.functional.interpolate(y, scale_factor=2, mode="bilinear")
error = {"posterior mean": made.mean(1), "interpolation": interpolated, "one sample": made[:, 0]}
error = {name: float((one - x).square().mean().sqrt()) for name, one in error.items()}
print("off from y by", round(misfit, 2), "and from the digit by", {name: round(value, 2) for name, value in error.items()})

# %% [markdown]
# The digits, what was measured, interpolation, and two samples.

# %%
rows = {"digit": x, "measured": y, "interpolated": interpolated, "sample": made[:, 0], "another": made[:, 1]}
figure, axes = plt.subplots(len(rows), 10, figsize=(7, 3.8), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis, image in zip(row, images, strict=True):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=16)
        axis.set(xticks=[], yticks=[])

# %% [markdown]
# The numbers of this page.

# %%
results = {**error, "misfit": misfit}
results
