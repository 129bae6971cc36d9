"""What torch offers around a model holds for every preset: the meta device, export with any batch size, inference mode."""

import conditional
import pytest
import torch
from examples import by, examples, latents, some_of
from torch.utils._pytree import tree_leaves

import pushforward as pf
from pushforward import _modes
from pushforward.samplers.heun import Heun

MODELS = [*examples("models"), *conditional.MODELS]
VERBS = ["encode", "decode", "log_prob"]
FEW = ("models.nice", "models.maf", "models.glow", "models.rectified_flow")  # a family of networks each; the others are slow
DERIVED = ("models.rectified_flow", "models.ffjord", "models.meanflow", "models.improved_meanflow")  # by vjp and by jvp
EXPORTED = [one if one.id in FEW else pytest.param(*one.values, id=one.id, marks=pytest.mark.slow) for one in MODELS]


def _fixed(model):
    """The arguments of a verb in a number of steps that does not depend on the values, for models that solve an ODE."""
    return by(model, Heun(2))


def _results(model, x, cond):
    with torch.no_grad():
        samples = model.sample(len(x), cond, **_fixed(model), generator=torch.Generator().manual_seed(0))
        return samples, *(getattr(model, verb)(_given(model, verb, x), cond, **_fixed(model)) for verb in VERBS if verb in model.verbs)


def _given(model, verb, x):
    return latents(model, x) if verb == "decode" else x


@pytest.mark.parametrize("subject", MODELS)
def test_a_model_built_on_the_meta_device_is_its_state_dict(subject):
    """Whatever else a map is made of, such as masks and permutations, is in the state or follows from the arguments."""
    torch.manual_seed(1)
    model, x, cond = subject.example()
    with torch.device("meta"):
        shell = subject.example()[0]
    assert all(one.is_meta for one in shell.parameters())
    shell.to_empty(device="cpu")
    for one in (*shell.parameters(), *shell.buffers()):
        one.data.fill_(7)
    shell.load_state_dict(model.state_dict())
    torch.testing.assert_close(_results(shell.eval(), x, cond), _results(model.eval(), x, cond))


class Verb(torch.nn.Module):
    def __init__(self, model, verb):
        super().__init__()
        self.model, self.verb = model, verb

    def forward(self, x, cond):
        return getattr(self.model, self.verb)(x, cond, **_fixed(self.model))


@pytest.mark.parametrize(("subject", "verb"), some_of(EXPORTED, VERBS))
def test_an_exported_verb_takes_any_number_of_rows(subject, verb):
    torch.manual_seed(1)
    model, x, cond = subject.example()
    if verb not in model.verbs:
        pytest.skip(f"has no {verb}")
    x = _given(model, verb, x)
    if verb == "log_prob" and model.sampler is not None:
        pytest.skip("torch.export does not trace torch.func, by which divergences are computed")
    model, batch = model.eval(), torch.export.Dim("n", min=2)
    leaves = [{0: batch} for _ in tree_leaves(cond)]  # of texts several
    shapes = ({0: batch}, None if cond is None else leaves[0] if isinstance(cond, torch.Tensor) else leaves)
    with torch.no_grad():
        exported = torch.export.export(Verb(model, verb), (x, cond), dynamic_shapes=shapes).module()
        for rows in (len(x), 2, 7):
            some = torch.arange(rows) % len(x)
            given = x[some], None if cond is None else cond[some]
            torch.testing.assert_close(exported(*given), getattr(model, verb)(*given, **_fixed(model)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("subject", MODELS)
def test_inference_mode_changes_no_value(subject):
    torch.manual_seed(1)
    model, x, cond = subject.example()
    model.eval()
    expected = _results(model, x, cond)
    with torch.inference_mode():
        torch.testing.assert_close(_results(model, x, cond), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("subject", [one for one in MODELS if one.id in DERIVED])
def test_where_torch_func_does_not_differentiate_in_inference_mode_it_runs_outside(subject, monkeypatch):
    """As before torch 2.12, where its derivatives are 0 there."""
    model, x, cond = subject.example()
    model.eval()

    def derived(x, cond):
        found = [model.loss(x, cond, generator=torch.Generator().manual_seed(0))]
        return [*found, model.log_prob(x, cond, **_fixed(model))] if "log_prob" in model.verbs else found

    expected, inside = derived(x, cond), []
    monkeypatch.setattr(_modes, "INFERENCE_DIFFERENTIATES", False)
    for name in ("jvp", "vjp"):
        plain = getattr(torch.func, name)
        monkeypatch.setattr(
            torch.func, name, lambda *args, plain=plain: (inside.append(torch.is_inference_mode_enabled()), plain(*args))[1]
        )
    with torch.inference_mode(), pf.fast.disabled():
        found = derived(x.clone(), None if cond is None else cond.clone())
    with torch.no_grad():  # a fast path of the library's must not turn inference mode on
        found = [*found, *derived(x, cond)]
    torch.testing.assert_close(found, [one.detach() for one in 2 * expected], rtol=1e-6, atol=1e-6)
    assert inside
    assert not any(inside)


def test_noise_is_removed_in_inference_mode():
    """By a score, for which autograd runs there."""
    model = pf.models.tarflow((1, 4, 4), classes=3, noise=0.1).eval()
    drawn = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            drawn.append(model.sample(3, torch.tensor([0, 1, 2]), generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*drawn)
