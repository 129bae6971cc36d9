"""A model in Lightning's loop: `model.loss(x, cond)` is the training step, so that Lightning's devices, callbacks and loggers apply.

    pip install lightning
    python examples/lightning_loop.py --steps 500 --out moons

The model fits its units to the data first (`initialise`), and `pf.save` writes what `pf.load` and the command line read.
"""

import argparse

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import pushforward as pf


class Flow(lightning.LightningModule):
    """Any model of pushforward as a LightningModule."""

    def __init__(self, model: torch.nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch, index):
        loss = self.model.loss(*batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):
        self.log("validation_loss", self.model.loss(*batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=self.lr)


def main(arguments: list[str] | None = None) -> None:
    """Train on two moons, with labels, and save the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="moons")
    given = parser.parse_args(arguments)
    lightning.seed_everything(0, verbose=False)
    train, validation = (pf.data.load("moons", split) for split in ("train", "validation"))
    model = pf.models.rectified_flow(pf.nn.MLP.Config((64, 64)), (2,), classes=2, preprocess="standardise")
    model.initialise(train.x)
    loaders = [DataLoader(TensorDataset(one.x, one.cond), 256, shuffle=one is train, drop_last=one is train) for one in (train, validation)]
    trainer = lightning.Trainer(
        max_steps=given.steps,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Flow(model), *loaders)
    print(f"validation loss {trainer.callback_metrics['validation_loss']:.4f}; the model is {pf.save(model.eval(), given.out)}")


if __name__ == "__main__":
    main()
