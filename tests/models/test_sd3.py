"""The preset sd3: texts of several encoders, each dropped by itself in training, and what stands for no text."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import ConditionError, UserError

NET = pf.nn.MMDiT.Config(patch=2, depth=2, heads=2, head_width=8, positions=4, base_size=2)
PARTS = (((0, 3), (0, 4)), ((3, 5), (4, 5)), ((5, 6), (5, 7)))
SIZES = {"text": tuple(pf.sd3.TextPart(name, tokens, (0, 6), pooled) for name, (tokens, pooled) in zip("abc", PARTS, strict=True))}


def texts(n: int) -> pf.TextContext:
    return pf.TextContext(torch.randn(n, 6, 6), torch.randn(n, 7))


def built(**options):
    model = pf.models.sd3(NET, (2, 4, 4), **SIZES, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


class Seen(torch.nn.Module):
    """A network that keeps what it is given."""

    def forward(self, x, t, cond):
        self.cond, self.t = cond, t
        return x


def test_a_tenth_of_the_rows_is_without_text_and_each_encoder_dropped_by_itself():
    torch.manual_seed(0)
    net, n = Seen(), 20_000
    model = pf.models.sd3(net, (1, 1, 1), **SIZES).train()
    model.loss(torch.randn(n, 1, 1, 1), texts(n))
    tokens, pooled = net.cond.context.split((3, 2, 1), dim=1), net.cond.pooled.split((4, 1, 2), dim=1)
    dropped = torch.stack([(one == 0).flatten(1).all(1) for one in tokens], dim=1)
    assert torch.equal(dropped, torch.stack([(one == 0).all(1) for one in pooled], dim=1)), "tokens and pooled go together"
    assert dropped.double().mean(0).tolist() == pytest.approx([0.1 ** (1 / 3)] * 3, abs=0.015)
    assert float(dropped.all(1).double().mean()) == pytest.approx(0.1, abs=0.01)
    model.eval().loss(torch.randn(n, 1, 1, 1), texts(n))
    assert (net.cond.context != 0).all()


def test_what_is_dropped_becomes_the_empty_prompts_encoding_which_is_saved(tmp_path):
    model, empty, cond = built(null_text="empty"), texts(1), texts(2)
    model.set_empty(empty)
    kept = model.layout.dropped(cond, torch.tensor([[True, False, True], [False, True, True]]))
    assert torch.equal(kept.context[0, :3], cond.context[0, :3])
    assert torch.equal(kept.context[0, 3:5], empty.context[0, 3:5])
    assert torch.equal(kept.pooled[1, :4], empty.pooled[0, :4])
    assert torch.equal(kept.pooled[1, 4:], cond.pooled[1, 4:])
    loaded = pf.load(pf.save(model, tmp_path / "saved"))
    assert torch.equal(loaded.empty.context, empty.context)
    assert loaded.null_text == "empty"


@pytest.mark.parametrize("null_text", ["zeros", "empty"])
def test_no_condition_is_the_empty_text_and_guidance_is_away_from_it(null_text):
    model = built(null_text=null_text, sampler=pf.samplers.Euler(3))
    if null_text == "empty":
        model.set_empty(texts(1))
    noise, cond = torch.randn(2, 2, 4, 4), texts(2)
    assert torch.equal(model.decode(noise), model.decode(noise, model.empty.repeat(2)))
    negative = pf.guidance.CFG(3.0, negative=model.empty.repeat(2))
    assert torch.equal(model.decode(noise, cond, guidance=3.0), model.decode(noise, cond, guidance=negative))
    assert not torch.equal(model.decode(noise, cond, guidance=3.0), model.decode(noise, cond))


def test_times_are_named_by_the_share_of_noise():
    """A logit-normal of positive mean is towards noise, t = 1 (another tool's sign is the opposite)."""
    torch.manual_seed(0)
    net = Seen()
    pf.models.sd3(net, (1, 1, 1), **SIZES, times=pf.times.LogitNormal(1.0)).loss(torch.randn(4000, 1, 1, 1), texts(4000))
    assert float(net.t.mean()) > 0.65


def test_wrong_settings_are_refused_by_name():
    for options, error, message in (
        ({"drop_text": 1.0}, UserError, "drop_text is 1.0, but it is a share"),
        ({"text": ()}, UserError, r"text is a tuple, but it is a list of what each text encoder fills"),
        ({"text": ("minilm",)}, UserError, "give at least one sd3.TextPart"),
        ({"net": pf.nn.UNet.Config()}, ConditionError, "texts are read by MMDiT"),
    ):
        with pytest.raises(error, match=message):
            pf.models.sd3(**{"net": NET, "shape": (2, 4, 4), **SIZES, **options})
    with pytest.raises(UserError, match=r"tokens of the text encoder a is \[3, 3\]"):
        pf.sd3.TextPart("a", (3, 3), (0, 6), (0, 2))
    with pytest.raises(UserError, match="null_text is 'zeros'"):
        built().set_empty(texts(1))
    with pytest.raises(ConditionError, match=r"needs a TextContext of \(1, 6, 6\)"):
        built(null_text="empty").set_empty(texts(2))
