"""What several processes do in the tests: run under torchrun, each scenario leaves its results in a folder for the test to compare.

python -m torch.distributed.run --nproc-per-node 2 tests/distributed/scenarios.py FOLDER SCENARIO ...
"""

import contextlib
import io
import os
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import torch

import pushforward as pf
from pushforward.cli import main as main_command
from pushforward.errors import PushforwardError
from pushforward.training.processes import processes
from pushforward.training.progress import Callback, MetricsFile, read_metrics

SETTINGS = {"steps": 8, "batch_size": 32, "block": 8, "log_every": 2, "warmup": 3, "lr": 0.01, "validate_every": 4, "timeout": 60.0}


def model(dtype=torch.float64, **options):
    """A rectified flow whose training uses labels, dropped labels, transport within blocks and statistics of the data."""
    torch.manual_seed(0)
    options = {"classes": 2, "drop_cond": 0.2, "preprocess": "standardise", "pairing": pf.pairings.MinibatchOT(), **options}
    return pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (2,), **options).to(dtype)


def images(net):
    torch.manual_seed(0)
    return pf.models.flow_matching(net, (1, 8, 8), classes=10, levels=17, preprocess="standardise").double()


def train(one, data, **settings):
    return pf.Trainer(one, data, **{**SETTINGS, **settings}).fit()


def state(trainer):
    raw = {f"raw.{key}": value for key, value in trainer.model.state_dict().items()}
    return {**raw, **trainer.averaged_model.state_dict()}


class Stop(Callback):
    """Send a signal to one process alone; callbacks are the first process's, so the other one gets its own from outside."""

    def on_every_step(self, trainer):
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def law(folder, dtype=torch.float64, **settings):
    """Weights, losses and validation losses of a run."""
    data, validation = pf.data.moons(n=100), pf.data.moons("validation", n=50)
    lines = folder / f"metrics-{dtype}.jsonl".replace("torch.", "")
    one = train(model(dtype), data, validation=validation, callbacks=[MetricsFile(lines)], **settings)
    rows = read_metrics(lines) if processes().main else []
    losses = [row.get("loss", row.get("validation_loss")) for row in rows]
    return {"weights": state(one), "losses": losses}


def law32(folder, **settings):
    return law(folder, torch.float32, **settings)


def unet(folder, **settings):
    """A U-Net with a parameter that takes no part in any loss."""
    one = images(pf.nn.UNet.Config(channels=8, multipliers=(1, 2), depth=1))
    one.net.spare = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    trained = train(one, pf.data.digits("train").take(64), steps=3, **settings)
    return {"weights": state(trained), "unused": [name for name, p in one.named_parameters() if p.grad is None]}


def reversible(folder, memory="reversible", **settings):
    """A flow that finds its activations again: its gradients reach the processes' exchange through autograd all the same."""
    torch.manual_seed(0)
    one = pf.models.glow(1, 8, 2, 2, 8, values=17, classes=10, memory=memory).double()
    return {"weights": state(train(one, pf.data.digits("train").take(64), steps=3, **settings))}


def few_steps(folder, **settings):
    """Flow maps: derivatives by forward mode, which must not go past the exchange of gradients, and targets of averaged weights."""
    found, options = {}, {"classes": 2, "drop_cond": 0.2, "preprocess": "standardise"}
    for name in ("meanflow", "improved_meanflow", "shortcut"):
        torch.manual_seed(0)
        one = getattr(pf.models, name)(pf.nn.MLP.Config((16,)), (2,), **options).double()
        trained = train(one, pf.data.moons(n=100), steps=4, **settings)
        found |= {f"{name}.{key}": value for key, value in state(trained).items()}
    return {"weights": found}


class Moody(torch.nn.Module):
    """Leaves a parameter out of some losses, in one process and not in the other."""

    def __init__(self):
        super().__init__()
        self.usual, self.rare = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def forward(self, x, t, cond=None):
        return self.usual(x) + (self.rare(x) if t[0] > 0.5 else 0)


