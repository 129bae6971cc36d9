import random
import shlex
from pathlib import Path

import numpy
from PIL import Image, ImageDraw

import pushforward as pf
from pushforward.cli import main

COLOURS = ("red", "green", "blue", "orange", "purple", "teal")
SHAPES = ("circle", "square", "triangle")
rng = random.Random(0)


def picture(shape: str, colour: str, stripe: str | None = None) -> Image.Image:
    """Return 16x16 pixels with a shape somewhere, and a horizontal stripe across it."""
    image, side = Image.new("RGB", (64, 64), "white"), rng.randint(34, 46)
    pen, x, y = ImageDraw.Draw(image), rng.randint(2, 62 - side), rng.randint(2, 62 - side)
    corners = {"square": [(0, 0), (1, 0), (1, 1), (0, 1)], "triangle": [(0, 1), (1, 1), (0.5, 0)]}
    if shape == "circle":
        pen.ellipse((x, y, x + side, y + side), colour)
    else:
        pen.polygon([(x + side * right, y + side * down) for right, down in corners[shape]], colour)
    if stripe:
        pen.rectangle((x, y + side // 3, x + side, y + 2 * side // 3), stripe)
    return image.resize((16, 16), Image.Resampling.LANCZOS)


def write(folder: str, pictures: list[tuple[str, Image.Image]]) -> None:
    """Write pictures, each with its caption in a .txt file."""
    Path(folder).mkdir()
    for k, (caption, image) in enumerate(pictures):
        image.save(f"{folder}/{k:04d}.png")
        Path(f"{folder}/{k:04d}.txt").write_text(caption)


def run(*lines: str) -> None:
    """Print a command as it is typed, and run it."""
    print("$", " \\\n    ".join(lines))
    assert main(shlex.split(" ".join(lines))[1:]) == 0


write("shapes", [(f"a {colour} {shape}", picture(shape, colour)) for _ in range(60) for shape in SHAPES for colour in COLOURS])
write("mine", [("my square", picture("square", "purple", stripe="white")) for _ in range(4)])
write("squares", [(f"a {colour} square", picture("square", colour)) for _ in range(8) for colour in COLOURS])

run(
    "pushforward train sd3 --data shapes --data-options size 16 --out shapes-model --steps 600 --validate-every 0",
    "--text-encoders wordllama --text-tokens 4 --autoencoder-steps 400",
    "net:mm-dit --net.depth 3 --net.heads 3 --net.head-width 32 --net.positions 8 --net.base-size 8",
)
run(
    "pushforward finetune shapes-model --data mine --prior squares --out my-square --steps 300 --lr 2e-3 --batch-size 16",
    "--rank 8 --targets attention.qkv attention.out mlp.0 mlp.2 modulation --validate-every 0",
)
run('pushforward generate shapes-model "my square" --lora my-square/lora.safetensors --guidance 3 --seed 1 --out mine.png')

sd3, prompts, rows = pf.StableDiffusion3.from_pretrained("shapes-model"), ("my square", "a red square", "a blue circle"), []
for lora in (None, "my-square/lora.safetensors"):
    if lora:
        sd3.load_lora(lora)
    made = [sd3.sample([prompt] * 4, guidance=3.0, generator=1, output="array") for prompt in prompts]
    rows.append(numpy.concatenate([image for images in made for image in images], axis=1))
grid = Image.fromarray((numpy.concatenate(rows) * 255).astype("uint8"))
grid.resize((4 * grid.width, 4 * grid.height), Image.Resampling.NEAREST).save("before_and_after.png")
