"""The pictures of a run's report, each with its caption."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.data.inference import described
from pushforward.evaluation.associations import associations, strongest
from pushforward.evaluation.columns import columns_of, schema_of
from pushforward.evaluation.compared import compared
from pushforward.evaluation.flow_pictures import has_layers, picture_layers
from pushforward.evaluation.judgement import Judgement
from pushforward.evaluation.pictures import by_evaluations, neighbours, picture_of, quality_curve, save_figure, trajectory
from pushforward.evaluation.plane_pictures import has_density, picture_density
from pushforward.evaluation.reconstruction_pictures import picture_of_reconstructions
from pushforward.evaluation.table_pictures import corner, marginals
from pushforward.evaluation.units import STANDARDISED
from pushforward.families.autoencoder import Autoencoder
from pushforward.families.model import GenerativeModel
from pushforward.functional.levels import Levels
from pushforward.guidance.guidance import Guidance
from pushforward.schema import Schema

Pictures = dict[str, tuple[Path, str]]


def draw(
    folder: Path,
    model: GenerativeModel,
    judged: Judgement,
    made: Tensor,
    labels: Tensor | None,
    *,
    train: Dataset,
    test: Dataset,
    evaluations: Sequence[int],
    seed: int,
    guidance: Guidance | float | None = None,
) -> Pictures:
    """Draw what suits the model and its data into a run folder.

    Args:
        folder: the run folder.
        model: the evaluated model.
        judged: its metrics.
        made: its samples (n, *shape).
        labels: their classes (n,) or None.
        train: the training data.
        test: the held-out data.
        evaluations: numbers of network evaluations at which samples of the same noise are drawn; empty for an exact map.
        seed: seed of the noise.
        guidance: guidance of the samples.

    Returns:
        Name to (PNG file, caption).
    """
    pictures: Pictures = {}

    def add(name: str, caption: str) -> Path:
        pictures[name] = (folder / f"{name}.png", caption)
        return pictures[name][0]

    grid, image, schema = len(model.shape) > 1, len(model.shape) >= 3, schema_of(test)
    solved = f", with {judged.sampler}" if evaluations else ""
    if grid or model.shape == (2,):
        columns = model.classes or 10
        shown = made[: 10 * columns] if grid else made
        names = _axes(schema)
        caption = f"Samples, not selected{solved}" + (", one class a column." if grid and labels is not None else f".{names}")
        path = add("samples", caption)
        picture_of(shown, path, labels=None if labels is None else labels[: len(shown)], levels=model.levels, columns=columns)
    own = judged.likelihood[0] if judged.likelihood else None
    if has_density(model) and own is not None and (own.pooled, own.conditional) != (None, None):
        picture_density(model, test, add("density", "The model's density, and held-out data as white points."))
    if isinstance(model, Autoencoder):
        picture_of_reconstructions(model, test, add("reconstructions", "Held-out images, each above its reconstruction."))
    if schema is not None:
        for name, (figure, caption) in _of_table(schema, train, test, made if labels is None else _as_frequent(made, labels, test)).items():
            save_figure(figure, add(name, caption))
    if evaluations:
        pair = None if schema is None or model.shape == (2,) else _pair(schema, train)
        on = (
            ""
            if schema is None or pair is None
            else f" Across: {schema.names[pair[0]]}, up: {schema.names[pair[1]]}, on the model's scales."
        )
        caption = f"Trajectories of the same samples from noise (t = 1) to data (t = 0).{on or _axes(schema)}"
        trajectory(model, add("trajectory", caption), test, seed=seed, guidance=guidance, pair=pair)
        caption = "Distance to held-out data, and recognition, by number of network evaluations."
        unit = judged.distance_unit if judged.distance_unit == STANDARDISED else ""
        quality_curve(judged.quality, judged.distance_train, add("quality", caption), unit)
    if has_layers(model) and model.conditioning.shape is None:
        picture_layers(model, add("layers", "Samples and a square grid of noise, layer by layer; the density of the data."), seed=seed)
    if image:
        neighbours(made, train, add("neighbours", "The samples closest to training data, each above its nearest training example."))
    if image and evaluations:
        caption = "Samples from the same noise at each number of network evaluations."
        by_evaluations(model, evaluations, add("evaluations", caption), test, seed=seed, guidance=guidance)
    return pictures


def marginals_of(real: Dataset, made: Tensor, panels: int) -> tuple[Figure, str] | None:
    """Return the marginals of a table's columns in real data and in samples, with their caption; None for data of another kind."""
    schema = schema_of(real)
    return None if schema is None else marginals(compared(schema, real.x, made), panels)


def picture_of_rows(made: Tensor, schema: Schema | None, levels: Levels, path: Path) -> None:
    """Draw samples of a table (n, features): a histogram of one column, a corner plot of several.

    Args:
        made: the samples.
        schema: their columns; x0, x1, ... if there is none.
        levels: levels of samples without a schema.
        path: the file.
    """
    if schema is None or not schema.columns:
        schema = described([f"x{k}" for k in range(made.shape[1])], levels, {}, None)
        assert schema is not None
    columns = compared(schema, made[:0], made)
    save_figure(marginals(columns)[0] if len(columns) == 1 else corner(columns, columns_of(schema, made))[0], path)


def _of_table(schema: Schema, train: Dataset, test: Dataset, made: Tensor) -> dict[str, tuple[Figure, str]]:
    columns = compared(schema, test.x, made)
    found = {"marginals": marginals(columns)}
    return found | {"corner": corner(columns, columns_of(schema, train.x))} if len(columns) > 1 else found


def _pair(schema: Schema, train: Dataset) -> tuple[int, int] | None:
    """Return the two features of numbers with the strongest rank correlation in training data; None if there are fewer than two."""
    numbers = [k for k, column in enumerate(schema.columns) if column.kind in ("continuous", "integer")]
    if len(numbers) < 2:
        return None
    first, second = strongest(associations([(schema.columns[k], train.x[:, k].double()) for k in numbers]), 2)
    return numbers[first], numbers[second]


def _axes(schema: Schema | None) -> str:
    """Return a sentence on the axes of a picture of points, the first and the last column; points of a plane need none."""
    if schema is None or len(schema.columns) < 2 or schema.names == ("x1", "x2"):
        return ""
    return f" Across: {schema.names[0]}, up: {schema.names[-1]}."


def _as_frequent(made: Tensor, labels: Tensor, test: Dataset) -> Tensor:
    """Return as many samples as possible with the classes as frequent as in held-out data: the first ones of each class."""
    assert test.cond is not None
    shares = test.cond.cpu().bincount(minlength=int(labels.max()) + 1).double() / len(test)
    held = labels.bincount(minlength=len(shares))
    most = float((held / shares)[shares > 0].min())
    counts = (most * shares).round().long().minimum(held)
    return torch.cat([made[labels == label][: int(count)] for label, count in enumerate(counts)])
