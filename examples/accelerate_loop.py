"""A model in a loop of Hugging Face Accelerate: calling the model is its loss, so that `accelerator.prepare` wraps it unchanged.

    pip install accelerate
    python examples/accelerate_loop.py --steps 500 --out moons            # one process
    accelerate launch examples/accelerate_loop.py --steps 500 --out moons  # as `accelerate config` states: processes, precision, FSDP

The model fits its units to the data first (`initialise`), and `pf.save` writes what `pf.load` and the command line read.
"""

import argparse
from itertools import chain, islice, repeat

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

import pushforward as pf


def main(arguments: list[str] | None = None) -> None:
    """Train on two moons, with labels, and save the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="moons")
    given = parser.parse_args(arguments)
    accelerator = Accelerator()
    set_seed(0)
    data = pf.data.load("moons")
    model = pf.models.rectified_flow(pf.nn.MLP.Config((64, 64)), (2,), classes=2, preprocess="standardise")
    model.initialise(data.x)
    loader = DataLoader(TensorDataset(data.x, data.cond), batch_size=256, shuffle=True, drop_last=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    wrapped, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    for step, (x, cond) in enumerate(islice(chain.from_iterable(repeat(loader)), given.steps), 1):
        loss = wrapped(x, cond)  # `forward` is `loss`
        accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        if step % 100 == 0 or step == given.steps:
            accelerator.print(f"step {step}  loss {accelerator.reduce(loss.detach(), 'mean').item():.4f}")
    if accelerator.is_main_process:
        print(f"the model is {pf.save(accelerator.unwrap_model(wrapped).eval(), given.out)}")


if __name__ == "__main__":
    main()
