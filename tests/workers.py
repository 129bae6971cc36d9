"""How the files of tests are handed out to the processes of pytest-xdist.

The longest files come first, so that no process is left with one at the end. What uses diffusers, transformers and the tiny Stable
Diffusion 3 that they write is run by one process: importing and building them takes ten seconds.
"""

from xdist.scheduler import LoadFileScheduling

DIFFUSERS = "diffusers"
TOGETHER = {
    "tests/cli/test_exit_codes.py": DIFFUSERS,
    "tests/cli/test_finetune.py": DIFFUSERS,
    "tests/formats/test_autoencoder_folder.py": DIFFUSERS,
    "tests/formats/test_diffusers.py": DIFFUSERS,
    "tests/samplers/test_diffusers.py": DIFFUSERS,
}
FIRST = (
    DIFFUSERS,
    "tests/distributed/test_data_parallel.py",
    "tests/laws/test_models.py",
    "tests/cli/test_commands.py",
    "tests/laws/test_call.py",
    "tests/laws/test_samplers.py",
)


def unit(nodeid: str) -> str:
    """Return what a test is handed out with: its file, or several."""
    file = nodeid.partition("::")[0]
    return DIFFUSERS if file.startswith("tests/sd3/") else TOGETHER.get(file, file)


def place(item) -> int:
    """Return where the unit of a test comes; those that are not listed stay in the order in which they were collected."""
    one = unit(item.nodeid)
    return FIRST.index(one) if one in FIRST else len(FIRST)


class Scheduling(LoadFileScheduling):
    """Hand out units, in the order in which the processes have collected them."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
