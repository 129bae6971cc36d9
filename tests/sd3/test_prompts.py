"""Prompts beside diffusers: ids, states and vectors of three text encoders, from a folder and from a single file."""

import json
import shutil
import threading
import warnings

import pytest
import torch
from packages import package
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.conditions import TextContext
from pushforward.errors import CheckpointError, UserError
from pushforward.formats.hub import hub_errors
from pushforward.sd3.text_encoders import text_encoder
from pushforward.sd3.tokenizers import find_tokenizer

transformers = package("transformers")

PROMPTS = ["a red fox in the snow!", "一只在雪地里的狐狸", "🦊❄️", "", " ".join(f"word{k}" for k in range(500))]
KINDS = {"clip_l": "CLIPTextModelWithProjection", "clip_g": "CLIPTextModelWithProjection", "t5": "T5EncoderModel"}
FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"}
pytestmark = [pytest.mark.usefixtures("float32"), pytest.mark.filterwarnings("ignore:.*leaves out its end")]


@pytest.fixture(scope="module")
def pipeline(tiny):
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return diffusers.StableDiffusion3Pipeline.from_pretrained(tiny("medium").folder)


def loaded(tiny, layout, **options):
    checkpoint = tiny("medium")
    if layout == "folder":
        return pf.StableDiffusion3.from_pretrained(checkpoint.folder, **options)
    if layout == "bare":
        options["text_encoders"] = checkpoint.encoders
    return pf.StableDiffusion3.from_pretrained(getattr(checkpoint, layout), tokenizers=checkpoint.folder, **options)


@pytest.mark.parametrize("layout", ["folder", "single", "bare"])
def test_prompts_are_encoded_as_diffusers_does(tiny, pipeline, layout):
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    cond = loaded(tiny, layout).encode_prompt(PROMPTS)
    assert cond.context.shape == (5, 77 + 256, 128)
    torch.testing.assert_close(cond.context, context, rtol=0, atol=1e-4 * float(context.abs().max()))
    torch.testing.assert_close(cond.pooled, pooled, rtol=0, atol=1e-4 * float(pooled.abs().max()))


@pytest.mark.parametrize("tokens", [77, 300])
def test_the_length_of_t5s_part_is_a_choice(tiny, pipeline, tokens):
    with torch.no_grad():
        context = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=tokens)[0]
    cond = loaded(tiny, "single").encode_prompt(PROMPTS, tokens)
    torch.testing.assert_close(cond.context, context, rtol=0, atol=1e-4 * float(context.abs().max()))


def test_without_t5_zeros_stand_for_its_tokens(tiny, pipeline):
    pipeline.text_encoder_3, t5 = None, pipeline.text_encoder_3
    try:
        with torch.no_grad():
            context, _, pooled, _ = pipeline.encode_prompt(PROMPTS[:2], None, None, do_classifier_free_guidance=False)
    finally:
        pipeline.text_encoder_3 = t5
    cond = loaded(tiny, "single", t5=False).encode_prompt(PROMPTS[:2])
    torch.testing.assert_close(cond.context, context, rtol=0, atol=1e-4 * float(context.abs().max()))
    torch.testing.assert_close(cond.pooled, pooled, rtol=0, atol=1e-4)
    assert not cond.context[:, 77:].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["folder", "single"])
def test_an_encoder_says_what_transformers_own_says(tiny, kind, layout):
    own = loaded(tiny, layout).encoders[kind]
    theirs = getattr(transformers, KINDS[kind]).from_pretrained(tiny("medium").folder / FOLDERS[kind])
    ids = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = [model(ids, output_hidden_states=True) for model in (own, theirs)]
    for mine, wanted in zip(*([*one.hidden_states, one[0]] for one in values), strict=True):
        assert float((mine - wanted).abs().max() / wanted.abs().max()) < 2e-5


def test_encodings_are_kept(tiny):
    model = loaded(tiny, "folder")
    model.encode_prompt(["a fox", "a cat"])
    kept = model.encode_prompt("a cat")
    model.encoders.clear()  # who is asked now would fail
    model._prompts.encoders = {"clip_l": None, "clip_g": None}
    assert torch.equal(model.encode_prompt(["a cat", "a fox", "a cat"]).pooled[[0, 2]], kept.pooled.expand(2, -1))


