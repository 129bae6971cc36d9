"""Reflow and one-step distillation: a model trains on its own pairs of noise and sample.

Source: Liu, Gong and Liu, Flow straight and fast, 2209.03003, algorithm 1 and section 2.2 (distillation).
"""

import copy
from typing import Any

import torch

from pushforward import _random
from pushforward._checks import is_whole, shown
from pushforward.data.pairs import Pairs
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.registry import export
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.euler import Euler
from pushforward.samplers.sampler import Sampler
from pushforward.times import Point
from pushforward.training.processes import Processes
from pushforward.training.trainer import Trainer


def _example() -> tuple:
    from pushforward.models.rectified_flow import rectified_flow
    from pushforward.nn.mlp import MLP

    return rectified_flow(MLP.Config((8,)), (2,), sampler=Euler(2)), 4


@export("reflow", example=_example)
@torch.no_grad()
def reflow(
    model: PathModel,
    n: int,
    cond: Any = None,
    *,
    sampler: Sampler | None = None,
    batch_size: int = 1024,
    generator: _random.Generators = None,
) -> Pairs:
    """Return n pairs of noise and the model's sample from it: the training set of the next reflow round.

    The flow preserves the marginals and its trajectories do not cross, so a model trained on its pairs has straighter trajectories.

    Args:
        model: a path model; train a copy of it (`copy.deepcopy`) on the pairs, which keeps its units.
        n: number of pairs.
        cond: condition of each (leading dimension n), or None.
        sampler: solver of the ODE; None uses the model's own.
        batch_size: samples per batch.
        generator: random generator of the noise.

    Returns:
        A data set of (x, cond, noise), on the CPU.

    Raises:
        UserError: n below 1, or a model without a path.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
        >>> pf.reflow(model, 10)
        Pairs('pairs', 10 examples, shape (2,))

    Source: Liu, Gong and Liu, 2209.03003, section 2.2.
    """
    return pairs_among(Processes(), model, n, cond, sampler=sampler, batch_size=batch_size, generator=generator)


@torch.no_grad()
def pairs_among(
    among: Processes,
    model: PathModel,
    n: int,
    cond: Any = None,
    *,
    sampler: Sampler | None = None,
    batch_size: int = 1024,
    generator: _random.Generators = None,
) -> Pairs:
    """Return what `reflow` does, bit by bit, in all processes, each of which computes some of the batches.

    Raises:
        UserError: as `reflow`.
        ProcessError: another process failed.
    """
    _check(model, "reflow")
    if not is_whole(n) or n < 1:
        raise UserError(f"n is {shown(n)}, but a training set needs at least 1 pair; 10,000 do for the plane.")
    rows = [some for some, _ in _random.chunks(n, batch_size)]
    _random.checked(generator, n)
    noise = model.base.sample(n, generator=generator)
    made = {}
    with among.agreed("solving trajectories"):
        for number in range(among.rank, len(rows), among.size):
            some = rows[number]
            made[number] = model.decode(noise[some], None if cond is None else cond[some], sampler=sampler).cpu()
    made = {number: x for one in among.gather(made) for number, x in one.items()}
    return Pairs(
        torch.cat([made[number] for number in range(len(rows))]),
        None if cond is None else cond.cpu(),
        noise.cpu(),
        classes=model.classes if cond is not None else None,
    )


@export("distill")
def distill(model: PathModel, pairs: Pairs, **training: Any) -> PathModel:
    """Return a copy of the model that predicts a trajectory's end in one step, trained on the model's pairs.

        loss = E |net(noise, t = 1) - (noise - x)|²  for a velocity along straight lines

    It is trained at t = 1 only and samples in one step; another sampler, a likelihood or an encoding would evaluate its network at times
    for which it was not trained.

    Args:
        model: a prediction of velocity, data or v, along a path to any base. A noise prediction contains little of the data at t = 1; along
            a variance preserving path the copy predicts v instead.
        pairs: the result of `reflow` for this model.
        training: the Trainer's arguments: steps, lr, ...

    Returns:
        The student with averaged weights, in eval mode.

    Raises:
        UserError: another prediction type.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
        >>> student = pf.distill(model, pf.reflow(model, 64), steps=2, batch_size=32)
        >>> student.sampler.evaluations
        1

    Source: Liu, Gong and Liu, 2209.03003, section 2.2.
    """
    student = one_step(model)
    trainer = Trainer(student, pairs, **training).fit()
    return trainer.averaged_model.eval()  # type: ignore[return-value]


def one_step(model: PathModel) -> PathModel:
    """Return a copy of the model that trains at t = 1 only and samples in one step.

    A noise prediction contains little of the data there: on a variance preserving path the copy learns v instead, from the same weights.
    """
    _check(model, "distill")
    prediction = "v" if model.prediction == "noise" and model.path.variance_preserving else model.prediction
    if prediction not in ("velocity", "data", "v"):
        raise UserError(
            f"the model predicts {model.prediction}, which contains little of the data at t = 1; distill a velocity or data prediction."
        )
    student = copy.deepcopy(model)
    student.times, student.sampler, student.prediction = Point(1.0), DDIM(1), prediction
    if student.config is not None:
        settings = student.config["model"]
        known: dict[str, Any] = {"times": student.times, "sampler": student.sampler}
        known |= {} if prediction == model.prediction else {"prediction": prediction}
        lacking = [name for name in known if name not in settings]
        if lacking:
            raise UserError(
                f"{student.config['preset']} has no setting {lacking[0]}, so its one-step copy could not be saved; use flow_matching."
            )
        student.config = {**student.config, "model": {**settings, **known}}
    return student


def _check(model: Any, what: str) -> None:
    if not isinstance(model, PathModel):
        raise UserError(f"{what} needs a path model, such as a rectified flow, but this is a {type(model).__name__}; give one.")
