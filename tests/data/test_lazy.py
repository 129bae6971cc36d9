"""Arrays that stay on disk: the same examples as in memory, in memory that does not grow, and a sentence for a bad row."""

import subprocess
import sys

import numpy
import pytest
import torch
from torch.utils.data import DataLoader

import pushforward as pf
from pushforward.data.dataset import Dataset, keep_batch
from pushforward.data.lazy import LazyDataset
from pushforward.data.load import load
from pushforward.data.splits import SPLITS
from pushforward.errors import DataError, UserError


@pytest.fixture
def folder(tmp_path):
    random = numpy.random.RandomState(0)
    numpy.save(tmp_path / "x.npy", random.randint(256, size=(100, 5, 4, 3), dtype=numpy.uint8))
    numpy.save(tmp_path / "y.npy", numpy.array(["cat", "dog"])[random.randint(2, size=100)])
    return tmp_path


@pytest.mark.parametrize("split", SPLITS)
def test_a_mapped_file_gives_what_the_file_in_memory_gives(tmp_path, split):
    numpy.save(tmp_path / "x.npy", numpy.random.RandomState(0).rand(50, 3))
    lazy, held = load(tmp_path / "x.npy", split, mapped=True), load(tmp_path / "x.npy", split)
    assert isinstance(lazy, LazyDataset)
    assert (len(lazy), lazy.shape, lazy.levels, lazy.cond) == (len(held), held.shape, None, None)
    assert torch.equal(lazy[:][0], held.x)
    assert torch.equal(torch.stack([x for x, _ in lazy]), held.x)


def test_a_folder_gives_images_with_their_labels(folder):
    lazy = load(folder, "train")
    held = Dataset("all", torch.from_numpy(numpy.load(folder / "x.npy").transpose(0, 3, 1, 2)))
    words = numpy.load(folder / "y.npy")[lazy.rows]
    assert (lazy.shape, lazy.levels, lazy.class_names) == ((3, 5, 4), 256, ("cat", "dog"))
    x, cond = lazy.batch([5, 0])
    assert torch.equal(x, held.x[lazy.rows[[5, 0]]])
    assert x.dtype is torch.float32
    assert [lazy.class_names[label] for label in cond] == words[[5, 0]].tolist()


def test_in_memory_is_the_same_set_and_most_its_beginning(folder):
    lazy = load(folder)
    held = lazy.in_memory()
    assert not isinstance(held, LazyDataset)
    assert torch.equal(held.x, lazy[:][0])
    assert (held.classes, held.levels, held.class_names) == (lazy.classes, lazy.levels, lazy.class_names)
    assert torch.equal(lazy.in_memory(7).x, held.x[:7])
    assert held.in_memory(7) is held


def test_subsets_and_single_examples_agree(folder):
    lazy = load(folder)
    part = lazy.subset([3, 1])
    assert torch.equal(part[:][0], torch.stack((lazy[3][0], lazy[1][0])))
    assert part[-1][1] == lazy[1][1]
    assert len(lazy.take(9)) == 9
    assert len(list(part)) == 2


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(folder, context):
    lazy = load(folder)
    loader = DataLoader(lazy, batch_size=32, collate_fn=keep_batch, num_workers=1, multiprocessing_context=context)
    assert torch.equal(torch.cat([x for x, _ in loader]), lazy[:][0])


def test_conditions_of_ones_own_travel_with_their_examples(folder):
    lazy = load(folder)
    encoded = torch.arange(2.0 * len(lazy)).reshape(-1, 2)
    changed = lazy.with_cond(encoded)
    assert torch.equal(changed.subset([4, 2])[:][1], encoded[[4, 2]])
    assert (changed.classes, changed.in_memory(5).cond.shape) == (None, (5, 2))
    assert lazy.classes == 2


def test_the_fingerprint_changes_with_a_row_it_looks_at_and_with_the_size(tmp_path):
    path, x = tmp_path / "x.npy", numpy.random.RandomState(0).rand(40, 3)
    numpy.save(path, x)
    before = load(path, mapped=True)
    known = before.fingerprint()
    assert load(path, mapped=True).fingerprint() == known != load(path, mapped=True, seed=1).fingerprint()
    x[int(before.rows[-1])] += 1
    numpy.save(path, x)
    assert load(path, mapped=True).fingerprint() != known
    numpy.save(path, numpy.concatenate((x, x)))
    assert load(path, mapped=True).subset(range(32)).fingerprint() != known


