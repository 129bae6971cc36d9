"""Images edited by prompts, on random weights."""

import itertools

import pytest
import torch

import pushforward as pf
from pushforward.editing import FlowEdit, RFInversion
from pushforward.errors import ConditionError, ShapeError, UserError
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


def test_latents_of_3_channels_are_not_taken_for_images(tiny):
    """An image and a latent may then have one shape: whoever gives a tensor states which it is."""
    torch.manual_seed(0)
    vae = pf.nn.AutoencoderKL(latent_channels=3, widths=(8, 8), blocks=1, groups=2, scale=1.0, shift=0.0).eval()
    net = pf.nn.MMDiT((3, 16, 16), depth=1, heads=2, context_width=12, pooled_width=10, positions=8, null_tokens=2).eval()
    small = pf.StableDiffusion3(net, vae)
    assert (vae.factor, small.step) == (2, 4)
    text = pf.TextContext(torch.randn(1, 4, 12), torch.randn(1, 10))
    pictures, sampler = torch.rand(2, 3, 16, 16), pf.samplers.Euler(1)
    ways = {
        "encode": lambda image, **options: small.encode(image, text, sampler=sampler, **options).latents,
        "vary": lambda image, **options: small.vary(image, text, amount=0, sampler=sampler, output="latents", **options),
        "edit": lambda image, **options: small.edit(image, text, text, method=FlowEdit(1, 1, steps=1), output="latents", **options),
        "log_prob": lambda image, **options: small.log_prob(image, text, probes=2, sampler=sampler, **options).log_prob,
    }
    for name, way in ways.items():
        for given in (pictures, pictures[0]):
            with pytest.raises(UserError, match="this model's latents have 3 channels too; give are_latents=False if it is an image"):
                way(given)
        shapes = [way(pictures, are_latents=choice).shape[1:] for choice in (False, True)]
        assert shapes == ([(), ()] if name == "log_prob" else [(3, 8, 8), (3, 16, 16)]), name
    with torch.no_grad():
        assert torch.equal(ways["encode"](pictures, are_latents=False), vae.encode(2 * pictures - 1))
        assert torch.equal(ways["encode"](pictures.permute(0, 2, 3, 1).numpy()), vae.encode(2 * pictures - 1))  # an array is an image
    assert torch.equal(ways["encode"](pictures, are_latents=True), pictures)
    for wrong in (pictures[0], pictures.byte(), pictures.numpy(), pictures[:, :2]):
        with pytest.raises(ShapeError, match=r"they must be a tensor of floats \(n, 3, height, width\)"):
            ways["encode"](wrong, are_latents=True)


def test_other_numbers_of_channels_decide_and_may_be_stated(model, latents):
    picture = torch.rand(1, 3, *SIZE)
    ways = [model.encode(picture, sampler=pf.samplers.Euler(1), tokens=TOKENS, are_latents=choice).latents for choice in (None, False)]
    assert torch.equal(*ways)
    with pytest.raises(ShapeError, match=r"tensor of floats \(n, 16, height, width\)"):
        model.encode(picture, are_latents=True)
    with pytest.raises(ShapeError, match="but a tensor must be"):
        model.encode(latents, are_latents=False)
