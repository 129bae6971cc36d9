"""The readers under test: each writes a small file or folder by the library itself, and reads it back as users do."""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import pandas
import torch
from fuzz.more_readers import MORE
from PIL import Image
from safetensors.torch import save_file

import pushforward as pf
from pushforward.cli import compare, info
from pushforward.data.emoji_names import labelled_emoji
from pushforward.data.idx import read_idx
from pushforward.formats.config import load_yaml
from pushforward.formats.files import MANIFEST
from pushforward.formats.model import build, load_weights, read_weights
from pushforward.formats.run import checkpoints
from pushforward.formats.shards import METADATA, read_shards, stored_shards, write_shards
from pushforward.sd3.files import read_parts
from pushforward.sd3.png import loaded, read_settings, write_png
from pushforward.sd3.text_layout import TextLayout, parts_of
from pushforward.sd3.tokenizers import find_tokenizer
from pushforward.training.processes import processes
from pushforward.training.state import restore
from pushforward.training.step import Step


@dataclass(frozen=True)
class Reader:
    """One reader.

    Args:
        name: of the test.
        make: writes the intact files into a folder that exists.
        files: patterns of the files that are mutated.
        read: reads the folder.
        share: mutants relative to the other readers; slow readers have fewer.
    """

    name: str
    make: Callable[[Path], object]
    files: tuple[str, ...]
    read: Callable[[Path], object]
    share: float = 1.0


def _people(rows: int = 40) -> pandas.DataFrame:
    generator = numpy.random.default_rng(0)
    return pandas.DataFrame(
        {
            "height": generator.normal(1.7, 0.1, rows).round(3),
            "age": generator.integers(1, 90, rows),
            "eyes": generator.choice(["blue", "brown", "grey"], rows),
            "y": generator.choice(["a", "b"], rows),
        }
    )


def _table_model(folder: Path) -> None:
    schema = pf.data.load(_people(), label="y").schema
    pf.save(pf.models.nsf(schema=schema, layers=1, hidden=(4,)), folder / "saved")


def _image_model(folder: Path) -> None:
    net = pf.nn.UNet.Config(8, (1,), attention=0)
    pf.save(pf.models.ddpm(net, (1, 8, 8), classes=3, sampler=pf.samplers.DPMSolverPP(4)), folder / "saved")


def _built(folder: Path) -> None:
    build(load_yaml(folder / "saved" / "config.yaml"))


def _weights(folder: Path) -> None:
    file = folder / "saved" / "model.safetensors"
    load_weights(build(load_yaml(folder / "saved" / "config.yaml")), read_weights(file), file)


def _model() -> pf.families.GenerativeModel:
    return pf.models.rectified_flow(pf.nn.MLP.Config((4,)), shape=(2,))


