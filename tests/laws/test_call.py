"""The law of the call: what a person does to a part of a model holds in every verb.

A part that is subclassed, hooked, wrapped, parametrised, given a LoRA, compiled, or run in another mode gives through all five verbs what
the same thing gives behind a plain Module. The quick tests touch one part of each type in each type of part that holds it, in one model
of each family, and override its call in two of four ways in turn; `make test-slow` touches every part of every model in every way.
"""

import copy
import subprocess
import sys
from pathlib import Path

import conditional
import pytest
import torch
from calls import (
    FACTOR,
    agree,
    backward_hooked,
    behind,
    behind_inputs,
    called_otherwise,
    compiled,
    compiled_in_place,
    differ,
    exchanged,
    gradients,
    hooked,
    kinds,
    parametrised,
    parts,
    pre_hooked,
    replaced_forward,
    results,
    subclassed,
    weight_normed,
    with_bent_weights,
    with_doubled_weight,
)
from examples import one_in
from torch import nn

import pushforward as pf
from pushforward import registry
from pushforward.errors import UserError


def _path_model(net, shape, **options):
    return pf.families.PathModel(net, shape, **options)


def _mmdit():
    """The registry's example on two patches in the place of six: the exact divergence takes a pass for each value of an image."""
    net, (x, _, cond) = registry.entry("nn.MMDiT").example()
    x = x[:, :, :2, :4]
    return _path_model(net, x.shape[1:], path=pf.paths.Linear()), x, cond


def _unet():
    return _path_model(pf.nn.UNet((1, 4, 4), channels=8, multipliers=(1, 2), depth=1), (1, 4, 4)), torch.randn(2, 1, 4, 4), None


def _dit():
    net = pf.nn.DiT((1, 4, 4), width=8, depth=1, heads=2, classes=2)
    return _path_model(net, (1, 4, 4), classes=2), torch.randn(2, 1, 4, 4), torch.tensor([1, 0])


def _glow():
    return pf.models.glow(shape=(1, 4, 4), levels=2, depth=1, hidden=4, classes=2), torch.randn(2, 1, 4, 4), torch.tensor([1, 0])


def _of_vectors():
    """A U-Net and a DiT have no quick tests of all of their parts; the condition's are these."""
    net = pf.nn.DiT((1, 2, 2), patch=1, width=8, depth=1, heads=2, cond_features=3)
    return _path_model(net, (1, 2, 2), cond_features=3), torch.randn(2, 1, 2, 2), torch.randn(2, 3)


def _of(name):
    return registry.entry(name).example()


QUICK = {
    "realnvp": lambda: _of("models.realnvp"),
    "maf": lambda: _of("models.maf"),
    "nsf": lambda: _of("models.nsf"),
    "glow": _glow,
    "tarflow": lambda: _of("models.tarflow"),
    "flow_matching": lambda: _of("models.flow_matching"),
    "ffjord": lambda: _of("models.ffjord"),
    "improved_meanflow": lambda: _of("models.improved_meanflow"),
    "mmdit": _mmdit,
    "dit_of_vectors": _of_vectors,
}
ALL = {
    **QUICK,
    "unet": _unet,
    "dit": _dit,
    **{one.id: one.values[0].example for one in conditional.MODELS},
    **{one.name.partition(".")[2]: one.example for group in ("models", "families") for one in registry.entries(group) if one.example},
}
OVERRIDES = {"hook": hooked, "subclass": subclassed, "__call__": called_otherwise, "forward of the instance": replaced_forward}


def _made(make):
    """Return a model with parameters away from where they start, so that every part counts, and its x and cond."""
    torch.manual_seed(3)
    model, x, cond = make()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn_like(p))
    return model.eval(), x, cond


def _quick_subjects():
    """One part of each type in each type that holds it; the models have many of them in common."""
    found, subjects = set(), []
    for key, make in QUICK.items():
        model = _made(make)[0]
        for part in kinds(model):
            kind = type(model.get_submodule(part)), type(_holder(model, part))
            if kind not in found:
                subjects.append(pytest.param(make, part, id=f"{key}-{part}"))
            found.add(kind)
    return subjects


def _holder(model, part):
    """The part that calls this one: lists of modules have no call."""
    above = part.rpartition(".")[0]
    holder = model.get_submodule(above)
    return holder if type(holder).forward is not nn.Module.forward else _holder(model, above)


QUICK_SUBJECTS = _quick_subjects()
EACH_MODEL = [pytest.param(make, id=key) for key, make in ALL.items()]  # whose parts are found in the tests: that takes a while


def _touched(make, part, overrides=tuple(OVERRIDES)):
    model, x, cond = _made(make)
    with torch.no_grad():
        before = results(model, x, cond)
        agree(results(exchanged(model, part, behind), x, cond), before, f"{part} behind a plain Module")
        expected = results(exchanged(model, part, lambda one: behind(one, FACTOR)), x, cond)
        for name in overrides:
            found = results(exchanged(model, part, OVERRIDES[name]), x, cond)
            agree(found, expected, f"{part} under {name}")
        assert differ(expected, before), f"{part} counts for nothing"
        found = results(exchanged(model, part, pre_hooked), x, cond)
        agree(found, results(exchanged(model, part, behind_inputs), x, cond), f"{part} under a forward-pre hook")


