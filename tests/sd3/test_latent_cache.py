"""Cached latents and captions: what is in them, going on after an interruption, refusals, and training on them."""

import json
import pickle
import shutil

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

import pushforward as pf
from pushforward import sd3
from pushforward.conditions import TextContext
from pushforward.data.bucketed import Bucketed
from pushforward.data.captioned import CaptionedDataset
from pushforward.errors import CheckpointError, DataError, NoCheckpointError, NotFiniteError, ShapeError, UserError
from pushforward.samplers.euler import Euler
from pushforward.sd3.cache_files import fingerprint_of
from pushforward.sd3.latent_cache import cache_share
from pushforward.sd3.latent_model import LatentModel
from pushforward.sd3.text_layout import TextLayout, parts_of
from pushforward.training.buckets import order_of


class Counting:
    """A text encoder for tests: the numbers of the letters; it notes what it was given."""

    def __init__(self, key="letters", null="zeros"):
        none = TextContext(torch.zeros(1, 4, 3), torch.zeros(1, 3))
        self.layout, self.key, self.seen = TextLayout(parts_of(["letters"], [4], [3], [3]), none, null), key, []

    def __call__(self, prompts):
        self.seen += prompts
        context = torch.tensor([[[float(ord(letter))] * 3 for letter in prompt.ljust(4)[:4]] for prompt in prompts])
        return TextContext(context, context.sum(1))

    def fingerprint(self):
        return self.key


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return pf.nn.AutoencoderKL(3, 2, (4, 8), groups=2, blocks=1, scale=1.3, shift=0.2)


