"""What `debug.graph` finds is what autograd does: saved bytes, parameters without gradient, cuts and their lines, overwritten tensors."""

import gc
import inspect
import weakref
from xml.etree import ElementTree

import pytest
import torch
from examples import examples, one_in
from torch import nn
from torch.utils.checkpoint import checkpoint

import pushforward as pf
from pushforward.debug.graph import graph
from pushforward.debug.storages import storage_of
from pushforward.errors import UserError
from pushforward.held import reachable


class Packed:
    """What the reference's hook stores; `detach`, as an output would hold itself through its node."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()


def hooked_bytes(call, *owned):
    """Return the bytes, each storage once, of what saved_tensors_hooks sees and the graph still holds, and what the call returned."""
    alive = weakref.WeakSet()

    def pack(tensor):
        packed = Packed(tensor)
        alive.add(packed)
        return packed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        output = call()
    gc.collect()
    existed = {storage_of(one)[0] for one in reachable(owned) if isinstance(one, torch.Tensor)}
    return sum({key: size for key, size in (storage_of(one.tensor) for one in alive) if key not in existed}.values()), output


def assert_is_autograds(model, *inputs, **options):
    """Compare with hooks, and with the gradients of a backward pass."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        found = graph(model, *inputs, **options)
        torch.manual_seed(3)
        expected, output = hooked_bytes(lambda: model(*inputs, **options), model, inputs, options)
    assert found.saved_bytes == expected
    model.zero_grad()
    output.sum().backward()
    assert {one.name for one in found.unreached} == {name for name, p in model.named_parameters() if p.grad is None}
    assert {one.name for one in found.unreached} | set(found.reached) == {name for name, _ in model.named_parameters()}
    return found


def image_flow(net):
    return pf.models.rectified_flow(net, (1, 8, 8)), torch.randn(3, 1, 8, 8)


@pytest.mark.parametrize("entry", one_in(3, examples("models")))
def test_saved_bytes_and_unreached_parameters_of_a_loss_are_those_of_autograd(entry):
    model, x, cond = entry.example()
    assert assert_is_autograds(model, x, cond).saved_bytes > 0


@pytest.mark.parametrize("net", [pf.nn.UNet.Config(channels=8), pf.nn.DiT.Config(width=16, depth=2, heads=2)], ids=["unet", "dit"])
def test_checkpointed_blocks_count_their_inputs(net):
    model, x = image_flow(net)
    full = assert_is_autograds(model, x)
    model.net.activation_checkpointing = True
    checkpointed = assert_is_autograds(model, x)
    assert checkpointed.saved_bytes < full.saved_bytes / 2
    assert not [one for one in full.saved if one.kind == "recomputed"]
    assert [one for one in checkpointed.saved if one.kind == "recomputed"]


def test_a_checkpointed_region_counts_only_its_input():
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6)])

    def run(x):
        return checkpoint(layers, x * 2, use_reentrant=False)

    found = graph(run, torch.randn(5, 8))
    assert found.saved_bytes == 5 * 8 * 4  # x * 2, a new tensor; all six tanh are recomputed
    assert found.unreached == ()


@pytest.mark.parametrize("memory", ["full", "reversible"])
def test_a_reversible_chain_keeps_its_output_alone_at_any_depth(memory):
    x = torch.randn(8, 4)

    def kept(depth):
        steps = [pf.bijections.AffineCoupling(4, hidden=(16,), swap=k % 2 == 1) for k in range(depth)]
        chain = pf.bijections.Chain(steps, memory=memory)
        found = graph(lambda x: torch.cat([one.flatten() for one in chain(x)]).sum(), x)
        assert found.unreached == ()
        return found.saved_bytes + found.attribute_bytes

    few, many = kept(4), kept(16)
    assert (few, many) == (8 * 4 * 4, 8 * 4 * 4) if memory == "reversible" else many > 3.5 * few


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_likelihoods_of_odes_are_counted(divergence):
    """Under hooks the exact divergence is computed by autograd instead of torch.func, so that only the parameters are compared there."""
    model = pf.models.flow_matching(pf.nn.MLP.Config((8,)), (2,), sampler=pf.samplers.Heun(2))
    found = graph(model, torch.randn(3, 2), verb="log_prob", divergence=divergence)
    model.log_prob(torch.randn(3, 2), divergence=divergence).sum().backward()
    assert {one.name for one in found.unreached} == {name for name, p in model.named_parameters() if p.grad is None}
    assert found.title == "log_prob of PathModel"
    assert found.saved_bytes > 0


