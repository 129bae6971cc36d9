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
node = y.grad_fn
while node:
    print(node.name())
    node = node.next_functions[0][0] if node.next_functions else None


def f(w):
    return w * w if w > 0 else -w  # only the branch that ran is recorded


for value in (w, torch.tensor(-3.0, requires_grad=True)):
    print(value.item(), [node.operation for node in pf.debug.graph(f, value).nodes])
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
    (layer(part).square().mean() / 2).backward()  # adds to .grad
print("sum of two halves:", torch.allclose(layer.weight.grad, whole))
layer(batch).square().mean().backward()
print("added once more:  ", torch.allclose(layer.weight.grad, 2 * whole))
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
    kept = [one.name for one in found.saved if one.kind == "activation"]
    print(f"{name:20} {found.saved_bytes:6} bytes", *kept)
# --8<-- [end:saved]
end("saved")
output("cuts")


# --8<-- [start:cuts]
class Encoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 64), nn.Linear(64, 1)
        self.scale = nn.Linear(2, 1)

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
print("None:", *(name for name, p in encoded.named_parameters() if p.grad is None))
# --8<-- [end:cuts]
end("cuts")
output("products")


# --8<-- [start:products]
def field(x):
    return torch.stack([x[0] * x[1], x[0].sin()])


point = torch.tensor([1.0, 2.0])
value, pull = torch.func.vjp(field, point)
e = torch.tensor([1.0, 0.0])
print("one row,    e'J:", *pull(e))
print("one column, J e:", torch.func.jvp(field, (point,), (e,))[1])
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

    def exact(x, net=net):
        return pf.functional.exact_divergence(net, x)[1]

    def estimate(x, net=net, probes=probes):
        return pf.functional.hutchinson_divergence(net, x, probes)[1]

    sizes = [pf.debug.graph(f, x).saved_bytes for f in (net, exact, estimate)]
    print(f"d = {d:2}: value {sizes[0]}, exact {sizes[1]}, Hutchinson {sizes[2]} bytes")
# --8<-- [end:divergence]
end("divergence")
output("unbiased")

# --8<-- [start:unbiased]
net, x = velocity(8), torch.randn(1, 8)
exact = pf.functional.exact_divergence(net, x)[1].item()
signs = torch.randn(1, 20000, 8).sign()
each = pf.functional.hutchinson_divergence(net, x.expand(20000, 8), signs)[1]
print(f"exact {exact:.3f}, one estimate ± {each.std():.2f}")
print(f"mean of {len(each)} estimates {each.mean():.3f} ± {each.std() / len(each) ** 0.5:.3f}")
# --8<-- [end:unbiased]
end("unbiased")
output("ode")

# --8<-- [start:ode]
flow, x = pf.models.flow_matching(pf.nn.MLP.Config((64,)), (2,)), torch.randn(256, 2)
ode = {}
for steps in (2, 4, 8, 16):
    for adjoint in (False, True):
        sampler = pf.samplers.Heun(steps, adjoint=adjoint)
        found = pf.debug.graph(flow, x, verb="log_prob", sampler=sampler)
        ode[adjoint, steps] = found.saved_bytes + found.attribute_bytes
    print(f"{steps:2} steps: {ode[False, steps]} bytes, adjoint {ode[True, steps]}")
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
    steps = [pf.bijections.AdditiveCoupling(4, (64,), swap=k % 2 == 1) for k in range(depth)]
    return pf.bijections.Chain(steps, memory=memory).double()


def through_graph(x, chain):
    return chain(x)[0].square().sum()


def through_function(x, chain):
    return Reversible.apply(list(chain.steps), x, *chain.parameters()).square().sum()


x, eight = torch.randn(256, 4, dtype=torch.float64), chain(8)
parameters = list(eight.parameters())
expected = torch.autograd.grad(through_graph(x, eight), parameters)
found = torch.autograd.grad(through_function(x, eight), parameters)
differences = [float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)]
print("largest difference of gradients:", max(differences))

memory = {}
for depth in (2, 4, 8, 16, 32):
    for name, call, kind in (
        ("full", through_graph, "full"),
        ("mine", through_function, "full"),
        ("library", through_graph, "reversible"),
    ):
        graph = pf.debug.graph(call, x, chain(depth, kind))
        memory[name, depth] = graph.saved_bytes + graph.attribute_bytes
    sizes = ", ".join(f"{name} {memory[name, depth]}" for name in ("full", "mine", "library"))
    print(f"{depth:2} couplings: {sizes} bytes")
# --8<-- [end:reversible]
end("reversible")

figure = Figure(figsize=(7.2, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
depths = (2, 4, 8, 16, 32)
left.plot(depths, [memory["full", k] / 1e6 for k in depths], "o-", color=WARM, label="graph of all couplings")
left.plot(depths, [memory["library", k] / 1e6 for k in depths], "o-", color=ACCENT, label="reversible")
left.set(xlabel="couplings", ylabel="MB kept for backward", ylim=(0, None), title="a chain")
steps = (2, 4, 8, 16)
right.plot(steps, [ode[False, k] / 1e6 for k in steps], "o-", color=WARM, label="through the solver")
right.plot(steps, [ode[True, k] / 1e6 for k in steps], "o-", color=ACCENT, label="adjoint")
right.set(xlabel="steps of Heun", ylim=(0, None), title="the likelihood of an ODE")
for axes in (left, right):
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("memory.svg")
