import torch
from matplotlib.figure import Figure
from torch import nn

import pushforward as pf

torch.manual_seed(0)
torch.set_num_threads(1)
ACCENT, WARM = "#2563eb", "#d9480f"


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


output("graph")
# --8<-- [start:graph]
model = pf.models.rectified_flow(pf.nn.MLP.Config((64,)), shape=(2,))
x = torch.randn(256, 2)
graph = pf.debug.graph(model, x)
graph.svg("graph.svg")
print(graph)
# --8<-- [end:graph]
end("graph")
output("define")

# --8<-- [start:define]
w = torch.tensor(3.0, requires_grad=True)
y = (w * 2).exp()
print(y.grad_fn, "<-", y.grad_fn.next_functions[0][0], "<-", y.grad_fn.next_functions[0][0].next_functions[0][0])


def f(w):
    return w * w if w > 0 else -w  # an ordinary if: the graph contains only the branch that ran


negative = torch.tensor(-3.0, requires_grad=True)
print([node.operation for node in pf.debug.graph(f, w).nodes], [node.operation for node in pf.debug.graph(f, negative).nodes])
# --8<-- [end:define]
end("define")
output("accumulate")

# --8<-- [start:accumulate]
layer = nn.Linear(3, 1)
batch = torch.randn(8, 3)
layer(batch).square().mean().backward()
whole = layer.weight.grad.clone()
layer.zero_grad()
for part in batch.split(4):
    (layer(part).square().mean() / 2).backward()  # adds to .grad, and frees this part's graph
print("two halves give the gradient of the batch:", torch.allclose(layer.weight.grad, whole))
layer(batch).square().mean().backward()
print("without zero_grad it is added once more:", torch.allclose(layer.weight.grad, 2 * whole))
# --8<-- [end:accumulate]
end("accumulate")
output("saved")

# --8<-- [start:saved]
a = torch.randn(1000, requires_grad=True)
b = torch.randn(1000)
operations = {
    "a + b": lambda: a + b,
    "3 * a": lambda: 3 * a,
    "a * b": lambda: a * b,
    "(2 * a).sin()": lambda: (2 * a).sin(),
    "(2 * a).exp()": lambda: (2 * a).exp(),
    "(2 * a).exp().log()": lambda: (2 * a).exp().log(),
}
for name, operation in operations.items():
    found = pf.debug.graph(operation)
    kept = [f"{one.name} of {node.operation}" for node in found.nodes for one in node.saved if one.kind == "activation"]
    print(f"{name:20} {found.saved_bytes:6} bytes  {', '.join(kept)}")
# --8<-- [end:saved]
end("saved")
output("cuts")


# --8<-- [start:cuts]
class Encoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.scale, self.head = nn.Linear(2, 64), nn.Linear(2, 1), nn.Linear(64, 1)

    def forward(self, x):
        code = self.encoder(x).detach()
        with torch.no_grad():
            scale = self.scale(x).exp()
        return self.head(code * scale).mean()


encoded = Encoded()
cut = pf.debug.graph(encoded, x)
cut.svg("cuts.svg")
print(cut)
encoded(x).backward()
print("grad is None:", [name for name, p in encoded.named_parameters() if p.grad is None])
# --8<-- [end:cuts]
end("cuts")
output("products")


# --8<-- [start:products]
def field(x):
    return torch.stack([x[0] * x[1], x[0].sin()])


point = torch.tensor([1.0, 2.0])
value, pull = torch.func.vjp(field, point)
print("one row,    e'J:", *pull(torch.tensor([1.0, 0.0])))
print("one column, J e:", torch.func.jvp(field, (point,), (torch.tensor([1.0, 0.0]),))[1])
print("all of it:\n", torch.func.jacrev(field)(point))
# --8<-- [end:products]
end("products")
output("divergence")


# --8<-- [start:divergence]
def velocity(d):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, 64), nn.Tanh(), nn.Linear(64, d))


for d in (2, 8, 32):
    net, x = velocity(d), torch.randn(16, d)
    probes = torch.randn(1, 16, d).sign()
    value = pf.debug.graph(net, x)
    exact = pf.debug.graph(lambda x, net=net: pf.functional.exact_divergence(net, x)[1], x)
    estimate = pf.debug.graph(lambda x, net=net, probes=probes: pf.functional.hutchinson_divergence(net, x, probes)[1], x)
    sizes = [f"{one.saved_bytes / 1000:7.1f} kB" for one in (value, exact, estimate)]
    print(f"d = {d:2}: value {sizes[0]}, exact divergence {sizes[1]}, Hutchinson {sizes[2]}")
# --8<-- [end:divergence]
end("divergence")
output("unbiased")

