"""A package written by `pushforward new-package`: it installs, its own tests pass, and the command line finds its names."""

import re
import subprocess
import sys
import sysconfig
import venv

import pytest

from pushforward.cli import main
from pushforward.cli.new_package import PARTS


def written(folder, *options):
    out = folder / "my-flows"
    assert main(["new-package", "my_flows", "--out", str(out), *options]) == 0
    return out


def test_it_has_a_file_a_test_and_an_entry_point_of_each_part(tmp_path):
    out = written(tmp_path)
    points = re.findall(r'^"(.*)" = "my_flows\.(.*):(.*)"$', (out / "pyproject.toml").read_text(), re.MULTILINE)
    assert points == [(part.public, part.name, part.object) for part in PARTS]
    for part in PARTS:
        text = (out / "src" / "my_flows" / f"{part.name}.py").read_text()
        compile(text, part.name, "exec")
        assert f'@export("{part.public}"' in text
        compile((out / "tests" / f"test_{part.name}.py").read_text(), part.name, "exec")
    assert all("{" + "{" not in path.read_text() for path in out.rglob("*") if path.is_file())


def test_it_has_only_the_parts_that_are_wanted(tmp_path):
    out = written(tmp_path, "--parts", "sampler", "command")
    assert {path.name for path in out.rglob("*.py")} == {"__init__.py", "sampler.py", "command.py", "test_sampler.py", "test_command.py"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "NAME is missing"),
        ("My-Flows", "NAME is 'My-Flows', but it must be a name that Python imports"),
        ("class", "NAME is 'class', but it must be a name that Python imports"),
        ("my_", "NAME is 'my_', but it must be a name that Python imports"),
        ("m" * 300, "but it must be a name that Python imports: up to 100 lower-case letters"),
        ("numpy", "NAME is 'numpy', which is the name of another module; choose one of your own, such as my_numpy."),
        ("torch", "NAME is 'torch', which is the name of another module"),
        ("random", "NAME is 'random', which is the name of another module; choose one of your own, such as my_random."),
        ("my_flows --parts sampel", "'sampel'"),
        ("my_flows --out {here}", "exists already; give another folder by --out, or remove it."),
        ("my_flows --out /dev/null/x", "/dev/null is no folder"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["new-package", *words.format(here=tmp_path).split()]) in (1, 2)
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def python_with(package, folder):
    """Return the Python of a new environment that has a package, and reads all others from this one."""
    venv.create(folder, with_pip=False)
    python, here = folder / "bin" / "python", sysconfig.get_path("purelib")
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    sources = [path for path in sys.path if path.endswith("src")]  # of an editable installation
    (folder / own.stdout.strip() / "others.pth").write_text("\n".join([*sources, here]) + "\n")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    subprocess.run([*install, str(package)], check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_it_works_in_a_new_environment(tmp_path):
    out = written(tmp_path)
    python = python_with(out, tmp_path / "env")

    def run(*words, status=0):
        done = subprocess.run([python, "-m", *words], cwd=out, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "passed" in run("pytest", "-q", "-p", "no:cacheprovider")
    assert "moments" in run("pushforward", "--help")
    assert "models.cosine_flow" not in run("pushforward", "list", "data")
    train = "pushforward train cosine_flow --data windmill --drop-cond 0.1 --steps 20 --out run sampler:ralston3 --sampler.steps 4"
    run(*train.split())
    assert len(run(*["pushforward", "moments", "run", "-n", "20"]).splitlines()) == 2
    run(*["pushforward", "sample", "run", "-n", "4", "--label", "1", "--guidance", "fading", "2", "--out", "x.csv"])
    config = (out / "run" / "config.yaml").read_text()
    assert "models.cosine_flow: my-flows 0.1.0" in config
    assert "samplers.Ralston3: my-flows 0.1.0" in config
    here = subprocess.run([sys.executable, "-m", "pushforward", "info", out / "run"], capture_output=True, text=True)
    assert here.returncode != 0
    assert "uses models.cosine_flow, which is of the package my-flows 0.1.0; install my-flows here" in here.stderr


def test_a_name_of_two_packages_names_both(tmp_path):
    for package in ("one", "two"):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[pushforward]\ndata.windmill = {package}.data:windmill\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pushforward.cli import main; sys.exit(main(['list', 'data']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "'data.windmill'" in done.stderr
    assert "one 1.0" in done.stderr and "two 1.0" in done.stderr  # noqa: PT018
    assert done.stderr.count("\n") == 1
