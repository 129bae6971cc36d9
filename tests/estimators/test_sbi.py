"""Presets as sbi's density estimators: its interface, its training and posteriors, and bad input."""

import builtins
import pickle

import pytest
import torch

import pushforward as pf
from pushforward.errors import NotInvertibleError

MOONS = pf.data.TwoMoons()
SMALL = {"layers": 3, "hidden": (32,)}
ODE = {"net": pf.nn.MLP.Config((32,)), "sampler": pf.samplers.RK4(12)}
PRESETS = [("nsf", SMALL), ("maf", SMALL), ("flow_matching", ODE)]


@pytest.fixture(scope="module")
def sbi():
    return pytest.importorskip("sbi", reason="The package sbi is not installed: run pip install 'pushforward[sbi]'.")


@pytest.fixture(scope="module")
def pairs():
    return MOONS.draw(300, torch.Generator().manual_seed(0))


def built(preset, options, theta, x, **more):
    torch.manual_seed(0)
    estimator = pf.estimators.sbi_density(preset, preset_options=options, **more)(theta, x).eval()
    for p in estimator.parameters():  # couplings start as the identity, which would hide a wrong order of rows
        torch.nn.init.normal_(p, std=0.1)
    return estimator


@pytest.mark.parametrize(("preset", "options"), PRESETS)
def test_densities_are_those_of_the_model_row_by_row(sbi, pairs, preset, options):
    theta, x = pairs[0][:12].view(4, 3, 2), pairs[1][:3]
    estimator = built(preset, options, *pairs)
    assert (estimator.input_shape, estimator.condition_shape) == ((2,), (2,))
    value = estimator.log_prob(theta, x)
    assert value.shape == (4, 3)
    for sample in range(4):
        for row in range(3):
            one = estimator.net.log_prob(theta[sample, row][None], x[row][None])
            torch.testing.assert_close(value[sample, row], one[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(estimator.log_prob(theta, x.expand(4, 3, 2)), value)
    torch.testing.assert_close(estimator.log_prob(theta[0], x), value[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(estimator.log_prob(theta[:, :1], x)[:, 0], value[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(estimator.log_prob(theta, x[:1])[:, 0], value[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("preset", "options"), PRESETS)
def test_samples_belong_to_their_conditions(sbi, pairs, preset, options):
    x = pairs[1][:3]
    estimator = built(preset, options, *pairs)
    torch.manual_seed(1)
    samples, values = estimator.sample_and_log_prob((5, 2), x)
    torch.manual_seed(1)
    torch.testing.assert_close(estimator.sample((5, 2), x), samples, atol=1e-4, rtol=1e-4)
    assert (samples.shape, values.shape) == ((5, 2, 3, 2), (5, 2, 3))
    torch.testing.assert_close(estimator.log_prob(samples.flatten(0, 1), x), values.flatten(0, 1), atol=5e-3, rtol=1e-3)


def test_a_flows_loss_is_the_negative_log_density_and_reaches_the_embedding(sbi, pairs):
    theta, x = pairs
    estimator = built("nsf", SMALL, theta, x.view(-1, 1, 2), embedding_net=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 4)))
    loss = estimator.loss(theta, x.view(-1, 1, 2))
    torch.testing.assert_close(loss, -estimator.log_prob(theta, x.view(-1, 1, 2))[0])
    loss.mean().backward()
    assert estimator.embedding_net[1].weight.grad.abs().sum() > 0


def test_a_path_models_loss_is_its_own_for_each_row(sbi, pairs):
    estimator = built("flow_matching", ODE, *pairs)
    torch.manual_seed(2)
    loss = estimator.loss(*pairs)
    torch.manual_seed(2)
    assert torch.equal(loss, estimator.net.loss(*pairs).expand(300))


def test_both_sides_are_standardised_by_the_rows_of_training(sbi, pairs):
    theta, x = pairs
    torch.manual_seed(0)
    far = pf.estimators.sbi_density("nsf", preset_options=SMALL)(1000 * theta + 50, 100 * x - 7)
    torch.manual_seed(0)
    near = pf.estimators.sbi_density("nsf", preset_options=SMALL)(theta, x)
    shift = 2 * torch.log(torch.tensor(1000.0))
    torch.testing.assert_close(far.log_prob(1000 * theta + 50, 100 * x - 7) + shift, near.log_prob(theta, x), atol=1e-3, rtol=1e-3)


def test_one_parameter_gets_splines_without_couplings(sbi, pairs):
    estimator = built("nsf", SMALL, pairs[0][:, :1], pairs[1])
    assert estimator.log_prob(pairs[0][:, :1], pairs[1]).shape == (1, 300)


@pytest.mark.slow
def test_npe_trains_it_and_its_posterior_is_the_known_one(sbi, tmp_path, monkeypatch):
    """2,000 simulations, 40 epochs: the known density is within 2 nats on average, a posterior in the prior's place is 6 away."""
    from sbi.inference import NPE
    from sbi.utils import BoxUniform

    monkeypatch.chdir(tmp_path)  # sbi writes its logs here
    torch.manual_seed(0)
    moons = pf.data.TwoMoons(width=0.03)
    theta, x = moons.draw(2000, torch.Generator().manual_seed(0))
    build = pf.estimators.sbi_density("nsf", preset_options={"layers": 4, "hidden": (64, 64)})
    inference = NPE(BoxUniform(-torch.ones(2), torch.ones(2)), density_estimator=build, show_progress_bars=False)
    inference.append_simulations(theta, x).train(max_num_epochs=40)
    posterior = pickle.loads(pickle.dumps(inference.build_posterior()))
    observed = torch.zeros(2)
    exact = moons.sample_posterior(2000, observed, torch.Generator().manual_seed(1))
    gap = moons.log_posterior(exact, observed) - posterior.log_prob(exact, x=observed)
    assert 0 < float(gap.mean()) < 1
    made = posterior.sample((500,), x=observed, show_progress_bars=False)
    assert 0.4 < float((made.sum(1) > 0).float().mean()) < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "nsff"}, "nsf"),
        ({"preset": "glow"}, "preset is 'glow', which is no density of vectors given vectors"),
        ({"preset_options": {"layrs": 3}}, "layers"),
        ({"preset_options": {"features": 3}}, "preset_options has 'features', but the shapes and the condition follow from sbi's data"),
        ({"embedding_net": 3}, "embedding_net is 3, but it must be a Module"),
    ],
)
def test_bad_input_is_refused_before_sbi_is_imported(options, message, monkeypatch):
    monkeypatch.setattr(builtins, "__import__", without_sbi(builtins.__import__))
    with pytest.raises((ValueError, LookupError), match=message):
        pf.estimators.sbi_density(**options)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(builtins, "__import__", without_sbi(builtins.__import__))
    with pytest.raises(ValueError, match="pip install 'pushforward\\[sbi\\]'"):
        pf.estimators.sbi_density()


def test_an_embedding_of_another_shape_and_a_preset_without_density_are_refused(sbi, pairs):
    with pytest.raises(ValueError, match="embedding_net returned shape"):
        pf.estimators.sbi_density(embedding_net=torch.nn.Flatten(0))(*pairs)
    with pytest.raises(NotInvertibleError, match="which has no density"):
        pf.estimators.sbi_density("meanflow")(*pairs)


def without_sbi(real):
    def imported(name, *rest, **more):
        if name.partition(".")[0] == "sbi":
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **more)

    return imported
