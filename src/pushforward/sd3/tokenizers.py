"""Tokenizers of the text encoders: from the model's folder, from a given folder, or the public ones.

Single files hold no tokenizer. CLIP-L and CLIP-G share a vocabulary and differ in padding: CLIP-L pads with its end token, CLIP-G with 0.
"""

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._files import json_of, regular_folder
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.formats.hub import downloaded, hub_errors, is_hub_id
from pushforward.sd3.text_encoders import ENCODERS, imported_transformers

FOLDERS = {"clip_l": "tokenizer", "clip_g": "tokenizer_2", "t5": "tokenizer_3"}
PUBLIC = {"clip_l": "openai/clip-vit-large-patch14", "clip_g": "openai/clip-vit-large-patch14", "t5": "google/t5-v1_1-xxl"}
NEEDED = {
    "clip_l": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "clip_g": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "t5": (("tokenizer.json",), ("spiece.model",)),
}
NO_RULES = ("version", "truncation", "padding", "decoder")  # of a serialised tokenizer: they do not decide the ids
SHOWN = 60  # letters of either end of lost words in a warning
FILES = ("*.json", "merges.txt", "spiece.model")
REMEDY = "give tokenizers=FOLDER with tokenizer/, tokenizer_2/ and tokenizer_3/, as in the diffusers folder of Stable Diffusion 3"


class Tokenizer:
    """Prompts to ids (n, tokens): truncated so that the end token stays last, then padded.

    Any number of threads may use it: truncation and padding are states of the tokenizer in Rust, which transformers sets in every call, so
    they are switched off once, and done here.

    Args:
        backend: a `tokenizers.Tokenizer`.
        pad: the padding id.
        special: whether its special tokens are added, of which the last one ends each prompt.
    """

    def __init__(self, backend: Any, pad: int, special: bool = True) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend, self.pad, self.special = backend, pad, special

    def __call__(self, prompts: Sequence[str], tokens: int) -> Tensor:
        return self.encode(prompts, tokens)[0]

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of a SHA-256 of what decides the ids: vocabulary, rules and padding.

        It does not depend on the process, nor on which files the tokenizer was read from, nor on what a version of tokenizers writes for
        switches that are off.
        """
        held = json_of(self.backend.to_str())
        rules = {name: part for name, part in held.items() if name not in NO_RULES}
        rules["model"]["merges"] = [" ".join(one) if isinstance(one, list) else one for one in rules["model"].get("merges") or []]
        facts = json.dumps([_without_blanks(rules), self.pad, self.special], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def encode(self, prompts: Sequence[str], tokens: int) -> tuple[Tensor, list[str]]:
        """Return the ids (n, tokens), and the end of each prompt that they leave out, "" if none.

        Args:
            prompts: n strings.
            tokens: number of ids of each.
        """
        rows, lost = [], []
        for prompt in prompts:
            # encode_batch would start a pool of threads, which does not survive a fork
            one = self.backend.encode(prompt, add_special_tokens=self.special)
            ids, cut, room = one.ids, "", tokens - self.special
            if len(ids) > tokens:
                cut = prompt[_word_start(prompt, one.offsets[room][0]) :].strip()
                ids = [*ids[:room], *ids[len(ids) - self.special :]]
            rows.append(ids + [self.pad] * (tokens - len(ids)))
            lost.append(cut)
        return torch.tensor(rows), lost


def warn_lost(encoder: str, tokens: int, lost: Sequence[str]) -> None:
    """Warn of the ends of prompts that an encoder does not see.

    Args:
        encoder: its name.
        tokens: the tokens that it sees.
        lost: what `Tokenizer.encode` left out of each prompt.
    """
    cut = [words for words in lost if words]
    if cut:
        words = cut[0] if len(cut[0]) <= 2 * SHOWN + 5 else f"{cut[0][:SHOWN]} ... {cut[0][-SHOWN:]}"
        others = f" (and those of {len(cut) - 1} more of {len(lost)})" if len(cut) > 1 else ""
        warnings.warn(
            f"{encoder} sees {tokens} tokens of a prompt, which leaves out its end{others} {words!r}; shorten the prompt.", stacklevel=3
        )


def _without_blanks(value: Any) -> Any:
    """Return plain data without the entries that are null or false, as which newer versions write what older ones leave out."""
    if isinstance(value, list):
        return [_without_blanks(one) for one in value]
    if isinstance(value, dict):
        return {name: _without_blanks(one) for name, one in value.items() if one is not None and one is not False}
    return value


def _word_start(text: str, place: int) -> int:
    """Return the start of the word that contains a place; a letter of a script without spaces is a word."""
    while 0 < place < len(text) and text[place].isalnum() and text[place - 1].isalnum() and text[place - 1].isascii():
        place -= 1
    return place


def find_tokenizer(kind: str, own: Mapping[str, Path], given: str | Path | None) -> Tokenizer:
    """Return the tokenizer of an encoder.

    Args:
        kind: "clip_l", "clip_g" or "t5".
        own: the model folder's tokenizers by encoder, {} for a single file.
        given: a folder with tokenizer, tokenizer_2 and tokenizer_3, or a Hub id with these folders; None uses the model's own, or the
            public ones if it has none.

    Raises:
        UserError: the folder does not exist, there is no network, or the repository is gated; the message gives a remedy.
        NoCheckpointError: the folder holds no tokenizer.
        CheckpointError: it holds one that cannot be read.
    """
    if given is not None and Path(given).is_dir():
        folder = Path(given) / FOLDERS[kind]
        if not folder.is_dir():
            raise UserError(f"tokenizers is {given}, but it has no folder {FOLDERS[kind]} for {ENCODERS[kind]}; {REMEDY}.")
        return _read(kind, folder)
    if given is not None and (isinstance(given, Path) or not is_hub_id(given)):
        raise UserError(f"tokenizers is {given}, but there is no such folder; {REMEDY}.")
    if given is None and kind in own:
        return _read(kind, own[kind])
    name, inside = (PUBLIC[kind], "") if given is None else (str(given), f"{FOLDERS[kind]}/")
    with hub_errors(name, f"the tokenizer of {ENCODERS[kind]}", REMEDY):
        folder = Path(downloaded(name, [inside + one for one in FILES]))
    return _read(kind, folder / inside, own_padding=given is not None)


def _read(kind: str, folder: Path, own_padding: bool = True) -> Tokenizer:
    transformers = imported_transformers()
    if not any(all((folder / one).is_file() for one in files) for files in NEEDED[kind]):
        # checked here, because transformers builds an empty tokenizer from an empty folder
        wanted = " or ".join(" and ".join(files) for files in NEEDED[kind])
        raise NoCheckpointError(f"{folder} holds no tokenizer of {ENCODERS[kind]}: it needs {wanted}; {REMEDY}.")
    if kind == "t5" and not (folder / "tokenizer.json").is_file() and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(f"{folder / 'spiece.model'} needs the package sentencepiece; run: pip install 'pushforward[sd3]'.")
    regular_folder(folder, CheckpointError)
    reader = transformers.T5TokenizerFast if kind == "t5" else transformers.CLIPTokenizerFast
    try:
        call = reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its Rust parser raises a bare Exception for a file that is not JSON
        raise CheckpointError(f"{folder} holds no tokenizer of {ENCODERS[kind]} that can be read ({error}); {REMEDY}.") from None
    return Tokenizer(call.backend_tokenizer, 0 if kind == "clip_g" and not own_padding else call.pad_token_id)