@pytest.fixture(scope="module")
def pictures():
    x = torch.randint(256, (25, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    captions = [f"p{k % 7}" for k in range(25)]
    return CaptionedDataset("pictures", x, captions, [[one] for one in captions])


def cached(pictures, folder, vae, text=None, **options):
    return sd3.cache_latents(pictures, folder, vae, Counting() if text is None else text, **{"per_shard": 10, "batch_size": 4, **options})


@pytest.fixture
def pairs(pictures, tmp_path, vae):
    return cached(pictures, tmp_path / "cache", vae, flips=True)


def test_latents_are_those_of_the_images_and_captions_are_encoded_once(pictures, tmp_path, vae):
    text = Counting()
    pairs = cached(pictures, tmp_path, vae, text, flips=True)
    assert text.seen == [f"p{k}" for k in range(7)]
    assert (len(pairs), pairs.shape, pairs.classes, pairs.levels) == (50, (2, 4, 4), None, None)
    assert pairs.captions == pictures.captions * 2
    with torch.no_grad():
        images = pictures.x / 127.5 - 1
        expected = torch.cat([vae.encode(images), vae.encode(images.flip(3))])
    chosen = [3, 49, 25, 0, 24, 12]
    x, cond = pairs.batch(chosen)
    torch.testing.assert_close(x, expected[chosen], rtol=0, atol=1e-5)
    assert torch.equal(cond.context, text([pictures.captions[k % 25] for k in chosen]).context)
    assert torch.equal(cond.pooled, cond.context.sum(1))
    part = pairs.subset([30, 2])
    assert part.captions == (pictures.captions[5], pictures.captions[2])
    assert torch.equal(part[0][0], pairs[30][0])
    assert len(sd3.LatentPairs(tmp_path, flips=False)) == 25
    assert vae.training


def test_what_was_written_before_an_interruption_is_kept(pictures, tmp_path, vae):
    class Interrupted(Exception):
        pass

    def interrupt(finished, total):
        if finished == 20:
            raise Interrupted

    text = Counting()
    with pytest.raises(Interrupted):
        cached(pictures, tmp_path, vae, text, progress=interrupt)
    with pytest.raises(NoCheckpointError, match="train is not finished: call cache_latents again, which continues it"):
        sd3.LatentPairs(tmp_path)
    shards = {name: tmp_path / "train" / f"{name}.safetensors" for name in ("latents-00000", "latents-00001", "text-00000")}
    before = {name: path.stat().st_mtime_ns for name, path in shards.items()}
    assert not (tmp_path / "train" / "latents-00002.safetensors").exists()
    (tmp_path / "train" / ".latents-00002.safetensors.abc.tmp").write_bytes(b"partial")
    pairs = cached(pictures, tmp_path, vae, text)
    assert {name: path.stat().st_mtime_ns for name, path in shards.items()} == before
    assert len(text.seen) == 7
    whole = cached(pictures, tmp_path / "whole", vae)
    assert torch.equal(pairs[:][0], whole[:][0])
    assert pairs.fingerprint() == whole.fingerprint()

    def refuse(*_):
        raise AssertionError("nothing is computed again")

    assert len(cached(pictures, tmp_path, vae, text, progress=refuse)) == 25


def test_bfloat16_takes_half_the_size(pictures, tmp_path, vae):
    exact, half = cached(pictures, tmp_path / "a", vae), cached(pictures, tmp_path / "b", vae, dtype=torch.bfloat16)
    x = half[:][0]
    assert x.dtype == torch.float32
    assert torch.equal(x, exact[:][0].bfloat16().float())
    sizes = [(tmp_path / one / "train" / "latents-00000.safetensors").stat().st_size for one in "ab"]
    assert sizes[0] - sizes[1] == 10 * 2 * 4 * 4 * 2


def test_a_cache_of_something_else_is_refused(pictures, pairs, vae):
    folder, other = pairs.folder.parent, pf.nn.AutoencoderKL(3, 2, (4, 8), groups=2, blocks=1)
    shifted = pf.nn.AutoencoderKL(3, 2, (4, 8), groups=2, blocks=1, scale=1.3, shift=0.3)
    shifted.load_state_dict(vae.state_dict())
    for one in (other, shifted):
        with pytest.raises(UserError, match="train holds latents cached with another autoencoder .vae .*, not .*; give another folder"):
            cached(pictures, folder, one, flips=True)
        with pytest.raises(UserError, match="another autoencoder"):
            sd3.LatentPairs(folder, vae=one)
    with pytest.raises(UserError, match="cached with other text encoders .text letters, not words"):
        cached(pictures, folder, vae, Counting("words"), flips=True)
    with pytest.raises(UserError, match="other text encoders"):
        sd3.LatentPairs(folder, text=Counting("words"))
    with pytest.raises(UserError, match="another choice of what stands for no prompt .null zeros, not empty"):
        cached(pictures, folder, vae, Counting(null="empty"), flips=True)
    with pytest.raises(UserError, match="cached with other data"):
        cached(pictures.subset(range(1, 25)), folder, vae, flips=True)
    with pytest.raises(UserError, match="another choice of flips"):
        cached(pictures, folder, vae)
    assert len(sd3.LatentPairs(folder, vae=vae, text=Counting())) == 50
    assert len(sd3.LatentPairs(folder, vae=fingerprint_of(vae))) == 50


def test_a_cache_is_of_its_tokenizers_too_unless_it_is_older(pictures, tmp_path, vae):
    """Caches that state no tokenizers are read with any, and continued with none."""
    new, old = (cached(pictures, tmp_path / key, vae, Counting(key)).folder.parent for key in ("letters-bpe", "letters"))
    for text in (Counting("letters-bpe"), Counting("letters")):
        assert len(sd3.LatentPairs(new, text=text)) == len(cached(pictures, new, vae, text)) == 25
    with pytest.raises(UserError, match="train holds latents cached with other tokenizers .tokenizers bpe, not words.; give another"):
        sd3.LatentPairs(new, text=Counting("letters-words"))
    with pytest.raises(UserError, match="other text encoders .text letters, not numbers"):
        sd3.LatentPairs(new, text=Counting("numbers-bpe"))
    assert len(sd3.LatentPairs(old, text=Counting("letters-bpe"))) == len(cached(pictures, old, vae, Counting("letters-bpe"))) == 25
    (old / "train" / "index.json").unlink()
    with pytest.raises(UserError, match="other tokenizers .tokenizers None, not bpe"):
        cached(pictures, old, vae, Counting("letters-bpe"))
    assert len(cached(pictures, old, vae, Counting("letters"))) == 25


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_images_that_cannot_be_read_and_those_without_a_caption_are_left_out(tmp_path, vae):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(20):
        Image.fromarray(numpy.full((8, 8, 3), k, numpy.uint8)).save(folder / f"{k:02}.png")
        (folder / f"{k:02}.txt").write_text(f"grey {k}")
    data = pf.data.load(folder, size=8)
    gone = data.source.files[int(data.rows[3])]
    (folder / gone).write_bytes(b"no image")
    captions = [None if k == 5 else caption for k, caption in enumerate(data.captions)]
    with pytest.warns(UserWarning, match=rf"2 of 16 images are left out: 1 without a caption .* 1 that cannot be read \(.*{gone}\)"):
        pairs = cached(data, tmp_path / "cache", vae, captions=captions)
    kept = [k for k in range(16) if k not in (3, 5)]
    assert pairs.captions == tuple(data.captions[k] for k in kept)
    assert pairs.sources.tolist() == kept
    with torch.no_grad():
        torch.testing.assert_close(pairs[:][0], vae.encode(data.readable(kept)[0] / 127.5 - 1), rtol=0, atol=1e-5)


def test_names_of_classes_are_captions_of_a_set_without(tmp_path, vae):
    data = pf.data.Dataset("pets", torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]), class_names=("cat", "dog"), levels=256)
    assert cached(data, tmp_path / "names", vae).captions == ("cat", "dog", "dog", "cat")
    numbered = pf.data.Dataset("digits", data.x, data.cond, levels=256)
    assert cached(numbered, tmp_path / "numbers", vae).captions == ("0", "1", "1", "0")


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ((torch.zeros(4, 3, 8, 8), 256), {}, DataError, "x has no captions; give captions="),
        ((torch.zeros(4, 3, 8, 8), 256), {"captions": ["a"]}, DataError, "of length 1, but 4 images need one text each"),
        ((torch.zeros(4, 3, 8, 8), 256), {"captions": ["", " ", None, ""]}, DataError, "all 4 captions are empty"),
        ((torch.zeros(4, 3, 8, 8), 256), {"captions": "abcd"}, DataError, "captions is 'abcd'"),
        ((torch.zeros(4, 1, 8, 8), 256), {"captions": ["a"] * 4}, ShapeError, r"shape \(1, 8, 8\), but the autoencoder reads images \(3,"),
        (
            (torch.zeros(4, 3, 9, 8), 256),
            {"captions": ["a"] * 4},
            ShapeError,
            "images of 9x8, but the autoencoder needs sides divisible by 2",
        ),
        ((torch.full((4, 3, 8, 8), 7.0), None), {"captions": ["a"] * 4}, DataError, "from 7 to 7, but an autoencoder reads images in"),
        ((torch.zeros(4, 3, 8, 8), 256), {"dtype": torch.float16}, UserError, "dtype is torch.float16"),
        ((torch.zeros(4, 3, 8, 8), 256), {"split": "tests"}, UserError, "'tests' is not a known split"),
        ((torch.zeros(4, 3, 8, 8), 256), {"per_shard": 0}, UserError, "per_shard is 0"),
    ],
)
def test_data_and_options_that_do_not_fit_are_refused(tmp_path, vae, data, options, error, message):
    with pytest.raises(error, match=message):
        cached(pf.data.Dataset("x", data[0], levels=data[1]), tmp_path, vae, **options)