def test_values_that_hooks_pack_into_objects_of_their_own_are_counted():
    net, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(5, 4)
    with torch.autograd.graph.saved_tensors_hooks(Packed, lambda packed: packed.tensor):
        packed = graph(net, x)
    with pf.debug.detect_aliasing():
        checked = graph(net, x)
    assert packed.saved_bytes == checked.saved_bytes == graph(net, x).saved_bytes == 5 * 8 * 4


def test_a_block_without_gradients_is_one_cut_with_the_line_that_opens_it():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)

    def run(x):
        with torch.no_grad():
            target = two(one(x))
        return (x * target).sum()

    found = graph(run, torch.ones(1, 2, requires_grad=True))
    (cut,) = found.cuts
    assert (cut.kind, len(cut.parameters), cut.place.text) == ("no_grad", 5, "with torch.no_grad():")  # x too


def test_lines_are_those_of_files():
    model = pf.models.flow_matching(pf.nn.MLP.Config((8,)), (2,), sampler=pf.samplers.Heun(2))
    assert not [node.place for node in graph(model, torch.randn(3, 2), verb="log_prob").nodes if node.place.file.startswith("<")]


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.scorer, self.head, self.spare = (nn.Linear(4, 4) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    @torch.no_grad()
    def scaled(self):
        return self.scale.exp()

    def forward(self, x):
        h = self.encoder(x).detach()
        with torch.no_grad():
            h = h * self.scorer(x).softmax(1)
        return self.head(h * self.scaled() + self.frozen)


def line_of(text):
    lines, start = inspect.getsourcelines(Cut)
    return start + next(k for k, line in enumerate(lines) if text in line)


def test_each_parameter_without_gradient_has_the_cut_that_keeps_it_out():
    found = assert_is_autograds(Cut(), torch.randn(5, 4))
    cuts = {one.name: (one.cut.kind, one.cut.place.line) for one in found.unreached if one.cut}
    detach, block = ("detach", line_of(".detach()")), ("no_grad", line_of("with torch.no_grad():"))
    method = ("no_grad", line_of("@torch.no_grad()"))
    assert cuts == {"encoder.weight": detach, "encoder.bias": detach, "scorer.weight": block, "scorer.bias": block, "scale": method}
    reasons = {one.name: one.reason for one in found.unreached}
    assert reasons["frozen"] == "its requires_grad is False"
    assert reasons["spare.weight"] == "not used by this call"
    assert "tests/debug/test_graph.py" in reasons["scale"]


def test_a_detach_that_keeps_no_parameter_out_is_still_shown():
    layer = nn.Linear(2, 2)

    def run(x):
        y = layer(x)
        return (y - y.detach().mean()).square()

    found = graph(run, torch.randn(3, 2))
    assert [(cut.kind, cut.parameters) for cut in found.cuts] == [("detach", ("weight", "bias"))]
    assert found.unreached == ()


def test_a_value_that_became_a_python_number_is_named():
    layer = nn.Linear(2, 1)
    found = graph(lambda x: x * layer(x).sum().item(), torch.randn(3, 2, requires_grad=True))
    assert [one.name for one in found.unreached] == ["weight", "bias"]
    assert "item at" in found.unreached[0].reason


def _written(layer, x):
    kept = torch.zeros(3, 2)
    with torch.no_grad():
        kept.copy_(layer(x))
    return kept * x


def _inferred(layer, x):
    with torch.inference_mode():
        scale = float(layer(x).sum())
    return x * scale


CUTS = {
    "detach": ("detach", lambda layer, x: x * layer(x).detach()),
    "data": ("detach", lambda layer, x: x * layer(x).data),
    "frozen weight": ("detach", lambda layer, x: x @ layer.weight.detach() + layer.bias.detach()),
    "in place": ("no_grad", _written),
    "inference_mode": ("inference_mode", _inferred),
    "argmax": ("argmax", lambda layer, x: x * layer(x).argmax(1, keepdim=True)),
}


@pytest.mark.parametrize("name", CUTS)
def test_every_way_to_cut_is_named_with_its_line(name):
    kind, function = CUTS[name]
    layer, x = nn.Linear(2, 2), torch.randn(3, 2, requires_grad=True)
    found = graph(function, layer, x)
    assert {one.name: one.cut.kind for one in found.unreached} == {"weight": kind, "bias": kind}
    lines, start = inspect.getsourcelines(function)
    assert all(start <= one.cut.place.line < start + len(lines) for one in found.unreached)


def test_a_parameter_whose_cut_value_meets_another_way_is_reached():
    layer, x = nn.Linear(2, 2), torch.randn(3, 2)
    found = graph(lambda x: layer(x) + layer(x).detach(), x)
    assert (found.unreached, [cut.parameters for cut in found.cuts]) == ((), [("weight", "bias")])


def test_sampling_without_gradients_has_no_nodes_and_names_the_cut():
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
    found = graph(model, 3, verb="sample")
    assert (found.nodes, found.saved_bytes, found.reached) == ((), 0, ())
    assert {one.cut.kind for one in found.unreached} == {"no_grad"}


def test_a_function_that_returns_none_for_a_parameter_leaves_it_out():
    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, a, b):
            ctx.save_for_backward(x)
            ctx.double = x * 2
            return x * a * b

        @staticmethod
        def backward(ctx, gradient):
            return gradient, (gradient * ctx.saved_tensors[0]).sum(), None

    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    found = graph(lambda x: First.apply(x, a, b).sum(), torch.randn(6))
    assert (found.reached, [one.name for one in found.unreached]) == (("a",), ["b"])
    assert (found.saved_bytes, found.attribute_bytes) == (0, 24)  # x is an input; ctx.double is 6 numbers
    assert [node.operation for node in found.nodes] == ["First", "sum"]
    assert found.nodes[0].place.line == inspect.currentframe().f_lineno - 4


