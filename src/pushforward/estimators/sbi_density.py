"""What the package sbi calls a density estimator: any preset with a density, conditional on the simulator's output."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pushforward import registry
from pushforward._checks import shown
from pushforward.errors import NotInvertibleError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.registry import export


@dataclass(frozen=True)
class SbiBuilder:
    """What `sbi_density` returns: builds the estimator when sbi knows the shapes, `build(theta, x)`."""

    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    embedding_net: nn.Module | None = None

    def __call__(self, theta: Tensor, x: Tensor) -> Any:
        """Return sbi's ConditionalDensityEstimator of theta (n, features) given x (n, ...), its units fitted to these rows."""
        from pushforward.estimators.sbi_flow import SbiFlow

        embedding_net = nn.Flatten() if self.embedding_net is None else copy.deepcopy(self.embedding_net)
        with torch.no_grad():
            cond = embedding_net(x)
        if cond.ndim != 2 or len(cond) != len(x):
            raise UserError(
                f"embedding_net returned shape {tuple(cond.shape)} for x of shape {tuple(x.shape)}, but a condition is one vector a row; "
                f"return ({len(x)}, features)."
            )
        model = self._model(tuple(theta.shape[1:]), cond.shape[1])
        model.initialise(theta, cond)
        return SbiFlow(model, embedding_net, theta.shape[1:], x.shape[1:])

    def _model(self, shape: tuple[int, ...], features: int) -> GenerativeModel:
        preset = registry.get(f"models.{self.preset}")
        takes = inspect.signature(preset).parameters
        chosen: dict[str, Any] = {"preprocess": "standardise"} if "preprocess" in takes else {}
        if self.preset == "nsf" and shape == (1,):  # one number has no halves to couple
            chosen["kind"] = "autoregressive"
        model: GenerativeModel = preset(shape=shape, cond_features=features, **{**chosen, **self.options})
        if "log_prob" not in model.verbs:
            raise NotInvertibleError(f"preset is {self.preset!r}, which has no density, but sbi's posteriors need one; use nsf or maf.")
        return model


@export("estimators.sbi_density")
def sbi_density(
    preset: str = "nsf", *, preset_options: Mapping[str, Any] | None = None, embedding_net: nn.Module | None = None
) -> SbiBuilder:
    """Return a preset as the `density_estimator` of sbi: neural posterior, or likelihood, estimation by any model with a density.

        NPE: q(theta | x),    NLE: q(x | theta),    loss = -log q, of flow matching and diffusion their own

    sbi trains it, and its posteriors draw and score with it. The condition is flattened to a vector, or is what `embedding_net` returns;
    both sides are standardised by the rows of training. Flows train by likelihood. Models of an ODE (flow_matching) have the mean loss of
    the batch for each row, which excludes a calibration kernel, and solve an ODE for each density: give them a fixed sampler,
    `preset_options={"sampler": pf.samplers.Heun(10)}`, and one round of simulations.

    Args:
        preset: name of a preset of vectors with a density: nsf, maf, realnvp, iaf, flow_matching, ...
        preset_options: its keyword arguments, except for the shape and the condition, which sbi's data determine.
        embedding_net: a Module from x (n, ...) to vectors (n, features), trained with the flow; a copy is, each time sbi builds it.

    Returns:
        A function (theta, x) to a density estimator of sbi, with `log_prob`, `sample`, `loss`, and our model as its `net`.

    Raises:
        UserError: sbi is not installed; the preset is not for vectors, cannot be conditional, or has no such option.
        UnknownNameError: there is no such preset.
        NotInvertibleError: when built: the preset has no density.

    Example:
        >>> build = sbi_density("maf", preset_options={"layers": 5})  # doctest: +SKIP
        >>> inference = sbi.inference.NPE(prior, density_estimator=build)  # doctest: +SKIP
        >>> inference.append_simulations(theta, x).train()  # doctest: +SKIP
        >>> inference.build_posterior().sample((1000,), x=observed)  # doctest: +SKIP

    Source: Papamakarios and Murray, Fast epsilon-free inference of simulation models, 2016, arXiv 1605.06376 (NPE); Boelts et al., sbi
    reloaded, 2024, arXiv 2411.17337 (the package).
    """
    takes = inspect.signature(registry.get(f"models.{preset}")).parameters
    if "cond_features" not in takes or {"channels", "text", "kl_weight", "patch"} & set(takes):
        raise UserError(f"preset is {preset!r}, which is no density of vectors given vectors; use nsf, maf or flow_matching.")
    options = dict(preset_options or {})
    for name in options:
        if name in ("shape", "features", "schema", "classes", "cond_features", "cond_image"):
            raise UserError(f"preset_options has {name!r}, but the shapes and the condition follow from sbi's data; leave it out.")
        if name not in takes:
            raise UserError(f"preset_options: {registry.unknown(f'option of {preset}', str(name), takes)}")
    if embedding_net is not None and not isinstance(embedding_net, nn.Module):
        raise UserError(f"embedding_net is {shown(embedding_net)}, but it must be a Module from x to vectors, such as nn.Linear(100, 8).")
    try:
        import sbi  # noqa: F401
    except ImportError:
        raise UserError("sbi_density needs the package sbi, which is not installed; run: pip install 'pushforward[sbi]'.") from None
    return SbiBuilder(preset, options, embedding_net)
