"""Models as files: the same outputs after a load, and a sentence for each file that is not what was written."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

import pushforward as pf
from pushforward.errors import CheckpointError, ConfigError, UserError
from pushforward.formats.files import _digest
from pushforward.formats.model import WEIGHTS, build
from pushforward.formats.run import checkpoints


def small(**options):
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=3, **options)


@pytest.fixture
def saved(tmp_path):
    model = small(preprocess="standardise", sampler=pf.samplers.Euler(3))
    model.initialise(torch.randn(10, 2) * 3 + 1)
    return model, pf.save(model, tmp_path / "model")


@pytest.fixture
def run(tmp_path):
    """A run with two checkpoints of different weights."""
    model = small()
    data = pf.data.Dataset("points", torch.randn(64, 2), torch.arange(64) % 3)
    pf.Trainer(model, data, out=tmp_path, steps=2, batch_size=32, block=32, checkpoint_every=1).fit()
    return tmp_path


def test_a_loaded_model_gives_the_same_bits(saved):
    model, folder = saved
    again, x, cond = pf.load(folder), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    assert torch.equal(again.log_prob(x, cond), model.log_prob(x, cond))
    one, two = (m.sample(4, cond, generator=torch.Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(one, two)
    assert again.sampler == pf.samplers.Euler(3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loaded_model_has_the_dtype_it_was_saved_in(tmp_path, dtype):
    model = pf.models.nsf(2, 2, hidden=(8,), preprocess="standardise").to(dtype)
    loaded = pf.load(pf.save(model, tmp_path / "saved"))
    assert loaded.dtype == dtype
    assert all(torch.equal(one, other) for one, other in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert loaded.sample(2).dtype == dtype


@pytest.mark.parametrize("followed", [[pf.paths.Linear()], [pf.paths.VarianceExploding(0.1, 10.0), pf.paths.Cosine()]])
def test_a_model_that_follows_other_paths_is_saved_with_them(followed, tmp_path):
    model = pf.models.ddpm(pf.nn.MLP.Config((8,)), (2,), classes=3, preprocess="standardise").eval()
    model.initialise(torch.randn(10, 2) * 3 + 1)
    for path in followed:
        model = model.follow(path)
    again, cond = pf.load(pf.save(model, tmp_path / "model")), torch.tensor([0, 1, 2, 0])
    one, two = (m.sample(4, cond, sampler=pf.samplers.Heun(5), generator=torch.Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(one, two)
    assert again.path == followed[-1]


def test_a_section_follow_for_a_model_without_a_path_is_refused():
    with pytest.raises(ConfigError, match="section follow, but realnvp has no path"):
        build({"preset": "realnvp", "model": {"features": 2}, "follow": [{"name": "paths.Linear"}]})


def test_a_loaded_model_is_in_eval_mode(saved):
    assert not pf.load(saved[1]).training


def test_a_sampler_assigned_later_is_saved(tmp_path):
    model = pf.models.flow_matching(pf.nn.MLP.Config((8,)), (2,))
    model.sampler = pf.samplers.Heun(7)
    assert pf.load(pf.save(model, tmp_path / "model")).sampler == pf.samplers.Heun(7)
    assert model.config["model"]["sampler"] == pf.samplers.Dopri5()


def test_saving_again_replaces_the_folder(saved):
    model, folder = saved
    torch.nn.init.zeros_(model.net.out.weight)
    pf.save(model, folder)
    assert pf.load(folder).net.out.weight.abs().sum() == 0
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/step-000001/x", "config.yaml", ".git/HEAD", "model/README.md"])
def test_a_folder_that_holds_anything_else_is_never_replaced(saved, name):
    folder = saved[1] if name.startswith("model/") else saved[1].parent / "other"
    file = folder / name.removeprefix("model/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=r"holds .*, which would be lost, so it is not replaced; give a new folder"):
        pf.save(saved[0], folder)
    assert file.read_text() == "mine"


def test_a_file_is_not_replaced_by_a_folder(saved, tmp_path):
    (tmp_path / "model.pt").write_text("mine")
    with pytest.raises(UserError, match=r"model.pt is a file; give the name of a folder"):
        pf.save(saved[0], tmp_path / "model.pt")


def test_a_model_with_a_live_network_cannot_be_saved(tmp_path):
    model = pf.models.rectified_flow(torch.nn.Linear(2, 2), (2,))
    with pytest.raises(ConfigError, match="a Linear cannot be written"):
        pf.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_no_preset_cannot_be_saved(tmp_path):
    model = pf.families.PathModel(pf.nn.MLP(2, 2), (2,))
    with pytest.raises(ConfigError, match="was not built by a preset"):
        pf.save(model, tmp_path / "model")


def test_a_truncated_file_is_named(saved):
    path = saved[1] / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model.safetensors has \d+ bytes, but \d+ were written: it is truncated"):
        pf.load(saved[1])


def test_a_changed_byte_is_found(saved):
    path = saved[1] / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors was modified or damaged: its digest differs"):
        pf.load(saved[1])


def test_a_missing_file_is_named(saved):
    (saved[1] / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"config.yaml is missing"):
        pf.load(saved[1])


def test_a_missing_manifest_is_named(saved):
    (saved[1] / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no readable manifest.json"):
        pf.load(saved[1])


def rewrite_manifest(folder):
    files = [path for path in folder.iterdir() if path.name != "manifest.json"]
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_a_pickle_under_the_name_of_weights_is_never_opened(saved):
    """Also where someone made the manifest fit."""
    (saved[1] / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    rewrite_manifest(saved[1])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        pf.load(saved[1])


def test_weights_of_another_architecture_are_refused_with_the_first_that_differs(saved):
    model, folder = saved
    tensors = dict(model.state_dict())
    tensors["net.out.weight"] = torch.zeros(3, 8)
    del tensors["net.out.bias"]
    save_file(tensors, folder / WEIGHTS)
    rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match=r"1 missing \(first net.out.bias\); net.out.weight is \(3, 8\), the model's is \(2, 8\)"):
        pf.load(folder)


@pytest.mark.parametrize(("name", "message"), [("nowhere", "does not exist"), ("file", "is not a folder"), ("empty", "holds neither")])
def test_what_is_no_model_is_refused(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=message):
        pf.load(tmp_path / name)


def test_a_run_is_loaded_by_its_folder_and_by_the_name_of_a_checkpoint(run):
    last, first = pf.load(run), pf.load(run, checkpoint="step-000001")
    assert not torch.equal(last.net.out.weight, first.net.out.weight)
    assert torch.equal(pf.load(run / "checkpoints" / "step-000001").net.out.weight, first.net.out.weight)


def test_raw_weights_are_those_that_were_trained(run):
    assert not torch.equal(pf.load(run, weights="raw").net.out.weight, pf.load(run).net.out.weight)


def test_of_a_truncated_checkpoint_the_one_before_is_offered(run):
    path = run / "checkpoints" / "step-000002" / WEIGHTS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-000002.*truncated; an earlier one is intact: use step-000001"):
        pf.load(run)


def test_an_unknown_checkpoint_is_refused_with_those_that_there_are(run):
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step-9'; there are: step-000001, step-000002"):
        pf.load(run, checkpoint="step-9")


@pytest.mark.parametrize("name", ["../..", "..", "/etc", "."])
def test_a_checkpoints_name_cannot_leave_the_run(run, name):
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        checkpoints(run).path(name)


def test_an_unknown_kind_of_weights_is_refused(run):
    with pytest.raises(ValueError, match="weights is 'emma'"):
        pf.load(run, weights="emma")
