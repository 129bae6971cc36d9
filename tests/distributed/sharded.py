"""What several processes do in the tests of sharding; as `scenarios.py`, which runs these too."""

import resource
import shutil
import signal
from unittest import mock

import torch
from scenarios import images, model, train

import pushforward as pf
from pushforward.errors import PushforwardError
from pushforward.formats.run import checkpoints
from pushforward.training.processes import processes
from pushforward.training.progress import Callback


class Losses(Callback):
    """The losses and validation losses of a run."""

    def __init__(self):
        self.values = []

    def on_step(self, trainer, metrics):
        self.values.append(metrics["loss"])

    def on_validation(self, trainer, metrics):
        self.values += [metrics["validation_loss"], float(drawn(trainer.averaged_model).sum())]


def drawn(one):
    """A few samples, in few steps where they are solved for."""
    options = {"sampler": pf.samplers.Euler(2)} if isinstance(one, pf.families.PathModel) else {}
    return one.sample(2, generator=torch.Generator().manual_seed(7), **options)


def outcome(one, data, **settings):
    """Weights and losses of a run, and samples of its averaged model."""
    losses = Losses()
    trained = train(one, data, callbacks=[losses], **settings)
    averaged = trained.averaged_model.eval()
    own = drawn(trained.model.eval())  # by all processes together, where it is sharded
    whole = {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in trained.model.state_dict().items()}
    return {
        "weights": {**{f"raw.{key}": one for key, one in whole.items()}, **averaged.state_dict()},
        "losses": losses.values,
        "drawn": torch.cat((drawn(averaged), own)),
    }


def transformer(**options):
    torch.manual_seed(0)
    small = {"heads": 2, "head_width": 8, "context_width": 16, "pooled_width": 16, "positions": 8, "base_size": 2, "null_tokens": 3}
    net = pf.nn.MMDiT.Config(patch=4, depth=2, **small).build((1, 8, 8))
    return pf.families.PathModel(net, (1, 8, 8), path=pf.paths.Linear(), **options).double()


def flow(name, *args, **options):
    torch.manual_seed(0)
    return getattr(pf.models, name)(*args, **options).double()


def _frozen(one):
    """A model of which a block is neither trained nor saved."""
    one.net.blocks[0].requires_grad_(False)
    one.saves_frozen = False
    return one


SMALL = {"channels": (8, 8), "down": ("conv attention", "conv"), "up": ("conv", "conv attention"), "groups": 4, "depth": 1}
KINDS = {
    "unet": lambda: images(pf.nn.UNet.Config(channels=8, multipliers=(1, 2), depth=1)),
    "unet_2d": lambda: images(pf.nn.UNet2D.Config(**SMALL)),
    "dit": lambda: images(pf.nn.DiT.Config(patch=4, width=16, depth=2, heads=2)),
    "frozen": lambda: _frozen(images(pf.nn.DiT.Config(patch=4, width=16, depth=2, heads=2))),
    "variance": lambda: flow("ddpm", pf.nn.DiT.Config(patch=4, width=16, depth=1, heads=2), (1, 8, 8), classes=10, learn_variance=True),
    "glow": lambda: flow("glow", 1, 8, 2, 2, 8, values=17, classes=10),
    "tarflow": lambda: flow("tarflow", (1, 8, 8), layers=2, width=16, depth=2, heads=2, classes=10, levels=17),
    "nsf": lambda: flow("nsf", 64, layers=3),
    "ffjord": lambda: flow("ffjord", pf.nn.MLP.Config((16,)), (64,)),
    "shortcut": lambda: flow("shortcut", pf.nn.DiT.Config(patch=4, width=16, depth=2, heads=2), (1, 8, 8), classes=10, drop_cond=0.2),
    "consistency": lambda: flow("consistency", pf.nn.DiT.Config(patch=4, width=16, depth=2, heads=2), (1, 8, 8), classes=10),
}


def both(make, data, **settings):
    """The outcome under DDP and under FSDP (and hybrid, of four processes)."""
    kinds = {"ddp": {}, "fsdp": {}} | ({"hybrid": {"shard_size": 2}} if processes().size == 4 else {})
    return {kind: outcome(make(), data, parallel=kind, **more, **settings) for kind, more in kinds.items()}


def sharded_law(folder):
    """A network that is one shard, with labels, transport, validation and an odd number of rows; and one of blocks."""
    moons = {"validation": pf.data.moons("validation", n=50)}
    rows = pf.data.digits("train").take(64).x
    return {
        "mlp": both(model, pf.data.moons(n=100), **moons),
        "mmdit": both(transformer, rows, steps=3, block=4, accumulate=2, activation_checkpointing=True),
    }


def sharded_kinds(folder):
    digits = pf.data.digits("train").take(64)
    flat = digits.x.flatten(1)
    return {name: both(make, flat if name in ("nsf", "ffjord") else digits, steps=3) for name, make in KINDS.items()}


