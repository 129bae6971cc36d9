"""Pictures of a flow of the plane: what they show is what the model does."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError
from pushforward.evaluation.flow_pictures import _states


@pytest.mark.parametrize("classes", [None, 3])
def test_the_states_begin_with_noise_and_end_with_what_decode_gives(classes):
    flow = pf.models.realnvp(2, 3, (8,), preprocess="standardise", classes=classes)
    flow.initialise(5 + 2 * torch.randn(50, 2))
    noise, cond = torch.randn(6, 2), None if classes is None else torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        states = _states(flow, noise, cond)
        assert len(states) == 4
        assert torch.equal(states[0], noise)
        torch.testing.assert_close(states[-1], flow.decode(noise, cond))


@pytest.mark.parametrize("classes", [None, 3])
def test_a_picture_is_written(tmp_path, classes):
    pf.evaluation.picture_layers(pf.models.nice(2, 4, (8,), classes=classes), tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_no_layers_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"NormalizingFlow of shape \(3,\) has no layers to draw"):
        pf.evaluation.picture_layers(pf.models.nice(3, 4, (8,)), tmp_path / "layers.png")
