"""Draws SVG files as PNG, in a process of its own: FOLDER SIZE SECONDS MEGABYTES, then paths on the standard input, which null bytes end.

The result of path k is FOLDER/k.png, or FOLDER/k.txt with a reason. A file that takes too much time or memory ends the process, so that
there is neither; a folder without room ends it with the status NO_ROOM. resvg knows no scripts and no network, but reads the files that
an image names: so files with images are refused, and what it draws is not the file but the parsed tree, in which entities are resolved.
It has no font but the given ones.
"""

import errno
import os
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

LARGEST = 16 << 20  # bytes of a file
DEEPEST = 200  # elements inside each other
NO_ROOM = 3
DPI = 96.0  # of CSS: a point is 4/3 pixels


def main() -> None:
    """Draw each file."""
    folder, size, seconds, megabytes = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    for limit, value in ((resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_FSIZE, LARGEST), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))
    for k, name in enumerate(sys.stdin.buffer.read().split(b"\0")[:-1]):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of computing; its signal ends the process
        try:
            content, ending = _drawn(Path(os.fsdecode(name)), size, sys.argv[5:]), "png"
        except OSError as error:
            content, ending = (error.strerror or "it is no file").encode(), "txt"
        except Exception as error:  # of the parser, and of resvg, which raises ValueErrors
            content, ending = str(error).encode("utf-8", "replace"), "txt"
        try:
            (folder / "part").write_bytes(content)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                sys.exit(NO_ROOM)
            raise
        os.replace(folder / "part", folder / f"{k}.{ending}")


def _drawn(path: Path, size: int, fonts: list[str]) -> bytes:
    import resvg_py

    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe can be read without end
        raise ValueError("it is no regular file")
    if status.st_size > LARGEST:
        raise ValueError(f"it has {status.st_size} bytes, but at most {LARGEST} are read")
    root = ElementTree.fromstring(path.read_bytes())  # expat reads no external entities, and limits what entities grow to
    text = _check(root)
    whole = ElementTree.tostring(root, encoding="unicode")
    if len(whole) > LARGEST:
        raise ValueError(f"its entities grow to more than {LARGEST} characters")
    named = {f"{kind}_family": "DejaVu Sans" for kind in ("font", "sans_serif", "serif", "monospace")}
    given: Any = {"font_files": fonts, **named} if text else {}
    return bytes(resvg_py.svg_to_bytes(svg_string=whole, width=size, height=size, dpi=DPI, skip_system_fonts=True, **given))


def _check(root: ElementTree.Element) -> bool:
    """Return whether there is text; raise for what names other files, and for trees too deep to be drawn by recursion."""
    text, level = False, [root]
    for _ in range(DEEPEST):
        for one in level:
            kind = _local(one.tag)
            text = text or kind == "text"
            if kind in ("image", "feImage"):
                raise ValueError("it holds an image, which may be another file")
            for name, value in one.attrib.items():
                if _local(name) == "href" and kind != "a" and not value.strip().startswith("#"):
                    raise ValueError(f"its {kind} refers to {value[:60]}, but only parts of the file itself are used")
        level = [inner for one in level for inner in one]
        if not level:
            return text
    raise ValueError(f"it has elements more than {DEEPEST} levels deep")


def _local(name: object) -> str:
    return name.rpartition("}")[2] if isinstance(name, str) else ""  # comments have functions as names


if __name__ == "__main__":
    main()
