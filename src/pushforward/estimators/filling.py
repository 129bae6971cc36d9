"""Missing cells of a table, drawn from any density of its rows given what is known of each.

Iterated sampling importance resampling: a state of the chain of a row is kept or replaced by one of K proposals, drawn by their weights

    w = p(x_known, x_missing) / q(x_missing | x_known)

among the K and the state itself. p(x_missing | x_known) is its stationary distribution for every K and every proposal q with its support.
q is the conditional of a mixture of Gaussians that is fitted to samples of the density, half of it widened.

Source: Andrieu, Lee and Vihola, Uniform ergodicity of the iterated conditional SMC, 2018, arXiv 1312.6432 (the chain, for one step of
time); Tjelmeland, Using all Metropolis-Hastings proposals to estimate mean values, 2004.
"""

from collections.abc import Sequence

import numpy
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pushforward.data.raw import Raw
from pushforward.errors import DataError
from pushforward.estimators.reading import Reader, row
from pushforward.estimators.stacking import Stacked
from pushforward.evaluation.gaussians import ConditionalSum, GaussianSum
from pushforward.schema import Schema

SAMPLES, COMPONENTS = 3000, 6  # samples of the density to which the proposal is fitted, and its components
RIDGE = 1e-4  # variance that is added to theirs, relative to that of the columns
WIDE = 4.0  # factor of the covariances of the wider half
PROPOSALS, ROUNDS = 40, 5  # of each round of a chain
ROWS = 512  # rows whose proposals are evaluated together