def _run(folder: Path) -> None:
    config = {"data": {"name": "moons"}}
    run, data = folder / "run", torch.randn(32, 2)
    pf.Trainer(_model(), data, validation=data, out=run, config=config, steps=2, batch_size=8, log_every=1).fit()
    shutil.copy(next((run / "checkpoints").glob("step-*")) / "config.yaml", run / "config.yaml")
    rows = [{"step": k, "loss": 0.5, "seconds": 1.0, "samples_per_second": 10.0, "phases": {"forward": 0.1}} for k in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = {"examples": 10, "split": "test", "distance": 0.5, "distance_std": 0.1, "distance_train": 0.5, "distance_train_std": 0.1}
    judged |= {"likelihood": [{f"{part}{end}": 1.0 for part in ("pooled", "conditional", "mixture") for end in ("", "_error")}]}
    judged |= {"recognised": 0.5, "closer_to_train": 0.5, "sampler": "euler", "seconds_per_1000_samples": 1.0}
    judged |= {"quality": [{"evaluations": 1, "distance": 0.5}]}
    (run / "evaluation.json").write_text(json.dumps(judged))


def _shown(folder: Path) -> None:
    info.run([str(folder / "run")])
    compare.run(["--reported", str(folder / "run")])
    pf.load(folder / "run")


def _pointers(folder: Path) -> None:
    found = checkpoints(folder / "run")
    for which in ("best", "last"):
        found.path(which)
    found.newest_whole()


SHARDS = {"a": torch.arange(600.0).view(30, 20), "b": torch.ones(5)}


def _read_shards(folder: Path) -> None:
    stored_shards(folder)
    read_shards(folder, {name: torch.zeros_like(one) for name, one in SHARDS.items()})


def _resumed(folder: Path) -> None:
    checkpoint = next((folder / "run" / "checkpoints").glob("step-*"))
    model = _model()
    settings = pf.Trainer(model, torch.randn(8, 2), steps=2, batch_size=8).settings
    restore(checkpoint, Step(model, settings, processes(60), torch.device("cpu")), None)


def _drawn(seed: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed).normal(size=(30, 3)).astype(numpy.float32)


def _npz(folder: Path) -> None:
    numpy.savez_compressed(folder / "x.npz", x=_drawn(0).round().clip(0, 3), y=numpy.arange(30) % 3, levels=numpy.int64(4))


def _npz_of_a_table(folder: Path) -> None:
    x = numpy.stack([numpy.linspace(0, 1, 30), numpy.arange(30) % 3], axis=1)
    names = {"columns": numpy.array(["size", "eyes"]), "words of eyes": numpy.array(["blue", "brown", "grey"])}
    numpy.savez(folder / "x.npz", x=x, y=numpy.arange(30) % 2, class_names=numpy.array(["cat", "dog"]), **names)


def _npz_of_splits(folder: Path) -> None:
    parts = {f"x_{one}": _drawn(k) for k, one in enumerate(("train", "validation", "test"))}
    numpy.savez(folder / "x.npz", **parts, **{f"y{name[1:]}": numpy.array(["a", "b", "c"] * 10) for name in parts})


def _mapped(folder: Path) -> None:
    numpy.save(folder / "x.npy", _drawn(0))
    numpy.save(folder / "y.npy", numpy.arange(30) % 2)


def _idx(folder: Path) -> None:
    content = struct.pack(">4B3I", 0, 0, 8, 3, 3, 4, 4) + bytes(range(48))
    (folder / "plain").write_bytes(content)
    (folder / "packed.gz").write_bytes(gzip.compress(content, mtime=0))


def _images(folder: Path) -> None:
    for k, suffix in enumerate(("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "png", "png", "png", "png", "png")):
        Image.new("RGB", (9, 8), (20 * k, 30, 40)).save(folder / f"{k:02}.{suffix}")
    rows = [json.dumps({"file_name": one.name, "text": f"number {one.stem}"}) for one in sorted(folder.iterdir())]
    (folder / "metadata.jsonl").write_text("".join(row + "\n" for row in rows))


def _images_csv(folder: Path) -> None:
    _images(folder)
    rows = [f"{one.name},caption {one.stem}\n" for one in sorted(folder.glob("[0-9]*"))]
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,text\n" + "".join(rows))


def _images_txt(folder: Path) -> None:
    _images(folder)
    (folder / "metadata.jsonl").unlink()
    for one in list(folder.iterdir()):
        one.with_suffix(".txt").write_text(f"number {one.stem}")


def _read_images(folder: Path) -> None:
    data = pf.data.load(folder, "train", size=8)
    data[:]


def _read_buckets(folder: Path) -> None:
    data = pf.data.load(folder, "train", size=8, buckets=2)
    for indices in ([k] for k in range(len(data))):
        data.batch(indices)


def _stamps(folder: Path) -> None:
    for k in range(12):
        Image.new("RGBA", (9, 8), (20 * k, 30, 40, 200)).save(folder / f"{k:02}.png")
        (folder / f"{k:02}.txt").write_text(f"Number {k}.\nfr.utf8=Numéro {k}.\n")


def _labels(folder: Path) -> None:
    record = {"hexcode": "2600-FE0F", "label": "sun", "tags": ["bright"], "skins": [{"hexcode": "2600-1F3FB", "label": "light sun"}]}
    (folder / "data.json").write_text(json.dumps([record, {"hexcode": "2601", "label": "cloud"}]))


class _Text:
    """A text encoder for caches."""

    layout = TextLayout(parts_of(["text"], [2], [3], [3]), pf.TextContext(torch.zeros(1, 2, 3), torch.zeros(1, 3)), "zeros")

    def __call__(self, prompts: list[str]) -> pf.TextContext:
        return pf.TextContext(torch.ones(len(prompts), 2, 3), torch.ones(len(prompts), 3))

    def fingerprint(self) -> str:
        return "text"


def _cached(folder: Path) -> None:
    vae = pf.nn.AutoencoderKL(1, 2, (2,), groups=1, blocks=1)
    data = pf.data.Dataset("x", torch.zeros(6, 1, 4, 4), torch.tensor([0, 1] * 3), levels=256)
    pf.sd3.cache_latents(data, folder / "cache", vae, _Text(), per_shard=2, flips=True)


def _hub(folder: Path) -> None:
    import datasets

    table = {"a": [float(k) for k in range(20)], "b": [[1.0, 2.0]] * 20, "label": [k % 2 for k in range(20)]}
    features = datasets.Features(
        {"a": datasets.Value("float32"), "b": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    datasets.Dataset.from_dict(table, features=features).save_to_disk(folder / "saved")


def _png(folder: Path) -> None:
    settings = {"prompt": "a red fox", "seed": 3, "model": "sd3", "guidance": 7.0, "size": [16, 16]}
    write_png(Image.new("RGB", (16, 16), (200, 10, 10)), folder / "image.png", settings)


def _read_png(folder: Path) -> None:
    read_settings(folder / "image.png")
    loaded(folder / "image.png", "--image")


def _sd3(folder: Path) -> None:
    import tiny_sd3

    tiny_sd3.build(folder)


def _mmdit() -> dict[str, torch.nn.Module]:
    sizes = {"depth": 2, "heads": 1, "head_width": 8, "context_width": 4, "pooled_width": 4, "positions": 2, "null_tokens": 1}
    return {"transformer": pf.nn.MMDiT((1, 4, 4), **sizes)}


def _lora(folder: Path) -> None:
    settings = {"r": 2, "lora_alpha": 4, "alpha_pattern": {"attn.to_q": 1}, "use_rslora": True, "init_lora_weights": "gaussian"}
    tensors = {"lora_A.weight": torch.ones(2, 8), "lora_B.weight": torch.ones(8, 2), "lora_magnitude_vector": torch.ones(8)}
    for prefix, name in (("transformer.", "header"), ("base_model.model.", "adapter_model")):
        file = {f"{prefix}transformer_blocks.0.attn.to_{one}.{end}": each.clone() for one in "qk" for end, each in tensors.items()}
        header = {"lora_adapter_metadata": json.dumps({f"{prefix}{key}": one for key, one in settings.items()})}
        save_file(file, folder / f"{name}.safetensors", header if name == "header" else None)
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _read_lora(folder: Path) -> None:
    for name in ("header", "adapter_model"):
        lora = pf.formats.read_lora(folder / f"{name}.safetensors", _mmdit())
        for one in lora.parts["transformer"]:
            one.delta(torch.ones(8, 8))


def _sd3_folder(folder: Path) -> None:
    read_parts(folder / "folder", None, "cpu", None, True)
    for kind, name in (("clip_l", "tokenizer"), ("t5", "tokenizer_3")):
        find_tokenizer(kind, {kind: folder / "folder" / name}, None)


def _diffusers(folder: Path) -> None:
    net = pf.nn.UNet2D.Config((4, 4), ("conv", "conv attention"), ("conv attention", "conv"), depth=1, groups=2, steps=50)
    sampler = pf.samplers.DDPM(50, grid=pf.samplers.Knots("leading"), clip=pf.samplers.Clipping())
    path = pf.paths.Discrete("linear", 50)
    model = pf.models.ddpm(net, (1, 4, 4), path=path, preprocess="centred", levels=256, sampler=sampler, classes=3)
    pf.formats.write_diffusers(folder / "pipeline", model)


def _diffusers_bin(folder: Path) -> None:
    _diffusers(folder)
    file = folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(read_weights(file), file.with_suffix(".bin"))
    file.unlink()


def _pipeline(folder: Path) -> None:
    pf.load(folder / "pipeline")


SETTINGS = ("folder/*/config.json", "folder/scheduler/*.json", "folder/model_index.json", "folder/*/tokenizer*.json")

READERS = [
    Reader("config of a table", _table_model, ("saved/config.yaml",), _built, 2),
    Reader("config of images", _image_model, ("saved/config.yaml",), _built, 0.5),
    Reader("weights", _table_model, ("saved/model.safetensors",), _weights),
    Reader("saved model", _table_model, ("saved/*",), lambda folder: pf.load(folder / "saved"), 0.3),
    Reader("pipeline of diffusers", _diffusers, ("pipeline/*.json", "pipeline/*/*.json", "pipeline/unet/*.safetensors"), _pipeline),
    Reader("pipeline of diffusers with a pickle", _diffusers_bin, ("pipeline/unet/*.bin",), _pipeline, 0.5),
    Reader("run", _run, ("run/config.yaml", "run/metrics.jsonl", "run/evaluation.json"), _shown, 0.5),
    Reader("checkpoints", _run, (f"run/checkpoints/*/{MANIFEST}", "run/checkpoints/best", "run/checkpoints/last"), _pointers),
    Reader("training state", _run, ("run/checkpoints/*/training.pt",), _resumed),
    Reader("shards", lambda folder: write_shards(folder, SHARDS, None), (METADATA, "*.distcp"), _read_shards),
    Reader("npy", lambda folder: numpy.save(folder / "x.npy", _drawn(0)), ("x.npy",), lambda folder: pf.data.load(folder / "x.npy")),
    Reader("npy mapped", _mapped, ("*.npy",), lambda folder: pf.data.load(folder)[:]),
    Reader("npz", _npz, ("x.npz",), lambda folder: pf.data.load(folder / "x.npz")),
    Reader("npz of a table", _npz_of_a_table, ("x.npz",), lambda folder: pf.data.load(folder / "x.npz")),
    Reader("npz of splits", _npz_of_splits, ("x.npz",), lambda folder: pf.data.load(folder / "x.npz", "test")),
    Reader("idx", _idx, ("plain",), lambda folder: read_idx(folder / "plain", 3)),
    Reader("idx gzipped", _idx, ("packed.gz",), lambda folder: read_idx(folder / "packed.gz", 3)),
    Reader(
        "csv", lambda folder: _people().to_csv(folder / "x.csv", index=False), ("x.csv",), lambda folder: pf.data.load(folder / "x.csv")
    ),
    Reader(
        "csv with options",
        lambda folder: _people().to_csv(folder / "x.csv", index=False),
        ("x.csv",),
        lambda folder: pf.data.load(folder / "x.csv", label=-1, categorical="1", missing="model"),
    ),
    Reader(
        "parquet",
        lambda folder: _people().to_parquet(folder / "x.parquet"),
        ("x.parquet",),
        lambda folder: pf.data.load(folder / "x.parquet", label="y"),
    ),
    Reader("images", _images, ("*",), _read_images),
    Reader("images in buckets", _images, ("[0-9]*",), _read_buckets),
    Reader("stamps", _stamps, ("*",), lambda folder: pf.data.load("stamps", folder=folder, size=8), 0.5),
    Reader("labels of emoji", _labels, ("data.json",), lambda folder: labelled_emoji(folder / "data.json", "en", True, True)),
    Reader("cached latents", _cached, ("cache/train/*",), lambda folder: pf.sd3.LatentPairs(folder / "cache")[:]),
    Reader("images with csv", _images_csv, ("metadata.csv",), _read_images, 0.3),
    Reader("images with txt", _images_txt, ("*.txt",), _read_images, 0.3),
    Reader(
        "saved data set",
        _hub,
        ("saved/*",),
        lambda folder: pf.data.load(folder / "saved", columns=["a"])[:],
        0.3,
    ),
    Reader("png settings", _png, ("image.png",), _read_png),
    Reader(
        "sd3 file", _sd3, ("single.safetensors",), lambda folder: read_parts(folder / "single.safetensors", None, "cpu", None, True), 0.3
    ),
    Reader("sd3 folder", _sd3, SETTINGS, _sd3_folder, 0.2),
    Reader("lora", _lora, ("*.safetensors", "*.json"), _read_lora),
    *(Reader(*one) for one in MORE),
]
