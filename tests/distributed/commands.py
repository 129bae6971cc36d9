"""Several commands of one launch: each process runs them in order, and keeps its exit statuses and what it printed.

python -m torch.distributed.run --nproc-per-node 2 tests/distributed/commands.py FOLDER, with the commands in FOLDER/commands.json
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

from pushforward.cli import main, sample
from pushforward.errors import CheckpointError


def shelf(*arguments, **options):
    raise CheckpointError("the shelf broke.")


def run(folder):
    """Run the commands of a folder, each a list of words, and write statuses, outputs and errors in their order."""
    found, rank = [], os.environ["RANK"]
    for words in json.loads((folder / "commands.json").read_text()):
        printed, said = io.StringIO(), io.StringIO()
        broken = contextlib.nullcontext()
        if words[0] == "break":  # a function of `pushforward sample` in one process
            _, where, name, *words = words
            broken = mock.patch.object(sample, name, shelf) if where == rank else broken
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said), broken:
            status = main(words)
        found.append([status, printed.getvalue(), said.getvalue()])
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
