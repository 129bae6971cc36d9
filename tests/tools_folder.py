"""The modules of tools/, which is no package."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tool(name):
    """Return a module of tools/, imported anew."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
