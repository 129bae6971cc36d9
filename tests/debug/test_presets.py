"""One training step of every preset, and every network, raises no alarm."""

import pytest
import torch
from examples import examples
from torch import nn

from pushforward.debug.aliasing import check_aliasing

QUICK = ("models.flow_matching", "models.glow", "models.nsf")
PRESETS = [one if one.id in QUICK else pytest.param(*one.values, id=one.id, marks=pytest.mark.slow) for one in examples("models")]


@pytest.mark.parametrize("entry", PRESETS)
def test_a_training_step_of_a_preset_raises_no_alarm(entry):
    model, x, cond = entry.example()

    def step(x, cond):
        for optimiser in (torch.optim.AdamW(model.parameters(), fused=True), torch.optim.SGD(model.parameters(), 1e-4)):
            optimiser.zero_grad(set_to_none=False)
            model.loss(x, cond).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        with torch.no_grad():
            if model.sampler is None or not model.sampler.jumps:  # which go from noise to data only
                model.encode(x, cond)
            model.sample(len(x), cond)

    report = check_aliasing(step, x, cond)
    assert not report.findings, str(report)
    report = check_aliasing(model.loss, x, cond)
    assert not report.findings, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [*examples("nn", of=nn.Module), *examples("bijections", of=nn.Module)])
def test_a_module_raises_no_alarm(entry):
    made = entry.example()
    module, *inputs = made if isinstance(made, tuple) else (made,)
    if not inputs:
        pytest.skip("the example has no inputs")
    if isinstance(inputs[0], tuple):
        (inputs,) = inputs
    report = check_aliasing(module, *inputs)
    assert not report.findings, str(report)
