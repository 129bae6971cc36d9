"""Data parallel training from scratch: a training loop for one process, and the few lines that extend it to several.

    python examples/ddp_minimal.py                                  # one process
    torchrun --nproc-per-node 2 examples/ddp_minimal.py             # the same loss, the same weights, two processes

The lines marked DDP are the only additions. The example prints what they do: each process computes the gradient of its share of the
batch; the gradients are passed around a ring in pieces until every process holds their sum (all-reduce); each process divides it by the
number of processes and takes the same step, so that the weights never differ.
"""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import pushforward as pf

STEPS, BATCH = 3, 64


def ring_all_reduce(pieces: list[torch.Tensor], rank: int, size: int, log) -> None:
    """Sum a list of `size` pieces over all processes; each process only communicates with its two neighbours.

    In size - 1 rounds every process passes a piece on and adds the one it gets to its own: then each holds the whole sum of one piece. In
    size - 1 rounds more these sums go round. Every process sends 2 (size - 1) / size of the data, however many there are.
    """
    right, left = (rank + 1) % size, (rank - 1) % size
    for turn in range(2 * (size - 1)):
        give, take = (rank - turn) % size, (rank - turn - 1) % size
        adding = turn < size - 1
        got = torch.empty_like(pieces[take])
        for request in dist.batch_isend_irecv([dist.P2POp(dist.isend, pieces[give], right), dist.P2POp(dist.irecv, got, left)]):
            request.wait()
        pieces[take] = pieces[take] + got if adding else got
        log(f"    ring, turn {turn + 1}: piece {give} to process {right}, piece {take} from {left}, {'added' if adding else 'kept'}")


def main() -> None:
    """Train for three steps."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if 4 % size:
        raise SystemExit(f"{size} processes cannot share 4 blocks of noise equally; use 1, 2 or 4.")
    if size > 1:
        dist.init_process_group("gloo")  # DDP 1: initialise the process group ("nccl" on GPUs)

    def log(line: str) -> None:
        print(f"[process {rank} of {size}] {line}\n", end="", flush=True)

    torch.manual_seed(0)
    data = pf.data.load("moons").x
    model = pf.models.rectified_flow(pf.nn.MLP.Config(hidden=(64, 64)), shape=(2,))
    whole = DistributedDataParallel(model) if size > 1 else model  # DDP 2: wrap the model; `forward` is the loss
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        batch = data[torch.randint(len(data), (BATCH,), generator=torch.Generator().manual_seed(step))]
        blocks = [torch.Generator().manual_seed(1000 * step + k) for k in range(4)]  # noise depends on the position in the batch
        rows, own = BATCH // size, 4 // size
        batch, blocks = batch[rank * rows : (rank + 1) * rows], blocks[rank * own : (rank + 1) * own]  # DDP 3: select the local share
        if size > 1 and step == 0:
            show_what_ddp_does(model, batch, blocks, rank, size, log)
            blocks = [torch.Generator().manual_seed(one.initial_seed()) for one in blocks]
        loss = whole(batch, generator=blocks)
        optimiser.zero_grad()
        loss.backward()  # DDP averages the gradients here, layer by layer, while the backward pass continues
        optimiser.step()
        log(
            f"step {step + 1}: loss of its {len(batch)} samples {loss.item():.6f}, norm of the gradient {gradient_of(model).norm():.6f}, "
            f"sum of the weights {sum(p.detach().double().sum() for p in model.parameters()):.6f}"
        )
    if size > 1:
        dist.destroy_process_group()  # DDP 4: destroy the process group


def show_what_ddp_does(model, batch, blocks, rank: int, size: int, log) -> None:
    """Average one gradient by hand, as DDP does in every step."""
    model.loss(batch, generator=blocks).backward()
    gradient = gradient_of(model)
    model.zero_grad()
    log(f"its own gradient has norm {gradient.norm():.6f}, from {len(batch)} of {BATCH} samples")
    pieces = list(gradient.tensor_split(size))
    ring_all_reduce(pieces, rank, size, log)
    log(f"the average of {size} gradients has norm {(torch.cat(pieces) / size).norm():.6f}, in every process")


def gradient_of(model) -> torch.Tensor:
    """Return all gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters()])


if __name__ == "__main__":
    main()
