import inspect
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

import pushforward as pf

torch.manual_seed(0)
torch.set_num_threads(1)
INK, SOFT, ACCENT, WARM = "#1f2933", "#7b8794", "#2563eb", "#d9480f"


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


output("law")
# --8<-- [start:law]
layer, x = pf.nn.SelfAttention(width=8, heads=2), torch.randn(4, 5, 8)
weights = layer.qkv.weight, layer.qkv.bias, layer.out.weight, layer.out.bias
y = pf.functional.self_attention(x, *weights, heads=2)
print("self_attention:", torch.equal(layer(x), y))

units = pf.bijections.Standardise((3,))
units.initialise(5 * torch.randn(100, 3) + 2)
rows = torch.randn(4, 3)
z, log_abs_det = pf.functional.standardise(rows, units.mean, units.std)
print("standardise:   ", torch.equal(units(rows)[0], z))

conv, images = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
y = F.conv2d(images, conv.weight, conv.bias)
print("torch's conv2d:", torch.equal(conv(images), y))
# --8<-- [end:law]
end("law")


# --8<-- [start:table]
def state(thing):
    """Return the names of the parameters and buffers that an object holds."""
    if not isinstance(thing, nn.Module):
        return []
    return [name for name, _ in (*thing.named_parameters(), *thing.named_buffers())]


def settings(kind):
    """Return the arguments that an object of a class is made with."""
    return [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]


def code(names):
    return ", ".join(f"`{name}`" for name in names) or "–"


lines = []
for function, name in pf.registry.versions().items():
    entry = pf.registry.entry(name)
    made = entry.example() if entry.example else entry.thing()
    made = made[0] if isinstance(made, tuple) else made
    cells = code([function.removeprefix("functional.")]), code([name]), code(state(made)), code(settings(entry.thing))
    lines.append(f"| {' | '.join(cells)} |\n")
Path("rows.txt").write_text("".join(lines))
# --8<-- [end:table]

output("training")
# --8<-- [start:training]
drop, ones = nn.Dropout(0.5), torch.ones(6)
drop.eval()
print("Module:             ", drop(ones).tolist())
print("function:           ", F.dropout(ones, 0.5).tolist())
print("function, with mode:", F.dropout(ones, 0.5, drop.training).tolist())
# --8<-- [end:training]
end("training")

output("state")
# --8<-- [start:state]
print("layer:", *layer.state_dict())
print("units:", *units.state_dict())
restored = pf.bijections.Standardise((3,))
restored.load_state_dict(units.state_dict())
print("restored:", torch.equal(restored(rows)[0], units(rows)[0]))
# --8<-- [end:state]
end("state")

output("hooks")
# --8<-- [start:hooks]
shapes = []


def note(module, inputs, output):
    shapes.append(tuple(output.shape))


handle = layer.qkv.register_forward_hook(note)
layer(x)
pf.functional.self_attention(x, *weights, heads=2)
handle.remove()
print("the hook ran:", shapes)
# --8<-- [end:hooks]
end("hooks")

output("call")
# --8<-- [start:call]
parameters = {name: p.detach() for name, p in layer.named_parameters()}
called = torch.func.functional_call(layer, parameters, (x,))
print("the same bits:", torch.equal(called, layer(x)))


def loss(parameters, one):
    return torch.func.functional_call(layer, parameters, (one[None],)).square().mean()


per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
print("one gradient a sample:", tuple(per_sample["out.weight"].shape))

several = [pf.nn.SelfAttention(width=8, heads=2) for _ in range(3)]
stacked, buffers = torch.func.stack_module_state(several)


def one_of_them(parameters, buffers):
    return torch.func.functional_call(several[0], (parameters, buffers), (x,))


together = torch.func.vmap(one_of_them)(stacked, buffers)
print("three networks in one call:", tuple(together.shape))
print("the third is the third:", torch.allclose(together[2], several[2](x), atol=1e-6))
# --8<-- [end:call]
end("call")

output("flow")
# --8<-- [start:flow]
flow, data = pf.models.realnvp(2, layers=4, hidden=(32,)), torch.randn(64, 2)
before = {name: p.detach().clone() for name, p in flow.named_parameters()}


def nll(parameters):
    return torch.func.functional_call(flow, parameters, (data,))  # forward is the loss


slopes = torch.func.grad(nll)(before)
after = {name: p - 0.01 * slopes[name] for name, p in before.items()}
print(f"loss {nll(before):.4f}, after a step {nll(after):.4f}")
print(f"the flow itself is unchanged: {flow.loss(data):.4f}")
# --8<-- [end:flow]
end("flow")

# The function receives everything as arguments; the Module holds the weights, the mode and the hooks.
figure = Figure(figsize=(7.6, 2.7), layout="constrained")
axes = figure.subplots()
axes.set(xlim=(0, 15.2), ylim=(0.2, 5.4))
axes.set_axis_off()


def box(left, bottom, width, height, text, colour, where="center"):
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.1", fc=colour + "14", ec=colour))
    at = (left + width / 2, bottom + height / 2) if where == "center" else (left + width / 2, bottom + height - 0.25)
    axes.text(*at, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(start, stop, text="", colour=SOFT):
    axes.annotate("", stop, start, arrowprops={"arrowstyle": "->", "color": colour})
    axes.text(start[0] - 0.1, start[1], text, ha="right", va="center", fontsize=9, color=INK)


box(3.0, 1.3, 2.6, 2.4, "self_attention", ACCENT)
for height, text in ((3.4, "x"), (2.8, "qkv_weight, qkv_bias"), (2.2, "out_weight, out_bias"), (1.6, "heads")):
    arrow((2.3, height), (2.9, height), text)
arrow((5.7, 2.5), (6.4, 2.5))
axes.text(6.5, 2.5, "y", ha="left", va="center", fontsize=9, color=INK)
axes.text(4.3, 5.0, "pf.functional", ha="center", fontsize=10, color=ACCENT, weight="bold")
box(9.0, 0.6, 4.6, 3.9, "SelfAttention", WARM, "top")
box(11.0, 1.3, 2.3, 1.6, "self_attention", ACCENT)
for height, text in ((3.4, "training, hooks"), (2.6, "qkv, out"), (1.7, "heads")):
    axes.text(9.15, height, text, ha="left", va="center", fontsize=9, color=INK)
    if height < 3:
        arrow((10.4, height), (10.9, height))
arrow((8.3, 1.1), (8.9, 1.1), "x")
arrow((9.0, 1.1), (10.95, 1.5))
arrow((13.4, 2.1), (14.4, 2.1))
axes.text(14.5, 2.1, "y", ha="left", va="center", fontsize=9, color=INK)
axes.text(11.3, 5.0, "pf.nn", ha="center", fontsize=10, color=WARM, weight="bold")
figure.savefig("forms.svg")