def test_an_autoencoder_that_overflows_is_refused(pictures, tmp_path):
    broken = pf.nn.AutoencoderKL(3, 2, (4, 8), groups=2, blocks=1)
    broken.encoder.last.bias.data += torch.inf
    with pytest.raises(NotFiniteError, match="the autoencoder returned NaN or infinity"):
        cached(pictures, tmp_path, broken)


def test_damaged_files_are_named(pairs):
    folder = pairs.folder
    with pytest.raises(NoCheckpointError, match="validation holds no cached latents"):
        sd3.LatentPairs(folder.parent, "validation")
    copy = shutil.copytree(folder, folder.parent / "test")
    (copy / "latents-00001.safetensors").write_bytes((copy / "latents-00001.safetensors").read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="latents-00001.safetensors is truncated"):
        sd3.LatentPairs(folder.parent, "test")
    (copy / "index.json").write_text("{")
    with pytest.raises(CheckpointError, match="index.json cannot be read"):
        sd3.LatentPairs(folder.parent, "test")
    (copy / "index.json").write_text(json.dumps({"plan": {}}))
    with pytest.raises(CheckpointError, match="is not the index of cached latents"):
        sd3.LatentPairs(folder.parent, "test")


def test_batches_with_text_pass_through_loaders(pairs):
    rows = default_collate([pairs[k] for k in (4, 40)])
    x, cond = pairs.batch([4, 40])
    assert torch.equal(rows[0], x)
    assert torch.equal(rows[1].context, cond.context)
    for context in ("fork", "forkserver"):
        loader = DataLoader(pairs, batch_size=8, num_workers=1, multiprocessing_context=context)
        first = next(iter(loader))
        assert torch.equal(first[0], pairs[:8][0])
        assert torch.equal(first[1].pooled, pairs[:8][1].pooled)
    assert torch.equal(pickle.loads(pickle.dumps(pairs))[7][0], pairs[7][0])


