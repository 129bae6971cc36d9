# --8<-- [start:new]
"""my_data/rings.py: concentric rings in the plane."""

import functools
import math

import torch

import pushforward as pf
from pushforward.data.splits import SPLITS, check_split
from pushforward.registry import api_export

export = functools.partial(api_export, package="my_data")


@export("data.rings", example=lambda: rings(n=16), loader=True)
def rings(split: str = "train", *, seed: int = 0, n: int = 2000, count: int = 3) -> pf.data.Dataset:
    """Concentric rings in the plane, each a class.

    Args:
        split: "train", "validation" or "test", independent draws.
        seed: seed of the draws.
        n: number of examples.
        count: number of rings.

    Returns:
        The set with x (n, 2) and labels (n,), the number of the ring from the inside.
    """
    check_split(split)
    generator = torch.Generator().manual_seed(len(SPLITS) * seed + SPLITS.index(split))
    label = torch.randint(count, (n,), generator=generator)
    radius = 1 + label + 0.1 * torch.randn(n, generator=generator)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    x = radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)
    return pf.data.Dataset("rings", x, label, classes=count)


# --8<-- [end:new]


# --8<-- [start:use]
data = pf.data.load("rings", "validation", count=2)
print(data)
x, cond = data[:4]
print(x.shape, cond)
# --8<-- [end:use]

# --8<-- [start:laws]
splits = [pf.data.load("rings", split, n=500) for split in SPLITS]
rows = [{tuple(row) for row in one.x.tolist()} for one in splits]
print("no example is in two splits:", len(set.union(*rows)) == sum(map(len, rows)))
again = pf.data.load("rings", "test", n=500)
print("drawn again, it is the same:", again.fingerprint() == splits[2].fingerprint())
print("another seed draws others:", pf.data.load("rings", "test", n=500, seed=1).fingerprint() != again.fingerprint())
# --8<-- [end:laws]

# What the page gives as a command.
import contextlib
import io

from pushforward.cli import main

with contextlib.redirect_stdout(io.StringIO()):
    assert main(["train", "realnvp", "--data", "rings", "--data-options", "count", "2", "--hidden", "32", "--steps", "100"]) == 0
assert pf.load("runs/realnvp-rings").classes == 2