def moody(folder, **settings):
    torch.manual_seed(0)
    one = pf.families.PathModel(Moody(), (2,))
    return {"weights": state(train(one, pf.data.moons(n=100).x, steps=20, unused_parameters=True, **settings))}


def augmented(folder, **settings):
    x = pf.data.digits("train").take(64)
    net = pf.nn.DiT.Config(patch=4, width=16, depth=1, heads=2)
    return {"weights": state(train(images(net), x, steps=3, flip=True, shift=1, workers=1, **settings))}


def compiled(folder, **settings):
    """The networks compiled, in each process, under DDP."""
    net = pf.nn.DiT.Config(patch=4, width=16, depth=1, heads=2)
    return {"weights": state(train(images(net), pf.data.digits("train").take(64), steps=3, **{"compile": True, **settings}))}


def verbs(folder, **settings):
    """An adaptive solver needs another number of evaluations in each process: no verb may wait for the other."""
    among = processes()
    one = train(model(), pf.data.moons(n=100), **settings).averaged_model.eval()
    x = torch.randn(5 + 20 * among.rank, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(among.rank)) * (1 + 3 * among.rank)
    drawn = one.sample(4 + among.rank, generator=torch.Generator().manual_seed(7))
    return {"x": x, "log_prob": one.log_prob(x).detach(), "drawn": drawn, "weights": one.state_dict()}


def resume(folder, **settings):
    """A run that one process was told to stop, with loader workers, in the middle of an epoch; and the same one undisturbed."""
    data = pf.data.moons(n=150)
    settings = {"workers": 1, "steps": 12, **settings}
    straight = train(model(), data, **settings)
    first = train(model(), data, out=folder / "run", callbacks=[Stop()], **settings)
    torch.manual_seed(99)
    second = train(model(), data, out=folder / "run", resume=True, **settings)
    return {"straight": state(straight), "resumed": state(second), "stopped": [first.step, int(first.stopped_by or 0)]}


class Cut(torch.utils.data.Dataset):
    """Validation data that sends one process a signal at one reading; the Trainer first reads a row to see its shape."""

    def __init__(self, rank, reading, number):
        self.data, self.rank, self.number, self.left = pf.data.moons("validation", n=50), rank, number, reading

    def __len__(self):
        return len(self.data)

    def __getitems__(self, indices):
        self.left -= 1
        if self.left == 0 and processes().rank == self.rank:
            os.kill(os.getpid(), self.number)
        return self.data.__getitems__(indices)


def cut(folder, **settings):
    """Runs of which one process is told to stop while all validate, the first time or at the last step, and their continuations."""
    data, validation, found = pf.data.moons(n=100), pf.data.moons("validation", n=50), {}
    straight = train(model(), data, validation=validation, **settings)
    for rank, at, number in ((0, 1, signal.SIGTERM), (1, 2, signal.SIGINT)):
        run, options = folder / f"{rank}-{at}", {"log_every": 1, **settings}
        rows = Cut(rank, 2 + (at - 1) * len(range(0, 50, 32)[rank :: processes().size]), number)
        first = train(model(), data, validation=rows, out=run, **options)
        torch.manual_seed(99)
        second = train(model(), data, validation=validation, out=run, resume=True, **options)
        same = all(torch.equal(one, two) for one, two in zip(state(second).values(), state(straight).values(), strict=True))
        found[run.name] = [first.step, int(first.stopped_by or 0), second.step, second.best == straight.best, same]
    return found


