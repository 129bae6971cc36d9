"""One photograph in two sizes under the same noise: the moving picture of the article on SD3."""

import io

import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

PAPER, TEXT = "#12161f", "#dfe6f0"
photo = torch.tensor(load_sample_image("flower.jpg")[:416, 112:528]).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, 416, 416)
images = {size: torch.nn.functional.adaptive_avg_pool2d(photo, size) for size in (26, 104, 416)}
noises = {size: torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) for size, image in images.items()}


def frame(t):
    figure = Figure((9.6, 3.7), dpi=70, facecolor=PAPER)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.9, wspace=0.03)
    for axes, size in zip(figure.subplots(1, 3), images, strict=True):
        x = (1 - t) * images[size] + t * noises[size]
        axes.imshow(((x[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy(), interpolation="nearest")
        axes.set_title(f"{size} × {size}, t = {t:.2f}", color=TEXT, fontsize=13)
        axes.set_axis_off()
    held = io.BytesIO()
    figure.savefig(held, format="png", facecolor=PAPER)
    return Image.open(held).convert("RGB")


times = [k / 10 for k in range(10, -1, -1)]
first, *rest = [frame(t) for t in [1.0, *times, 0.0]]
first.save("sizes.webp", save_all=True, append_images=rest, duration=400, loop=0, quality=20, method=4)
frame(0.75).save("sizes.png", optimize=True)
