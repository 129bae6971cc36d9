"""TarFlow: what is causal, what is kept, what guidance and denoising do."""

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.bijections.causal import TransformerAutoregressive
from pushforward.errors import ConditionError, UserError


@pytest.fixture
def flow(float64):
    """A small model away from the identity."""
    model = pf.models.tarflow((1, 4, 4), 2, 2, width=8, depth=2, heads=2, noise=0.3, preprocess="none", classes=3)
    for layer in model.modules():
        if isinstance(layer, TransformerAutoregressive):
            nn.init.normal_(layer.net.out.weight, std=0.3)
    return model.eval()


def test_a_patch_is_changed_by_what_patches_before_it_say(flow):
    layer = flow.bijection.steps[0]
    x = torch.randn(1, 1, 4, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: pf.functional.patchify(layer(x)[0], 2), x)
    patches = pf.functional.patchify(jacobian.view(16, 1, 4, 4), 2).view(4, 4, 4, 4)  # patch, number; patch, number
    for k in range(4):
        for later in range(k + 1, 4):
            assert not patches[k, :, later].any()
    assert patches[3, :, 0].any()


def test_blocks_begin_at_the_first_and_at_the_last_patch_in_turn(flow):
    assert [step.reverse for step in flow.bijection.steps] == [False, True]


def test_no_guidance_and_guidance_of_scale_one_are_the_same(flow):
    z, cond = torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 2])
    assert torch.equal(flow.decode(z, cond), flow.decode(z, cond, guidance=1.0))


def test_guidance_moves_away_from_the_unconditional_model_more_at_later_patches(flow):
    layer = flow.bijection.steps[0]
    z, cond = torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 2])
    plain, guided = (pf.functional.patchify(x, 2) for x in (layer.inverse(z, cond)[0], layer.guided(z, cond, pf.guidance.CFG(3.0))[0]))
    assert torch.equal(plain[:, 0], guided[:, 0])  # the strength rises from 0 at the first patch
    assert not torch.isclose(plain[:, 1:], guided[:, 1:]).all()


def test_a_guided_sample_has_the_log_probability_of_the_guided_map(flow):
    z, cond = torch.randn(1, 1, 4, 4), torch.tensor([1])
    steps = flow.bijection.steps

    def guided(z):
        for step in reversed(steps):
            z = step.guided(z, cond, pf.guidance.CFG(2.0))[0]
        return z

    jacobian = torch.autograd.functional.jacobian(guided, z).reshape(16, 16)
    by_hand = flow.base.log_prob(z) - torch.linalg.slogdet(jacobian).logabsdet
    x, log_prob = flow.sample(1, cond, guidance=2.0, log_prob=True, generator=torch.Generator().manual_seed(0))
    noise = flow.base.sample(1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, guided(noise), rtol=0, atol=1e-9)
    assert by_hand.shape == log_prob.shape
    jacobian = torch.autograd.functional.jacobian(guided, noise).reshape(16, 16)
    torch.testing.assert_close(log_prob, flow.base.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-9)


def test_denoising_is_a_step_along_the_score(flow):
    """x = y + noise² grad log p(y), with the gradient by differences."""
    cond, generator = torch.tensor([1]), torch.Generator()
    noisy, _ = flow.sample(1, cond, log_prob=True, generator=generator.manual_seed(0))
    clean = flow.sample(1, cond, generator=generator.manual_seed(0))
    score = torch.zeros(16)
    for k in range(16):
        step = torch.zeros(16)
        step[k] = 1e-5
        score[k] = (flow.log_prob(noisy + step.view_as(noisy), cond) - flow.log_prob(noisy - step.view_as(noisy), cond)).item() / 2e-5
    torch.testing.assert_close(clean, noisy + 0.3**2 * score.view_as(noisy), rtol=0, atol=1e-7)