@pytest.mark.parametrize(
    ("make", "part", "overrides"),
    [pytest.param(*one.values, list(OVERRIDES)[k % 2 :: 2], id=one.id) for k, one in enumerate(QUICK_SUBJECTS)],
)
def test_a_touched_part_gives_what_it_gives_behind_a_plain_module(make, part, overrides):
    _touched(make, part, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("make", EACH_MODEL)
def test_any_touched_part_gives_what_it_gives_behind_a_plain_module(make):
    for part in parts(_made(make)[0]):
        _touched(make, part)


def _has_parameters_of_its_own(model, part):
    return any(True for _ in model.get_submodule(part).parameters(recurse=False))


def _reparametrised(make, part):
    model, x, cond = _made(make)
    with torch.no_grad():
        found, expected = (results(exchanged(model, part, change), x, cond) for change in (parametrised, with_bent_weights))
        agree(found, expected, f"{part} parametrised")
        if isinstance(model.get_submodule(part), nn.Linear | nn.Conv2d):
            found, expected = (results(exchanged(model, part, change), x, cond) for change in (weight_normed, with_doubled_weight))
            agree(found, expected, f"{part} under weight norm")


@pytest.mark.parametrize(("make", "part"), QUICK_SUBJECTS)
def test_a_parametrised_part_has_the_weights_that_it_is_given(make, part):
    if not _has_parameters_of_its_own(_made(make)[0], part):
        pytest.skip("no parameters of its own")
    _reparametrised(make, part)


@pytest.mark.slow
@pytest.mark.parametrize("make", EACH_MODEL)
def test_any_parametrised_part_has_the_weights_that_it_is_given(make):
    model = _made(make)[0]
    for part in parts(model):
        if _has_parameters_of_its_own(model, part):
            _reparametrised(make, part)


@pytest.mark.parametrize("key", ["realnvp", "glow", "flow_matching", "mmdit"])
def test_a_backward_hook_changes_the_gradients_of_what_it_is_on(key):
    model, x, cond = _made(QUICK[key])
    before = gradients(model, x, cond)
    changes = 0
    for part in kinds(model):
        found = gradients(exchanged(model, part, backward_hooked), x, cond)
        with pf.fast.disabled():
            expected = gradients(exchanged(model, part, backward_hooked), x, cond)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
        changes += any(not torch.allclose(one, other) for one, other in zip(found, before, strict=True))
    assert changes >= 2


def test_a_divergence_of_what_has_a_backward_hook_is_refused():
    model, x, cond = _made(QUICK["flow_matching"])
    with pytest.raises(UserError, match="has a backward hook"):
        exchanged(model, "net.layers.0", backward_hooked).log_prob(x, cond)


def _fast_and_plain(make):
    model, x, cond = _made(make)
    with torch.no_grad():
        found = results(model, x, cond)
        with pf.fast.disabled():
            agree(found, results(model, x, cond), "in the plain way")
        with torch.inference_mode():
            agree(results(model, x, cond), found, "in inference mode")
        agree(results(model, x, cond), found, "after inference mode")
        agree(results(copy.deepcopy(model), x, cond), found, "copied")
    with_grad = results(model, x.clone().requires_grad_(), cond)
    agree(with_grad, found, "with gradients")
    for one, other in zip(gradients(model, x, cond), _plain_gradients(model, x, cond), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def _plain_gradients(model, x, cond):
    with pf.fast.disabled():
        return gradients(model, x, cond)


@pytest.mark.parametrize("make", one_in(2, EACH_MODEL))
def test_the_fast_way_the_plain_way_and_inference_mode_agree(make):
    _fast_and_plain(make)


@pytest.mark.parametrize("key", list(QUICK))
def test_under_autocast_every_verb_is_near_float32_and_decode_undoes_encode(key, float32):
    model, x, cond = _made(QUICK[key])
    with torch.no_grad():
        exact = results(model, x, cond, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = results(model, x, cond, 2)
            with pf.fast.disabled():
                agree(low, results(model, x, cond, 2), "the plain way under autocast", 0.02)
            coarse = pf.samplers.Dopri5(0.05, 0.05)  # a field in bfloat16 is known to 2^-8 at best
            back = model.decode(low["encode"], cond, **({} if model.sampler is None else {"sampler": coarse}))
    agree(low, exact, "under autocast", 0.1)
    if model.sampler is None:
        torch.testing.assert_close(back, x, rtol=0.05, atol=0.1)


def _lora(model):
    peft = pytest.importorskip("peft")
    names = [name for name, part in model.named_modules() if type(part) is nn.Linear]
    model = copy.deepcopy(model)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=4, target_modules=names), model)
    for name, p in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.2)
    return model


