"""The options that models with a network over time share: continuous flows, flow matching and diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pushforward.bases import Samples
from pushforward.bijections.bijection import Bijection
from pushforward.functional.levels import Levels
from pushforward.functional.prediction import Kind
from pushforward.models.preset import ConditionalOptions, Net, built
from pushforward.models.units import Preprocess, units
from pushforward.pairings import Independent, Pairing
from pushforward.paths import Path
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform
from pushforward.weightings import MinSNR, NoiseLoss, Unit


@dataclass(frozen=True)
class NetOptions(ConditionalOptions):
    """Options of models whose map is the ODE of a network.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        preprocess: "standardise" fits mean and deviation to the training data, "whiten" also removes correlations of vectors, "logit"
            spreads quantised data over the line, "centred" maps the levels of images to [-1, 1], "none" leaves its units.
        sampler: how samples, encodings and likelihoods are solved by default.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.
    """

    net: Net = None
    shape: Sequence[int] = (2,)
    preprocess: Preprocess = field(default="none", kw_only=True)
    sampler: Sampler = field(default=Dopri5(), kw_only=True)
    classes: int | None = field(default=None, kw_only=True)
    cond_features: int | None = field(default=None, kw_only=True)
    cond_image: Sequence[int] | None = field(default=None, kw_only=True)
    levels: Levels = field(default=None, kw_only=True)

    def network(self, outputs: int = 1, numbers: int = 0) -> Any:
        """Return the network for the condition: built from its configuration, with `outputs` times the channels, or as it is.

        With `numbers` it reads as many further numbers, such as the length of a flow map's interval.
        """
        return built(self.net, self.event_shape, outputs=outputs, numbers=numbers, **self.family_condition)

    @property
    def family_options(self) -> dict[str, Any]:
        """The keyword arguments of the family that follow from the shared options: preprocess, sampler, the condition and levels."""
        return {"preprocess": self.units(), "sampler": self.sampler, **self.family_condition, "levels": self.levels}

    def units(self) -> Bijection | None:
        """Return the bijection from the data's units to the model's."""
        return units(self.preprocess, self.event_shape, self.levels, self.schema)


@dataclass(frozen=True)
class PathOptions(NetOptions):
    """Options of a PathModel.

    Args:
        drop_cond: share of conditions dropped in training, for guidance.
    """

    drop_cond: float = field(default=0.0, kw_only=True)

    @property
    def family_options(self) -> dict[str, Any]:
        """The arguments of PathModel after the pairing: preprocess, sampler, the condition, levels and drop_cond."""
        return {**super().family_options, "drop_cond": self.drop_cond}


@dataclass(frozen=True)
class MatchingOptions(PathOptions):
    """Options of flow matching, whose noise may be other data.

    Args:
        times: which t to train on.
        pairing: which noise meets which data within a batch.
        source: name of a data set (`pushforward list data`) that takes the noise's place, in the model's units; None is Gaussian noise.
        bridge: noise added on the way between the two, a stochastic interpolant (see `families.PathModel`).
    """

    times: Times = field(default=Uniform(), kw_only=True)
    pairing: Pairing = field(default=Independent(), kw_only=True)
    source: str | None = field(default=None, kw_only=True)
    bridge: float = field(default=0.0, kw_only=True)

    @property
    def family_options(self) -> dict[str, Any]:
        """The arguments of PathModel after the prediction: times, pairing, the base of `source`, bridge and those of all path models."""
        base = None if self.source is None else Samples.of(self.source, self.event_shape)
        return {**super().family_options, "times": self.times, "pairing": self.pairing, "base": base, "bridge": self.bridge}


@dataclass(frozen=True)
class DenoisingOptions(PathOptions):
    """Options of models of data in the units of their noise, which the logit would not be.

    Args:
        preprocess: "standardise" fits mean and deviation to the training data; "centred" maps the levels of images to [-1, 1]; "none"
            leaves its units.
    """

    def units(self) -> Bijection | None:
        """Return the bijection from the data's units to the model's, which is no logit."""
        return units(self.preprocess, self.event_shape, self.levels if self.preprocess == "centred" else None, self.schema)


@dataclass(frozen=True)
class DiffusionOptions(DenoisingOptions):
    """Options of diffusion models.

    Args:
        path: the schedule: Discrete("linear" | "cosine" | "sigmoid", steps), VariancePreserving() in continuous time, or any other.
        prediction: what the network predicts.
        times: which t to train on.
        weighting: a weight of the loss, as in `ddpm`.
        preprocess: "standardise" fits mean and deviation to the training data, as noise of deviation 1 wants it; "centred" maps the levels
            of images to [-1, 1]; "none" leaves its units.
    """

    before_own = ("path", "prediction", "times", "weighting")

    path: Path = field(kw_only=True)
    prediction: Kind = field(kw_only=True)
    times: Times = field(default=Uniform(), kw_only=True)
    weighting: NoiseLoss | MinSNR | Unit | None = field(default=None, kw_only=True)

    @property
    def family_options(self) -> dict[str, Any]:
        """The arguments of PathModel after the shape: path, prediction, times, weighting and those of all path models."""
        own = {"path": self.path, "prediction": self.prediction, "times": self.times, "weighting": self.weighting}
        return {**super().family_options, **own}


@dataclass(frozen=True)
class PreconditionedOptions(DenoisingOptions):
    """Options of preconditioned models, trained at log-normal noise levels.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images; it is called with scaled inputs.
        noise_mean: mean of ln sigma in training.
        noise_std: standard deviation of ln sigma in training.
        data_std: standard deviation of the (preprocessed) data: 1 where it is standardised, 0.5 is the paper's for images in [-1, 1].
    """

    noise_mean: float = field(default=-1.2, kw_only=True)
    noise_std: float = field(default=1.2, kw_only=True)
    data_std: float = field(default=1.0, kw_only=True)
