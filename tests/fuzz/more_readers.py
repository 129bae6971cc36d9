"""The readers of fonts, GGUF, text encoders, prompts and what the command line keeps; the others are in `readers.py`."""

import io
import json
import tarfile
from pathlib import Path

import numpy
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

import pushforward as pf
from pushforward.cli.comparing import _read as read_measured
from pushforward.cli.comparison_files import JSON, check_folder_of
from pushforward.cli.prompts import prompts_of
from pushforward.data.colour_font import ColourFont
from pushforward.evaluation.measured import Measured, Samples
from pushforward.formats.diffusers_tensors import BIN, Tensors
from pushforward.formats.gguf_file import GGUFFile
from pushforward.formats.lock import HOLDER, _holder
from pushforward.formats.sd3_find import folder_part
from pushforward.formats.shards import METADATA, stored_shards, write_shards
from pushforward.formats.yaml_file import read_yaml
from pushforward.sd3.latent_preview import FILE, Preview, cached_preview
from pushforward.sd3.transformers_text import Transformer

CODES = range(0x2600, 0x2604)


def font(folder: Path) -> None:
    """Write a colour font of layers (COLR 0) with four rectangles."""
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for code in CODES:
        pen = TTGlyphPen(None)
        for k, point in enumerate(((100, 0), (100, 600), (400, 600), (400, 0))):
            (pen.lineTo if k else pen.moveTo)(point)
        pen.closePath()
        glyphs[f"g{code}"] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({code: f"g{code}" for code in CODES})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupOS2()
    builder.setupPost()
    builder.setupNameTable({"familyName": "Rectangles", "styleName": "Regular"})
    builder.setupCOLR({f"g{code}": [(f"g{code}", 0)] for code in CODES}, version=0)
    builder.setupCPAL([[(1, 0, 0, 1)]])
    builder.save(folder / "font.ttf")


def read_font(folder: Path) -> None:
    found = ColourFont(folder / "font.ttf")
    for code in CODES:
        found.picture(chr(code), (255, 255, 255))


