# --8<-- [start:write]
from pathlib import Path

from pushforward.cli import main

main(["new-package", "my_flows", "--parts", "bijection", "preset", "command"])
print(*sorted(str(path) for path in Path("my-flows").rglob("*") if path.is_file()), sep="\n")
# --8<-- [end:write]

# --8<-- [start:points]
text = Path("my-flows/pyproject.toml").read_text()
print(text[text.index("[project.entry-points") :].partition("\n\n")[0])
# --8<-- [end:points]

# What the page states of it: the tests of the bijection hold before it is installed, except that its name is.
import os
import subprocess
import sys

tests = [sys.executable, "-m", "pytest", "-q", "tests/test_bijection.py", "-k", "not installed", "-p", "no:cacheprovider"]
environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", *filter(None, [os.environ.get("PYTHONPATH")])])}
subprocess.run(tests, cwd="my-flows", env=environment, check=True, capture_output=True)
