"""A text-to-image model of coloured shapes in two minutes: autoencoder, cached latents and captions, flow, samples of new captions."""

import itertools
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import pushforward as pf
from pushforward.evaluation.captioned import captioned

torch.manual_seed(0)

# --8<-- [start:folder]
COLOURS = {"red": "#d62828", "green": "#2a9d3a", "blue": "#1d4ed8", "yellow": "#f2c230", "black": "#222222"}
SHAPES = ("circle", "square", "triangle")
NEW = ("a green triangle", "a blue circle", "a yellow square")  # never in the data


def drawn(colour: str, shape: str, k: int) -> Image.Image:
    """A shape of 9 to 12 pixels somewhere on white."""
    picture = Image.new("RGB", (16, 16), "white")
    side, x, y = 9 + k % 4, (k // 4) % 4, (k // 16) % 4
    box, pen = (x, y, x + side, y + side), ImageDraw.Draw(picture)
    if shape == "triangle":
        pen.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=COLOURS[colour])
    else:
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[colour])
    return picture


folder = Path(tempfile.mkdtemp()) / "shapes"
folder.mkdir()
for colour, shape in itertools.product(COLOURS, SHAPES):
    if f"a {colour} {shape}" not in NEW:
        for k in range(64):
            drawn(colour, shape, k).save(folder / f"{colour}-{shape}-{k:02d}.png")
            (folder / f"{colour}-{shape}-{k:02d}.txt").write_text(f"a {colour} {shape}")
# --8<-- [end:folder]

# --8<-- [start:encode]
images = pf.data.load(str(folder), size=16, missing="drop")
autoencoder = pf.models.autoencoder_kl(images.shape, 4, (16, 32), reconstruction="l2", levels=256)
pf.Trainer(autoencoder, images, steps=600, batch_size=8, lr=3e-3, ema=0.99).fit()
vae = autoencoder.autoencoder(images)

text = pf.sd3.text_encoders("wordllama", tokens=6)
pairs = pf.sd3.cache_latents(images, folder.parent / "cache", vae, text)
# --8<-- [end:encode]

# --8<-- [start:train]
net = pf.nn.MMDiT.Config(depth=3, heads=4, head_width=12, positions=4, base_size=4)
model = pf.models.sd3(net, pairs.shape, text=pairs.text.parts)
trainer = pf.Trainer(model, pairs, steps=1000, batch_size=32, lr=3e-3, ema=0.99).fit()
# --8<-- [end:train]

# --8<-- [start:sample]
flow = trainer.averaged_model.eval()
prompts = [f"a {colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
with torch.no_grad():
    made = flow.sample(15, text(prompts), guidance=3.0, generator=torch.Generator().manual_seed(0))
    pictures = (vae.decode(made) / 2 + 0.5).clamp(0, 1)
captioned(pictures, prompts, Path("shapes.png"))
# --8<-- [end:sample]


# --8<-- [start:score]
def named(picture: torch.Tensor) -> str:
    """Return the caption of the nearest drawing of all."""
    return min(TEMPLATES, key=lambda caption: min(float((picture - one).square().mean()) for one in TEMPLATES[caption]))


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(16, 16, 3).permute(2, 0, 1) / 255


TEMPLATES = {f"a {c} {s}": [tensor(drawn(c, s, k)) for k in range(64)] for c, s in itertools.product(COLOURS, SHAPES)}
for what, wanted in (("seen", [one for one in prompts if one not in NEW]), ("new", list(NEW))):
    texts = [prompt for prompt in wanted for _ in range(8)]
    with torch.no_grad():
        latents = flow.sample(len(texts), text(texts), guidance=3.0, generator=torch.Generator().manual_seed(1))
        right = [named(one) == prompt for one, prompt in zip(vae.decode(latents) / 2 + 0.5, texts, strict=True)]
    print(f"{what} captions: {sum(right)} of {len(right)} pictures show it")
# --8<-- [end:score]