def gguf_file(folder: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(folder / "x.gguf", "sd3")
    writer.add_array("comfy.gguf.orig_shape.a", [64, 2])
    writer.add_array("words", ["one", "two"])
    for name, kind in (("a", "Q8_0"), ("b", "F32"), ("c", "Q4_0"), ("d", "F16")):
        as_kind = gguf.GGMLQuantizationType[kind]
        values = numpy.arange(128, dtype=numpy.float32).reshape(2, 64)
        writer.add_tensor(name, gguf.quants.quantize(values.reshape(4, 32) if name == "a" else values, as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(folder: Path) -> None:
    file = GGUFFile(folder / "x.gguf")
    for name in file.entries:
        file.mapped(name)


def encoder(folder: Path) -> None:
    """Write the smallest text encoder of transformers."""
    import tokenizers
    import transformers

    words = {word: k for k, word in enumerate(("[PAD]", "[UNK]", "a", "b"))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "max_position_embeddings": 40}
    transformers.BertModel(transformers.BertConfig(vocab_size=4, hidden_size=8, **sizes)).save_pretrained(folder / "encoder")
    fast.save_pretrained(folder / "encoder")


def saved(folder: Path) -> None:
    tensors = {"a": torch.ones(3, 2), "b": torch.nn.Parameter(torch.ones(2)).detach(), "c": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(tensors, folder / BIN)


def shards(folder: Path) -> None:
    write_shards(folder, {name: torch.ones(3) for name in "abc"}, None)


def index(folder: Path) -> None:
    from safetensors.torch import save_file

    for k in (1, 2):
        save_file({f"w{k}": torch.ones(2)}, folder / f"model-0000{k}-of-00002.safetensors")
    listed = {f"w{k}": f"model-0000{k}-of-00002.safetensors" for k in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": listed}))


def read_index(folder: Path) -> None:
    part = folder_part(folder)
    for name in part:
        part.mapped(name)


def preview(folder: Path) -> None:
    (folder / "vae").mkdir()
    vae = _vae()
    Preview(torch.ones(2, 1), torch.zeros(1), pf.sd3.latent_preview.fingerprint_of(vae)).save(folder)
    assert (folder / "vae" / FILE).is_file()


def _vae() -> pf.nn.AutoencoderKL:
    torch.manual_seed(0)
    return pf.nn.AutoencoderKL(1, 2, (2,), groups=1, blocks=1)


def prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a red fox\n\nein Fuchs, süß\n狐狸\n", encoding="utf-8")


def kept(folder: Path) -> None:
    measured = Measured(10, 5, 1.0, 0.5, 0.1, samples=[Samples(1, 2.0, {"distance": 0.5}), Samples(None, reason="none")])
    (folder / "measured.json").write_text(json.dumps(measured.plain()))
    (folder / JSON).write_text(json.dumps({"settings": {"steps": 5, "seeds": [0, 1]}, "rows": []}))
    (folder / HOLDER).write_text(json.dumps({"host": "here", "process": 3, "since": "2026-01-01T00:00:00"}))


def read_kept(folder: Path) -> None:
    _holder(folder)
    found = read_measured(folder / "measured.json")
    assert found is None or isinstance(found, Measured)
    check_folder_of(folder, {"steps": 5, "seeds": [0, 1]})


def yaml_file(folder: Path) -> None:
    text = "preset: nsf\nmodel: &m {shape: [2], layers: 3, net: {name: nn.MLP, hidden: [8, 8], x: 1.5e-3}}\ntraining: {<<: *m, lr: 0.1}\n"
    (folder / "config.yaml").write_text(text + "notes: |\n  two\n  lines\ndays: [2020-01-01, ~, true, 0x1f, 1_000, .inf, 'q']\n")


def jpeg(folder: Path) -> None:
    """Write images with what cameras and programs put next to the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    made = Image.effect_noise((24, 16), 50).convert("RGB")
    made.save(folder / "a.jpg", exif=exif, dpi=(72, 72), icc_profile=b"\0" * 200)
    made.save(folder / "b.tif", compression="tiff_lzw", exif=exif)
    made.save(folder / "c.webp", exif=exif)
    made.quantize(16).save(folder / "d.png", transparency=3, exif=exif, icc_profile=b"\0" * 200)
    made.save(folder / "e.gif", save_all=True, append_images=[made.rotate(90)])
    Image.fromarray(numpy.arange(64, dtype=numpy.uint16).reshape(8, 8) * 1000).save(folder / "f.png")


def read_jpeg(folder: Path) -> None:
    from pushforward._images import in_8_bits
    from pushforward.sd3.png import loaded

    for path in sorted(folder.iterdir()):
        in_8_bits(loaded(path, "--image"), "RGB")


def tar_shard(folder: Path) -> None:
    """Write a shard of images and one of arrays."""
    image, array = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (6, 6), (1, 2, 3)).save(image, "PNG")
    numpy.save(array, numpy.arange(6.0).reshape(2, 3))
    for name, parts in (
        ("images", (("png", image.getvalue()), ("cls", b"1"), ("json", b'{"a": [1], "b": "x"}'))),
        ("arrays", (("npy", array.getvalue()),)),
    ):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for k in range(5):
                for extension, content in parts:
                    member = tarfile.TarInfo(f"{k}{'long' * 30 * (k == 3)}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def read_shards(folder: Path) -> None:
    nowhere = str(folder / "images.tar" / "none")  # no index is kept
    pf.data.load(f"wds:{folder}/images.tar", size=4, caption="json.b", missing="drop", cache=nowhere)[:]
    pf.data.load(f"wds:{folder}/arrays.tar", cache=nowhere)[:]


def read_by_index(folder: Path) -> None:
    """Read shards by an index that is damaged: it is made again, or states other places."""
    pf.data.load(f"wds:{folder}/arrays.tar", cache=str(folder / "cache"))[:]


def indexed_shard(folder: Path) -> None:
    tar_shard(folder)
    read_by_index(folder)


def parquet_rows(folder: Path) -> None:
    import datasets

    rows = {"a": [float(k) for k in range(20)], "label": [k % 2 for k in range(20)]}
    features = datasets.Features({"a": datasets.Value("float32"), "label": datasets.ClassLabel(names=["x", "y"])})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "a.parquet"), batch_size=7)


# Name, what writes the files, which of them are mutated, what reads them, and the share of mutants.
MORE = [
    ("colour font", font, ("font.ttf",), read_font, 1.0),
    ("gguf", gguf_file, ("x.gguf",), read_gguf, 2.0),
    ("text encoder", encoder, ("encoder/*",), lambda folder: Transformer(folder / "encoder", 8)(["a b"]), 0.2),
    ("torch.save", saved, (BIN,), lambda folder: list(Tensors(folder)), 4.0),
    ("metadata of shards", shards, (METADATA,), stored_shards, 1.0),
    ("index of shards", index, ("*.json", "*.safetensors"), read_index, 2.0),
    ("preview", preview, ("vae/*.json",), lambda folder: cached_preview(folder, _vae()), 1.0),
    ("prompts", prompts, ("prompts.txt",), lambda folder: prompts_of(None, folder / "prompts.txt", 1), 2.0),
    ("kept by compare", kept, ("*.json", HOLDER), read_kept, 3.0),
    ("yaml", yaml_file, ("config.yaml",), lambda folder: read_yaml(folder / "config.yaml"), 4.0),
    ("images of cameras", jpeg, ("*",), read_jpeg, 2.0),
    ("tar shards", tar_shard, ("*.tar",), read_shards),
    ("index of a tar shard", indexed_shard, ("cache/indices/*.json",), read_by_index, 0.3),
    (
        "streamed parquet",
        parquet_rows,
        ("a.parquet",),
        lambda folder: pf.data.load(f"hf:{folder}/a.parquet", columns="a", streaming=True)[:],
        0.5,
    ),
]
