"""No reader of the library can run code that a file brings: the calls that could are looked for in its source, each with its exceptions."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pushforward

SOURCE = Path(pushforward.__file__).parent
# Full names of what builds objects, runs code or unpacks archives. Those in EXCEPTIONS are called in one module, for the reason given.
FORBIDDEN = {
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "dill.load",
        "dill.loads",
        "joblib.load",
        "marshal.load",
        "marshal.loads",
        "shelve.open",
    ),
    *("cloudpickle.load", "cloudpickle.loads", "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("torch.load", "torch.serialization.load", "torch.serialization.add_safe_globals", "torch.export.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader", "yaml.CFullLoader", "yaml.CUnsafeLoader"),
    *("tarfile.open", "tarfile.TarFile", "shutil.unpack_archive", "zipfile.PyZipFile", "runpy.run_path", "runpy.run_module"),
    *("os.system", "os.popen", "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "subprocess.check_call"),
    *("eval", "exec", "__import__", "xml.etree.ElementTree.parse", "xml.etree.ElementTree.fromstring"),
    *("xml.dom.minidom.parse", "importlib.util.spec_from_file_location"),
}
METHODS = {"extractall", "extract", "read_pickle", "unsafe_load", "load_module", "exec_module"}  # of any object
EXCEPTIONS = {
    ("pickle.Unpickler", "formats/shards.py"): "its find_class builds the records of DCP and nothing else",
    ("torch.load", "formats/saved_file.py"): "weights_only=True, of a file that check_saved has read before",
    ("tarfile.open", "data/tar_index.py"): "reads headers only, uncompressed; nothing is extracted",
    ("exec", "tableaux.py"): "runs the step of a tableau, written from its numbers, which are checked to be numbers",
    ("subprocess.run", "data/svg.py"): "runs data/svg_child.py, a module of ours, without a shell; files are paths on its standard input",
    ("xml.etree.ElementTree.fromstring", "data/svg_child.py"): "in a process whose time and memory are limited; reads no external entities",
    ("runpy.run_path", "cli/script.py"): "`pushforward doctor --aliasing` runs the script that the user gives",
}


def names_of(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                one.asname or one.name.partition(".")[0]: one.name if one.asname else one.name.partition(".")[0] for one in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return found


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """Return the name of an attribute or a name with its modules, such as torch.load; "" of anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := full_name(node.value, names)):
        return f"{owner}.{node.attr}"
    return ""


class Module:
    """The source of a module: its names, and the nodes that the tests ask for."""

    def __init__(self, text: str) -> None:
        tree = ast.parse(text)
        self.text, self.names = text, names_of(tree)
        nodes = list(ast.walk(tree))
        self.imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        self.mentions = [(full_name(node, self.names), node.lineno) for node in nodes if isinstance(node, ast.Name | ast.Attribute)]
        self.calls = [(full_name(node.func, self.names), node) for node in nodes if isinstance(node, ast.Call)]

    def used(self) -> Iterator[tuple[str, int]]:
        """Yield what is forbidden, called or not, and its line."""
        yield from (one for one in self.mentions if one[0] in FORBIDDEN)
        for _, call in self.calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
                yield call.func.attr, call.lineno
        for node in self.imports:
            yield from ((name, node.lineno) for one in node.names if (name := f"{node.module}.{one.name}") in FORBIDDEN)


OTHERS = {"numpy.load", "json.load", "json.loads", "from_pretrained", "trust_remote_code", "yaml"}


def is_parsed(text: str) -> bool:
    """Return whether a source has all words of something that the tests look for: parsing the other modules takes seconds."""
    words = set(re.findall(r"\w+", text))
    return any(words.issuperset((name.partition(".")[0], name.rpartition(".")[2])) for name in FORBIDDEN | METHODS | OTHERS)


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    texts = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    return {name: Module(text) for name, text in texts.items() if is_parsed(text)}


def keyword(call: ast.Call, name: str) -> object:
    """Return the constant that a call gives for an argument, or None."""
    value = next((one.value for one in call.keywords if one.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else None


@pytest.mark.parametrize(
    "text",
    [
        "import pickle as p\np.loads(b'')",
        "from pickle import load\nload(f)",
        "import torch\nread = torch.load",
        "import yaml\nyaml.load(x, yaml.Loader)",
        "archive.extractall(folder)",
        "import numpy, os\nos.system('ls')",
        "def f():\n    from subprocess import run as start\n    start([])",
        "eval('1')",
    ],
)
def test_what_is_forbidden_is_found(text):
    assert is_parsed(text)
    assert list(Module(text).used())


def test_nothing_that_builds_objects_or_runs_code_is_used(modules):
    found = {(name, module): line for module, one in modules.items() for name, line in one.used()}
    assert {f"{module}:{line}: {name}" for (name, module), line in found.items() if (name, module) not in EXCEPTIONS} == set()
    assert EXCEPTIONS.keys() - found.keys() == set(), "an exception that is no longer needed"


def test_torch_loads_weights_only_and_numpy_no_objects(modules):
    loads = [(name, module, call) for module, one in modules.items() for name, call in one.calls if name in ("torch.load", "numpy.load")]
    assert {name for name, _, _ in loads} == {"torch.load", "numpy.load"}
    for name, module, call in loads:
        given = keyword(call, "weights_only") is True if name == "torch.load" else keyword(call, "allow_pickle") is False
        assert given, f"{module}:{call.lineno}"


def test_yaml_loaders_are_the_safe_ones(modules):
    for module, one in modules.items():
        loaders = {name for name, _ in one.mentions if name.startswith("yaml.") and name.endswith("Loader")}
        assert loaders <= {"yaml.SafeLoader", "yaml.CSafeLoader"}, module


def test_other_libraries_run_no_code_of_a_repository(modules):
    found = []
    for module, one in modules.items():
        for name, call in one.calls:
            assert not keyword(call, "trust_remote_code"), f"{module}:{call.lineno}"
            if name.endswith(".from_pretrained") and ".StableDiffusion3." not in name:  # ours reads safetensors
                found.append(call)
                options = any(each.arg is None for each in call.keywords) and '"trust_remote_code": False' in one.text  # **options
                assert options or keyword(call, "trust_remote_code") is False, f"{module}:{call.lineno}"
    assert len(found) >= 6


def test_json_is_read_by_the_function_that_bounds_it(modules):
    kept = {"_files.py", "formats/tensor_file.py", "cli/comparison_files.py"}  # itself; a header that safetensors has read; own text
    readers = {module for module, one in modules.items() for name, _ in one.calls if name in ("json.loads", "json.load")}
    assert readers == kept
