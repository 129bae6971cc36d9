"""What all tests share: shapes are checked by beartype, one thread, a seed for each test, and float64 where a law asks for it."""

import contextlib
import gc
import os
import sys
import zlib
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
from hypothesis.internal.conjecture import providers

sys.path.insert(0, str(Path(__file__).parent))  # for `import examples`
os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))  # also in the processes that tests start
# Before pushforward is imported: the shapes in the annotations of `functional` are then checked at every call of every test.
jaxtyping.install_import_hook("pushforward.functional", "checked.checked")
gc.disable()  # until the tests are collected: what is imported is no garbage

# torch is imported where it is used: with pytest-xdist this file is also read by the process that only hands out the tests.

# The same examples each time, however slow a busy machine makes them: a law that fails does so for everybody.
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")
# Nor may they depend on the constants in whatever modules a process has imported, which take each process a second to find.
if hasattr(providers, "is_local_module_file"):
    providers.is_local_module_file = lambda path: False


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Have the garbage collector leave out what was imported and collected, and run less often: it took a tenth of the tests' time."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


def _quick(config):
    return "not slow" in config.getoption("markexpr")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out the files of quick tests as tests/workers.py states, where `--dist loadfile` is given."""
    if config.getoption("dist") != "loadfile" or not _quick(config):
        return None
    import workers

    config.option.loadscopereorder = False  # by their number of tests
    return workers.Scheduling(config, log)


def pytest_collection_modifyitems(config, items):
    """Put the tests into the order in which they are handed out."""
    if hasattr(config, "workerinput") and _quick(config):
        import workers

        items.sort(key=workers.place)


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.default_generator.manual_seed(0)  # torch.manual_seed formats a stack for each kind of GPU, in half of an empty test's time


def pytest_runtest_setup(item):
    """Check shapes in one quick test of eight, chosen by its name, and in all slow ones: the checks take a fifth of the time."""
    chosen = "slow" in item.keywords or zlib.crc32(item.nodeid.encode()) % 8 == 0
    jaxtyping.config.update("jaxtyping_disable", not chosen)


@contextlib.contextmanager
def _default_dtype(name):
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a variant of Stable Diffusion 3 to its tiny checkpoint, which tests share and do not change."""
    import tiny_sd3

    built = {}

    def of(variant):
        if variant not in built:
            built[variant] = tiny_sd3.build(tmp_path_factory.mktemp("sd3") / variant, variant)
        return built[variant]

    return of


@pytest.fixture
def float64():
    """Build everything in float64: laws are about the mathematics, so rounding is kept out of their way."""
    with _default_dtype("float64"):
        yield


@pytest.fixture
def float32():
    """A reader's default dtype, whatever the laws' is."""
    with _default_dtype("float32"):
        yield
