"""Prior preservation: batches that mix the few examples of a subject with examples of its class, so that the class is not forgotten."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from pushforward._checks import real
from pushforward.data.bucketed import groups_of
from pushforward.data.gather import is_map_style
from pushforward.data.rows import Rows
from pushforward.errors import DataError, UserError
from pushforward.registry import export


@export("data.PriorPreservation")
class PriorPreservation:
    """Mix in every batch examples of a subject ("a photo of sks dog") and of its class, the prior ("a photo of a dog").

        loss = E_subject + weight E_prior,    up to the factor 1 / (1 + weight)

    The weight is the ratio of the two in a batch: 1 is half and half, alternating, so that parts of a batch have both too. Each set is
    cycled through in the Trainer's shuffled order. The prior is usually made of the model's own samples.

    Args:
        subject: a map-style set of (x, cond); cond is a tensor or a record of tensors such as `TextContext`.
        prior: another one, with x and cond of the same shapes.
        weight: weight of the prior in the loss, above 0.

    Raises:
        DataError: a set is empty, or no set.
        UserError: the weight is out of range.

    Example:
        >>> subject = pf.data.Dataset("subject", torch.zeros(3, 2))
        >>> prior = pf.data.Dataset("prior", torch.ones(20, 2))
        >>> x, cond = pf.data.PriorPreservation(subject, prior).batch([0, 1, 2, 3])
        >>> x[:, 0]
        tensor([0., 1., 0., 1.])

    Source: Ruiz et al., DreamBooth, 2208.12242, section 3.3.
    """

    def __init__(self, subject: Any, prior: Any, weight: float = 1.0) -> None:
        for name, one in (("subject", subject), ("prior", prior)):
            if not is_map_style(one) or len(one) == 0:
                raise DataError(f"{name} is no map-style set with at least one example; give a data.Dataset or another one.")
        if any(groups_of(one) is not None for one in (subject, prior)):
            raise DataError("subject or prior has examples of several shapes, but a batch mixes both; load them without buckets.")
        if not real("weight", weight) > 0:
            raise UserError(f"weight is {weight}, but it must be above 0; 1 is half of each batch.")
        self.subject, self.prior, self.weight = subject, prior, float(weight)

    def __len__(self) -> int:
        return math.lcm(len(self.subject), len(self.prior))  # so that each example of a set occurs equally often

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.subject!r}, {self.prior!r}, weight {self.weight:g})"

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        x, cond = self.batch([index])
        return x[0], None if cond is None else cond[0]

    def __getitems__(self, indices: Sequence[int]) -> Rows:
        return Rows(self.batch(indices))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        """Return one batch (x, cond), in which the row at position k is one of the prior where k share grows past an integer."""
        share = self.weight / (1 + self.weight)
        is_prior = [math.floor((k + 1) * share) > math.floor(k * share) for k in range(len(indices))]
        parts = []
        for one, which in ((self.subject, False), (self.prior, True)):
            chosen = [index % len(one) for index, prior in zip(indices, is_prior, strict=True) if prior == which]
            if chosen:
                parts.append(_batch_of(one, chosen))
        places = sorted(range(len(indices)), key=lambda k: is_prior[k])  # where the rows of subject, then prior, belong
        order = torch.tensor(places).argsort()
        x = torch.cat([x for x, _ in parts])
        conds = [cond for _, cond in parts]
        if any(one is None for one in conds):
            return x[order], None
        return x[order], _joined(conds)[order]


def _batch_of(data: Any, indices: list[int]) -> tuple[Tensor, Any]:
    if hasattr(data, "__getitems__"):
        rows = data.__getitems__(indices)
        rows = rows.batch if isinstance(rows, Rows) else rows
        if isinstance(rows, tuple):
            return rows[0], rows[1]
    else:
        rows = [data[index] for index in indices]
    if isinstance(rows[0], Tensor):
        return torch.stack(list(rows)), None
    x, cond = default_collate([row[0] for row in rows]), [row[1] if len(row) > 1 else None for row in rows]
    if cond[0] is None:
        return x, None
    return x, _joined(cond) if not isinstance(cond[0], Tensor | int | float) else default_collate(cond)


def _joined(conds: list[Any]) -> Any:
    """Return conditions one after the other, of tensors or of records of tensors."""
    if isinstance(conds[0], Tensor):
        return torch.cat(conds)
    return type(conds[0])(**{name: torch.cat([vars(one)[name] for one in conds]) for name in vars(conds[0])})
