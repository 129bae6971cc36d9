import torch

import pushforward as pf

# --8<-- [start:table]
torch.manual_seed(0)
models = {
    "normalizing flow": pf.models.realnvp(2),
    "continuous flow": pf.models.ffjord(),
    "flow matching": pf.models.flow_matching(),
    "diffusion": pf.models.ddpm(),
}
table = pf.evaluation.explain(models, pf.data.load("moons", "test").x[:256])
# --8<-- [end:table]
print("| | " + " | ".join(models) + " |\n|---|" + "---|" * len(models))
for question, answers in table.items():
    cells = [answer.split(",")[0] if question == "likelihood" else answer for answer in answers.values()]
    if question != "time a sample":  # machine-dependent, different on every build
        print(f"| {question} | " + " | ".join(cells) + " |")

# --8<-- [start:same]
truth = pf.data.three_gaussians()
diffusion = pf.families.PathModel(truth.net(pf.paths.VariancePreserving(), "noise"), (2,), pf.paths.VariancePreserving(), "noise")
straight = diffusion.follow(pf.paths.Linear())
solver = pf.samplers.Dopri5(1e-6, 1e-6)
x = truth.sample(2000)
with torch.no_grad():
    densities = [model.log_prob(x, sampler=solver) for model in (diffusion, straight)]
# --8<-- [end:same]
print("\nlog-density of the data, mean over 2,000 points")
for name, values in zip(("diffusion, solved along its own path", "the same network along straight lines"), densities, strict=True):
    print(f"{name}: {float(values.mean()):.3f}")
print(f"the mixture's own: {float(truth.log_prob(x).mean()):.3f}")