def test_a_set_on_disk_trains_to_the_bits_of_a_set_in_memory(folder):
    lazy, trained = load(folder), []
    for data in (lazy, lazy.in_memory()):
        torch.manual_seed(0)
        model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), data.shape, classes=2, levels=256, preprocess="standardise")
        pf.Trainer(model, data, validation=data.take(8), steps=2, batch_size=16, block=16).fit()
        trained.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*trained)


@pytest.mark.slow
def test_a_set_on_disk_is_judged_by_what_fits_in_memory(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.random.RandomState(0).randn(100, 2))
    parts = [load(tmp_path / "x.npy", split, mapped=True) for split in SPLITS]
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
    on_disk, in_memory = (pf.evaluation.judge(model, *sets, samples=20)[0] for sets in (parts, [part.in_memory() for part in parts]))
    assert on_disk.distance == in_memory.distance
    assert on_disk.likelihood == in_memory.likelihood


GROWTH = """
import resource, sys, torch
from pushforward.data.load import load
data = load(sys.argv[1], mapped=True)
def epoch():
    for rows in torch.randperm(len(data)).split(256):
        data.batch(rows)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
data.batch(list(range(256)))
before = peak()
epoch()
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_an_epoch(tmp_path):
    """A file of 100 MB: a map that stayed open would hold 80 of them after an epoch over the training split; 0 are measured."""
    numpy.save(tmp_path / "x.npy", numpy.zeros((50_000, 500), dtype=numpy.float32))
    done = subprocess.run([sys.executable, "-c", GROWTH, tmp_path / "x.npy"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10e6


def test_all_examples_at_once_are_refused(folder):
    with pytest.raises(UserError, match=r"keeps its examples on disk.*in_memory\(most\)"):
        _ = load(folder).x


def test_a_row_that_is_not_finite_is_refused_when_it_is_read_by_its_row_in_the_file(tmp_path):
    x = numpy.zeros((40, 2))
    x[17, 1] = numpy.nan
    numpy.save(tmp_path / "x.npy", x)
    parts = [load(tmp_path / "x.npy", split, mapped=True) for split in SPLITS]
    holder = next(part for part in parts if 17 in part.rows)
    with pytest.raises(DataError, match=r"row 17 \(counted from 0\) holds NaN; 1 of"):
        holder[:]
    assert sum(part is holder or len(part[:][0]) > 0 for part in parts) == 3


def test_a_value_that_is_no_level_is_refused_when_it_is_read(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.arange(40.0)[:, None])
    with pytest.raises(DataError, match="holds a value that is not an integer in 0 to 38"):
        [load(tmp_path / "x.npy", split, mapped=True, levels=39)[:] for split in SPLITS]


def test_a_file_that_was_cut_after_it_was_opened_is_refused(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.zeros((40, 2)))
    data = load(tmp_path / "x.npy", mapped=True)
    numpy.save(tmp_path / "x.npy", numpy.zeros((20, 2)))
    with pytest.raises(DataError, match="has 20 rows, but had at least .*load it again"):
        data[:]
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot be read as a numpy file"):
        data[:]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (numpy.zeros((40, 2)), numpy.zeros(39, int), r"labels of shape \(39,\), but 40 examples need shape \(40,\)"),
        (numpy.zeros((40, 2)), numpy.zeros(40), "integers from 0 or strings"),
        (numpy.zeros((5, 2)), None, "x.npy: there are 5 examples, but a split"),
        (numpy.zeros((0, 2)), None, "no values"),
        (numpy.zeros((40, 2), order="F"), None, "is in Fortran order"),
        (numpy.array(["a"] * 20), None, "must hold real numbers"),
        (numpy.zeros((20, 5, 7, 2), numpy.uint8), None, "neither its second nor its last axis"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, x, y, message):
    numpy.save(tmp_path / "x.npy", x)
    if y is not None:
        numpy.save(tmp_path / "y.npy", y)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_batch_of_no_examples_is_empty(folder):
    x, cond = load(folder)[3:3]
    assert (x.shape, len(cond)) == ((0, 3, 5, 4), 0)


def test_an_index_beyond_the_end_is_refused(folder):
    with pytest.raises(IndexError, match="has no example 80"):
        load(folder)[80]
    with pytest.raises(DataError, match="the subset is empty"):
        load(folder).subset([])
