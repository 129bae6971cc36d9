"""Run under torchrun by `training.py`: a U-Net's step in independent processes and in two synchronised ones, alternately.

The overhead of the synchronised steps is everything except forward pass, backward pass and optimiser: data, the Trainer's work around a
step, and waiting for the other process and its gradients after the local ones are ready, as measured by DDP.
"""

import json
import time

import torch
import torch.distributed as dist

import pushforward as pf
from benchmarks.training import Clock, unet_step
from pushforward.training.processes import processes

STEPS, RUNS = 12, 9


class Work(Clock):
    """Also accumulates the seconds of forward pass, backward pass until all gradients are computed, and optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[float] = []

    def on_every_step(self, trainer: pf.Trainer) -> None:
        phases = trainer._step.phases.take()
        backward = trainer._step.whole._get_ddp_logging_data()["backward_compute_time"] / 1e9
        self.work.append(phases["forward"] + backward + phases["optimiser"])
        super().on_every_step(trainer)

    def rest(self) -> float:
        """Return the share of all steps but the first that is none of these."""
        return 1 - sum(self.work[1:]) / (self.ends[-1] - self.ends[0])


def main() -> None:
    among, data = processes(), pf.data.load("digits")
    torch.set_num_threads(1)
    step = unet_step()
    alone, together, rests = [], [], []
    x, cond = data[:64]
    for _ in range(RUNS):
        dist.barrier()
        step.phases.take()
        clock = Clock()
        for k in range(STEPS + 1):
            step(k, x, cond)
            clock.ends.append(time.perf_counter())
        alone.append(clock.quickest())
        work = Work()
        model = pf.models.flow_matching(None, data.shape, classes=10, levels=17, preprocess="standardise")
        trainer = pf.Trainer(model, data, steps=STEPS + 1, batch_size=64 * among.size, validate_every=0, checkpoint_every=0)
        trainer._step.whole._set_ddp_runtime_logging_sample_rate(1)
        trainer.callbacks = [work]
        trainer.fit()
        together.append(work.quickest())
        rests.append(max(among.gather(work.rest())))
    slowest_alone = max(among.gather(min(alone)))
    if among.main:
        print(json.dumps([rests, slowest_alone, min(together)]))


if __name__ == "__main__":
    main()
