"""Runs that are killed at a chosen moment, in processes forked from one that has imported torch: a start takes no two seconds."""

import importlib
import json
import multiprocessing.connection
import os
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed import TCPStore

import pushforward as pf
from pushforward.formats.model import RAW, WEIGHTS, read_weights
from pushforward.formats.run import checkpoints
from pushforward.training.processes import processes
from pushforward.training.progress import MetricsFile, read_metrics
from pushforward.training.step import Step

EVERY = 10
SETTINGS = {"steps": 120, "batch_size": 32, "block": 8, "warmup": 3, "lr": 0.01, "checkpoint_every": EVERY, "log_every": 5}
SETTINGS |= {"validate_every": 20, "timeout": 60.0, "patience": 0}
KINDS = {
    "plain": (1, {}),
    "asynchronous": (1, {"async_checkpoints": True}),
    "sharded": (2, {"parallel": "fsdp"}),
    "of four processes": (4, {}),
    "sharded and asynchronous": (2, {"parallel": "fsdp", "async_checkpoints": True}),
}
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")
LATE = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint", "torch.distributed.tensor", "scipy.optimize")
FORK = multiprocessing.get_context("fork")
REACHED = FORK.RawValue("i", 0)  # steps that the process to be killed has completed


@dataclass(frozen=True)
class Moment:
    """When a process kills itself.

    Args:
        step: the step that it begins.
        event: None for this moment; k for the k-th operation on a file of the run that follows.
        rank: which process does.
    """

    step: int
    event: int | None = None
    rank: int = 0


def moments(number, seed, size, steps=SETTINGS["steps"]):
    """Return random moments in the order of their steps; every second one is in the middle of the work on files."""
    draw, found = random.Random(seed), []
    for k, step in enumerate(sorted(draw.randrange(1, steps - 3 * EVERY) for _ in range(number))):
        rank = draw.randrange(size)
        found.append(Moment(step, draw.randrange(2 if rank else 30) if k % 2 else None, rank))  # other processes only write their shards
    return found


def model():
    torch.manual_seed(0)
    options = {"classes": 2, "drop_cond": 0.2, "preprocess": "standardise", "pairing": pf.pairings.MinibatchOT()}
    return pf.models.rectified_flow(pf.nn.MLP.Config((16, 16)), (2,), **options)


def begin(out, kind, moment=None, before=None, **settings):
    """Start the processes of a run, which continues what is in its folder; each calls `before` with its rank."""
    for name in LATE:  # which each process would import by itself
        importlib.import_module(name)
    size, options = KINDS[kind]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if size > 1 else None  # as torchrun's agent holds it
    port = 0 if store is None else store.port
    settings = {**options, **settings}
    started = [FORK.Process(target=_train, args=(out, rank, size, port, moment, before, settings)) for rank in range(size)]
    for one in started:
        one.store = store
        one.start()
    return started


def end(started, seconds=120, together=True):
    """Wait until the processes have ended, and return how; once one was killed, the others are if `together`, as torchrun does."""
    waiting = list(started)
    while waiting:
        done = multiprocessing.connection.wait([one.sentinel for one in waiting], timeout=seconds)
        assert done, "a process neither ends nor is killed"
        waiting = [one for one in waiting if one.is_alive()]
        if together and any(one.exitcode for one in started):
            for one in waiting:
                one.kill()
    return [one.exitcode for one in started]


def _train(out, rank, size, port, moment, before, settings):
    if size > 1:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
        where |= {"TORCHELASTIC_RUN_ID": "killed", "TORCHELASTIC_USE_AGENT_STORE": True}
        os.environ.update({name: str(value) for name, value in where.items()})
    torch.manual_seed(rank + 100 * (0 if moment is None else moment.step))  # nothing may depend on it
    if moment is not None and moment.rank == rank:
        _arm(moment, out)
    if before is not None:
        before(rank)
    data, validation = pf.data.moons(n=200), pf.data.moons("validation", n=50)
    lines = MetricsFile(out / "metrics.jsonl")
    out.mkdir(exist_ok=True)
    common = {"validation": validation, "out": out, "resume": "auto", "callbacks": [lines], **SETTINGS}
    status = 0
    try:
        pf.Trainer(model(), settings.pop("data", data), **{**common, **settings}).fit()
    except (pf.errors.PushforwardError, OSError) as error:
        message(out, rank).write_text(f"{type(error).__name__}: {error}")
        status = 1
    processes().part(destroy=status == 0)
    os._exit(status)  # the parent's test session is not to be torn down here


def message(out, rank=0):
    """Return the file with the error of a process."""
    return out.with_name(f"{out.name}-{rank}.txt")


def _arm(moment, out):
    """Let this process kill itself at a moment."""
    take, seen = Step.__call__, []

    def begin_step(self, step, *batch):
        if step >= moment.step:
            REACHED.value = step
            if moment.event is None:
                _kill()
            seen.append(step)
        taken = take(self, step, *batch)
        REACHED.value = step + 1
        return taken

    def on_event(event, arguments):
        path = str(arguments[0]) if seen and event in EVENTS and arguments else ""
        if path.startswith(f"{out}/"):
            seen.append(event)
            if sum(isinstance(one, str) for one in seen) > moment.event:
                _kill()

    Step.__call__ = begin_step
    if moment.event is not None:
        sys.addaudithook(on_event)


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


def outcome(out):
    """Return all that a run leaves of its training: weights, averages, moments, what the best are, and its metrics."""
    last, best = checkpoints(out).path("last"), checkpoints(out).path("best")
    state = torch.load(last / "training.pt", weights_only=True)
    tensors = {f"raw.{name}": one for name, one in read_weights(last / RAW).items()} | read_weights(last / WEIGHTS)
    tensors |= {f"best.{name}": one for name, one in read_weights(best / WEIGHTS).items()}
    for number, own in state["optimiser"]["state"].items():
        tensors |= {f"{number}.{name}": one for name, one in own.items()}
    wanted = ("step", "loss", "validation_loss", "gradient_norm", "lr", "loss_by_t")
    rows = [json.dumps({name: row[name] for name in wanted if name in row}) for row in read_metrics(Path(out) / "metrics.jsonl")]
    plain = {name: state[name] for name in ("step", "best", "guard", "stale", "unvalidated")}
    return tensors, [last.name, best.name, plain, rows]


def lost(out):
    """Return the steps that a killed run had completed since its newest complete checkpoint, and how many it left unfinished."""
    newest = checkpoints(out).newest_whole()
    return REACHED.value - (0 if newest is None else int(newest.name[-6:])), len(list((out / "checkpoints").glob(".*.tmp")))
