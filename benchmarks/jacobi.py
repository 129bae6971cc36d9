"""Samples of a trained TarFlow by Jacobi iteration, next to patch by patch with cached keys and values."""

from collections.abc import Callable

import torch

import pushforward as pf
from benchmarks.rows import OURS, Row, rows
from benchmarks.timing import race

STEPS, BATCH = 300, 32
CACHED = "cached"


@rows
def jacobi() -> list[Row]:
    model = _trained()
    return [_row(model, n, bar) for n, bar in ((1, 1.5), (2, 1.0), (16, 0.0))]


def _trained() -> pf.families.NormalizingFlow:
    """Return a TarFlow of digits with patches of one pixel: 64 in each of four blocks."""
    digits = pf.data.load("digits", split="train")
    torch.manual_seed(0)
    model = pf.models.tarflow((1, 8, 8), 4, 1, width=96, depth=2, noise=0.0, preprocess="logit", levels=17, classes=10)
    model.initialise(digits.x, digits.cond)
    optimiser, generator = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(digits), (BATCH,), generator=generator)
        optimiser.zero_grad(set_to_none=True)
        model.loss(digits.x[rows], digits.cond[rows], generator=generator).backward()
        optimiser.step()
    return model.eval()


def _passes(model: pf.families.NormalizingFlow, sample: Callable[[], object]) -> int:
    """Return how often the networks of all blocks are called for samples."""
    calls: list[None] = []
    nets = [layer.net for layer in model.modules() if isinstance(layer, pf.bijections.TransformerAutoregressive)]
    hooks = [net.register_forward_hook(lambda *_: calls.append(None)) for net in nets]
    sample()
    for hook in hooks:
        hook.remove()
    return len(calls)


def _row(model: pf.families.NormalizingFlow, n: int, bar: float) -> Row:
    def by(solver: str) -> Callable[[], torch.Tensor]:
        def sample() -> torch.Tensor:
            for layer in model.modules():
                if isinstance(layer, pf.bijections.TransformerAutoregressive):
                    layer.solver = solver  # type: ignore[assignment]
            return model.sample(n, torch.arange(n) % 10, generator=torch.Generator().manual_seed(0))

        return sample

    times = race({OURS: by("jacobi"), CACHED: by("sequential")}, turns=10)
    ratio = times.ratio(OURS, [CACHED])
    target = f"{bar:g}x the cached way"
    if not bar:
        passes = _passes(model, by("jacobi"))
        most = passes * times.best(CACHED) / times.best(OURS) / 1.5
        target = f"none, as {passes} passes are needed and 1.5x allows {most:.0f}: solver='auto' takes the cached way here"
    values = {name: 1000 * times.best(name) for name in times.runs}
    return Row(f"{n} samples of 64 patches through 4 blocks, Jacobi iteration", "ms", values, ratio, target, ratio[0] >= bar)
