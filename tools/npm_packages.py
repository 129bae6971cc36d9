"""Packages of npm that the site and its checks use: pinned, checked by the digest of their archive, and kept in .cache/npm.

They are downloads of the build, not part of the repository. `npm pack` fetches an archive; no script of a package is run by npm.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "npm"


class Package(NamedTuple):
    """A version, the SHA-256 of its archive, and the files that are used (endings of their paths)."""

    version: str
    sha256: str
    files: tuple[str, ...]


PACKAGES = {
    # The last release with a build for one thread: threads would need response headers that servers of static pages do not send.
    "onnxruntime-web": Package(
        "1.18.0",
        "b4940dec2f4f63cd98d48597336809d45fdaa1c4ddc6d2e6e61183772a266e07",
        ("/dist/ort.wasm-core.min.js", "/dist/ort-wasm-simd.wasm"),
    ),
    "katex": Package(
        "0.19.1",
        "24da5a599eb2fcede2e270b99a6ff48bca816beecc95feeb84e8cccbd1bb34fd",
        ("/dist/katex.min.js", "/dist/katex.min.css", ".woff2"),
    ),
    "axe-core": Package("4.14.1", "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745", ("/axe.min.js",)),
}


class PackageError(Exception):
    """A package could not be fetched, or is not the one that was pinned."""


def files(name: str) -> dict[str, Path]:
    """Return the files of a package by their names, downloading them if they are not in the cache.

    Args:
        name: a key of PACKAGES.

    Raises:
        PackageError: npm is not installed or fails, or the archive has another digest.
    """
    package = PACKAGES[name]
    place = CACHE / f"{name}-{package.version}"
    if not place.is_dir():
        _fetch(name, package, place)
    return {path.name: path for path in sorted(place.iterdir())}


def _fetch(name: str, package: Package, place: Path) -> None:
    release = f"{name}@{package.version}"
    if shutil.which("npm") is None:
        raise PackageError(f"there is no npm, with which {release} is downloaded; install it (Debian and Ubuntu: apt install npm).")
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        done = subprocess.run(["npm", "pack", release, "--silent"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PackageError(f"npm pack {release} failed ({reason}); check the connection, and try again.")
        (archive,) = Path(folder).glob("*.tgz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            raise PackageError(f"the archive of {release} has the SHA-256 {found}, but tools/npm_packages.py pins {package.sha256}.")
        made = Path(folder) / "files"
        made.mkdir()
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isfile() and member.name.endswith(package.files):
                    content = opened.extractfile(member)
                    assert content is not None
                    (made / Path(member.name).name).write_bytes(content.read())
        if not place.is_dir():
            made.rename(place)