def filled_in(
    density: Stacked, reader: Reader, raws: Sequence[Raw], cond: Tensor | None, seed: int, device: torch.device
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return rows (n, d) in the units of the table, missing values drawn given the others, and which (n, d) were missing.

    Args:
        density: the density, in the model's units.
        reader: what maps between these and the table's.
        raws: the columns.
        cond: the conditions of the rows.
        seed: seed of all random numbers.
        device: where the density is computed.

    Raises:
        DataError: the density of what is known of a row is 0.
    """
    gaps, x = gaps_of(reader, raws), reader.read(without_gaps(reader, raws))
    labels = cond.numpy() if cond is not None and cond.ndim == 1 else numpy.zeros(len(x), dtype=numpy.int64)
    proposals: dict[int, GaussianSum] = {}
    generator = torch.Generator().manual_seed(seed)
    left = numpy.flatnonzero(gaps.any(1))
    kinds, of = numpy.unique(numpy.column_stack((gaps, labels))[left], axis=0, return_inverse=True)
    for k, kind in enumerate(kinds):
        rows, label = left[of.reshape(-1) == k], int(kind[-1])
        if label not in proposals:
            like = numpy.resize(numpy.flatnonzero(labels == label), SAMPLES)
            proposals[label] = _proposal(density, None if cond is None else cond[like], seed, device)
        for some in numpy.split(rows, range(ROWS, len(rows), ROWS)):
            given = None if cond is None else cond[some]
            x[some] = _drawn(density, proposals[label], reader, x[some], gaps[some[0]], given, generator, device)
            wrong = numpy.isnan(x[some]).any(1)
            if wrong.any():
                known = ", ".join(one.title for one, gap in zip(reader.schema.columns, gaps[some[0]], strict=True) if not gap)
                raise DataError(
                    f"X: what is known of {row(int(some[wrong.argmax()]))} ({known}) has density 0, so that nothing can be drawn given it; "
                    "correct it, or remove it to have it filled in."
                )
    return x, gaps


def written_to_array(raws: Sequence[Raw], schema: Schema, gaps: numpy.ndarray, x: numpy.ndarray) -> numpy.ndarray:
    """Return the columns as an array (n, columns) in float64, with the values of the rows x (n, d) in gaps (n, d)."""
    made = numpy.column_stack([one.values for one in raws]).astype(numpy.float64)
    values, places = schema.table(torch.from_numpy(x)), [one.title for one in raws]
    for k, column in enumerate(schema.columns):
        if gaps[:, k].any():
            made[gaps[:, k], places.index(column.title)] = values[column.title][gaps[:, k]]
    return made


def gaps_of(reader: Reader, raws: Sequence[Raw]) -> numpy.ndarray:
    """Return which values (n, d) are missing; a mark of missing values is known, as none shall be."""
    known = {one.title: one for one in raws}
    none = numpy.zeros(len(raws[0].values), dtype=bool)
    return numpy.column_stack([none if one.kind == "missing" else known[one.title].missing for one in reader.schema.columns])


def without_gaps(reader: Reader, raws: Sequence[Raw]) -> list[Raw]:
    """Return columns with some value of the fitted table in the place of each missing one."""
    columns = {one.title: (one, reader.fillers[0, k]) for k, one in enumerate(reader.schema.columns)}
    found = []
    for raw in raws:
        column, number = columns[raw.title]
        gaps = raw.missing
        if not gaps.any():
            found.append(raw)
            continue
        filler = next(one for one in column.words if one is not None) if column.kind == "category" else number
        if gaps.all():
            values = numpy.full(len(gaps), filler, dtype=object if column.kind == "category" else numpy.float64)
        else:
            values = raw.values.copy()
            values[gaps] = filler
        found.append(Raw(raw.title, values, raw.order, raw.problem))
    return found


def _proposal(density: Stacked, cond: Tensor | None, seed: int, device: torch.device) -> GaussianSum:
    """Return a mixture of Gaussians like the density, given conditions (SAMPLES, ...) if there are some."""
    drawn = density.sample(SAMPLES, cond, seed, device)
    z = drawn[drawn.isfinite().all(1)].numpy()
    scale = z.std(0).clip(1e-12)
    fit = GaussianMixture(COMPONENTS, reg_covar=RIDGE, random_state=seed % 2**31, max_iter=30, init_params="k-means++", tol=1e-2)
    with numpy.errstate(all="ignore"):
        fit.fit((z - z.mean(0)) / scale)
    weights, means, covariances = (torch.from_numpy(one) for one in (fit.weights_, fit.means_, fit.covariances_))
    found = GaussianSum(torch.cat((weights, weights)) / 2, torch.cat((means, means)), torch.cat((covariances, WIDE * covariances)))
    found.rescale(torch.from_numpy(scale))
    found.means = found.means + torch.from_numpy(z.mean(0))
    return found


def _drawn(
    density: Stacked,
    proposal: GaussianSum,
    reader: Reader,
    x: numpy.ndarray,
    gap: numpy.ndarray,
    cond: Tensor | None,
    generator: torch.Generator,
    device: torch.device,
) -> numpy.ndarray:
    """Return rows (n, d) with the values in gaps (d,) at the end of their chains, NaN where no state had a density."""
    n, missing, known = len(x), numpy.flatnonzero(gap), numpy.flatnonzero(~gap)
    order = numpy.concatenate((missing, known))
    covariances = (proposal.factors @ proposal.factors.mT)[:, order][:, :, order]
    joint = GaussianSum(proposal.weights, proposal.means[:, order], covariances)
    state, weight = torch.full((n, x.shape[1]), torch.nan, dtype=torch.float64), torch.full((n,), -torch.inf, dtype=torch.float64)
    bare = torch.from_numpy(x)
    cells, centre, scale = (torch.from_numpy(one) for one in (reader.cells, reader.centre, reader.scale))
    for _ in range(ROUNDS):
        # a known integer or word is a cell, in which the chain has a point of its own
        u = torch.rand(n * PROPOSALS, x.shape[1], generator=generator, dtype=torch.float64) * cells
        z = ((bare.repeat_interleave(PROPOSALS, 0) + u) - centre) / scale
        if len(known):
            conditional = ConditionalSum(joint, len(missing))
            z[:, missing] = conditional.sample(z[:, known], generator)
            log_q = conditional.log_prob(z[:, missing], z[:, known])
        else:
            z = proposal.sample(len(z), generator)
            log_q = proposal.log_prob(z)
        log_p = density.log_prob(z, None if cond is None else cond.repeat_interleave(PROPOSALS, 0), device)
        log_w = (log_p - log_q).masked_fill(_missing_again(reader, z, missing), -torch.inf).view(n, PROPOSALS)
        log_w = torch.cat((weight[:, None], log_w), dim=1)
        possible = log_w.isfinite().any(1)
        shares = (log_w - log_w.amax(1, keepdim=True)).exp()
        chosen = torch.multinomial(torch.where(possible[:, None], shares, 1.0), 1, generator=generator)
        states = torch.cat((state[:, None], z.view(n, PROPOSALS, -1)), dim=1)
        picked = states.gather(1, chosen[:, :, None].expand(-1, -1, states.shape[2]))[:, 0]
        state = torch.where(possible[:, None], picked, state)
        weight = torch.where(possible, log_w.gather(1, chosen)[:, 0], weight)
    rounded = reader.schema.rounded(reader.in_table(state)).numpy()
    return numpy.where(gap, numpy.where(weight.isfinite().numpy()[:, None], rounded, numpy.nan), x)


def _missing_again(reader: Reader, z: Tensor, missing: numpy.ndarray) -> Tensor:
    """Return which rows (n,) have the word for a missing value where one is drawn; what is beyond the cells is in the outermost."""
    wrong = torch.zeros(len(z), dtype=torch.bool)
    for k in missing:
        column = reader.schema.columns[k]
        if None in column.words:
            wrong |= column.rounded(z[:, k]) == column.words.index(None)
    return wrong
