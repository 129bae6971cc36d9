"""Caches and switches under eight threads, with switches between threads after every few instructions."""

import dataclasses
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward import dispatch
from pushforward.fast import programs
from pushforward.fast.programs import MOST, kept
from pushforward.sd3 import prompts
from pushforward.sd3.residence import Residence

THREADS = 8


@pytest.fixture(autouse=True)
def switching():
    """Threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work):
    """Call work(k) in eight threads that start together, and raise the first error."""
    start, errors = threading.Barrier(THREADS), []

    def one(k):
        start.wait()
        try:
            work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Paused(dict):
    """A cache in which another thread always comes between the start of a loop and its first key."""

    def __iter__(self):
        keys = super().__iter__()
        time.sleep(1e-4)
        return keys


def test_a_cached_program_is_that_of_its_key(monkeypatch):
    """Many more keys than are kept, so that threads remove the oldest program while others add theirs."""
    monkeypatch.setattr(programs, "_kept", Paused())

    def work(k):
        for turn in range(300):
            key = (k * 7 + turn) % (4 * MOST)
            assert kept(double, key) == 2 * key

    in_threads(work)
    assert len(programs._kept) <= MOST


def double(key):
    return 2 * key


def test_fast_paths_are_on_when_every_thread_has_left_its_block():
    """Blocks of threads overlap without being nested: what one restores is not what the other found."""

    def work(k):
        for _ in range(300):
            with pf.fast.disabled():
                assert not dispatch.enabled()

    in_threads(work)
    assert dispatch.enabled()


def test_blocks_that_overlap_leave_fast_paths_on():
    first, second = pf.fast.disabled(), pf.fast.disabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not dispatch.enabled()
    second.__exit__(None, None, None)
    assert dispatch.enabled()


SLOW_IMPORT = """
import sys, threading, time, importlib.abc, importlib.machinery, importlib.util
sys.setswitchinterval(1e-6)

class Slow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    '''Imports fast.made with a pause after its first fast path is registered, as a busy machine does.'''
    def find_spec(self, name, path, target=None):
        if name != "pushforward.fast.made":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        mark = '@fast_way(MADE, "solved")'
        source = spec.loader.get_source(name).replace(mark, f"import time; time.sleep(0.3)\\n{mark}")
        spec.loader.get_code = lambda name: compile(source, spec.origin, "exec")
        return spec

sys.meta_path.insert(0, Slow())
import torch
import pushforward as pf
torch.manual_seed(0)
model = pf.models.maf(shape=(3,), layers=2).eval()
x, errors, values = torch.randn(5, 3), [], []

def work(k):
    time.sleep(0.02 * k)
    try:
        with torch.no_grad():
            values.append(model.log_prob(x))
    except BaseException as error:
        errors.append(repr(error))

threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
assert not errors, errors[0]
assert all(torch.equal(one, values[0]) for one in values), "fast and plain paths were mixed"
"""


@pytest.mark.slow
def test_a_fast_path_is_used_by_other_threads_only_when_its_module_is_imported():
    done = subprocess.run([sys.executable, "-c", SLOW_IMPORT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-800:]


class Encoder(nn.Module):
    """A text encoder whose output is its input, so that a mixed-up prompt is seen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = dataclasses.make_dataclass("Config", ["max_position_embeddings"])(77)

    def forward(self, ids, output_hidden_states=False):
        state = ids[..., None].float().expand(-1, -1, 2)
        output = dataclasses.make_dataclass("Output", ["hidden_states", "text_embeds"])
        return output((state, state), state[:, 0])


class Letters:
    def encode(self, texts, tokens):
        return torch.tensor([[int(text)] * tokens for text in texts]), [""] * len(texts)


@pytest.mark.slow
def test_cached_prompts_are_those_that_were_asked_for(monkeypatch):
    """Few encodings are kept, so that threads remove what others have just found."""
    monkeypatch.setattr(prompts, "KEPT", 3)
    parts = {"clip_l": Encoder(), "clip_g": Encoder()}
    read = prompts.Prompts(parts, dict.fromkeys(parts, Letters()), 4, Residence(parts, torch.device("cpu"), False, ""))

    def work(k):
        for turn in range(100):
            wanted = [(k + turn) % 11, (3 * k + turn) % 11]
            assert read([str(one) for one in wanted], 1).pooled[:, 0].tolist() == wanted

    in_threads(work)


def test_an_offloaded_component_stays_while_a_thread_uses_it():
    """The first thread to enter is not the last to leave."""
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    place = Residence({"layer": layer}, torch.device("cpu"), True, "")

    def work(k):
        for _ in range(200):
            with place.using("layer"):
                with place.using("layer"):
                    assert place.present == ["layer"]
                assert place.present == ["layer"]

    in_threads(work)
    assert torch.equal(layer.weight, before)
    assert place.present == []


def test_models_sampled_in_threads_are_those_sampled_alone():
    model = pf.models.maf(shape=(4,), layers=2).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    alone = [model.sample(3, generator=torch.Generator().manual_seed(k)) for k in range(THREADS)]

    def work(k):
        for _ in range(5):
            assert torch.equal(model.sample(3, generator=torch.Generator().manual_seed(k)), alone[k])

    in_threads(work)
