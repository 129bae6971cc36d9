"""Run under torchrun by `training.py`: the quickest step of a U-Net in each process for itself, and in both together, in turns."""

import json
import time

import torch
import torch.distributed as dist

import pushforward as pf
from benchmarks.training import Clock, unet_step
from pushforward.training.processes import processes

STEPS, RUNS = 12, 9


def main() -> None:
    among, data = processes(), pf.data.load("digits")
    torch.set_num_threads(1)
    step = unet_step()
    alone, together, shares = [], [], []
    x, cond = data[:64]
    for _ in range(RUNS):
        dist.barrier()
        step.phases.take()
        clock = Clock()
        for k in range(STEPS + 1):
            step(k, x, cond)
            clock.ends.append(time.perf_counter())
        alone.append(clock.quickest())
        clock = Clock()
        model = pf.models.flow_matching(None, data.shape, classes=10, levels=17, preprocess="standardise")
        trainer = pf.Trainer(model, data, steps=STEPS + 1, batch_size=64 * among.size, validate_every=0, checkpoint_every=0)
        trainer.callbacks = [clock]
        trainer.fit()
        together.append(clock.quickest())
        slowest = max(among.gather(alone[-1]))
        shares.append(max(0.0, 1 - slowest / together[-1]))
    slowest_alone = max(among.gather(min(alone)))
    if among.main:
        print(json.dumps([shares, slowest_alone, min(together)]))


if __name__ == "__main__":
    main()