def test_a_tensor_overwritten_after_it_was_saved_is_named_with_both_lines():
    def run(w):
        y = w.exp()
        y.add_(1)
        return y.sum()

    first = inspect.getsourcelines(run)[1]
    found = graph(run, torch.ones(3, requires_grad=True))
    (node,) = found.overwritten
    assert (node.operation, node.place.line) == ("exp", first + 1)
    assert node.saved[0].overwritten.startswith("add_ at ")
    assert node.saved[0].overwritten.endswith(f":{first + 2} in run: y.add_(1)")
    assert "OVERWRITTEN" in str(found)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run(torch.ones(3, requires_grad=True)).backward()


def test_writes_to_views_count_what_they_save():
    """The node of such a write does not show what it holds: here the second sigmoid's result, in the storage of the product."""
    w = torch.ones(3, 2, requires_grad=True)

    def run(w):
        product = w.sigmoid().view(-1) * 2
        product[:2].sigmoid_()
        return product.sum()

    assert graph(run, w).saved_bytes == hooked_bytes(lambda: run(w), w)[0] == 48
    assert graph(run, w).nodes[-2].in_place


def test_a_view_keeps_its_storage():
    found = graph(lambda w: torch.ones(1000)[:2] * w, torch.ones(2, requires_grad=True))
    (saved,) = [one for one in found.saved if one.counted]
    assert (saved.shape, saved.bytes, saved.view) == ((2,), 4000, True)


