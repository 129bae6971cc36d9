"""A run that is killed again and again ends with the bits of one that was not."""

import os
import shutil
import signal

import killed
import pytest
import torch

from pushforward.formats.run import checkpoints

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kind", ["plain", "asynchronous", "sharded", "sharded and asynchronous"])
def test_twenty_kills_change_no_bit(kind, undisturbed, record, tmp_path):
    out, size = tmp_path / "run", killed.KINDS[kind][0]
    losses, unfinished = [], 0
    for moment in killed.moments(20, seed=len(kind), size=size):
        assert killed.end(killed.begin(out, kind, moment))[moment.rank] == -signal.SIGKILL, moment
        steps, files = killed.lost(out)
        losses.append(steps)
        unfinished += files
    assert killed.end(killed.begin(out, kind)) == [0] * size
    tensors, rest = killed.outcome(out)
    expected, others = undisturbed(kind)
    assert tensors.keys() == expected.keys()
    assert [name for name, one in tensors.items() if not torch.equal(one, expected[name])] == []
    assert rest == others
    most = killed.EVERY * (2 if "asynchronous" in kind else 1)  # the last checkpoint may have been in the making
    assert 0 <= min(losses) <= max(losses) <= most, losses
    assert unfinished > 0  # some kills were in the middle of a checkpoint
    assert not list((out / "checkpoints").glob(".step-*"))
    record(f"killed, {kind}", times=len(losses), lost=max(losses), every=killed.EVERY, unfinished=unfinished)


def damage(folder, how):
    """Leave a checkpoint as a disk or a copy may that was interrupted."""
    if how == "none of its files":
        for file in folder.iterdir():
            file.unlink()
    elif how == "a flipped bit":
        content = bytearray((folder / "training.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "training.pt").write_bytes(content)
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        os.truncate(folder / how, (folder / how).stat().st_size // 2)


@pytest.mark.parametrize("how", ["model.safetensors", "raw.safetensors", "training.pt", "config.yaml", "manifest.json"])
def test_half_of_a_file_of_the_newest_checkpoint_costs_the_steps_since_the_one_before(how, undisturbed, record, tmp_path):
    _resumed_after_damage(how, undisturbed, record, tmp_path, "plain")


@pytest.mark.parametrize("how", ["none of its files", "a flipped bit", "no manifest"])
def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(how, undisturbed, record, tmp_path):
    _resumed_after_damage(how, undisturbed, record, tmp_path, "plain")


def test_half_of_a_shard_of_the_newest_checkpoint_costs_the_steps_since_the_one_before(undisturbed, record, tmp_path):
    _resumed_after_damage("__1_0.distcp", undisturbed, record, tmp_path, "sharded")


def _resumed_after_damage(how, undisturbed, record, tmp_path, kind):
    out, size = tmp_path / "run", killed.KINDS[kind][0]
    killed.end(killed.begin(out, kind, killed.Moment(57)))
    newest = checkpoints(out).newest_whole()
    assert newest.name == "step-000050"
    damage(newest, how)
    assert checkpoints(out).newest_whole().name == "step-000040"
    assert killed.end(killed.begin(out, kind)) == [0] * size
    expected, others = undisturbed(kind)
    tensors, rest = killed.outcome(out)
    assert [name for name, one in tensors.items() if not torch.equal(one, expected[name])] == []
    assert rest == others
    record(f"newest checkpoint damaged, {how}", lost=57 - 40, every=killed.EVERY)


def test_a_half_copied_checkpoint_under_a_temporary_name_is_no_checkpoint(undisturbed, tmp_path):
    out = tmp_path / "run"
    killed.end(killed.begin(out, "plain", killed.Moment(57)))
    folder = checkpoints(out).folder
    shutil.copytree(folder / "step-000050", folder / ".step-000060.0123abcd.tmp")
    os.truncate(folder / ".step-000060.0123abcd.tmp" / "training.pt", 100)
    assert killed.end(killed.begin(out, "plain")) == [0]
    assert not list(folder.glob(".step-*"))
    assert killed.outcome(out)[1] == undisturbed("plain")[1]
