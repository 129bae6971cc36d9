"""What `preset` makes of a function and a record of shared options: the signature, hints and text that users and the command line see."""

import inspect
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

import pushforward as pf
from pushforward import registry
from pushforward.errors import UserError
from pushforward.models.path_options import NetOptions, PathOptions
from pushforward.models.preset import Net, Options, built, preset

PRESETS = registry.names("models")
NAMES = {
    "EDM": pf.samplers.EDM,
    "Dopri5": pf.samplers.Dopri5,
    "Uniform": pf.times.Uniform,
    "MinibatchOT": pf.pairings.MinibatchOT,
}
VECTORS = ["features", "layers", "hidden", "shape", "activation", "preprocess", "classes", "cond_features", "cond_image", "levels"]


@dataclass(frozen=True)
class Ring(PathOptions):
    """Options of a ring.

    Args:
        radius: of the ring,
            in the data's units.
        drop_cond: share of labels dropped.
    """

    before_own: ClassVar[tuple[str, ...]] = ("radius",)

    radius: float = field(default=1.0, kw_only=True)


@preset(classes=4)
def ring(shared: Ring, depth: int = 2, *, mean: float = 0.0, std: "float" = 1.0) -> pf.families.PathModel:
    """Learn a ring.

    It is round.

    Args:
        depth: number of layers.
        mean, std: of the times.
        levels: none.

    Returns:
        A PathModel.
    """
    net = pf.nn.MLP.Config((8,) * depth).build(shared.event_shape, shared.classes)
    return pf.families.PathModel(net, shared.event_shape, times=pf.times.LogitNormal(mean, std), **shared.family_options)


def test_a_signature_has_the_presets_own_arguments_among_the_shared_ones():
    """Positional: shared, own; keyword-only: before_own, own, those of a subclass, those of its base."""
    assert str(inspect.signature(ring)).startswith("(net: ")
    parameters = inspect.signature(ring).parameters
    assert list(parameters) == [
        *("net", "shape", "depth", "radius", "mean", "std", "drop_cond", "preprocess", "sampler", "classes", "cond_features", "cond_image"),
        *("levels", "schema"),
    ]
    assert [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD] == ["net", "shape", "depth"]
    assert (parameters["classes"].default, parameters["levels"].default, parameters["shape"].default) == (4, None, (2,))


def test_the_hints_of_a_preset_are_of_its_public_arguments():
    hints = typing.get_type_hints(ring)
    assert list(hints) == [*inspect.signature(ring).parameters, "return"]
    assert (hints["shape"], hints["std"], hints["return"]) == (Sequence[int], float, pf.families.PathModel)
    assert inspect.getsource(ring).startswith("@preset(classes=4)"), "the source is the page's"


def test_a_text_has_the_shared_options_in_the_order_of_the_signature():
    text = inspect.getdoc(ring)
    assert text.startswith("Learn a ring.\n\nIt is round.\n\nArgs:\n    net: a network, its")
    assert "    levels: none.\n    schema: " in text
    assert text.endswith("\n\nReturns:\n    A PathModel.")
    assert (
        "    depth: number of layers.\n    radius: of the ring,\n        in the data's units.\n    mean, std: of the times.\n    drop_"
        in text
    )
    assert text.count("mean, std") == text.count("levels:") == text.count("drop_cond: share of labels dropped.") == 1


@pytest.mark.parametrize("doc", ["Learn it.", "Learn it.\n\n    Returns:\n        A model.\n    "])
def test_a_text_without_arguments_of_its_own_has_those_of_all(doc):
    def learn(shared: NetOptions) -> pf.families.ContinuousFlow:
        raise NotImplementedError

    learn.__doc__ = doc
    text = inspect.getdoc(preset(learn))
    assert text.startswith("Learn it.\n\nArgs:\n    net: a network")
    assert text.count("\n\nReturns:\n    A model.") == doc.count("Returns")


def test_a_preset_is_called_recorded_saved_and_loaded_by_its_public_arguments(tmp_path, request):
    registry.api_export("models.ring", package="tests")(ring)
    request.addfinalizer(lambda: registry._entries.pop("models.ring"))
    model = pf.models.ring(None, (2,), 1, std=2.0, drop_cond=0.1)
    assert list(model.config["model"]) == list(inspect.signature(ring).parameters)
    assert (model.classes, model.drop_cond, model.times) == (4, 0.1, pf.times.LogitNormal(0.0, 2.0))
    again = pf.load(pf.save(model, tmp_path / "ring"))
    assert again.config == model.config
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in again.state_dict().items())
    with pytest.raises(TypeError, match=r"ring\(\) got an unexpected keyword argument 'dept'; did you mean 'depth'\?"):
        ring(dept=3)