def test_nodes_state_module_line_and_forward_name():
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    found = graph(net, torch.zeros(100, 2))
    by_module = {node.module: node for node in found.nodes}
    assert {name: node.operation for name, node in by_module.items()} == {"0": "linear", "1": "tanh", "2": "linear"}
    (kept,) = by_module["1"].saved
    assert (kept.name, kept.kind, kept.shape, kept.dtype, kept.bytes) == ("result", "activation", (100, 8), torch.float32, 3200)
    kinds = {(one.name, one.kind, one.label) for node in found.nodes for one in node.saved if not one.counted}
    assert kinds == {("mat1", "input", "inputs[0]"), ("mat2", "parameter", "2.weight"), ("mat1", "activation", "")}


def test_a_model_among_the_arguments_is_known_like_one_that_is_called():
    model, x = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(5, 2)
    called, given, bound = graph(model, x), graph(lambda net, x: net(x), model, x), graph(lambda x: model(x), x)
    for found in (given, bound):
        assert (found.saved_bytes, found.reached, found.unreached) == (called.saved_bytes, called.reached, ())
        assert [node.module for node in found.nodes] == [node.module for node in called.nodes]
    head = nn.Linear(1, 1)
    both = graph(lambda net, x, head: head(net(x)), model, x, head=head)
    assert both.reached[-1] == "head.bias"
    assert both.reached[0] == "inputs[0].0.weight"


def test_the_observed_call_returns_the_same_bits_and_stores_no_gradient():
    model, x, cond = pf.registry.entry("models.realnvp").example()
    values = []

    def run(x):
        values.append(model.loss(x, cond, generator=torch.Generator().manual_seed(0)))
        return values[-1]

    run(x)
    graph(run, x)
    assert torch.equal(*values)
    assert all(p.grad is None for p in model.parameters())


def test_text_and_picture_fit_on_a_page(tmp_path):
    model, x, _ = pf.registry.entry("models.glow").example()
    found = graph(model, x)
    assert len(str(found).splitlines()) <= 70
    assert "bijection Multiscale" in str(found)
    assert len(found.text(depth=1).splitlines()) < len(found.text(depth=3).splitlines())
    text = found.svg(tmp_path / "glow.svg")
    assert (tmp_path / "glow.svg").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["glow.svg"]
    boxes = rectangles(text)
    assert 8 <= len(boxes) <= 32
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[:k] if overlap(a, b)]
    assert len(rectangles(found.svg(depth=1))) < len(boxes) < len(rectangles(found.svg(depth=9)))


def test_a_large_model_is_one_page_whose_heaviest_modules_are_opened():
    model, x = image_flow(pf.nn.UNet.Config(channels=8))
    text = graph(model, x).svg()
    assert 12 <= len(rectangles(text)) <= 32
    assert "net.up.0" in text
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def steps(x):
        for _ in range(50):
            x = x + 0.1 * network(x)
        return x

    text = graph(steps, torch.randn(3, 2)).svg()
    assert "×50" in text
    assert len(rectangles(text)) == 4  # the function's own code and three layers


def rectangles(text):
    """Return (left, top, width, height) of each box of a picture."""
    space = "{http://www.w3.org/2000/svg}"
    boxes = [one.find(f"{space}rect") for one in ElementTree.fromstring(text).iter(f"{space}g")]
    return [tuple(float(box.get(key)) for key in ("x", "y", "width", "height")) for box in boxes if box is not None and box.get("x")]


def overlap(a, b):
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (3, {}, "model is 3, but it must be a model, a Module or a function."),
        (nn.Linear(1, 1), {"verb": "forwards"}, "'forwards' is not a known method of Linear; did you mean 'forward'?"),
        (lambda: 3, {}, "<lambda> returned 3, which holds no tensor; give a function that returns one."),
    ],
)
def test_what_cannot_be_observed_is_refused(model, options, words):
    with pytest.raises(UserError) as error:
        graph(model, **options)
    assert words in str(error.value)