# --8<-- [start:unbiased]
net, x = velocity(8), torch.randn(1, 8)
exact = pf.functional.exact_divergence(net, x)[1].item()
many = pf.functional.hutchinson_divergence(net, x.expand(20000, 8), torch.randn(1, 20000, 8).sign())[1]
print(f"exact {exact:.4f}, estimates {many.mean():.4f} ± {many.std() / len(many) ** 0.5:.4f}, each of them ± {many.std():.2f}")
# --8<-- [end:unbiased]
end("unbiased")
output("ode")

# --8<-- [start:ode]
flow, x = pf.models.flow_matching(pf.nn.MLP.Config((64,)), shape=(2,)), torch.randn(256, 2)
ode = {}
for steps in (2, 4, 8, 16):
    for name, sampler in (("through", pf.samplers.Heun(steps)), ("adjoint", pf.samplers.Heun(steps, adjoint=True))):
        found = pf.debug.graph(flow, x, verb="log_prob", sampler=sampler)
        ode[name, steps] = found.saved_bytes + found.attribute_bytes
    print(f"{steps:2} steps: through the solver {ode['through', steps] / 1e3:5.0f} kB, adjoint {ode['adjoint', steps] / 1e3:.0f} kB")
# --8<-- [end:ode]
end("ode")
output("reversible")


# --8<-- [start:function]
class Reversible(torch.autograd.Function):
    """Additive couplings in sequence, of which only the output is stored."""

    @staticmethod
    def forward(ctx, couplings, x, *parameters):
        for coupling in couplings:  # a Function's forward records no graph
            x, _ = coupling(x)
        ctx.couplings, ctx.parameters = couplings, parameters
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, slope):
        (z,) = ctx.saved_tensors
        sums = {p: torch.zeros_like(p) for p in ctx.parameters}
        for coupling in reversed(ctx.couplings):
            x = coupling.inverse(z)[0].detach().requires_grad_()
            with torch.enable_grad():
                again, _ = coupling(x)
            own = list(coupling.parameters())
            slope, *found = torch.autograd.grad(again, [x, *own], slope)  # the graph of one coupling at a time
            for p, gradient in zip(own, found, strict=True):
                sums[p] += gradient
            z = x.detach()
        return None, slope, *sums.values()


# --8<-- [end:function]
# --8<-- [start:reversible]
def chain(depth, memory="full"):
    torch.manual_seed(0)
    steps = [pf.bijections.AdditiveCoupling(4, hidden=(64,), swap=k % 2 == 1) for k in range(depth)]
    return pf.bijections.Chain(steps, memory=memory).double()


x = torch.randn(256, 4, dtype=torch.float64)
plain, parameters = chain(8), list(chain(8).parameters())
expected = torch.autograd.grad(plain(x)[0].square().sum(), list(plain.parameters()))
mine = chain(8)
found = torch.autograd.grad(Reversible.apply(list(mine.steps), x, *mine.parameters()).square().sum(), list(mine.parameters()))
print("largest difference of gradients:", max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)))


def measured(function):
    found = pf.debug.graph(function, x)
    return found.saved_bytes + found.attribute_bytes


memory = {}
for depth in (2, 4, 8, 16, 32):
    full, own, library = chain(depth), chain(depth), chain(depth, "reversible")
    memory["full", depth] = measured(lambda x, m=full: m(x)[0].square().sum())
    memory["own", depth] = measured(lambda x, m=own: Reversible.apply(list(m.steps), x, *m.parameters()).square().sum())
    memory["library", depth] = measured(lambda x, m=library: m(x)[0].square().sum())
    print(f"{depth:2} couplings:", ", ".join(f"{name} {memory[name, depth] / 1e3:.0f} kB" for name in ("full", "own", "library")))
# --8<-- [end:reversible]
end("reversible")

figure = Figure(figsize=(7.2, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
depths = (2, 4, 8, 16, 32)
left.plot(depths, [memory["full", k] / 1e6 for k in depths], "o-", color=WARM, label="graph of all couplings")
left.plot(depths, [memory["library", k] / 1e6 for k in depths], "o-", color=ACCENT, label="reversible")
left.set(xlabel="couplings", ylabel="MB kept for backward", ylim=(0, None), title="a chain")
steps = (2, 4, 8, 16)
right.plot(steps, [ode["through", k] / 1e6 for k in steps], "o-", color=WARM, label="through the solver")
right.plot(steps, [ode["adjoint", k] / 1e6 for k in steps], "o-", color=ACCENT, label="adjoint")
right.set(xlabel="steps of Heun", ylim=(0, None), title="the likelihood of an ODE")
for axes in (left, right):
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("memory.svg")