def sharded_precision(folder):
    """Autocast, loss scaling, and blocks compiled one by one."""
    digits, found = pf.data.digits("train").take(64).x, {}
    for name, options in {"bf16": {"precision": "bf16"}, "fp16": {"precision": "fp16"}, "compile": {"compile": True}}.items():
        found[name] = both(lambda: transformer().float(), digits, steps=3, **options)
    return found


def _again(folder, name, one, data, **settings):
    """A run that continues from the first checkpoint of another one."""
    if processes().main:
        shutil.copytree(folder / "run", folder / name)
        shutil.rmtree(checkpoints(folder / name).folder / "step-000008")
    with processes().agreed("copying"):
        pass
    return outcome(one, data, out=folder / name, resume=True, **settings)


def digits():
    """Data, and options of a run that leaves checkpoints of steps 4 and 8."""
    validation = pf.data.digits("validation").take(32).x
    options = {"validation": validation, "validate_every": 4, "checkpoint_every": 4, "log_every": 1}
    return pf.data.digits("train").take(64).x, options


def sharded_resume(folder):
    """A run under FSDP whose checkpoints are written in the background, and what continues it, shared in the same way or not."""
    data, options = digits()
    found = {"straight": outcome(transformer(), data, out=folder / "run", parallel="fsdp", async_checkpoints=True, **options)}
    torch.manual_seed(99)
    found["fsdp"] = _again(folder, "fsdp", transformer(), data, parallel="fsdp", **options)
    found["ddp"] = _again(folder, "ddp", transformer(), data, parallel="ddp", **options)
    return found


def sharded_more(folder):
    """Runs whose checkpoints are synchronous, of copies, and of shards in groups, each of which another kind continues."""
    data, options = digits()
    found = {"straight": outcome(transformer(), data, out=folder / "run", parallel="fsdp", **options)}
    kinds = {"ddp": {}} | ({"hybrid": {"shard_size": 2}} if processes().size == 4 else {})
    for kind, more in kinds.items():
        place = folder / kind
        place.mkdir(exist_ok=True)
        found[f"to {kind}"] = _again(folder, f"to {kind}", transformer(), data, parallel=kind, **more, **options)
        outcome(transformer(), data, out=place / "run", parallel=kind, async_checkpoints=True, **more, **options)
        found[f"from {kind}"] = _again(place, "fsdp", transformer(), data, parallel="fsdp", **options)
    return found


def sharded_refusals(folder):
    """What cannot be sharded, or resumed, is said in every process."""
    among, data = processes(), pf.data.moons(n=100)
    meanflow = lambda: pf.models.meanflow(pf.nn.MLP.Config((16,)), (2,)).double()  # noqa: E731
    attempts = {
        "jvp": lambda: train(meanflow(), data.x, parallel="fsdp"),
        "improved": lambda: train(pf.models.improved_meanflow(pf.nn.MLP.Config((16,)), (2,)).double(), data.x, parallel="hybrid"),
        "unused": lambda: train(model(), data, parallel="fsdp", unused_parameters=True),
        "kinds": lambda: train(model(), data, parallel="fsdp" if among.main else "ddp"),
        "group": lambda: train(model(), data, parallel="hybrid", shard_size=3),
        "alone": lambda: train(model(), data, parallel="hybrid", shard_size=1),
        "scalar": lambda: train(_with_scalar(), data.x, parallel="fsdp"),
        "folder": lambda: train(model(), data, out="/proc/nowhere", parallel="fsdp"),
        "background": lambda: train(model(), data, out="/proc/nowhere", parallel="fsdp", async_checkpoints=True),
        "background_ddp": lambda: train(model(), data, out="/proc/nowhere", async_checkpoints=True),
        "full": lambda: _on_a_full_disk(folder / "full", data),
        "weights": lambda: _without_room_for_weights(folder / "weights", data),
        "architecture": lambda: _resumed_with_another(folder, data),
        "early": lambda: pf.Trainer(model(), data, parallel="fsdp", steps=1).averaged_model,
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = ""
        except (PushforwardError, OSError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    automatic = {"auto": train(meanflow(), data.x, steps=1, parallel="auto").step}
    return said | automatic


def _with_scalar():
    one = model(pairing=pf.pairings.Independent(), classes=None, drop_cond=0.0)
    one.net.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    return one


def _on_a_full_disk(out, data):
    """The second process alone cannot write its shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
    if not processes().main:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        train(model(), data, out=out, parallel="fsdp")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def _without_room_for_weights(out, data):
    """The first process alone fails, in the middle of what all exchange."""
    with mock.patch("pushforward.training.state.write_weights", side_effect=OSError(28, "No space left on device")):
        train(model(), data, out=out, parallel="fsdp")


def _resumed_with_another(folder, data):
    train(model(), data, out=folder / "run", steps=1, parallel="fsdp")
    torch.manual_seed(0)
    wider = pf.models.rectified_flow(pf.nn.MLP.Config((32,)), (2,), classes=2, preprocess="standardise").double()
    train(wider, data, out=folder / "run", resume=True, parallel="fsdp")
