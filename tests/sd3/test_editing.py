"""Images edited by prompts, on random weights."""

import itertools

import pytest
import torch

import pushforward as pf
from pushforward.editing import FlowEdit, RFInversion
from pushforward.errors import ConditionError, UserError
from pushforward.guidance import CFG, SkipLayers
from pushforward.samplers import DDIM, Shifted

SIZE, TOKENS = (64, 48), 16
pytestmark = pytest.mark.usefixtures("float32")
QUICK = FlowEdit(3.5, 13.5, steps=4, n_max=3)


@pytest.fixture(scope="module")
def model(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(2, 16, 8, 6, generator=torch.Generator().manual_seed(3))


def edited(model, latents, source, target, method=QUICK, **options):
    return model.edit(latents, source, target, **{"method": method, "generator": 0, "output": "latents", "tokens": TOKENS} | options)


def test_the_same_prompt_and_scale_on_both_sides_return_the_latents_exactly(model, latents):
    same = FlowEdit(5.0, 5.0, steps=4, n_max=4)
    assert torch.equal(edited(model, latents, "a fox", "a fox", same), latents)
    changed = edited(model, latents, "a fox", ["a fox", "a wolf"], same)
    assert torch.equal(changed[0], latents[0])
    assert not (changed[1] == latents[1]).all()


def test_the_steps_are_those_of_the_published_code(model, latents):
    """One image, n_max = 3 of 4 steps on Stable Diffusion 3's grid, under both scales of guidance away from the empty prompt."""
    times = Shifted(3.0, 1000)(1.0, 0.0, 4)[1:]
    x, net = latents[:1], model.transformer
    source, target, empty = (model.encode_prompt(prompt, TOKENS) for prompt in ("a fox", "a wolf", ""))
    generator, z = torch.Generator().manual_seed(0), latents[:1]
    with torch.no_grad():
        for t, s in itertools.pairwise(times):
            at = torch.tensor([t])
            z_source = (1 - t) * x + t * torch.randn(x.shape, generator=generator)
            z_target = z + z_source - x
            velocities = []
            for state, cond, scale in ((z_source, source, 3.5), (z_target, target, 13.5)):
                plain, negative = net(state, at, cond), net(state, at, empty)
                velocities.append(negative + scale * (plain - negative))
            z = z + (s - t) * (velocities[1] - velocities[0])
    torch.testing.assert_close(edited(model, x, "a fox", "a wolf"), z, rtol=0, atol=1e-4)


def test_images_of_a_seed_do_not_depend_on_chunks_and_come_in_all_forms(model):
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    options = {"method": QUICK, "negative": "blurred", "generator": 7, "output": "tensor", "tokens": TOKENS}
    whole, parts = (model.edit(images, "a fox", ["a wolf", "a cat"], **options, batch_size=size) for size in (None, 1))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)
    (pil,) = model.edit(images[:1], "a fox", "a wolf", method=FlowEdit(steps=2), generator=7, tokens=TOKENS)
    assert pil.size == (48, 64)


def test_rf_inversion_is_encode_and_decode_or_the_image(model, latents):
    steps = DDIM(3, grid=Shifted(3.0, 1000))
    noise = model.encode(latents, "a fox", sampler=steps, tokens=TOKENS).noise
    plain = model.decode(noise, "a wolf", sampler=steps, guidance=4.0, tokens=TOKENS, output="latents")
    made = edited(model, latents, "a fox", "a wolf", RFInversion(None, 4.0, steps=3, gamma=0.0, eta=0.0))
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-4)
    kept = edited(model, latents, "a fox", "a wolf", RFInversion(None, 4.0, steps=3, eta=1.0, interval=(0.0, 1.0)))
    torch.testing.assert_close(kept, latents, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_guidance_that_depends_on_steps_and_offloading_work(tiny, latents):
    model = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload=True)
    guidance = SkipLayers((1,), steps=(0.0, 0.5), guidance=CFG(4.0))
    same = FlowEdit(guidance, guidance, steps=4, n_max=4)
    assert torch.equal(edited(model, latents, "a fox", "a fox", same), latents)
    assert not torch.equal(edited(model, latents, "a fox", "a fox", FlowEdit(CFG(4.0), guidance, steps=4, n_max=4)), latents)


def test_what_does_not_fit_is_refused_before_anything_is_computed(model, latents, monkeypatch):
    monkeypatch.setattr(model.transformer, "forward", lambda *args, **options: pytest.fail("computed"))
    with pytest.raises(UserError, match="method is 'flow', but it is pf.editing.FlowEdit"):
        edited(model, latents, "a fox", "a wolf", "flow")
    with pytest.raises(ConditionError, match="there are 3 targets for 2 images"):
        edited(model, latents, "a fox", ["a", "b", "c"])
    with pytest.raises(UserError, match=r"target\[0\] is 3, but a prompt"):
        edited(model, latents, "a fox", [3])
    with pytest.raises(UserError, match="generator is a list of 3"):
        edited(model, latents, "a fox", "a wolf", generator=[1, 2, 3])