def refusals(folder, **settings):
    """What is wrong in one process, or between them, is said in all of them."""
    among, data = processes(), pf.data.moons(n=100)
    attempts = {
        "rate": lambda: train(model(), data, lr=0.01 * (1 + among.rank)),
        "network": lambda: train(model() if among.main else model(pairing=pf.pairings.Independent()), data),
        "data": lambda: train(model(), pf.data.moons(n=100, seed=among.rank)),
        "shares": lambda: train(model(), data, batch_size=33, block=11),
        "one": lambda: train(model(), data.x[:0] if among.rank else data),
        "resume": lambda: train(model(), data, out=folder / "nothing", resume=True),
        "folder": lambda: train(model(), data, out="/proc/nowhere", checkpoint_every=2),
        "code": lambda: _with_other("pushforward.training.facts.code_digest", lambda: "0123" if among.rank else "abcd"),
        "torch": lambda: _with_other("torch.__version__", f"2.{among.rank}.0"),
        "validation": lambda: train(model(), data, validation=None if among.rank else data),
        "out": lambda: train(model(), data, out=None if among.rank else folder / "one"),
        "resumed": lambda: train(model(), data, out=folder / "two", resume=bool(among.rank), steps=1, validate_every=0),
        "dtype": lambda: train(model(torch.float32 if among.rank else torch.float64), data),
        "frozen": lambda: train(_frozen(model(), among.rank), data),
        "architecture": lambda: _resumed_with_another(folder / "three", data),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = ""
        except (PushforwardError, OSError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def _with_other(name, value):
    with mock.patch(name, value):
        train(model(), pf.data.moons(n=100))


def _frozen(one, rank):
    next(one.parameters()).requires_grad_(not rank)
    return one


def _resumed_with_another(out, data):
    """A wider network than that of the checkpoints."""
    train(model(), data, out=out, steps=1, validate_every=0)
    torch.manual_seed(0)
    wider = pf.models.rectified_flow(pf.nn.MLP.Config((32,)), (2,), classes=2, preprocess="standardise").double()
    train(wider, data, out=out, resume=True)


def best(folder, **settings):
    """The best weights of a run without a folder, which are not the last ones: its learning rate is too high."""
    one = train(model(), pf.data.moons(n=100), validation=pf.data.moons("validation", n=50), steps=40, lr=0.3, schedule="constant", ema=0.0)
    trained = {key: value.clone() for key, value in one.averaged_model.state_dict().items()}
    return {"weights": one.best_model.state_dict(), "last": trained}


def command(folder, **settings):
    """The command line, as torchrun starts it; then what it says in each process when the run exists already."""
    arguments = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "200", "--steps", "8", "--batch-size", "32"]
    arguments += ["--block", "8", "--validate-every", "4", "--checkpoint-every", "4", "--log-every", "2", "--warmup", "2"]
    arguments += ["--out", str(folder / "run"), "net:mlp", "--net.hidden", "16"]
    status = main_command(arguments)
    rows = [{k: row[k] for k in ("loss", "validation_loss") if k in row} for row in read_metrics(folder / "run" / "metrics.jsonl")]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        again = main_command(arguments)
    return {"status": status, "rows": rows, "again": again, "said": said.getvalue()}


class Trouble(torch.utils.data.Dataset):
    """Data whose fourth batch in the second process brings trouble."""

    def __init__(self, what):
        self.what, self.data, self.calls = what, pf.data.moons(n=100), 0

    def __len__(self):
        return len(self.data)

    def __getitems__(self, indices):
        self.calls += 1
        if processes().rank == 1 and self.calls == 5:
            self.what()
        return self.data.__getitems__(indices)


def fail():
    raise OSError("the shelf broke")


def dead(folder):
    train(model(), Trouble(lambda: os.kill(os.getpid(), signal.SIGKILL)), out=folder / "run")


def hung(folder):
    train(model(), Trouble(lambda: time.sleep(1000)), out=folder / "run", timeout=5.0)


def broken(folder):
    train(model(), Trouble(fail), out=folder / "run")


def main():
    import sharded  # which imports this file
    import streamed

    folder, among = Path(sys.argv[1]), processes(5.0 if "hung" in sys.argv else 60.0)
    for name in sys.argv[2:]:
        here = folder / name
        here.mkdir(parents=True, exist_ok=True)
        result = {**globals(), **vars(sharded), **vars(streamed)}[name](here)
        torch.save(result, here / f"{among.rank}.pt")


if __name__ == "__main__":
    main()