def test_of_a_gaussian_denoising_gives_the_expected_data(float64):
    """Data N(0, 1) with noise s: p(y) = N(0, 1 + s²) and E[x | y] = y / (1 + s²)."""
    scale = pf.bijections.Transform(torch.distributions.AffineTransform(torch.zeros(2), (1 / (1 + 0.5**2)) ** 0.5, event_dim=1))
    flow = pf.families.NormalizingFlow(scale, shape=(2,), noise=0.5, sampler=pf.samplers.Tweedie())
    noisy, _ = flow.sample(5, log_prob=True, generator=torch.Generator().manual_seed(0))
    clean = flow.sample(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(clean, noisy / 1.25)


def _by(model, solver):
    for layer in model.modules():
        if hasattr(layer, "solver"):
            layer.solver = solver
    return model


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_samples_by_jacobi_iteration_are_those_made_patch_by_patch(flow, guidance):
    cond = torch.tensor([0, 1, 2])
    (one, p), (two, q) = (
        _by(flow, solver).sample(3, cond, guidance=guidance, log_prob=True, generator=torch.Generator().manual_seed(0))
        for solver in ("sequential", "jacobi")
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-9)


def test_a_few_samples_of_many_patches_take_passes_over_all_of_them():
    model = pf.models.tarflow((1, 12, 12), 1, 2, width=8, depth=1, heads=2, noise=0.0, preprocess="none")
    passes = []
    layer = model.bijection.steps[0]
    nn.init.normal_(layer.net.out.weight, std=0.05)
    layer.net.register_forward_hook(lambda *args: passes.append(1))
    z = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        model.decode(z[:1])
        assert 1 < len(passes) < 36
        passes.clear()
        _by(model, "sequential").decode(z[:1])
        assert len(passes) == 36


def test_gradients_of_samples_do_not_go_through_jacobi_iteration(flow):
    z = torch.randn(2, 1, 4, 4)
    gradients = []
    for solver in ("sequential", "jacobi"):
        start = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_by(flow, solver).decode(start, torch.tensor([0, 1])).square().sum(), start)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_starflow_conditions_and_guides_the_block_next_to_the_noise(float64):
    model = pf.models.tarflow(
        (1, 4, 4), 3, 2, width=8, depth=(1, 1, 3), heads=2, noise=0.0, preprocess="none", classes=3, conditioned="last"
    ).eval()
    for layer in model.modules():
        if isinstance(layer, TransformerAutoregressive):
            nn.init.normal_(layer.net.out.weight, std=0.3)
    layers = [layer for layer in model.modules() if isinstance(layer, TransformerAutoregressive)]
    assert [len(layer.net.blocks) for layer in layers] == [1, 1, 3]
    cond = torch.tensor([0, 1, 2])
    x = model.sample(3, cond, guidance=2.0, generator=torch.Generator().manual_seed(0))
    noise = model.base.sample(3, generator=torch.Generator().manual_seed(0))
    by_hand = layers[2].guided(noise, cond, pf.guidance.CFG(2.0))[0]
    for layer in layers[1::-1]:
        by_hand = layer.inverse(by_hand)[0]
    torch.testing.assert_close(x, by_hand, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.decode(model.encode(x, cond), cond), x, rtol=0, atol=1e-9)


def test_training_adds_the_noise_and_drops_labels(flow):
    x, cond = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    exact = -flow.log_prob(x, cond).mean() / 16
    assert not torch.isclose(flow.loss(x, cond), exact)
    flow.noise = 0.0
    torch.testing.assert_close(flow.loss(x, cond), exact)
    flow.train()
    flow.drop_cond = 0.999
    torch.testing.assert_close(flow.loss(x, cond, generator=torch.Generator().manual_seed(0)), flow.loss(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pf.models.tarflow((1, 6, 6), patch=4), UserError, "patch is 4, which does not divide an image of 6x6"),
        (lambda: pf.models.tarflow((6,), patch=2), UserError, "patches are of images .* for vectors use `maf`"),
        (lambda: pf.models.tarflow((1, 4, 4), noise=-1.0), UserError, "noise is -1.0"),
        (lambda: pf.models.tarflow((1, 4, 4), heads=3), UserError, "heads is 3, which does not divide the width 128"),
        (lambda: pf.models.tarflow((1, 4, 4), depth=0), UserError, "depth is 0"),
        (lambda: pf.models.tarflow((1, 4, 4), 2, depth=1.5), UserError, "depth is 1.5"),
        (lambda: pf.models.tarflow((1, 4, 4), 2, depth=(1, 0)), UserError, "depth is 0, but it must be at least 1"),
        (lambda: pf.models.tarflow((1, 4, 4), 3, depth=(1, 2)), UserError, r"depth is \(1, 2\) for 3 flow blocks"),
        (lambda: pf.models.tarflow((1, 4, 4), conditioned="first"), UserError, "conditioned is 'first'"),
        (lambda: pf.models.tarflow((1, 4, 4), solver="newton"), UserError, "solver is 'newton', but it is 'auto'"),
        (lambda: pf.models.tarflow((1, 4, 4)).sample(1, guidance=2.0), ConditionError, "guidance 2 needs a condition"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_guidance_that_means_nothing_to_a_flow_is_refused(flow):
    with pytest.raises(UserError, match="a flow has no times or velocities"):
        flow.sample(1, torch.tensor([0]), guidance=pf.guidance.CFG(2.0, rescale=0.5))


@pytest.mark.parametrize("negative", [torch.tensor([3]), torch.zeros(1, 4)])
def test_a_negative_condition_of_another_kind_is_refused(flow, negative):
    with pytest.raises(ConditionError, match=r"^negative"):
        flow.sample(1, torch.tensor([0]), guidance=pf.guidance.CFG(2.0, negative=negative))


def test_a_sampler_that_ends_no_flow_is_refused(flow):
    with pytest.raises(UserError, match=r"end with samplers.Tweedie\(\) or with nothing more"):
        flow.sample(1, sampler=pf.samplers.Euler(3))
    with pytest.raises(UserError, match="a log-probability is of samples with their noise"):
        flow.sample(1, sampler=pf.samplers.Tweedie(), log_prob=True)
