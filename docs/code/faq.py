import numpy
import pandas
import torch

import pushforward as pf

torch.manual_seed(0)


def seed(number):
    return torch.Generator().manual_seed(number)


# --8<-- [start:conditions]
net = pf.nn.UNet.Config(channels=16)
model = pf.models.rectified_flow(net, (1, 16, 16), cond_image=(1, 4, 4), drop_cond=0.1)  # super-resolution: from 4x4 to 16x16
small, large = torch.rand(8, 1, 4, 4), torch.rand(8, 1, 16, 16)
model.loss(large, small).backward()
# --8<-- [end:conditions]

# --8<-- [start:kinds]
vectors = pf.models.rectified_flow(shape=(2,), cond_features=3)
labels = pf.models.rectified_flow(shape=(2,), classes=3)
print(vectors.loss(torch.randn(4, 2), torch.randn(4, 3)).shape, labels.loss(torch.randn(4, 2), torch.tensor([0, 2, 1, 0])).shape)
# --8<-- [end:kinds]

# --8<-- [start:series]
series = pf.models.rectified_flow(net, (2, 64))  # two channels, 64 points in time
volumes = pf.models.rectified_flow(net, (1, 8, 8, 8))
print(series.sample(3, sampler=pf.samplers.Euler(2)).shape, volumes.sample(1, sampler=pf.samplers.Euler(2)).shape)
# --8<-- [end:series]

# --8<-- [start:table]
rows = pandas.DataFrame({"height": [1.5, None, 1.7, 1.6] * 10, "colour": ["blue", "red", "red", None] * 10, "age": [20, 31, 44, 57] * 10})
table = pf.data.load(rows, missing="model")
flow = pf.models.rectified_flow(pf.nn.MLP.Config((32,)), schema=table.schema)
pf.Trainer(flow, table, steps=30, batch_size=32).fit()
filled = pf.impute(flow.eval(), rows, generator=seed(0))
print(int(rows.isna().sum().sum()), "missing cells, then", int(filled.isna().sum().sum()))
# --8<-- [end:table]

# --8<-- [start:angles]
angles = (torch.randn(200, 2) * 0.5 + 3).remainder(2 * torch.pi) - torch.pi  # in [-pi, pi)
circular = pf.models.nsf(2, layers=4, circular=True)
print(circular.log_prob(angles).shape, bool(circular.sample(100).abs().max() <= torch.pi))
# --8<-- [end:angles]

# --8<-- [start:energy]
proposal = pf.models.realnvp(2, layers=4, hidden=(32,))
pf.energies.fit(proposal, lambda x: x.square().sum(1) / 2 + torch.cos(3 * x[:, 0]), steps=50, batch_size=64)  # exp(-energy), no data
# --8<-- [end:energy]

# --8<-- [start:likelihood]
x = torch.randn(4, 1, 8, 8)
images = pf.models.ddpm(pf.nn.UNet.Config(channels=16), (1, 8, 8)).eval()
with torch.no_grad():
    print(images.log_prob(x, sampler=pf.samplers.Heun(4), divergence="hutchinson", batch_size=2, generator=seed(0)).shape)
# --8<-- [end:likelihood]

# --8<-- [start:seeds]
together = labels.sample(3, torch.tensor([0, 1, 2]), generator=[seed(5), seed(6), seed(7)])
alone = labels.sample(1, torch.tensor([1]), generator=[seed(6)])
print(f"row 1 of three, and alone: {float((together[1] - alone[0]).abs().max().detach()):.0e} apart")
# --8<-- [end:seeds]

# --8<-- [start:distribution]
density = pf.models.nsf(2, layers=3)
base = density.as_distribution()
print(base.rsample((5,)).requires_grad, base.log_prob(torch.zeros(1, 2)).shape)
# --8<-- [end:distribution]

# --8<-- [start:weights]
own = pf.families.PathModel(pf.nn.MLP(2, 2, (16,), time_features=4), (2,))
torch.save(own.state_dict(), "own.pt")
own.load_state_dict(torch.load("own.pt"))
# --8<-- [end:weights]


def error_of(call):
    """Return the sentence of the error that a call raises."""
    try:
        call()
    except pf.errors.PushforwardError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("no error was raised")


plain, two = pf.models.rectified_flow(shape=(2,)), torch.randn(4, 2)
for name, call in {
    "condition": lambda: plain.loss(two, torch.tensor([0, 1, 0, 1])),
    "guidance": lambda: labels.sample(2, torch.tensor([0, 1]), guidance=2.0),
    "stochastic": lambda: plain.log_prob(two, sampler=pf.samplers.DDPM(20)),
    "few-steps": lambda: pf.models.meanflow(shape=(2,)).log_prob(two),
    "save": lambda: pf.save(own, "own"),
    "shape": lambda: pf.models.rectified_flow(pf.nn.UNet.Config(), shape=(2,)),
    "dtype": lambda: plain.loss(torch.from_numpy(numpy.zeros((4, 2)))),
}.items():
    with open(f"{name}.txt", "w") as file:
        print(error_of(call), file=file)
