"""The settings of a training run: validated, frozen, and stored as the section `training` of config.yaml."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from pushforward._checks import is_real, real, whole
from pushforward.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Training settings.

    Args:
        steps: optimisation steps.
        batch_size: samples per step over all processes.
        lr: peak learning rate of AdamW.
        warmup: steps over which the learning rate rises from 0.
        schedule: what follows: "cosine" decays to `final_lr`, "constant" keeps the peak.
        final_lr: final learning rate of the cosine, as a fraction of the peak.
        weight_decay: AdamW's weight decay of matrices; biases, gains and embeddings are not decayed.
        betas: AdamW's decay rates of the first and second moment.
        clip: gradient clipping norm; 0 disables clipping.
        ema: decay of the averaged weights (EMA), reached after a warm-up; 0 disables averaging.
        block: samples per micro-block, the unit of random draws and of optimal transport; it divides batch_size.
            0 uses the largest divisor up to 64, or the whole batch if that is below 8.
        accumulate: gradient accumulation steps, to save memory; results stay the same.
        seed: seed of the data order and of all random numbers.
        validate_every: steps between validations (and sample grids); 0 validates only at the end. None validates after the first epoch and
            then about 50 times a run, less often where this would take more than a quarter of the time, and draws about 10 grids.
        patience: validations in a row without improvement that end the run; 0 for no such end. None is 10 for fewer than 10,000 training
            examples, and 0 for more.
        input_noise: standard deviation of Gaussian noise added to training examples, in the model's units (after `preprocess`); it falls
            linearly to 0 at the last step, and patience counts from the middle of the run. Against overfitting of small data.
        checkpoint_every: steps between checkpoints; 0 saves only at the end.
        log_every: steps between lines of metrics.jsonl.
        precision: "float32", or "bf16" or "fp16" in autocast (fp16 with a gradient scaler); weights and optimiser stay in float32.
        compile: compile the networks with torch.compile.
        activation_checkpointing: recompute the blocks of UNet and DiT in the backward pass instead of keeping their activations.
        channels_last: use the channels-last memory format for convolutions.
        workers: DataLoader worker processes; 0 loads data between steps.
        flip: flip each training image horizontally with probability 1/2.
        shift: largest random shift of each training image in pixels, per axis.
        spike: skip a step whose gradient norm exceeds this multiple of the usual norm; 0 for no limit.
        skip_limit: number of consecutive skipped steps (not finite, or spikes) that ends the run.
        unused_parameters: for several processes, set if some losses do not use all parameters; detected automatically for the first loss.
        timeout: seconds that a process waits for the others before it fails and reports them.
        parallel: for several processes: "ddp" keeps all weights in each, "fsdp" shards weights, gradients, optimiser and average over all,
            "hybrid" over the `shard_size` processes of a group, with copies between groups. "auto" is "ddp" where half of the memory
            suffices for these; else "hybrid" where one machine's processes suffice, and "fsdp" where they do not.
        shard_size: processes of a group of "hybrid"; 0 is those of one machine.
        async_checkpoints: write checkpoints in the background, from a copy in main memory, while training continues.
    """

    steps: int = 2000
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    final_lr: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.999
    block: int = 0
    accumulate: int = 1
    seed: int = 0
    validate_every: int | None = None
    patience: int | None = None
    input_noise: float = 0.0
    checkpoint_every: int = 500
    log_every: int = 20
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    compile: bool = False
    activation_checkpointing: bool = False
    channels_last: bool = False
    workers: int = 0
    flip: bool = False
    shift: int = 0
    spike: float = 20.0
    skip_limit: int = 10
    unused_parameters: bool = False
    timeout: float = 600.0
    parallel: Literal["auto", "ddp", "fsdp", "hybrid"] = "auto"
    shard_size: int = 0
    async_checkpoints: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("log_every", 1), ("accumulate", 1), ("skip_limit", 1), ("warmup", 0)):
            whole(name, getattr(self, name), least)
        for name in ("block", "checkpoint_every", "seed", "workers", "shift", "shard_size"):
            whole(name, getattr(self, name), 0)
        for name in ("validate_every", "patience"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 0)
        real("input_noise", self.input_noise, 0)
        for name in ("clip", "weight_decay", "spike"):
            if getattr(self, name) != math.inf:  # as good as 0: no limit
                real(name, getattr(self, name), 0)
        if not is_real(self.lr) or not self.lr > 0:
            raise UserError(f"lr is {self.lr}, but a learning rate must be positive; try 1e-3.")
        if not is_real(self.final_lr) or not 0 <= self.final_lr <= 1:
            raise UserError(f"final_lr is {self.final_lr}, but it is a share of lr from 0 to 1; 0 is usual.")
        if not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise UserError(f"timeout is {self.timeout}, but it must be a positive number of seconds; 600 is usual.")
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"schedule is {self.schedule!r}, but it is 'cosine' or 'constant'.")
        pair = tuple(self.betas) if isinstance(self.betas, list | tuple) else ()
        if len(pair) != 2 or not all(is_real(beta) and 0 <= beta < 1 for beta in pair):
            raise UserError(f"betas is {self.betas}, but it is two decays of at least 0 and below 1; (0.9, 0.99) is usual.")
        for name in ("compile", "activation_checkpointing", "channels_last", "flip", "unused_parameters", "async_checkpoints"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}, but it is True or False.")
        if self.precision not in ("float32", "bf16", "fp16"):
            raise UserError(f"precision is {self.precision!r}, but it is one of 'float32', 'bf16', 'fp16'.")
        if self.parallel not in ("auto", "ddp", "fsdp", "hybrid"):
            raise UserError(f"parallel is {self.parallel!r}, but it is one of 'auto', 'ddp', 'fsdp', 'hybrid'.")
        if self.shard_size and self.parallel != "hybrid":
            raise UserError(f"shard_size is {self.shard_size}, but only parallel='hybrid' has groups, not {self.parallel!r}; leave it out.")
        if not is_real(self.ema) or not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}, but a decay is at least 0 and below 1; 0.999 is usual, 0 keeps no average.")
        if self.block and self.batch_size % self.block and self.batch_size > self.block:
            near = _divisor(self.batch_size, self.block)
            raise UserError(f"block is {self.block}, which does not divide batch_size {self.batch_size}; use a divisor, such as {near}.")

    def noise_at(self, step: int) -> float:
        """Return the standard deviation of the noise on the inputs of a step."""
        return self.input_noise * max(0.0, 1 - step / self.steps)

    @property
    def blocks(self) -> int:
        """Number of micro-blocks in a batch."""
        automatic = _divisor(self.batch_size, 64)
        block = self.block or (automatic if automatic >= 8 else self.batch_size)
        return max(1, self.batch_size // block)

    def check_shares(self, processes: int) -> None:
        """Raise if the micro-blocks cannot be distributed equally over the processes and accumulation steps."""
        parts = processes * self.accumulate
        if self.blocks % parts == 0:
            return
        size = self.batch_size // self.blocks
        among = f"{processes} process{'es' if processes > 1 else ''} with accumulate {self.accumulate}"
        fix = (
            f"use block {_divisor(self.batch_size // parts, 64)} (which changes the random numbers)"
            if self.batch_size % parts == 0
            else f"use a batch_size that {parts} divides"
        )
        raise UserError(
            f"batch_size {self.batch_size} is {self.blocks} micro-blocks of {size}, which {among} cannot share equally; "
            f"{fix}, or a number of processes times accumulate that divides {self.blocks}."
        )


class GivenSettings(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments of the Trainer, for type checkers."""

    steps: int
    batch_size: int
    lr: float
    warmup: int
    schedule: Literal["cosine", "constant"]
    final_lr: float
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    ema: float
    block: int
    accumulate: int
    seed: int
    validate_every: int | None
    patience: int | None
    input_noise: float
    checkpoint_every: int
    log_every: int
    precision: Literal["float32", "bf16", "fp16"]
    compile: bool
    activation_checkpointing: bool
    channels_last: bool
    workers: int
    flip: bool
    shift: int
    spike: float
    skip_limit: int
    unused_parameters: bool
    timeout: float
    parallel: Literal["auto", "ddp", "fsdp", "hybrid"]
    shard_size: int
    async_checkpoints: bool


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings of keyword arguments, or refuse an unknown name with the nearest known one."""
    known = [field.name for field in fields(Settings)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f"the Trainer has no setting {name!r}; {f'did you mean {near[0]!r}?' if near else 'there are ' + ', '.join(known)}"
            )
    return Settings(**given)


def due(step: int, every: int) -> bool:
    """Return whether something that is done every so many steps, or never for 0, is done after this one."""
    return every > 0 and step % every == 0


def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number up to `most`."""
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)
