"""Show one mutant of `test_fuzz.py` with its traceback: `python tests/fuzz/show.py NAME NUMBER`; its file stays for a closer look."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.readers import READERS
from fuzz.test_fuzz import planted

if __name__ == "__main__":
    name, number = sys.argv[1], int(sys.argv[2])
    reader = next(one for one in READERS if one.name == name)
    folder = Path(tempfile.mkdtemp())
    reader.make(folder)
    title, call = next(planted(reader, folder, number, number + 1))
    print(f"{title} in {folder}", flush=True)
    call()
