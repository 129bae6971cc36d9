# %% [markdown]
# # Your own images
#
# A folder of images, one subfolder a class, becomes a data set, a model and samples. Guide: [data](../../docs/en/data.md).

# %% [markdown]
# The folder: handwritten digits as .png files. Put yours in its place.

# %%
import tempfile
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.svm import SVC

import pushforward as pf

folder = Path(tempfile.mkdtemp()) / "digits"
digits = pf.data.load("digits")
for k, (image, label) in enumerate(zip(digits.x, digits.cond, strict=True)):
    (folder / f"digit {int(label)}").mkdir(parents=True, exist_ok=True)
    Image.fromarray((image[0] * 255 / 16).round().byte().numpy()).save(folder / f"digit {int(label)}" / f"{k:04d}.png")

# %% [markdown]
# `load` reads the images, divides them into splits and takes the names of the folders for classes.

# %%
data, test = (pf.data.load(str(folder), split, size=8, channels=1).in_memory(10_000) for split in ("train", "test"))
print(data)
print(data.class_names)

# %% [markdown]
# A rectified flow of these classes, in units of the pixels' mean and deviation. Larger images want a U-Net, `pf.nn.UNet.Config()`.

# %%
torch.manual_seed(0)
model = pf.models.rectified_flow(
    pf.nn.MLP.Config((256, 256)), data.shape, classes=data.classes, levels=data.levels, preprocess="standardise"
)
model = pf.Trainer(model, data, steps=1000, batch_size=128, lr=2e-3, ema=0.99, log_every=500).fit().averaged_model.eval()

# %% [markdown]
# Samples are asked for by the name of a folder. A classifier trained on the images judges them.

# %%
labels = torch.arange(500) % data.classes
made = model.sample(500, labels, sampler=pf.samplers.Heun(10), generator=torch.Generator().manual_seed(0)).clamp(0, 255).floor()
judge = SVC().fit(data.x.flatten(1).numpy(), data.cond.numpy())
right, on_real = (float(judge.score(x.flatten(1).numpy(), y.numpy())) for x, y in ((made, labels), (test.x, test.cond)))
print(f"shown as asked: {right:.2f} of samples, {on_real:.2f} of real test images")

# %% [markdown]
# Are samples copies? A sample's nearest training image should be about as far as that of a test image.

# %%
far, real = (float(torch.cdist(x.flatten(1), data.x.flatten(1)).min(1).values.median()) for x in (made, test.x))
print(f"median distance to the nearest training image: samples {far:.0f}, test images {real:.0f} (grey levels of 255, over 64 pixels)")

# %% [markdown]
# Samples of each class, one folder a column.

# %%
figure, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
axis.imshow(made[:50].view(5, 10, 8, 8).permute(0, 2, 1, 3).reshape(40, 80), cmap="gray", vmin=0, vmax=255)
axis.set_xticks(range(4, 80, 8), data.class_names, fontsize=7, rotation=45)
axis.set_yticks([])

# %% [markdown]
# The numbers of this page.

# %%
results = {"classes": data.classes, "right": right, "on real": on_real, "distance": far, "distance of real": real}
results
