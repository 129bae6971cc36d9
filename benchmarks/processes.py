"""Run under torchrun by `training.py`: a U-Net's step in each process for itself, and in both together, in turns."""

import json
import time

import torch
import torch.distributed as dist

import pushforward as pf
from benchmarks.training import Clock, unet_step
from pushforward.training.processes import processes

STEPS, RUNS = 12, 5


def main() -> None:
    among, data = processes(), pf.data.load("digits")
    torch.set_num_threads(1)
    step = unet_step()
    alone, together, shares = [], [], []
    x, cond = data[:64]
    for _ in range(RUNS):
        dist.barrier()
        step.phases.take()
        step(0, x, cond)
        begin = time.perf_counter()
        for k in range(STEPS):
            step(k, x, cond)
        alone.append((time.perf_counter() - begin) / STEPS)
        clock = Clock()
        model = pf.models.flow_matching(None, data.shape, classes=10, levels=17, preprocess="standardise")
        trainer = pf.Trainer(model, data, steps=STEPS + 1, batch_size=64 * among.size, validate_every=0, checkpoint_every=0)
        trainer.callbacks = [clock]
        trainer.fit()
        together.append(clock.per_step())
        slowest = max(among.gather(alone[-1]))
        shares.append(max(0.0, 1 - slowest / together[-1]))
    if among.main:
        print(json.dumps([shares, min(alone), min(together)]))


if __name__ == "__main__":
    main()
