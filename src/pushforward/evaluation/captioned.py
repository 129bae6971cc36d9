"""Pictures of texts: for each its real image, if there is one, above a sample."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pushforward.evaluation.pictures import INK, figure_of, plain, save_figure

LETTERS, LINES = 22, 2  # of a caption in a picture


def captioned(
    samples: Tensor, captions: Sequence[str], path: Path, *, real: Tensor | None = None, title: str = "", columns: int = 8
) -> None:
    """Draw samples (n, 3, height, width) in [0, 1] with their captions, each under its real image, where these are given."""
    rows, high = -(-len(samples) // columns), 1 if real is None else 2
    figure = figure_of(1.15 * columns, (1.0 * high + 0.45) * rows + 0.4)
    panels = figure.subplots(rows * high, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for k, caption in enumerate(captions):
        row, column = high * (k // columns), k % columns
        shown = [samples[k]] if real is None else [real[k], samples[k]]
        for axes, image in zip(panels[row : row + high, column], shown, strict=True):
            axes.imshow(image.detach().float().cpu().permute(1, 2, 0).numpy(), interpolation="nearest")
        panels[row, column].set_title(plain(_shortened(caption)), fontsize=6.5, color=INK)
    figure.suptitle(plain(title), color=INK, fontsize=10)
    save_figure(figure, path)


def _shortened(caption: str) -> str:
    lines = textwrap.wrap(caption, LETTERS) or [""]
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1][: LETTERS - 1]}…"])
