"""Batches that mix a subject and its prior."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import DataError, UserError


class Texts(torch.utils.data.Dataset):
    """Rows of (x, TextContext of one row), as a set of one's own."""

    def __init__(self, n, value):
        self.n, self.value = n, value

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        return torch.full((2,), self.value), pf.TextContext(torch.full((1, 3, 4), self.value + k), torch.full((1, 4), self.value + k))


@pytest.mark.parametrize(("weight", "priors"), [(1.0, [1, 3, 5, 7]), (1 / 3, [3, 7]), (3.0, [1, 2, 3, 5, 6, 7])])
def test_the_weight_is_the_ratio_in_each_batch(weight, priors):
    data = pf.data.PriorPreservation(Texts(3, 0.0), Texts(4, 100.0), weight)
    x, cond = data.batch(range(8))
    assert [k for k in range(8) if x[k, 0] == 100] == priors
    assert [int(one) for one in cond.pooled[:, 0]] == [100 + k % 4 if k in priors else k % 3 for k in range(8)]
    assert cond.context.shape == (8, 3, 4)


def test_examples_of_a_set_occur_equally_often():
    data = pf.data.PriorPreservation(Texts(3, 0.0), Texts(4, 100.0))
    assert len(data) == 12
    _, cond = data.batch([k for k in range(12) for _ in range(2)])
    assert torch.bincount(cond.pooled[:, 0].long())[[0, 1, 2, 100, 101, 102, 103]].tolist() == [4, 4, 4, 3, 3, 3, 3]


def test_the_trainer_takes_it_with_labels_and_without():
    subject = pf.data.Dataset("subject", torch.zeros(3, 2), torch.tensor([0, 0, 1]), classes=2)
    prior = pf.data.Dataset("prior", torch.ones(5, 2), torch.tensor([1, 1, 0, 0, 0]), classes=2)
    x, cond = pf.data.PriorPreservation(subject, prior).batch([2, 2])
    assert (x[:, 0].tolist(), cond.tolist()) == ([0.0, 1.0], [1, 0])
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), shape=(2,), classes=2)
    assert pf.Trainer(model, pf.data.PriorPreservation(subject, prior), steps=2, batch_size=8).fit().step == 2
    rows = pf.data.PriorPreservation([torch.zeros(2)], torch.ones(4, 2))
    assert rows[0][1] is None
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), shape=(2,))
    assert pf.Trainer(model, rows, steps=2, batch_size=8).fit().step == 2


def test_sets_and_weights_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="prior is no map-style set"):
        pf.data.PriorPreservation(Texts(3, 0.0), Texts(0, 0.0))
    with pytest.raises(DataError, match="subject is no map-style set"):
        pf.data.PriorPreservation(iter([1]), Texts(1, 0.0))
    with pytest.raises(UserError, match="weight is 0"):
        pf.data.PriorPreservation(Texts(1, 0.0), Texts(1, 0.0), 0)
