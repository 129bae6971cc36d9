"""The report of a run: a self-contained HTML file with pictures, metrics, settings and the command to reproduce it."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pushforward.evaluation.judgement import Judgement
from pushforward.evaluation.pages import embedded, ratio_error, rendered, share_error
from pushforward.evaluation.units import STANDARDISED, unit_of_distances
from pushforward.formats.files import write_text


def environment() -> dict[str, str]:
    """Return the environment that results depend on: machine, threads, versions."""
    from pushforward.formats.packages import versions

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        processor = next(
            (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), processor
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "accelerator": device,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        **versions(),
    }


def write_report(
    path: Path,
    *,
    title: str,
    judgement: Judgement,
    pictures: Mapping[str, tuple[Path, str]],
    settings: str,
    command: str,
    facts: Mapping[str, Any],
) -> None:
    """Write report.html.

    Args:
        path: output file.
        title: heading.
        judgement: the metrics.
        pictures: name to (PNG file, caption); they are embedded.
        settings: the run's config.yaml.
        command: command that reproduces the run.
        facts: additional lines for the summary, such as the training time.
    """
    j = judgement
    text = rendered(
        "report.html.jinja", title=title, j=j, settings=settings, command=command, facts=facts, environment=environment(),
        pictures={name: (embedded(file), caption) for name, (file, caption) in pictures.items() if file.exists()},
        distance_unit=unit_of_distances(j.distance_unit), standardised=j.distance_unit == STANDARDISED, share_error=share_error,
        ratio_error=ratio_error(j.distance, j.distance_std, j.distance_train, j.distance_train_std),
    )  # fmt: skip
    write_text(path, text)
