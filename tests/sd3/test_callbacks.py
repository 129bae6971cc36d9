"""Callbacks that read, change and stop; the progress bar; images out as arrays; syntax of other programs in prompts."""

import io
import warnings

import numpy
import pytest
import torch

import pushforward as pf
from pushforward.errors import ShapeError, UserError
from pushforward.guidance.cfg import CFG
from pushforward.guidance.clip import Clip
from pushforward.paths import Linear
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.euler import Euler
from pushforward.samplers.grids import Shifted
from pushforward.samplers.heun import Heun
from pushforward.sd3.progress import Stopped, Watch
from pushforward.sd3.progress_bar import ProgressBar
from pushforward.sd3.prompt_syntax import warn_of_syntax

GRID, SIZE = Shifted(3.0, 1000), (64, 48)
SAMPLERS = [Euler(3, GRID), Heun(2, GRID), DPMSolverPP(3, grid=GRID), DPMSolverPP(3, "SDE-2M", grid=GRID)]
ADAPTIVE = Dopri5(1e-2, 1e-2)
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def model(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder)


def quick(model, prompts="a fox", **options):
    return model.sample(prompts, **({"size": SIZE, "generator": 0, "guidance": 1.0, "output": "latents", "tokens": 16} | options))


@pytest.mark.parametrize("sampler", [*SAMPLERS, pytest.param(ADAPTIVE, marks=pytest.mark.slow)], ids=lambda one: type(one).__name__)
def test_changed_latents_are_what_the_sampler_uses(model, sampler):
    """Clipping by a callback is clipping by guidance; what is returned unchanged changes nothing."""
    plain = quick(model, sampler=sampler)
    torch.testing.assert_close(quick(model, sampler=sampler, callback=lambda now: now.latents), plain, rtol=0, atol=1e-4)
    clipped = quick(model, sampler=sampler, callback=lambda now: now.latents.clamp(-0.5, 0.5))
    torch.testing.assert_close(clipped, quick(model, sampler=sampler, guidance=Clip(-0.5, 0.5)), rtol=0, atol=1e-5)
    assert float((clipped - plain).abs().max()) > 0.1


@pytest.mark.parametrize("sampler", [Euler(3, GRID), DPMSolverPP(3, grid=GRID), DDIM(3, grid=GRID)], ids=lambda one: type(one).__name__)
def test_constant_expected_latents_are_where_samples_arrive(model, sampler):
    target = torch.randn(2, 16, 8, 6, generator=torch.Generator().manual_seed(3))
    made = quick(model, ["a", "b"], sampler=sampler, guidance=CFG(3.0), callback=lambda now: target)
    torch.testing.assert_close(made, target, rtol=0, atol=1e-4)


def test_changes_in_place_have_no_effect(model):
    assert torch.equal(quick(model, steps=2, callback=lambda now: [now.latents.zero_()]), quick(model, steps=2))


@pytest.mark.parametrize("sampler", [*SAMPLERS, ADAPTIVE], ids=lambda one: type(one).__name__)
def test_stop_returns_what_is_expected_so_far(model, sampler):
    """For each image of the chunk, also where an adaptive sampler has finished some of them."""
    seen = []

    def callback(now):
        seen.append(now.latents)
        if now.done == 3:
            now.stop()

    made = quick(model, ["a fox", "a red cat"], sampler=sampler, callback=callback)
    assert len(seen) == 3
    assert torch.equal(made, seen[-1])


def test_stop_after_samples_have_finished_keeps_those():
    """An adaptive solver lets finished samples leave by `bind`: they keep what was expected of them at last."""

    def callback(now):
        if now.done == 2:
            now.stop()

    watch = Watch(callback, None, None, range(4, 7), 9)
    denoiser = watch(Denoiser(lambda x, t, cond: x + cond[:, None], Linear(), "data", torch.arange(3.0)))
    denoiser(torch.zeros(3, 2), torch.full((3,), 0.5))
    rows = torch.tensor([0, 2])
    remaining = denoiser.bind(*(one[rows] for one in denoiser.args))
    with pytest.raises(Stopped) as stop:
        remaining(torch.full((2, 2), 10.0), torch.full((2,), 0.1))
    assert torch.equal(stop.value.latents, torch.tensor([[10.0, 10], [1, 1], [12, 12]]))


