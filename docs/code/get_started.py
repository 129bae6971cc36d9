# --8<-- [start:train]
import torch

import pushforward as pf

torch.manual_seed(0)
data = pf.data.load("moons")
model = pf.models.rectified_flow(pf.nn.MLP.Config(hidden=(64, 64)), shape=data.shape, classes=data.classes, drop_cond=0.1)
optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(600):
    rows = torch.randint(len(data), (256,))
    loss = model.loss(*data[rows])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"loss {loss.item():.3f}")
# --8<-- [end:train]

# --8<-- [start:verbs]
labels = torch.tensor([0, 0, 1, 1])
x, log_prob = model.sample(4, labels, log_prob=True)  # samples and their log-densities, in one pass
z = model.encode(x, labels)  # data to noise
print("there and back:", bool((model.decode(z, labels) - x).abs().max() < 1e-3))
print("the same density:", bool((model.log_prob(x, labels) - log_prob).abs().max() < 1e-2))
# --8<-- [end:verbs]

# --8<-- [start:parts]
few = model.sample(1000, torch.arange(1000) % 2, sampler=pf.samplers.Heun(steps=4))  # eight evaluations of the network
guided = model.sample(1000, torch.ones(1000, dtype=torch.long), guidance=3.0)
test = pf.data.load("moons", "test")
print(pf.evaluation.bits_per_dim(model, test.take(500)))
print(pf.evaluation.sliced_wasserstein_draws(few, test.x, draws=5))
# --8<-- [end:parts]

# --8<-- [start:trainer]
trainer = pf.Trainer(model, data, validation=pf.data.load("moons", "validation"), steps=100, out="runs/moons", log_every=50)
trainer.fit()
again = pf.load("runs/moons")  # the best checkpoint on validation, averaged weights
# --8<-- [end:trainer]
assert again.shape == (2,)
