"""Overhead of the Trainer over a hand-written loop, and the cost of a second process, the loader and a checkpoint."""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import pushforward as pf
from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import RUNS
from pushforward.training.settings import Settings
from pushforward.training.step import Step

STEPS = 60
FASHION = Path("/usr/share/datasets/fashion-mnist")


class Clock(pf.training.Callback):
    """Records the end time of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_every_step(self, trainer: pf.Trainer) -> None:
        self.ends.append(time.perf_counter())

    def per_step(self) -> float:
        """Return the mean seconds of all steps except the first."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    def quickest(self) -> float:
        """Return the seconds of the fastest step except the first."""
        return min(b - a for a, b in itertools.pairwise(self.ends))


@rows
def training() -> list[Row]:
    return [_trainer(), _second_process(), *_loader(), _save()]


def demo_model() -> pf.families.GenerativeModel:
    torch.manual_seed(0)
    net = pf.nn.MLP.Config(hidden=(512, 512), time_features=32)
    return pf.models.rectified_flow(net, (1, 8, 8), classes=10, levels=17, drop_cond=0.1, preprocess="standardise")


def _trainer() -> Row:
    """The demo's model and settings, in the Trainer and in a loop that also clips, keeps averages and follows a schedule."""
    data = pf.data.load("digits")
    settings = Settings(steps=STEPS, lr=2e-3, log_every=25)

    def ours() -> float:
        clock = Clock()
        with tempfile.TemporaryDirectory() as out:
            lines = pf.training.progress.MetricsFile(Path(out) / "metrics.jsonl")
            pf.Trainer(demo_model(), data, callbacks=[clock, lines], **vars(settings)).fit()
        return clock.per_step()

    def by_hand() -> float:
        model = demo_model()
        model.initialise(data.x)
        average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min((step + 1) / 100, 1.0))
        x, labels = data.x, data.cond
        assert labels is not None
        generator, ends = torch.Generator().manual_seed(0), []
        for _ in range(STEPS):
            rows = torch.randint(len(x), (settings.batch_size,), generator=generator)
            loss = model.loss(x[rows], labels[rows], generator=generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            ends.append(time.perf_counter())
        return (ends[-1] - ends[0]) / (STEPS - 1)

    runs = _in_turn({OURS: ours, FLOOR: by_hand}, turns=5)
    ratios = sorted(mine / hand for mine, hand in zip(runs[OURS], runs[FLOOR], strict=True))
    middle = statistics.median(ratios)
    values = {OURS: 1e3 * min(runs[OURS]), FLOOR: 1e3 * min(runs[FLOOR])}
    ratio = (1 / middle, 1 / ratios[-1], 1 / ratios[0])
    return Row(
        "Trainer, a step of the demo (the floor is a hand-written loop)", "ms", values, ratio, "at most 1.03x the floor", middle <= 1.03
    )


def _in_turn(contenders: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    runs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(RUNS):
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(turns):
            for name, contender in contenders.items():
                best[name] = min(best[name], contender())
        for name, seconds in best.items():
            runs[name].append(seconds)
    return runs


def _second_process() -> Row:
    """Two processes, 64 images each: the share of a step outside forward pass, backward pass and optimiser, including waiting."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.processes"]
    shares, alone, together = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    middle = statistics.median(shares)
    values = {OURS: 1e3 * together, FLOOR: 1e3 * alone}
    ratio = (1 - middle, 1 - max(shares), 1 - min(shares))
    case = "a step of U-Net in 2 processes, 64 each (the floor has no DDP)"
    return Row(case, "ms", values, ratio, "less than 10% outside the work", middle < 0.10)


def _loader() -> list[Row]:
    """Batches of Fashion-MNIST: the share of a step of a small U-Net that is spent waiting for data."""
    if not FASHION.is_dir():
        return []
    data = pf.data.load("fashion_mnist", path=str(FASHION))
    model = pf.models.flow_matching(pf.nn.UNet.Config(channels=8, depth=1), data.shape, classes=10, levels=256, preprocess="standardise")
    seconds_by_phase: dict[str, float] = {}

    class Phases(pf.training.Callback):
        def on_step(self, trainer: pf.Trainer, metrics: dict) -> None:
            for name, seconds in metrics["phases"].items():
                seconds_by_phase[name] = seconds_by_phase.get(name, 0.0) + seconds

    pf.Trainer(model, data, steps=20, batch_size=64, callbacks=[Phases()]).fit()
    whole = sum(seconds_by_phase.values())
    share = seconds_by_phase["data"] / whole
    values = {OURS: 1e3 * seconds_by_phase["data"] / 20}
    return [Row("batch of 64 of Fashion-MNIST, no workers", "ms", values, (1 - share,) * 3, "less than 5% of a step", share < 0.05)]


def _save() -> Row:
    """One save per minute of a U-Net, with its average and AdamW's state."""
    torch.manual_seed(0)
    model = pf.models.flow_matching(pf.nn.UNet.Config(channels=96, multipliers=(1, 2, 2)), (1, 28, 28), classes=10, levels=256)
    x, seconds = torch.zeros(16, 1, 28, 28), []
    with tempfile.TemporaryDirectory() as out:
        trainer = pf.Trainer(model, x, out=out, steps=1, batch_size=2)
        trainer.fit()
        for _ in range(5):
            start = time.perf_counter()
            trainer.save()
            seconds.append(time.perf_counter() - start)
    share = statistics.median(seconds) / 60
    size = sum(p.numel() for p in model.parameters()) / 1e6
    values = {OURS: 1e3 * min(seconds)}
    case = f"checkpoint of a U-Net of {size:.0f} million parameters"
    ratio = (1 - share, 1 - max(seconds) / 60, 1 - min(seconds) / 60)
    return Row(case, "ms", values, ratio, "less than 5% of a minute", share < 0.05)


def unet_step() -> Step:
    """Return the step of the U-Net that `pushforward train flow_matching --data digits` takes by default, for one process alone."""
    from pushforward.training.processes import Processes

    torch.manual_seed(0)
    data = pf.data.load("digits")
    model = pf.models.flow_matching(None, data.shape, classes=10, levels=17, preprocess="standardise")
    model.train()
    return Step(model, Settings(batch_size=64), Processes(), torch.device("cpu"))
