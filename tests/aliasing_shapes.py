"""Programs that write shared memory, as they are met in practice, with what is wrong in each.

The line that expands (or saves) is marked `# made`, the one that writes `# written`.
"""

import inspect

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

SHAPES = {}


def shape(kind, name, operator, how="", *, raises=False):
    """Register a function as a program, with the finding to expect; `raises` is whether torch raises."""

    def register(function):
        SHAPES[function.__name__] = function, {"kind": kind, "name": name, "operator": operator, "how": how}, raises
        return function

    return register


def line(function, comment):
    """Return the number of the line of a function that ends with a comment, or None."""
    lines, first = inspect.getsourcelines(function)
    return next((first + place for place, text in enumerate(lines) if text.rstrip().endswith(f"# {comment}")), None)


@shape("overlap", "bias", "aten.add_", "expand, from shape (4,)", raises=True)
def expand_and_add():
    bias = torch.zeros(4).expand(3, 4)  # made
    bias += 1  # written


@shape("overlap", "scores", "aten.index_put_", "expand_as, from shape (4,)")
def expand_as_and_index_put():
    x = torch.randn(3, 4)
    scores = torch.zeros(4).expand_as(x)  # made
    scores[torch.tensor([0, 2])] = torch.ones(2, 4)  # written


@shape("overlap", "mask", "aten.masked_fill_", "broadcast_to, from shape (4,)")
def broadcast_to_and_masked_fill():
    mask = torch.broadcast_to(torch.zeros(4), (3, 4))  # made
    mask.masked_fill_(torch.eye(3, 4, dtype=torch.bool), -1.0)  # written


@shape("overlap", "b", "aten.mul_", "broadcast_tensors, from shape (4,)", raises=True)
def broadcast_tensors_and_multiply():
    a, b = torch.broadcast_tensors(torch.ones(3, 1), torch.ones(4))  # made
    b.mul_(a)  # written


@shape("overlap", "windows", "aten.mul_", "as_strided, from shape (6,)")
def windows_by_as_strided():
    windows = torch.ones(6).as_strided((4, 3), (1, 1))  # made
    windows.mul_(torch.hann_window(3))  # written


@shape("overlap", "frames", "aten.sub_", "unfold, from shape (8,)")
def frames_by_unfold():
    frames = torch.randn(8).unfold(0, 4, 2)  # made
    frames -= frames.mean(dim=1, keepdim=True)  # written


@shape("overlap", "mean", "aten.add_", "from_numpy", raises=True)
def array_of_numpy_with_stride_0():
    mean = torch.from_numpy(np.broadcast_to(np.zeros(4), (3, 4)))  # made
    mean.add_(1)  # written


@shape("overlap", "weight", "aten.add_", "expand, from shape (4,)", raises=True)
def sgd_on_an_expanded_parameter():
    weight = nn.Parameter(torch.ones(4).expand(3, 4))  # made
    optimiser = torch.optim.SGD([weight], lr=0.1)
    weight.square().sum().backward()
    optimiser.step()  # written


@shape("overlap", "layer.weight", "aten._fused_adamw_", "expand, from shape (1, 4)", raises=True)
def fused_adamw_on_an_expanded_parameter():
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.ones(1, 4).expand(3, 4))  # made
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(torch.ones(2, 4)).square().sum().backward()
    optimiser.step()  # written


class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1).expand(4))  # made


@shape("overlap", "mean (buffer module.mean)", "aten.lerp_", "expand, from shape (1,)", raises=True)
def buffer_that_is_expanded():
    module = RunningMean()
    mean = module.mean
    mean.lerp_(torch.ones(4), 0.1)  # written


@shape("overlap", "result", "aten.add.out", "expand, from shape (4,)", raises=True)
def argument_out():
    result = torch.empty(4).expand(3, 4)  # made
    torch.add(torch.ones(3, 4), 1, out=result)  # written