def _merged(model):
    """Return the model of a LoRA with its products added to the weights."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if hasattr(part, "merge") and hasattr(part, "lora_A"):
            part.merge()
    return model


@pytest.mark.parametrize("key", ["realnvp", "nsf", "tarflow", "flow_matching", "ffjord", "mmdit"])
def test_a_lora_holds_in_every_verb(key):
    """Beside the same one merged into the weights, and other than none."""
    model, x, cond = _made(QUICK[key])
    with torch.no_grad():
        adapted = _lora(model).eval()
        found = results(adapted, x, cond)
        agree(found, results(_merged(adapted), x, cond), "a LoRA", 1e-6)
        before = results(model, x, cond)
    assert all(differ({**before, verb: found[verb]}, before) for verb in found)


@pytest.mark.parametrize("key", ["maf"])
def test_a_lora_of_masked_layers_is_refused(key):
    """What it adds has no mask, so that the density would be wrong."""
    peft = pytest.importorskip("peft")
    model, _, _ = _made(QUICK[key])
    names = [name for name, part in model.named_modules() if type(part).__name__ == "MaskedLinear"]
    with pytest.raises(ValueError, match="not supported"):
        peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=names), model)


def _compiled_part(make, part):
    model, x, cond = _made(make)
    with torch.no_grad():
        before = results(model, x, cond)
        for compile_part in (compiled_in_place, compiled):
            if compile_part is compiled and isinstance(model.get_submodule(part), pf.bijections.Bijection):
                continue  # torch's wrapper has no inverse
            torch.compiler.reset()
            agree(results(exchanged(model, part, compile_part), x, cond), before, f"{part} compiled")


def _in_another_process(**calls):
    """Run calls where no annotation is checked, which a compiler cannot see through, and where a process group may be made."""
    tests = Path(__file__).resolve().parent
    lines = ["import sys, torch", f"sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]", "torch.set_default_dtype(torch.float64)"]
    lines += ["import test_call", *(f"test_call.{name}(test_call.QUICK[{key!r}], {part!r})" for name in calls for key, part in calls[name])]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("key", list(QUICK))
def test_any_compiled_part_gives_what_it_gives_otherwise(key):
    _in_another_process(_compiled_part=[(key, part) for part in kinds(_made(QUICK[key])[0])])


def _compiled_before_anything_else(make, part):
    """Compile a part in a process that has not used its fast paths, whose import the compiler must not take for a change of its guards."""
    model, x, cond = _made(make)
    with torch.no_grad():
        first = results(exchanged(model, part, lambda inner: torch.compile(inner, backend="eager")), x, cond)
        agree(first, results(model, x, cond), f"{part} compiled first")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "part"), [("mmdit", "net"), ("flow_matching", "net"), ("maf", "bijection.steps.0.net"), ("tarflow", "bijection.steps.0.net")]
)
def test_a_part_that_is_compiled_before_anything_else_gives_what_it_gives_otherwise(key, part):
    _in_another_process(_compiled_before_anything_else=[(key, part)])


def _sharded_part(make, part):
    """Shard a part over the only process there is: its parameters are gathered by hooks around its call, and nowhere else."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model, x, cond = _made(make)
    with torch.no_grad():
        before = results(model, x, cond)
        fully_shard(model.get_submodule(part), mesh=dist.init_device_mesh("cpu", (1,)))
        agree(results(model, x, cond), before, f"{part} sharded")


def test_a_sharded_or_compiled_part_gives_what_it_gives_otherwise():
    """In one process, as it is imports that take the time; one of each family is compiled, as all are in the slow tests."""
    sharded = [("realnvp", "bijection.steps.0"), ("maf", "bijection.steps.0.net"), ("glow", "bijection.levels.0.steps.1")]
    if torch.__version__ >= (2, 12):  # with torch 2.10 a divergence through hooks of shards is refused
        sharded += [("flow_matching", "net"), ("mmdit", "net.blocks.0")]
    compiled_parts = [("realnvp", "bijection.steps.0"), ("flow_matching", "net")]
    _in_another_process(_sharded_part=sharded, _compiled_part=compiled_parts)


@pytest.mark.slow
@pytest.mark.parametrize("key", list(QUICK))
def test_any_sharded_part_gives_what_it_gives_otherwise(key):
    _in_another_process(_sharded_part=[(key, part) for part in kinds(_made(QUICK[key])[0])])


@pytest.mark.parametrize("make", EACH_MODEL)
def test_weights_loaded_into_empty_storage_make_the_same_model(make):
    """Whatever a model needs is a parameter, a buffer that is saved, or follows from its settings."""
    model, x, cond = _made(make)
    empty = copy.deepcopy(model).to_empty(device="cpu")
    for one in (*empty.parameters(), *empty.buffers()):
        one.data.fill_(float("nan") if one.is_floating_point() else 0)  # what memory holds may be anything
    empty.load_state_dict(model.state_dict())
    with torch.no_grad():
        agree(results(empty, x, cond), results(model, x, cond), "loaded into empty storage")
