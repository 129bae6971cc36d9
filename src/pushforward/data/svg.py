"""SVG files as images: drawn by resvg in a process of its own, whose time and memory are limited, as a file may be hostile."""

import importlib.util
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from pushforward._images import in_8_bits, opened
from pushforward.errors import DataError, UserError

SECONDS, MEGABYTES = 10, 1024  # of computing for a file, of memory for the process
NO_ROOM = 3  # exit status of the process if it cannot write an image
CHILD = Path(__file__).with_name("svg_child.py")
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")  # matplotlib's, so that text is the same on all machines


def check_resvg() -> None:
    """Raise unless resvg is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("SVG images need the package resvg-py, which is not installed; run: pip install 'pushforward[svg]'.")


def drawn(paths: Sequence[Path], size: int) -> Iterator[Image.Image | str]:
    """Yield an RGB image on white for each SVG file, whose longer side has `size` pixels, or the reason why there is none.

    Raises:
        UserError: resvg is not installed.
        DataError: the temporary folder has no room for the images.
    """
    check_resvg()
    with tempfile.TemporaryDirectory() as temporary:
        start = 0
        while start < len(paths):
            folder = Path(temporary) / str(start)
            folder.mkdir()
            _run(folder, paths[start:], size)
            for k in range(len(paths) - start):
                found = _result(folder, k)
                yield f"resvg cannot draw it in {SECONDS} s and {MEGABYTES} MB" if found is None else found
                if found is None:  # it ended the process
                    break
            start += k + 1


def _run(folder: Path, paths: Sequence[Path], size: int) -> None:
    """Let a process draw files into a folder, as far as it comes."""
    # not imported from this package, whose import takes memory; -P: its folder hides no module of Python
    words = [sys.executable, "-P", str(CHILD), str(folder), str(size), str(SECONDS), str(MEGABYTES), *_fonts()]
    quiet, given = subprocess.DEVNULL, b"".join(os.fsencode(path.absolute()) + b"\0" for path in paths)  # no name has a null character
    done = subprocess.run(words, input=given, stdout=quiet, stderr=quiet, check=False)
    if done.returncode == NO_ROOM:
        raise DataError(f"{folder.parent} has no room for the images that are drawn from SVG; free some, or set TMPDIR to another folder.")


def _result(folder: Path, k: int) -> Image.Image | str | None:
    """Return the image or the reason that a process wrote for its file k, None if it wrote neither."""
    picture, reason = folder / f"{k}.png", folder / f"{k}.txt"
    if picture.is_file():
        with opened(io.BytesIO(picture.read_bytes())) as image:
            return in_8_bits(image, "RGB")
    return reason.read_text(encoding="utf-8") if reason.is_file() else None


def _fonts() -> list[str]:
    import matplotlib

    return [str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name) for name in FONTS]
