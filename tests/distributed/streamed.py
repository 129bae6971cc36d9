"""Tar shards and cached latents in several processes: see scenarios.py."""

import io
import tarfile

import scenarios
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli.text_images import pairs_of
from pushforward.conditions import TextContext
from pushforward.errors import PushforwardError
from pushforward.sd3.text_layout import TextLayout, parts_of
from pushforward.training.processes import processes


class Letters:
    """A text encoder: the numbers of the letters."""

    def __init__(self):
        none = TextContext(torch.zeros(1, 4, 3), torch.zeros(1, 3))
        self.layout = TextLayout(parts_of(["letters"], [4], [3], [3]), none, "zeros")

    def __call__(self, prompts):
        context = torch.tensor([[[float(ord(letter))] * 3 for letter in prompt.ljust(4)[:4]] for prompt in prompts])
        return TextContext(context, context.sum(1))

    def fingerprint(self):
        return "letters"


def write(folder):
    """Write three shards of 5, 20 and 11 grey images."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, count in enumerate((5, 20, 11)):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for k in range(first, first + count):
                file = io.BytesIO()
                Image.new("RGB", (8, 8), (k, 2 * k, 0)).save(file, format="PNG")
                for name, content in ((f"{k}.png", file.getvalue()), (f"{k}.cls", b"01"[k % 2 : k % 2 + 1]), (f"{k}.txt", b"k%d" % k)):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        first += count
    return ""


def images(folder, **options):
    return pf.data.load(f"wds:{folder}/*.tar", size=8, window=2, cache=str(folder.parent / "cache"), **options)


def model():
    torch.manual_seed(0)
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (3, 8, 8), classes=2, levels=256).double()


def tar_shards(folder, **settings):
    """A run on shards, with workers, and the latents of the same images, which all processes encode."""
    among = processes()
    among.of_main(lambda: write(folder / "shards"), "writing")
    data = images(folder / "shards")
    settings = {"steps": 9, "batch_size": 8, "block": 4, "ema": 0.9, "timeout": 60.0, "workers": 2, **settings}
    trained = pf.Trainer(model(), data, out=folder / "run", checkpoint_every=4, **settings).fit()
    torch.manual_seed(0)
    vae = pf.nn.AutoencoderKL(3, 2, (4, 8), groups=2, blocks=1)
    pairs = pairs_of(data, folder / "latents", "train", vae, Letters(), among, per_shard=6, window=2)
    different = ""
    try:
        pf.Trainer(model(), images(folder / "shards") if among.main else pf.data.load(str(folder / "shards" / "1.tar"), size=8), **settings)
    except PushforwardError as error:
        different = str(error)
    return {"weights": scenarios.state(trained), "latents": pairs[:][0], "captions": pairs.captions, "different": different}