def test_a_preset_without_shared_options_is_a_plain_function():
    @preset
    def plain(net: Net = None, shape: Sequence[int] = (2,), *, classes: int | None = None) -> pf.families.PathModel:
        """Learn."""
        return pf.families.PathModel(built(net, shape, classes), shape, classes=classes)

    assert plain(shape=[3]).config == {"preset": "plain", "model": {"net": pf.nn.MLP.Config(), "shape": (3,), "classes": None}}
    assert list(inspect.signature(plain).parameters) == ["net", "shape", "classes"]
    assert plain.__doc__ == "Learn."
    with pytest.raises(UserError, match="classes is 0"):
        plain(classes=0)


def test_a_preset_may_have_no_shape_among_its_arguments():
    @preset
    def fixed(hidden: int = 4) -> pf.families.PathModel:
        return pf.families.PathModel(pf.nn.MLP(2, 2, (hidden,), time_features=4), (2,))

    assert fixed().config["model"] == {"hidden": 4}


def test_what_cannot_be_merged_is_refused_when_the_preset_is_defined():
    def learn(shared: NetOptions, sampler: int = 3) -> pf.families.ContinuousFlow:
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"learn has a parameter 'sampler', which NetOptions has too; read shared.sampler instead"):
        preset(learn)
    with pytest.raises(TypeError, match="learn: 'samplr' is not a known shared option; did you mean 'sampler'"):
        preset(samplr=3)(learn)
    with pytest.raises(TypeError, match="plain takes no shared options, so `preset` has no default 'shape' to replace"):

        @preset(shape=(2,))
        def plain(shape: Sequence[int]) -> pf.families.PathModel:
            raise NotImplementedError


@pytest.mark.parametrize("name", PRESETS)
def test_every_argument_of_a_preset_is_explained_once_and_in_order(name):
    function = registry.get(name)
    text = inspect.getdoc(function).partition("Args:\n")[2].partition("\n\n")[0]
    explained = [line.strip().partition(":")[0] for line in text.splitlines() if line[:5].strip()]
    assert explained == list(inspect.signature(function).parameters)


def test_presets_of_vectors_share_their_options_under_the_same_names():
    for name in ("nice", "realnvp", "maf", "iaf", "nsf"):
        parameters = list(inspect.signature(registry.get(f"models.{name}")).parameters)
        assert [one for one in parameters if one in VECTORS] == VECTORS


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        (
            "realnvp",
            "(features=None, layers=8, hidden=(128, 128), *, shape=None, bound=2.0, activation='relu', dropout=0.0, "
            "preprocess='none', classes=None, "
            "cond_features=None, cond_image=None, levels=None, schema=None)",
        ),
        (
            "glow",
            "(channels=None, size=None, levels=2, depth=8, hidden=128, *, shape=None, coupling='affine', mixing='plu', activation='relu', "
            "preprocess='auto', dequantise='uniform', classes=None, cond_features=None, cond_image=None, values=None, memory='full', "
            "schema=None)",
        ),
        (
            "tarflow",
            "(shape, layers=4, patch=4, *, width=128, depth=4, heads=4, bound=3.0, noise=0.05, denoise=True, drop_cond=0.1, "
            "conditioned='all', solver='auto', preprocess='standardise', classes=None, cond_features=None, cond_image=None, levels=None, "
            "schema=None)",
        ),
        (
            "edm",
            "(net=None, shape=(2,), *, sigma_min=0.002, sigma_max=80.0, noise_mean=-1.2, noise_std=1.2, data_std=1.0, drop_cond=0.0, "
            "preprocess='none', sampler=EDM(18), classes=None, cond_features=None, cond_image=None, levels=None, schema=None)",
        ),
        (
            "ot_flow_matching",
            "(net=None, shape=(2,), *, times=Uniform(), pairing=MinibatchOT(), source=None, bridge=0.0, drop_cond=0.0, preprocess='none', "
            "sampler=Dopri5(), classes=None, cond_features=None, cond_image=None, levels=None, schema=None)",
        ),
    ],
)
def test_a_public_signature_is_permanent(name, signature):
    signature_now = inspect.signature(registry.get(f"models.{name}"))
    bare = [one.replace(annotation=one.empty) for one in signature_now.parameters.values()]
    expected = eval(f"lambda {signature[1:-1]}: 0", NAMES)
    assert inspect.Signature(bare) == inspect.signature(expected)


def test_a_record_derives_the_shape_from_its_own_arguments():
    @dataclass(frozen=True)
    class Square(Options):
        """Options of a square."""

        side: int | None = 2
        shape: Sequence[int] | None = field(default=None, kw_only=True)

        @classmethod
        def shape_of(cls, arguments):
            side, arguments["side"] = arguments["side"], None
            return arguments["shape"] or (side, side)

    @preset
    def square(shared: Square) -> pf.families.NormalizingFlow:
        return pf.families.NormalizingFlow(pf.bijections.Standardise(shared.event_shape), shape=shared.event_shape)

    assert square(3).config["model"] == {"side": None, "shape": (3, 3), "schema": None}
    assert square(**square(3).config["model"]).shape == (3, 3)


def test_a_preset_returns_its_model():
    @preset
    def forgotten(features: int = 2):
        pf.models.nice(features)

    with pytest.raises(UserError, match="the preset forgotten returned None, but it must return a GenerativeModel"):
        forgotten()
