"""Whether pictures show what their prompts name: `python -m benchmarks.emoji runs/sd3-emoji`.

For each prompt one picture is drawn; its nearest glyphs, by the mean square difference of pixels over the glyphs of all splits, are
counted as right if one of them carries the prompted name. For comparison: what a random glyph would score, and the autoencoder's own
reconstruction of the prompted glyph, which is the best that a model of its latents can reach. Prompts of the training set were seen; those
of the test set are new.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import pushforward as pf
from pushforward.cli.run import load_data, run_config
from pushforward.evaluation.captioned import captioned
from pushforward.sd3.images import finished

NEAREST = (1, 5)


def ranks(pictures: Tensor, own: Sequence[set[str]], glyphs: Tensor, names: Sequence[set[str]]) -> Tensor:
    """Return for each picture the rank, from 0, of the nearest glyph that carries one of its own names."""
    distances = torch.cdist(pictures.flatten(1), glyphs.flatten(1))
    right = torch.tensor([[bool(some & others) for others in names] for some in own])
    nearest = distances.masked_fill(~right, torch.inf).amin(dim=1)
    return (distances < nearest[:, None]).sum(dim=1)


def shares(found: Tensor) -> str:
    """Return the shares of ranks among the nearest one and five, with their standard errors."""
    rows = [(found < most).double() for most in NEAREST]
    return ", ".join(f"top {most} {one.mean():.1%} ± {one.std() / len(one) ** 0.5:.1%}" for most, one in zip(NEAREST, rows, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji", description="Do pictures of a run show what their prompts name?")
    parser.add_argument("run", help="a run of `pushforward train sd3 --data emoji`")
    parser.add_argument("--checkpoint", default="best", help="best on validation, whose prompts are new, or last")
    parser.add_argument("--prompts", type=int, default=200, help="prompts of each set")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--picture", help="a PNG of the first pictures of new prompts")
    options = parser.parse_args()
    section = run_config(Path(options.run))["data"]
    sets = {split: load_data(section, split) for split in ("train", "validation", "test")}
    glyphs = torch.cat([one.x for one in sets.values()]) / 255
    names = [set(some) for one in sets.values() for some in one.names]
    sd3 = pf.StableDiffusion3.from_pretrained(f"{options.run}/checkpoints/{options.checkpoint}")
    for split, what in (("train", "seen"), ("test", "new")):
        data = sets[split].take(min(options.prompts, len(sets[split])))
        own, x = [set(some) for some in data.names], data.x / 255
        settings = {"guidance": options.guidance, "steps": options.steps, "size": sd3.size, "output": "tensor", "batch_size": 50}
        drawn = sd3.sample(list(data.captions), generator=list(range(len(data))), **settings)
        with torch.no_grad():
            again = finished(sd3.vae(2 * x - 1))
        chance = torch.tensor([[bool(some & others) for others in names] for some in own]).double().mean()
        print(f"{len(data)} {what} prompts: {shares(ranks(drawn, own, glyphs, names))}")
        print(f"  reconstructions of their glyphs: {shares(ranks(again, own, glyphs, names))}")
        print(f"  chance: top 1 {chance:.2%}, top 5 {1 - (1 - chance) ** 5:.2%} of {len(glyphs)} glyphs")
        if options.picture and what == "new":
            captioned(drawn[:24], data.captions[:24], Path(options.picture), real=x[:24])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
