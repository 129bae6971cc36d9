"""The order of each step of a multistep sampler: it rises from 1 with the known values, and in few steps it falls to 1 at the end."""

FEW = 15  # with fewer steps than this diffusers' DPM-Solver++ lowers the last orders


def orders(most: int, steps: int, after: int, lower: bool) -> list[int]:
    """Return the order of each of some steps.

    Args:
        most: the order of the sampler.
        steps: number of steps.
        after: number of steps that follow these.
        lower: whether the last of all steps is of first order, the one before of second, and so on.

    Returns:
        Orders from 1 to `most`, each at most the number of values known then.

    Example:
        >>> orders(3, 5, 0, True), orders(3, 5, 0, False)
        ([1, 2, 3, 2, 1], [1, 2, 3, 3, 3])
    """
    return [min(most, k + 1, steps + after - k if lower else most) for k in range(steps)]
