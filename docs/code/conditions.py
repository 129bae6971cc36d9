"""Conditions that are vectors, images or masks: the right half of a digit, sampled given its left half."""

# --8<-- [start:data]
from pathlib import Path

import numpy
import torch

import pushforward as pf
from pushforward.evaluation.pictures import picture_of

digits = pf.data.load("digits")
left = digits.x.clone()
left[..., 4:] = 0  # the right half is not given
numpy.savez("halves.npz", x=digits.x, y=left, levels=17)
train, test = pf.data.load("halves.npz"), pf.data.load("halves.npz", "test")
print(train)
# --8<-- [end:data]

# --8<-- [start:train]
torch.manual_seed(0)
model = pf.models.rectified_flow(
    pf.nn.MLP.Config((256, 256)),  # or UNet.Config(), DiT.Config()
    train.shape,
    cond_image=train.cond_image,
    drop_cond=0.1,
    preprocess="standardise",
    levels=17,
)
model = pf.Trainer(model, train, steps=1500, batch_size=128, block=128, lr=2e-3).fit().averaged_model.eval()
# --8<-- [end:train]

# --8<-- [start:sample]
given, heun = test.cond[:8].repeat(4, 1, 1, 1), pf.samplers.Heun(10)
made = model.sample(32, given, guidance=2.0, sampler=heun, generator=torch.Generator().manual_seed(0))
anything = model.sample(32, sampler=heun, generator=torch.Generator().manual_seed(0))  # without a condition
off, unconditional = ((one - given)[..., :4].square().mean().sqrt() for one in (made, anything))
print(f"the given half of a sample is off by {off:.1f} grey levels; without a condition by {unconditional:.1f}")
picture_of(torch.cat((test.x[:8], test.cond[:8], made)), Path("halves.png"), levels=17, columns=8)
# --8<-- [end:sample]
