import torch

import pushforward as pf

# --8<-- [start:train]
model = pf.models.rectified_flow(pf.nn.MLP.Config((64, 64)), (2,), classes=2, preprocess="standardise")
model = pf.Trainer(model, pf.data.load("moons"), steps=300).fit().averaged_model
# --8<-- [end:train]

# --8<-- [start:export]
program = pf.formats.export_program(model, "sample", sampler=pf.samplers.Euler(10))
torch.export.save(program, "moons.pt2")
# --8<-- [end:export]

# --8<-- [start:run]
sample = torch.export.load("moons.pt2").module()  # needs torch, and no pushforward
x = sample(torch.randn(1000, 2), torch.arange(1000) % 2)
print(x.shape, f"from {x.min():.1f} to {x.max():.1f}")
# --8<-- [end:run]
