"""What the tests of faults share: runs that were never disturbed, and the table of what each fault costs."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import killed`


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Return a function kind -> what a run that met no fault leaves."""
    import killed

    done = {}

    def of(kind):
        size, options = killed.KINDS[kind]
        key = size, options.get("parallel")
        if key not in done:
            out = tmp_path_factory.mktemp("undisturbed") / "run"
            assert killed.end(killed.begin(out, kind)) == [0] * size
            done[key] = killed.outcome(out)
        return done[key]

    return of


@pytest.fixture(scope="session")
def record():
    """Return a function that notes what a fault cost, in the file that PUSHFORWARD_FAULTS names: the table of the guide is made of it."""

    def note(name, **measured):
        if "PUSHFORWARD_FAULTS" in os.environ:
            file = Path(os.environ["PUSHFORWARD_FAULTS"])
            known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            file.write_text(json.dumps({**known, name: measured}, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    return note