def model_of(pairs):
    torch.manual_seed(0)
    config = pf.nn.MMDiT.Config(
        patch=2, depth=1, heads=2, head_width=8, context_width=3, pooled_width=3, positions=2, base_size=2, null_tokens=4
    )
    return LatentModel(config.build(pairs.shape), pairs.shape, Euler(4))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_trains_and_validates_on_them(pairs, workers):
    settings = {"steps": 4, "batch_size": 8, "lr": 1e-2, "validate_every": 2}
    trainer = pf.Trainer(model_of(pairs), pairs, validation=pairs.take(10), workers=workers, **settings).fit()
    assert (trainer.step, trainer.best < float("inf")) == (4, True)
    listed = pf.Trainer(model_of(pairs), [pairs[k] for k in range(50)], validation=[pairs[k] for k in range(10)], **settings).fit()
    assert listed.best == pytest.approx(trainer.best, rel=1e-5), "rows in a list are the same data"


@pytest.mark.parametrize("augmented", [{"flip": True}, {"shift": 1}])
def test_latents_are_not_flipped_or_shifted(pairs, augmented):
    with pytest.raises(UserError, match=r"flip or shift is on, but a mirrored or shifted latent .*cache_latents\(flips=True\)"):
        pf.Trainer(model_of(pairs), pairs.take(8), steps=1, batch_size=4, **augmented)


def _bucketed(pictures):
    """Pictures of two shapes, of which the first five are wide."""
    wide = CaptionedDataset("wide", pictures.x[:5].repeat(1, 1, 1, 2).to(torch.uint8), pictures.captions[:5], [["w"]] * 5)
    return Bucketed("pictures", [wide, pictures.subset(range(5, 25))], (3, 8, 8))