class Means(Dataset):
    """One number an image, as an image."""

    def __len__(self):
        return 2

    def __getitem__(self, place):
        return torch.full((1, 1), float(place)).expand(3, 3)  # made


@shape("overlap", "image", "aten.sub_", "expand, from shape (1, 1)", raises=True)
def item_of_a_loader():
    for image in DataLoader(Means(), batch_size=None):
        image -= 0.5  # written


@shape("overlap", "norm.running_var", "aten.native_batch_norm", "expand, from shape (1,)")
def moments_of_batch_norm():
    norm = nn.BatchNorm1d(4)
    norm.running_var = torch.ones(1).expand(4)  # made
    norm(torch.randn(5, 4))  # written


@shape("part", "mask", "aten.fill_", "expand, from shape (1, 4)")
def mask_of_one_row():
    mask = torch.ones(1, 4, dtype=torch.bool).expand(3, 4)  # made
    mask[0, 2:] = False  # written


@shape("part", "hidden", "aten.add_", "expand, from shape (1, 4)")
def rows_expanded_by_a_helper():
    hidden = repeat(torch.zeros(1, 4))
    hidden[1].add_(1.0)  # written


def repeat(x):
    return x.expand(2, 4)  # made


@shape("saved", "h", "aten.relu_", "for SigmoidBackward0", raises=True)
def relu_on_a_saved_activation():
    x = torch.randn(3, requires_grad=True)
    h = torch.sigmoid(x)  # made
    y = functional.relu(h, inplace=True)  # written
    y.sum().backward()


@shape("saved", "weight", "aten.mul_", "for PowBackward0")
def weight_changed_past_the_version_counter():
    weight = nn.Parameter(torch.ones(3))
    loss = (weight**3).sum()  # made
    weight.data.mul_(0.9)  # written
    loss.backward()


@shape("saved", "a view of layer.weight", "aten.add_", "for AddmmBackward0", raises=True)
def optimiser_between_forward_and_backward():
    layer = nn.Linear(3, 1)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1, foreach=False)
    x = torch.ones(2, 3, requires_grad=True)
    first, second = layer(x).sum(), layer(x).sum()  # made
    first.backward()
    optimiser.step()  # written
    second.backward()


@shape("saved", "a view of states", "aten.add_", "for MulBackward0", raises=True)
def another_row_of_the_same_base():
    states = torch.zeros(3, requires_grad=True) * 1
    loss = states[0] * states[0]  # made
    states[1].add_(1)  # written
    loss.backward()


@shape("overlap", "weight.grad", "aten.add_", "expand, from shape (4,)", raises=True)
def accumulation_into_an_expanded_gradient():
    weight = nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.zeros(4).expand(3, 4)  # made
    weight.square().sum().backward()  # written


@shape("partial", "a view of history", "aten.copy_", "")
def shift_by_one():
    history = torch.arange(12.0).view(3, 4)
    history[:, 1:] = history[:, :-1]  # written


DATA = TensorDataset(torch.ones(6, 2))


@shape("partial", "chosen", "aten.index_put_", "", raises=True)
def mask_that_indexes_itself():
    chosen = torch.tensor([True, False, True])
    chosen[chosen] = torch.tensor([False, True])  # written


@shape("overlap", "a view of weight", "aten.copy_", "expand_as, from shape (4, 1, 1)", raises=True)
def filter_of_an_expanded_weight():
    weight = torch.ones(4)[:, None, None].expand_as(torch.ones(4, 2, 2))  # made
    weight[0] = torch.zeros(2, 2)  # written


@shape("input", "held[0].tensors[0]", "aten.div_", "passed to the check")
def batches_that_are_views_of_the_data():
    for place in range(0, 6, 3):
        (batch,) = DATA[place : place + 3]
        batch /= 255  # written


HELD = {"batches_that_are_views_of_the_data": DATA}
# Where the line that expands is outside of the program.
MADE = {"buffer_that_is_expanded": RunningMean.__init__, "item_of_a_loader": Means.__getitem__, "rows_expanded_by_a_helper": repeat}
