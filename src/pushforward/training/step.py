"""One optimisation step: losses of the micro-blocks, gradients summed over them and averaged over processes, clipped, guarded, applied."""

import contextlib
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pushforward.augmentations import Augmentation, Flip, Shift
from pushforward.errors import UserError
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.nn.layers import Blocks
from pushforward.training.compiling import compile_networks
from pushforward.training.guard import Guard
from pushforward.training.optimisation import Averaged, learning_rate, optimiser
from pushforward.training.order import BlockGenerators, generator_at, seed_of
from pushforward.training.processes import Processes
from pushforward.training.settings import Settings
from pushforward.training.sharding import Sharded
from pushforward.training.shards import full, local
from pushforward.training.telemetry import Phases

AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """One optimisation step, as the Trainer repeats it.

    Args:
        model: the model to train.
        settings: the training settings.
        processes: the processes that share the micro-blocks of a batch.
        device: device of the model.
        rows: for DDP, rows (x, cond) of training data, the same in all, to find parameters that the loss does not use.
        group: number of processes that share one copy of the model (FSDP); 1 if each has its own.
    """

    def __init__(
        self,
        model: GenerativeModel,
        settings: Settings,
        processes: Processes,
        device: torch.device,
        rows: tuple[Tensor, Any] | None = None,
        group: int = 1,
    ) -> None:
        self.model, self.settings, self.processes, self.device = model, settings, processes, device
        prepare(model, settings)  # first, because a different memory layout reallocates the parameters
        self.sharded = Sharded(model, device, processes.size, group, settings.compile) if group > 1 else None
        self.optimiser = optimiser(model, settings)
        copied = None if self.sharded is None or not settings.ema else self.sharded.copied()
        self.average = Averaged(model, settings.ema, copied) if settings.ema else None
        self._gathered: GenerativeModel | None = None
        self.parameters = list(model.parameters())
        self.autocast = AUTOCAST[settings.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.guard = Guard(settings.spike)
        self.phases = Phases(device)
        share = settings.blocks // processes.size
        self.generators = BlockGenerators(settings.seed, range(share * processes.rank, share * (processes.rank + 1)))
        self.augmentations: list[Augmentation] = [Flip()] if settings.flip else []
        if settings.shift:
            self.augmentations.append(Shift(settings.shift))
        self.has_dropout = any(isinstance(one, nn.modules.dropout._DropoutNd) and one.p > 0 for one in model.modules())
        if settings.compile and self.sharded is None:
            compile_networks(model, device)
        self.whole: nn.Module = model if rows is None else self._distributed(*rows)

    @property
    def averaged(self) -> GenerativeModel:
        """The model with averaged weights, or the trained one if there is no average, as it is updated."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def usable_average(self) -> GenerativeModel:
        """Return the model with averaged weights in a form that one process may call alone.

        Raises:
            UserError: it is sharded, and not gathered now.
        """
        if self.sharded is None:
            return self.averaged
        if self._gathered is None:
            raise UserError("averaged_model is sharded; its weights are gathered for validations and at the end of fit(): use it then.")
        return self._gathered

    def gather(self) -> None:
        """Gather the averaged weights if they are sharded; all processes call it."""
        self._gathered = None if self.sharded is None else self.sharded.gathered(self.averaged)

    def release(self) -> None:
        """Give up the gathered weights."""
        self._gathered = None

    def _distributed(self, x: Tensor, cond: Any) -> DistributedDataParallel:
        """Return the model in DDP: its gradients are averaged over processes during the backward pass."""
        unused = self.settings.unused_parameters or bool(unused_parameters(self.model, x, cond))
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {one: False for one in ("forward_sync_buffers", "broadcast_buffers") if one in known}
        if len(options) == 2:
            del options["broadcast_buffers"]  # the older name; buffers are identical from the start, and no loss modifies them
        whole = DistributedDataParallel(
            self.model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            find_unused_parameters=unused,
            gradient_as_bucket_view=True,
            **options,
        )
        whole._set_ddp_runtime_logging_sample_rate(10)
        # After the first backward pass DDP rebuilds its buckets, which changes the order of summation: with three or more processes a
        # resumed run would differ in the last bits if this pass were a training step.
        whole(x, cond, generator=generator_at(0)).backward()
        self.optimiser.zero_grad(set_to_none=True)
        return whole

    def all_reduce_seconds(self) -> float:
        """Return the all-reduce time of one step, as DDP measures it in every tenth step; 0 for one process.

        A custom hook would be called in gloo's threads, which abort the process if they need Python during interpreter shutdown.
        """
        if not isinstance(self.whole, DistributedDataParallel):
            return 0.0
        return float(self.whole._get_ddp_logging_data().get("backward_comm_time", 0)) / 1e9

    def __call__(self, step: int, x: Tensor, cond: Any, noise: Tensor | None = None) -> tuple[Tensor, float, bool]:
        """Take a step on this process's share of the batch; return its loss, the gradient's norm, and whether the step was taken."""
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(s, step)
        self.model.input_noise, self.model.progress = s.noise_at(step), step / s.steps
        generators = self.generators.at(step)
        if self.has_dropout:
            torch.manual_seed(seed_of(s.seed, 3, step, self.processes.rank))
        rows, part = len(x) // s.accumulate, len(generators) // s.accumulate
        losses = []
        self.optimiser.zero_grad(set_to_none=True)
        for k in range(s.accumulate):
            with self._synchronised(k == s.accumulate - 1):
                with self.phases("forward"), self._precision(), self._targets():
                    some, own = slice(k * rows, (k + 1) * rows), generators[k * part : (k + 1) * part]
                    part_cond, part_noise = (None if one is None else one[some] for one in (cond, noise))
                    loss = self.whole(self._augmented(x[some], own), part_cond, noise=part_noise, generator=own)
                with self.phases("backward"):
                    self.scaler.scale(loss if s.accumulate == 1 else loss / s.accumulate).backward()
                losses.append(loss.detach())
        with self.phases("optimiser"):
            self.scaler.unscale_(self.optimiser)
            norm = float(full(nn.utils.clip_grad_norm_(self.parameters, s.clip or math.inf)))
            taken = self._apply(norm)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean(), norm, taken

    def _augmented(self, x: Tensor, generators: list[torch.Generator]) -> Tensor:
        for augment in self.augmentations:
            x = augment(x, generators)
        return x

    def _apply(self, norm: float) -> bool:
        # The GradScaler handles a loss scale that is too large by reducing it.
        overflow = self.scaler.is_enabled() and not math.isfinite(norm) and self.scaler.get_scale() > 1
        taken = not overflow and self.guard.takes(norm)
        if taken:
            self.scaler.step(self.optimiser)
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.scaler.update()
        return taken

    def finite(self) -> bool:
        """Return whether all weights are finite, the same in all processes."""
        broken = not all(bool(local(p).isfinite().all()) for p in self.parameters)
        return not float(self.processes.sum(torch.tensor(float(broken), dtype=torch.float64)))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)

    def _targets(self) -> contextlib.AbstractContextManager[Any]:
        """Let a loss call the network with averaged weights, if it does."""
        follows = isinstance(self.model, FlowMap) and self.model.objective.uses_average
        if self.sharded is None or self.average is None or not follows:
            return contextlib.nullcontext()
        return self.sharded.callable_parts(self.average.module)

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Accumulate gradients locally for all micro-batches except the last, so that they are all-reduced once."""
        if self.sharded is not None:
            self.sharded.synchronise(last)
        if last or not isinstance(self.whole, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.whole.no_sync()


def unused_parameters(model: GenerativeModel, x: Tensor, cond: Any) -> list[str]:
    """Return the names of the parameters that get no gradient from a training loss of these rows."""
    before = [buffer.clone() for buffer in model.buffers()]
    model.train()
    model(x, cond, generator=generator_at(0)).backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.zero_grad(set_to_none=True)
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    return unused


def prepare(model: GenerativeModel, settings: Settings) -> None:
    """Apply channels_last and activation checkpointing to a model's networks.

    Raises:
        UserError: a setting that does not apply to these networks.
    """
    if settings.channels_last:
        if not any(isinstance(one, nn.Conv2d) for one in model.modules()):
            raise UserError(
                "channels_last is on, but the model has no convolutions, which are the only layers that benefit; switch it off."
            )
        for network in model.networks():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.activation_checkpointing:
        able = [one for one in model.modules() if isinstance(one, Blocks)]
        if not able:
            raise UserError(
                "activation_checkpointing is on, but no network of this model has blocks to recompute, as UNet and DiT have; switch it off."
            )
        for one in able:
            one.activation_checkpointing = True
