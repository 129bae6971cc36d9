"""Files from packages of npm that the site and its checks use: pinned, checked by their digests, and kept in .cache/npm.

They are downloads of the build, not part of the repository. `npm pack` fetches a package; none of its code is run.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "npm"
PACKAGES = {  # name: version, and the SHA-256 of each file
    # The last release with a build for one thread: threads would need response headers that servers of static pages do not send.
    "onnxruntime-web": (
        "1.18.0",
        {
            "dist/ort.wasm-core.min.js": "9f26054b7e08ff6e04a4320232c846c7900a93ecd50ada560281b00bfc4d730c",
            "dist/ort-wasm-simd.wasm": "f533b5f21790563d7556c611c3835ac65848ee326da2689aac54ed7d9cc8c6a4",
        },
    ),
}


class PackageError(Exception):
    """A package could not be fetched, or is not the one that was pinned."""


def files(name: str) -> dict[str, Path]:
    """Return the files of a package by their names, downloading them if they are not in the cache.

    Args:
        name: a key of PACKAGES.

    Raises:
        PackageError: npm is not installed or fails, or a file has another digest.
    """
    version, digests = PACKAGES[name]
    place = CACHE / f"{name.replace('/', '-')}-{version}"
    if not place.is_dir():
        _fetch(f"{name}@{version}", list(digests), place)
    found = {Path(file).name: place / Path(file).name for file in digests}
    for file, digest in digests.items():
        if hashlib.sha256(found[Path(file).name].read_bytes()).hexdigest() != digest:
            raise PackageError(f"{file} of {name} {version} is not the file that tools/npm_packages.py pins; delete {place} and try again.")
    return found


def _fetch(package: str, wanted: list[str], place: Path) -> None:
    if shutil.which("npm") is None:
        raise PackageError(f"there is no npm, with which {package} is downloaded; install it (Debian and Ubuntu: apt install npm).")
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        done = subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PackageError(f"npm pack {package} failed ({reason}); check the connection, and try again.")
        (archive,) = Path(folder).glob("*.tgz")
        made = Path(folder) / "files"
        made.mkdir()
        with tarfile.open(archive) as opened:
            for file in wanted:
                content = opened.extractfile(f"package/{file}")
                assert content is not None
                (made / Path(file).name).write_bytes(content.read())
        if not place.is_dir():
            made.rename(place)
