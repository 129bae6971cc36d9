import json
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

import pushforward as pf

seed = torch.Generator().manual_seed

# --8<-- [start:make]
digits = pf.data.load("digits")
x = (digits.x * 255 / 16).round()  # 8-bit pixels
net = pf.nn.UNet2D.Config((32, 64), ("conv", "conv attention"), ("conv attention", "conv"), depth=1, head=16, groups=8)
scheduler = pf.samplers.DDPM(1000, grid=pf.samplers.Knots("leading"), clip=pf.samplers.Clipping())
torch.manual_seed(0)
model = pf.models.ddpm(net, (1, 8, 8), preprocess="centred", levels=256, sampler=scheduler)
pf.Trainer(model, x, steps=300, batch_size=64, lr=1e-3).fit()
pf.formats.write_diffusers("digits-ddpm", model.eval())
print(*sorted(str(file) for file in Path("digits-ddpm").rglob("*") if file.is_file()), sep="\n")
# --8<-- [end:make]

# --8<-- [start:load]
model = pf.load("digits-ddpm")
print(type(model).__name__, "predicts", model.prediction, "along", model.path)
print(model.sampler)
# --8<-- [end:load]

# --8<-- [start:sample]
fast = pf.samplers.UniPC(20, grid=pf.samplers.Knots("trailing"), clip=pf.samplers.Clipping())
drawn = {
    "20 steps of UniPC": model.sample(40, sampler=fast, generator=seed(0)),
    "50 steps of the scheduler": model.sample(40, sampler=pf.samplers.DDPM(50, grid=pf.samplers.Knots("leading")), generator=seed(0)),
}
with torch.no_grad():
    bits = pf.evaluation.bits_per_dim(model, x[:4], sampler=pf.samplers.Heun(6), generator=seed(0))
print(bits)
# --8<-- [end:sample]

# --8<-- [start:train]
student = pf.models.meanflow(teacher=model)  # few steps, from the checkpoint's velocity
print(f"{type(student.net).__name__} of two times, loss {student.loss(x[:32], generator=seed(0)):.2f}")
threes = x[digits.cond == 3]
tuned = pf.Trainer(pf.load("digits-ddpm").train(), threes, steps=100, warmup=10, batch_size=32, lr=1e-3).fit().model.eval()
drawn["fine-tuned on the threes"] = tuned.sample(40, sampler=fast, generator=seed(0))
# --8<-- [end:train]

# --8<-- [start:edit]
file = Path("digits-ddpm/scheduler/scheduler_config.json")
entries = json.loads(file.read_text())
file.write_text(json.dumps(entries | {"_class_name": "PNDMScheduler"}))
try:
    pf.load("digits-ddpm")
except pf.errors.ConfigError as error:
    print(error)
# --8<-- [end:edit]

figure = Figure((7.2, 3.0), layout="constrained")
for axes, (title, images) in zip(figure.subplots(3, 1), drawn.items(), strict=True):
    sheet = F.pad(images[:, 0].clamp(0, 255), (1, 1, 1, 1)).reshape(2, 20, 10, 10).permute(0, 2, 1, 3).reshape(20, 200)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")
figure.savefig("samples.svg")