def test_stop_ends_all_chunks_and_what_it_returns_counts(model):
    rows = []

    def callback(now):
        rows.append((now.rows, now.n, now.done))
        if now.rows.start == 2:
            now.stop()
            return now.latents * 0
        return None

    made = quick(model, list("abcde"), steps=2, batch_size=2, callback=callback)
    assert rows == [(range(2), 5, 1), (range(2), 5, 2), (range(2, 4), 5, 1)]
    assert len(made) == 4
    assert torch.equal(made[2:], torch.zeros(2, 16, 8, 6))
    torch.testing.assert_close(made[:2], quick(model, list("ab"), steps=2), rtol=0, atol=1e-5)


def test_stop_keeps_what_a_mask_protects(model):
    image, mask = torch.rand(1, 3, *SIZE), torch.zeros(*SIZE)
    mask[:, :24] = 1
    made = quick(model, steps=3, image=image, mask=mask, size=None, output="tensor", callback=lambda now: now.stop())
    torch.testing.assert_close(made[..., 24:], image[..., 24:], rtol=0, atol=1e-6)
    assert model.residence.present == []


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (torch.zeros(16, 8, 6), ShapeError, r"returned a tensor of shape \(16, 8, 6\), but latents are \(1, 16, 8, 6\)"),
        (torch.full((1, 16, 8, 6), torch.nan), UserError, "returned latents with NaN"),
    ],
)
def test_other_tensors_are_refused(model, changed, error, message):
    with pytest.raises(error, match=message):
        quick(model, steps=2, callback=lambda now: changed)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_images_steps_and_time(model):
    screen, log = Terminal(), io.StringIO()
    bars = ProgressBar(screen), ProgressBar(log)
    quick(model, list("abc"), steps=2, batch_size=2, callback=lambda now: [bar(now) for bar in bars])
    lines = [line.strip() for line in screen.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    assert lines[0].startswith("images 1 to 2 of 3  [##########..........] 1/2  t = 1.000")
    assert lines[1].startswith("images 1 to 2 of 3  [####################] 2/2  t = 0.")
    assert lines[1].endswith("0 s left")
    assert lines[2].startswith("image 3 of 3  [####")
    assert [line.split(":")[0] for line in log.getvalue().splitlines()] == ["images 1 to 2 of 3", "image 3 of 3"]
    quick(model, sampler=Dopri5(1e-1, 1e-1), callback=ProgressBar(screen))
    assert "image 1  1/?  t = 1.000" in screen.getvalue()


def test_arrays_are_the_tensors_with_channels_last(model):
    array, tensor = (quick(model, ["a", "b"], steps=2, output=output) for output in ("array", "tensor"))
    assert isinstance(array, numpy.ndarray)
    assert (array.dtype, array.shape) == (numpy.float32, (2, *SIZE, 3))
    assert numpy.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    again = quick(model, ["a", "b"], steps=2, image=array, strength=0.5, size=None, output="array")  # what goes out may come in
    assert again.shape == array.shape
    decoded = model.decode(torch.randn(1, 16, 8, 6), sampler=Euler(1), output="array")
    assert (decoded.shape, float(decoded.min()) >= 0, float(decoded.max()) <= 1) == ((1, *SIZE, 3), True, True)


@pytest.mark.parametrize(
    "prompt",
    ["a (red:1.3) fox", "(a red fox: 0.8)", "((masterpiece)), a fox", "a fox BREAK a cat", "a fox <lora:x:0.7>", "embedding:easynegative"],
)
def test_syntax_of_other_programs_is_warned_of(prompt):
    with pytest.warns(UserWarning, match="which other programs read as") as seen:
        warn_of_syntax(["a fox", prompt])
    assert len(seen) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox (red)",
        "a poster (16:9)",
        "a clock (at 10:30)",
        'a sign that reads "BREAK"',
        "a BREAKFAST",
        "note: 3 foxes",
        "f(x)=1",
        "a <b>",
    ],
)
def test_what_is_meant_literally_is_not(prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_syntax([prompt])


def test_the_warning_comes_with_the_encoding_of_a_prompt(model):
    with pytest.warns(UserWarning, match=r"the prompt has '\(fox:1.4\)', which other programs read as a weight of words"):
        model.encode_prompt("a (fox:1.4)", 16)