@pytest.mark.parametrize("tokens", [1, 2, 5, 77, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(tiny, kind, tokens):
    """Its truncation keeps the end token too; CLIP-G's padding is the tokenizer's own."""
    checkpoint = tiny("medium").folder
    folder = checkpoint / {"clip_l": "tokenizer", "clip_g": "tokenizer_2", "t5": "tokenizer_3"}[kind]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = find_tokenizer(kind, {}, checkpoint)(PROMPTS, tokens)
    assert ids.shape == (len(PROMPTS), tokens)
    if tokens >= 2:  # transformers cannot fit CLIP's start and end into 1
        assert torch.equal(ids, torch.tensor(theirs(PROMPTS, max_length=tokens, truncation=True, padding="max_length")["input_ids"]))
    assert ids[4, -1] == theirs(PROMPTS[4])["input_ids"][-1]


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("a red cat", ""),
        ("a red cat " * 60 + "zebra", "zebra"),
        ("狐" * 300, "狐狐"),
        ("the " * 74 + "cat unicorns dance", "unicorns dance"),  # "un" alone would fit
    ],
)
def test_the_words_that_do_not_fit_are_the_rest_of_the_prompt(tiny, prompt, lost):
    encode = find_tokenizer("clip_l", {}, tiny("medium").folder).encode
    ids, (cut,) = encode([prompt], 77)
    assert cut.endswith(lost)
    assert prompt.strip().endswith(cut)
    assert bool(cut) == bool(lost)
    kept = encode([prompt.strip()[: len(prompt.strip()) - len(cut)]], 77)[0]
    same = int((ids[0] == kept[0]).long().cumprod(0).sum())
    assert same > 70, "what is kept is the beginning"


def test_a_long_prompt_warns_once_for_each_encoder(tiny):
    model = loaded(tiny, "folder")
    with pytest.warns(UserWarning, match="leaves out its end") as seen:
        model.encode_prompt(["a red cat " * 120 + "zebra", "a fox"])
    said = [str(one.message) for one in seen]
    assert [one.split(" sees ")[0] for one in said] == ["CLIP-L", "CLIP-G", "T5"]
    assert all(one.endswith("zebra'; shorten the prompt.") and len(one) < 250 for one in said)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_prompt(["a red cat " * 120 + "zebra"])  # cached
        model.encode_prompt("a red cat")


def test_one_tokenizer_serves_threads_with_prompts_of_other_lengths(tiny):
    tokenizer, wrong = find_tokenizer("clip_l", {}, tiny("medium").folder), []
    texts = ["a red cat " * k for k in range(1, 51)]
    alone = {k: tokenizer([texts[k]], 16 + k) for k in range(50)}

    def ask(k):
        for turn in range(100):
            n = (7 * k + turn) % 50
            try:
                wrong.extend([] if torch.equal(tokenizer([texts[n]], 16 + n), alone[n]) else [n])
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_a_prompt_does_not_depend_on_its_batch(tiny):
    alone, together = loaded(tiny, "folder").encode_prompt(PROMPTS[0]), loaded(tiny, "folder").encode_prompt(PROMPTS)[0]
    torch.testing.assert_close(together.context, alone.context, rtol=0, atol=2e-6 * float(alone.context.abs().max()))


def test_t5_in_8_bits_is_cast_on_load_and_in_float16_its_last_layers_stay_wide(tiny):
    tensors = load_file(tiny("medium").encoders / next(p.name for p in tiny("medium").encoders.iterdir() if "t5" in p.name))
    narrow = {name: one.to(torch.float8_e4m3fn) for name, one in tensors.items()}
    cast = text_encoder("t5", narrow)
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    assert cast.state_dict()[name].dtype == torch.bfloat16
    torch.testing.assert_close(cast.state_dict()[name].float(), narrow[name].float(), rtol=0, atol=0)
    half = text_encoder("t5", tensors, dtype=torch.float16)
    kinds = {key.split(".")[-2]: one.dtype for key, one in half.state_dict().items()}
    assert kinds["wo"] == torch.float32
    assert kinds["wi_0"] == torch.float16
    with torch.no_grad():
        assert half(torch.ones(1, 4, dtype=torch.long)).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5s_table_may_have_either_name(tiny, name):
    tensors = load_file(next(p for p in tiny("medium").encoders.iterdir() if "t5" in p.name))
    table = next(tensors[one] for one in ("shared.weight", "encoder.embed_tokens.weight") if one in tensors)
    rest = {key: one for key, one in tensors.items() if key not in ("shared.weight", "encoder.embed_tokens.weight")}
    model = text_encoder("t5", rest | {name: table})
    assert torch.equal(model.encoder.embed_tokens.weight, table)


