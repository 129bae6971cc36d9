"""Exact tests of whether elements of strided tensors share memory.

Both are one question about integers: is there a way to choose k_i with 0 <= k_i < n_i such that the sum of k_i s_i is a given number? It
is answered by a search that bounds what the remaining strides can reach and what their greatest common divisor allows; for the strides
of views, in which one dimension usually contains the next, it does not branch.
"""

import functools
import math

import torch
from torch import Tensor, nn

Terms = tuple[tuple[int, int], ...]  # (stride, size) of each dimension


@functools.cache
def _own_dispatch(kind: type[Tensor]) -> bool:
    return kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl


def strided(tensor: Tensor) -> bool:
    """Return whether a tensor is memory read by strides: not sparse, nested or lazy, nor of a class with its own dispatch (DTensor)."""
    if tensor.layout is not torch.strided or _own_dispatch(type(tensor)):
        return False
    return not (tensor.is_nested or nn.parameter.is_lazy(tensor))


def storage_of(tensor: Tensor) -> int:
    """Return a number that identifies a strided tensor's storage."""
    return tensor.untyped_storage()._cdata


@functools.lru_cache(maxsize=4096)
def overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether two elements with different indices have the same address."""
    if 0 in shape:
        return False
    terms = tuple((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1)
    if any(stride == 0 for stride, _ in terms):
        return True
    terms = _merged(terms)
    reach = 0
    for stride, size in reversed(terms):  # from the smallest
        if stride <= reach:
            break
        reach += (size - 1) * stride
    else:
        return False
    # Two indices differ by d with |d_i| < n_i. Up to its sign, the first d_i that is not 0 is positive.
    for first, (stride, size) in enumerate(terms):
        others = terms[first + 1 :]
        target = sum((n - 1) * s for s, n in others) - stride
        if reaches(((stride, size - 1), *((s, 2 * n - 1) for s, n in others)), target):
            return True
    return False


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Return whether two strided tensors on one storage have a byte in common."""
    if not a.numel() or not b.numel():
        return False
    distance = b.storage_offset() * b.element_size() - a.storage_offset() * a.element_size()
    return _share(_bytes(a), _bytes(b), distance)


def crosses(written: Tensor, read: Tensor) -> bool:
    """Return whether two tensors share memory at different indices, so that the order of elements matters."""
    if not strided(read) or storage_of(written) != storage_of(read):
        return False
    return not same_elements(written, read) and share_memory(written, read)


def same_elements(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same elements of one storage, in the same order."""
    if not strided(a) or not strided(b) or storage_of(a) != storage_of(b):
        return False
    return a.storage_offset() == b.storage_offset() and a.shape == b.shape and a.stride() == b.stride()


@functools.lru_cache(maxsize=4096)
def _share(a: Terms, b: Terms, distance: int) -> bool:
    """Return whether a sum over `a` equals a sum over `b` plus `distance`; the indices of b are counted from their ends."""
    return reaches(a + b, distance + sum((size - 1) * stride for stride, size in b))


def _bytes(tensor: Tensor) -> Terms:
    size = tensor.element_size()
    return (*((stride * size, n) for stride, n in zip(tensor.stride(), tensor.shape, strict=True)), (1, size))


def reaches(terms: Terms, target: int) -> bool:
    """Return whether the sum of k_i s_i is `target` for some 0 <= k_i < n_i, given all (s_i, n_i)."""
    terms = _merged(tuple((stride, size) for stride, size in terms if stride > 0 and size > 1))
    reach, divisor = [0], [0]
    for stride, size in reversed(terms):
        reach.insert(0, reach[0] + (size - 1) * stride)
        divisor.insert(0, math.gcd(divisor[0], stride))

    def search(place: int, target: int) -> bool:
        if target == 0:
            return True
        if target < 0 or target > reach[place] or target % divisor[place]:
            return False
        stride, size = terms[place]
        most = min(size - 1, target // stride)
        least = max(0, -((reach[place + 1] - target) // stride))
        return any(search(place + 1, target - k * stride) for k in range(most, least - 1, -1))

    return search(0, target)


def _merged(terms: Terms) -> Terms:
    """Return the terms from the largest stride to the smallest, with each pair that counts on like one dimension as one."""
    merged: list[tuple[int, int]] = []
    for stride, size in sorted(terms):
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0], merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return tuple(reversed(merged))


def overlapping(tensor: Tensor) -> bool:
    """Return whether elements of a tensor share memory with each other; only strided tensors can."""
    return strided(tensor) and overlaps_itself(tuple(tensor.shape), tensor.stride())


def repetitions(tensor: Tensor) -> int:
    """Return how many indices each element of an expanded tensor has: the product of the sizes with stride 0."""
    if not strided(tensor) or not tensor.numel():
        return 1
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride == 0)
