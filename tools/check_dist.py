"""Build wheel and sdist into dist/, install the wheel alone into a new environment, and use it there.

    python tools/check_dist.py

The new environment reads the packages that pushforward depends on from this one, so that nothing is downloaded for it; its own
pushforward comes from the wheel, which must hold what the library reads (templates, type stubs, py.typed).
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "pushforward/py.typed",
    "pushforward/__init__.pyi",
    "pushforward/evaluation/report.html.jinja",
    "pushforward/cli/package/pyproject.toml.jinja",
    "pushforward/_names.py",
)
SDIST = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "src/pushforward/__init__.py", "tests/conftest.py")
USE = """
import pushforward, sys
assert pushforward.__file__.startswith(sys.prefix), pushforward.__file__
model = pushforward.models.realnvp(2)
assert model.sample(3).shape == (3, 2)
"""


def run(*command: object, cwd: Path) -> str:
    """Return what a command prints.

    Raises:
        SystemExit: it failed; what it printed is part of the message.
    """
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which would come before what is installed
    done = subprocess.run([str(one) for one in command], cwd=cwd, env=own, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def missing(wheel: Path, sdist: Path) -> list[str]:
    """Return what wheel and sdist lack."""
    with zipfile.ZipFile(wheel) as one, tarfile.open(sdist) as two:
        inside, source = set(one.namelist()), {name.partition("/")[2] for name in two.getnames()}
    return [f"{wheel.name}: {name}" for name in NEEDED if name not in inside] + [
        f"{sdist.name}: {name}" for name in SDIST if name not in source
    ]


def main() -> None:
    """Build, install and use."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", here / "dist", ROOT, cwd=here)
        (wheel,), (sdist,) = (here / "dist").glob("*.whl"), (here / "dist").glob("*.tar.gz")
        if lacking := missing(wheel, sdist):
            raise SystemExit(f"missing in {', '.join(lacking)}")
        venv.create(here / "env", with_pip=False)
        python = here / "env" / "bin" / "python"
        own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=here).strip())
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=here)
        (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the environment's own packages
        run(python, "-c", USE, cwd=here)
        command = here / "env" / "bin" / "pushforward"
        version, listed = run(command, "--version", cwd=here).strip(), run(command, "list", "models", cwd=here)
        if version not in wheel.name or "rectified_flow" not in listed:
            raise SystemExit(f"the installed command printed version {version!r} and:\n{listed}")
        (ROOT / "dist").mkdir(exist_ok=True)
        for made in (wheel, sdist):
            (ROOT / "dist" / made.name).write_bytes(made.read_bytes())
            print(f"dist/{made.name}  {made.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