def test_weights_are_not_copied(tiny):
    tensors = {key: one.clone() for key, one in load_file(next(p for p in tiny("medium").encoders.iterdir() if "clip_g" in p.name)).items()}
    model = text_encoder("clip_g", tensors)
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    assert model.state_dict()[name].data_ptr() == tensors[name].data_ptr()


def test_missing_and_misshapen_tensors_are_named(tiny, tmp_path):
    tensors = load_file(next(p for p in tiny("medium").encoders.iterdir() if "clip_l" in p.name))
    name = "text_model.encoder.layers.1.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match=f"CLIP-L is not complete: {name} is missing"):
        text_encoder("clip_l", {key: one for key, one in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=r"q_proj.weight has shape \(3, 64\) instead of \(64, 64\)"):
        text_encoder("clip_l", tensors | {name: torch.zeros(3, 64)})
    with pytest.raises(CheckpointError, match=r"CLIP-L stores .*q_proj.weight as torch.uint8, but weights are floats"):
        text_encoder("clip_l", tensors | {name: torch.zeros(64, 64, dtype=torch.uint8)})


def test_missing_encoders_and_tokenizers_are_named(tiny, tmp_path):
    bare = pf.StableDiffusion3.from_pretrained(tiny("medium").bare)
    with pytest.raises(UserError, match="no text encoder clip_l.*text_encoders=FOLDER"):
        bare.encode_prompt("a fox")
    given = TextContext(torch.zeros(1, 5, 128), torch.zeros(1, 112))
    assert bare.encode_prompt(given).context is not None
    shutil.copytree(tiny("medium").folder / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(UserError, match="no folder tokenizer_2 for CLIP-G"):
        find_tokenizer("clip_g", {}, tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        find_tokenizer("clip_g", {}, tmp_path / "nowhere")
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="holds no tokenizer of CLIP-L: it needs tokenizer.json or vocab.json and merges.txt"):
        find_tokenizer("clip_l", {}, tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="holds no tokenizer of CLIP-L that can be read"):
        find_tokenizer("clip_l", {}, tmp_path)


def test_a_length_out_of_range_is_refused(tiny):
    with pytest.raises(UserError, match="tokens is 513"):
        loaded(tiny, "folder").encode_prompt("a fox", 513)


def test_encoders_of_another_model_are_refused(tiny, tmp_path):
    """A T5 of other width: the context would not fit the transformer."""
    path = next(p for p in tiny("medium").encoders.iterdir() if "t5" in p.name)
    folder = tmp_path / "encoders"
    shutil.copytree(tiny("medium").encoders, folder)
    wide = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=300, d_model=96, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )
    save_file({key: one.clone() for key, one in wide.state_dict().items()}, folder / path.name)
    model = pf.StableDiffusion3.from_pretrained(tiny("medium").bare, text_encoders=folder, tokenizers=tiny("medium").folder)
    with pytest.raises(UserError, match="T5 returns 96 channels, but a context token has 128"):
        model.encode_prompt("a")


class Answer:
    """What a server said, as much as huggingface_hub's errors read of it."""

    def __init__(self):
        self.headers, self.status_code, self.request = {}, 403, None


def test_the_hubs_answers_become_sentences():
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with (
        pytest.raises(UserError, match="gated; accept its licence there, then log in with `hf auth login`"),
        hub_errors("a/b", "it", "do this"),
    ):
        raise GatedRepoError("no", response=Answer())
    with pytest.raises(UserError, match="no such repository, or it is private; do this"), hub_errors("a/b", "it", "do this"):
        raise RepositoryNotFoundError("no", response=Answer())
    with pytest.raises(UserError, match="gated"), hub_errors("a/b", "it", "do this"):
        raise OSError("You are trying to access a gated repo.")
    with pytest.raises(CheckpointError, match="cannot be reached; do this"), hub_errors("a/b", "it", "do this"):
        raise OSError("We couldn't connect to 'https://huggingface.co'")


def test_a_single_file_without_network_says_what_to_do(tiny, monkeypatch):
    """The public tokenizers are asked for; here nothing answers."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = pf.StableDiffusion3.from_pretrained(tiny("medium").single)
    with pytest.raises(CheckpointError, match="tokenizer of CLIP-L is not on this machine.*give tokenizers=FOLDER"):
        model.encode_prompt("a fox")


def test_a_path_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"nowhere.safetensors does not exist; give a .safetensors file"):
        pf.StableDiffusion3.from_pretrained("nowhere.safetensors")