def test_images_in_buckets_are_cached_in_buckets(pictures, tmp_path, vae):
    images, seen = _bucketed(pictures), []
    pairs = cached(images, tmp_path, vae, flips=True, progress=lambda done, total: seen.append((done, total)))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["8x16", "8x8"]
    assert seen == [(5, 25), (15, 25), (25, 25)]
    assert (len(pairs), pairs.shape) == (50, (2, 4, 4))
    assert pairs.text.parts == Counting().layout.parts
    assert sorted(pairs.captions) == sorted(pictures.captions * 2)
    x, cond = pairs.batch([2, 6])
    with torch.no_grad():
        wide = images.batch([2, 1])[0] / 127.5 - 1
        torch.testing.assert_close(x, torch.stack([vae.encode(wide)[0], vae.encode(wide.flip(3))[1]]), rtol=0, atol=1e-5)
    assert torch.equal(cond.context, Counting()([images.captions[2], images.captions[1]]).context)
    text = Counting()
    assert cached(images, tmp_path, vae, text, flips=True).fingerprint() == pairs.fingerprint()
    assert text.seen == []


def test_a_loss_of_other_sides_is_that_of_a_model_of_those_sides(pictures, tmp_path, vae):
    pairs = cached(_bucketed(pictures), tmp_path, vae)
    net = pf.nn.MMDiT((2, 4, 4), depth=1, heads=2, head_width=8, context_width=3, pooled_width=3, positions=8, base_size=2, null_tokens=4)
    torch.nn.init.normal_(net.last.weight)
    with pytest.raises(UserError, match="flip or shift is on, but a mirrored"):
        pf.Trainer(LatentModel(net, (2, 4, 4), Euler(2)), pairs, steps=1, flip=True)
    square, wide = (LatentModel(net, shape, Euler(2)) for shape in ((2, 4, 4), (2, 4, 8)))
    x, cond = pairs.batch(range(5))
    assert x.shape == (5, 2, 4, 8)
    losses = [model.loss(x, cond, generator=torch.Generator().manual_seed(0)) for model in (square, wide)]
    assert torch.equal(*losses)
    with pytest.raises(ShapeError, match=r"x has shape \(5, 3, 4, 8\), but this model needs \(n, 2, 4, 8\)"):
        square.loss(torch.zeros(5, 3, 4, 8), cond)
    trainer = pf.Trainer(square, pairs, steps=6, batch_size=4, ema=0, seed=0)
    trainer.fit()
    assert trainer.step == 6


def test_processes_that_share_the_shards_write_the_cache_of_one(pictures, tmp_path, vae):
    alone = cached(pictures, tmp_path / "alone", vae, flips=True)
    options = {"flips": True, "per_shard": 10, "batch_size": 4}
    for rank in (1, 0):
        cache_share(pictures, tmp_path / "shared", vae, Counting(), (rank, 2), **options)
        files = {path.name for path in (tmp_path / "shared" / "train").glob("latents-*")}
        assert files == {f"latents-{k:05d}.safetensors" for k in ((1,) if rank else (0, 1, 2))}
        with pytest.raises(NoCheckpointError, match="is not finished"):
            sd3.LatentPairs(tmp_path / "shared")
    text = Counting()
    together = cached(pictures, tmp_path / "shared", vae, text, flips=True)
    assert not text.seen  # all was there
    assert together.fingerprint() == alone.fingerprint()
    assert torch.equal(together[:][0], alone[:][0])
    assert torch.equal(together[:][1].context, alone[:][1].context)


def test_cached_shards_are_mixed_by_a_window_and_resumed_within_one(pairs, tmp_path):
    assert pairs.shards is None
    by_shard = sd3.LatentPairs(tmp_path / "cache", window=1)
    assert by_shard.shards.tolist() == 2 * ([0] * 10 + [1] * 10 + [2] * 5)
    assert torch.equal(by_shard.subset([49, 3]).shards, torch.tensor([2, 0]))
    order = list(order_of(by_shard, 5, 0, 0, 20))
    assert sorted(index for batch in order[:10] for index in batch) == list(range(50))
    assert list(order_of(by_shard, 5, 0, 7, 20)) == order[7:]
    assert max(len(by_shard.shards[batch].unique()) for batch in order[:10]) <= 2
    with pytest.raises(UserError, match="window is 0"):
        sd3.LatentPairs(tmp_path / "cache", window=0)
