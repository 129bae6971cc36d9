"""LoRA for Stable Diffusion 3: load files of any tool, weigh, merge and take out, train, save."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pushforward._checks import real
from pushforward._suggestions import unknown
from pushforward.errors import UserError
from pushforward.formats.lora import LoRA, read_lora
from pushforward.formats.lora_write import LoRALayout, write_lora
from pushforward.sd3.adapters import Adapters
from pushforward.sd3.lora_hub import default_name, local_lora
from pushforward.sd3.lora_training import ATTENTION, Trained


class Adapting:
    """The methods of `StableDiffusion3` that concern LoRAs.

    A loaded LoRA changes each weight where it is used, W' = W + strength (alpha / rank) B A, in float32, as a parametrisation of torch;
    `merge_lora` computes the same bits once, so that it costs nothing at inference.
    """

    adapters: Adapters
    training: Trained | None = None

    def load_lora(self, path: str | Path, weight: float = 1.0, name: str | None = None, *, text_encoders: bool = True) -> str:
        """Load a LoRA or DoRA onto the model, in addition to those loaded before.

        Files of diffusers and peft, kohya, OneTrainer, LyCORIS, raw peft and ComfyUI are read (`formats.read_lora`), with the
        strength that their writer meant.

        Args:
            path: the .safetensors file, the folder that diffusers or peft wrote, or one on the Hub: "owner/name", or
                "hf:owner/name:file.safetensors" of a repository with several. Only safetensors are downloaded.
            weight: its strength: 1 is full, 0 is none, and other numbers, also negative ones, scale the change of the weights.
            name: its name for `set_lora` and `unload_lora`; by default that of the file, without suffix, or of the repository.
            text_encoders: whether to read its changes of text encoders.

        Returns:
            Its name.

        Raises:
            UserError: the name is taken, a LoRA is being trained, or a repository is gated.
            NoCheckpointError: it is for another model (the message names modules), or of another kind, such as LoHa; or a repository
                does not exist, or holds several files or pickles alone.
            CheckpointError: it is truncated or damaged, or the Hub cannot be reached.
        """
        weight = float(real("weight", weight, hint="1 is the full strength"))
        name = default_name(path) if name is None else name
        if name in self.adapters.loras:
            raise UserError(f"a LoRA named {name!r} is loaded; unload it, or give another name=.")
        self._check_no_training("load_lora")
        lora = read_lora(local_lora(path), self.adapters.components, text_encoders=text_encoders)
        self._apply_loras({**self.adapters.loras, name: lora}, {**self.adapters.strengths, name: weight})
        return name

    @property
    def loras(self) -> dict[str, float]:
        """The loaded LoRAs, with their weights."""
        return dict(self.adapters.strengths)

    def set_lora(self, weights: Mapping[str, float]) -> None:
        """Set the weights of loaded LoRAs by name; those not named keep theirs, and 0 switches one off.

        Raises:
            UserError: there is no such LoRA, or a weight is not a finite number.
        """
        for name, weight in weights.items():
            self._check_loaded(name)
            real(f"the weight of {name!r}", weight, hint="1 is the full strength")
        self._check_no_training("set_lora")
        self._apply_loras(self.adapters.loras, {**self.adapters.strengths, **{name: float(one) for name, one in weights.items()}})

    def merge_lora(self) -> None:
        """Merge the loaded LoRAs into the weights, so that they cost nothing at inference.

        The originals are kept in main memory, where those of a memory-mapped file take none.

        Raises:
            UserError: none is loaded.
        """
        if not self.adapters.loras:
            raise UserError("there is no LoRA to merge; load one with load_lora.")
        self._check_no_training("merge_lora")
        self._apply_loras(self.adapters.loras, self.adapters.strengths, merging=True)

    def unmerge_lora(self) -> None:
        """Restore the weights from before `merge_lora`, bit by bit; the LoRAs stay loaded.

        Raises:
            UserError: the merged weights have been trained since.
        """
        self._check_no_training("unmerge_lora")
        self._apply_loras(self.adapters.loras, self.adapters.strengths, merging=False)

    def unload_lora(self, name: str | None = None) -> None:
        """Remove a LoRA, or all of them and the one that is being trained; without any, the weights have their original bits.

        Raises:
            UserError: there is no such LoRA.
        """
        if name is None:
            if self.training is not None:
                self.training.remove()
                self.training = None
                self._forget_prompts()
            self._apply_loras({}, {})
            return
        self._check_loaded(name)
        self._check_no_training("unload_lora")
        kept = {one: lora for one, lora in self.adapters.loras.items() if one != name}
        self._apply_loras(kept, {one: self.adapters.strengths[one] for one in kept})

    def add_lora(
        self,
        rank: int = 16,
        alpha: float | None = None,
        targets: Sequence[str] = ATTENTION,
        text_encoders: bool | Sequence[str] = False,
        *,
        dropout: float = 0.0,
        dora: bool = False,
        seed: int = 0,
    ) -> list[nn.Parameter]:
        """Add a LoRA to be trained, by peft; all other parameters of these networks are frozen.

        A starts as N(0, 1 / rank²) and B as zeros, so that nothing changes before the first step. Queries, keys and values of a stream are
        one Linear here, whose LoRA shares A. `pf.Trainer(sd3.model, data)` then trains it, and `save_lora` writes it. The parameters are
        float32 where the weights are 16 bits.

        Args:
            rank: rank of the change.
            alpha: the change is (alpha / rank) B A; None is the rank.
            targets: ends of the paths of the Linears in `sd3.transformer` that it changes; by default the attention that image and text
                share, without the second attention of Stable Diffusion 3.5 medium (`second.qkv`, `second.out`) and MLPs (`mlp.0`, `mlp.2`).
            text_encoders: True for the attention of CLIP-L and CLIP-G, or the encoders by name; they are trained by `sd3.text_model`.
            dropout: dropout of the LoRA's input.
            dora: whether to train a magnitude for each row too (DoRA).
            seed: seed of A.

        Returns:
            Its parameters.

        Raises:
            UserError: peft is not installed, an option is out of range, no Linear matches, another LoRA is trained, or one is
                loaded and not merged.
        """
        self._check_no_training("add_lora")
        if self.adapters.loras and not self.adapters.merging:
            raise UserError("a LoRA is loaded and not merged; call merge_lora to train on top of it, or unload_lora.")
        trained = Trained(self.adapters.components, rank, alpha, targets, text_encoders, dropout, dora, seed)
        self.training = trained
        return trained.parameters

    def save_lora(self, path: str | Path, layout: LoRALayout = "diffusers", *, name: str | None = None, model: Any = None) -> Path:
        """Write the LoRA that is being trained, or a loaded one, to a .safetensors file, and return its path.

        Args:
            path: the file; diffusers looks for pytorch_lora_weights.safetensors in a folder.
            layout: "diffusers", which ComfyUI reads as well, or "kohya"; alpha is the rank in both (`formats.write_lora`).
            name: a loaded LoRA to write in this layout.
            model: the trained model to read the weights from, such as `trainer.averaged_model`; None is `sd3.model`.

        Raises:
            UserError: there is no such LoRA, or `model` has none.
        """
        if name is not None:
            self._check_loaded(name)
            lora = self.adapters.loras[name]
        elif self.training is None:
            raise UserError("no LoRA is being trained; call add_lora, or give the name= of a loaded one.")
        else:
            lora = self.training.lora(model)
        return write_lora(path, lora, self.adapters.components, layout)

    def _apply_loras(self, loras: Mapping[str, LoRA], strengths: Mapping[str, float], merging: bool | None = None) -> None:
        parts = {part for one in (*self.adapters.loras.values(), *loras.values()) for part in one.parts}
        self.adapters.set(loras, strengths, self.adapters.merging if merging is None else merging)
        if parts - {"transformer"}:
            self._forget_prompts()

    def _forget_prompts(self) -> None:
        """Discard cached encodings of prompts, which other weights made."""
        raise NotImplementedError

    def _check_loaded(self, name: str) -> None:
        if name not in self.adapters.loras:
            raise UserError(
                unknown("LoRA", name, self.adapters.loras) if self.adapters.loras else f"there is no LoRA {name!r}; none is loaded."
            )

    def _check_no_training(self, method: str) -> None:
        if self.training is not None:
            raise UserError(f"{method} is called while a LoRA is trained; save it with save_lora, and call unload_lora() first.")

    def _check_saved_as_is(self) -> None:
        """Raise if the networks compute something else than their weights."""
        if self.training is not None or (self.adapters.loras and not self.adapters.merging):
            raise UserError("the model has a LoRA that is not merged; call merge_lora to save it within the weights, or unload_lora.")
