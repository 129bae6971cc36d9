# %% [markdown]
# # Digits by class
#
# A rectified flow of handwritten digits, conditional on the class, and what guidance changes. Guide:
# [get started](../../docs/en/get-started.md).

# %%
import torch
from matplotlib import pyplot as plt
from sklearn.svm import SVC

import pushforward as pf

data, test = pf.data.load("digits"), pf.data.load("digits", "test")
print(data)

# %% [markdown]
# Dropping a tenth of the labels trains the unconditional model, too, which guidance needs.

# %%
torch.manual_seed(0)
net = pf.nn.MLP.Config((256, 256))
model = pf.models.rectified_flow(net, data.shape, classes=data.classes, levels=data.levels, drop_cond=0.1)
model = pf.Trainer(model, data, steps=1000, batch_size=128, lr=2e-3, ema=0.99, log_every=500).fit().averaged_model.eval()

# %% [markdown]
# A classifier that was trained on real digits judges the samples: does each show the digit that was asked for?

# %%
judge = SVC(gamma=0.001).fit(data.x.flatten(1).numpy(), data.cond.numpy())
labels = torch.arange(500) % 10


def accuracy(x):
    return float((judge.predict(x.flatten(1).numpy()) == labels.numpy()).mean())


sampler = pf.samplers.Heun(10)
samples = {
    scale: model.sample(500, labels, guidance=scale, sampler=sampler, generator=torch.Generator().manual_seed(0)).floor()
    for scale in (0.0, 1.0, 2.0)
}
right = {scale: accuracy(x) for scale, x in samples.items()}
on_real = float(judge.score(test.x.flatten(1).numpy(), test.cond.numpy()))
print("shown as asked, by scale of guidance:", right, f"(real digits: {on_real:.2f})")

# %% [markdown]
# Guidance makes samples clearer, and less varied: their standard deviation within a class falls.

# %%
spread = {scale: float(torch.stack([x[labels == k].std(0).mean() for k in range(10)]).mean()) for scale, x in samples.items()}
print("standard deviation within a class, in grey levels of 16:", {scale: round(value, 2) for scale, value in spread.items()})

# %% [markdown]
# Ten samples of each class with guidance 1, one class a column.

# %%
grid = samples[1.0][:100].view(10, 10, 8, 8).permute(0, 2, 1, 3).reshape(80, 80)
figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
axis.imshow(grid, cmap="gray_r", vmin=0, vmax=16)
axis.set_axis_off()

# %% [markdown]
# The numbers of this page.

# %%
results = {f"accuracy {scale:g}": value for scale, value in right.items()} | {f"spread {scale:g}": spread[scale] for scale in spread}
results
