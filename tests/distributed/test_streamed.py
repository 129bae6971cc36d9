"""Several processes on tar shards give what one process gives, and share the encoding of latents."""

import pytest
import scenarios
import streamed
import torch

import pushforward as pf


@pytest.mark.slow
def test_processes_on_shards_give_the_weights_and_latents_of_one(results, tmp_path):
    alone = streamed.tar_shards(tmp_path)
    for each in results(2, "tar_shards"):
        for name, weights in alone["weights"].items():
            torch.testing.assert_close(each["weights"][name], weights, rtol=1e-9, atol=1e-11, msg=name)
        assert torch.equal(each["latents"], alone["latents"])
        assert each["captions"] == alone["captions"]
        assert "process 1 of 2 has data" in each["different"]


@pytest.mark.slow
def test_a_run_of_two_processes_continues_within_a_shard_in_one(results, tmp_path):
    each = results(2, "tar_shards")[0]
    folder = results.folders[2, "tar_shards"] / "tar_shards"
    data = streamed.images(folder / "shards")
    settings = {"steps": 13, "batch_size": 8, "block": 4, "ema": 0.9}
    rest = pf.Trainer(streamed.model(), data, out=folder / "run", resume=True, **settings)
    assert rest.step == 9
    whole = pf.Trainer(streamed.model(), data, **settings).fit()
    for name, weights in scenarios.state(rest.fit()).items():
        torch.testing.assert_close(weights, scenarios.state(whole)[name], rtol=1e-9, atol=1e-11, msg=name)
    assert set(each["weights"]) == set(scenarios.state(whole))
