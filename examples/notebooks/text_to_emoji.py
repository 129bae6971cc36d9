# %% [markdown]
# # Text to emoji
#
# The transformer of Stable Diffusion 3, small enough for half a minute on one core, learns coloured hearts, circles and squares from their
# names. It needs `apt-get install fonts-noto-color-emoji` and `pip install wordllama`.
#
# Guide: [train on captions](../../docs/en/train-captions.md).

# %%
import torch
from matplotlib import pyplot as plt

import pushforward as pf

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
SHAPES = ("heart", "circle", "square")

emoji = [pf.data.load("emoji", split, size=12, background="#d8d8d8") for split in ("train", "validation", "test")]
glyphs = {
    caption: x
    for part in emoji
    for caption, x in zip(part.captions, part.x.float(), strict=True)
    if caption.split()[-1] in SHAPES and caption.split()[-2:-1] and caption.split()[-2] in COLOURS
}
captions, x = list(glyphs), torch.stack(list(glyphs.values())) / 127.5 - 1
print(len(captions), "emoji:", ", ".join(captions))

# %% [markdown]
# A text encoder of static vectors, without a network, turns a caption into one vector a token.

# %%
text = pf.sd3.text_encoders("wordllama", tokens=6)
encoded = text(captions)
print(tuple(encoded.context.shape), tuple(encoded.pooled.shape))

# %% [markdown]
# Pictures and encoded captions as a data set, and the flow between noise and pictures.


# %%
class Captioned(torch.utils.data.Dataset):
    """Pictures (n, 3, 12, 12) with their encoded captions, each of them 32 times an epoch."""

    def __len__(self):
        return 32 * len(x)

    def __getitem__(self, k):
        return x[k % len(x)], encoded[k % len(x) : k % len(x) + 1]

    def __getitems__(self, indices):
        rows = torch.tensor(indices) % len(x)
        return x[rows], encoded[rows]


torch.manual_seed(0)
net = pf.nn.MMDiT.Config(depth=3, heads=4, head_width=16, positions=6, base_size=6)
model = pf.models.sd3(net, (3, 12, 12), text=text.layout.parts)
model = pf.Trainer(model, Captioned(), steps=250, batch_size=32, lr=3e-3, ema=0.98, log_every=125).fit().averaged_model.eval()

# %% [markdown]
# Two samples of each caption with guidance. Each shows what was asked for if its nearest glyph is the right one.

# %%
asked = [k for k in range(len(captions)) for _ in range(2)]
noise = torch.Generator().manual_seed(0)
made = model.sample(len(asked), encoded[torch.tensor(asked)], guidance=2.0, sampler=pf.samplers.Euler(14), generator=noise)
nearest = torch.cdist(made.flatten(1), x.flatten(1)).argmin(1)
right = float((nearest == torch.tensor(asked)).float().mean())
print(f"{right:.0%} of {len(asked)} samples show their caption; by chance {1 / len(captions):.0%}")

# %% [markdown]
# The first row of each pair are real glyphs, the second samples.

# %%
columns = min(12, len(captions))
figure, axes = plt.subplots(2, columns, figsize=(10, 2.2), layout="constrained")
for k in range(columns):
    for axis, picture in zip(axes[:, k], (x[k], made[2 * k]), strict=True):
        axis.imshow((picture / 2 + 0.5).clamp(0, 1).permute(1, 2, 0))
        axis.set_axis_off()
    axes[0, k].set_title("\n".join(captions[k].split()[-2:]), fontsize=8)

# %% [markdown]
# The numbers of this page.

# %%
results = {"captions": len(captions), "right": right, "chance": 1 / len(captions)}
results
