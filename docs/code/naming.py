import functools
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

from matplotlib.figure import Figure

INK, SOFT, ACCENT, WARM = "#1f2933", "#7b8794", "#2563eb", "#d9480f"


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


output("names")
# --8<-- [start:names]
import pushforward as pf

names = pf.registry.names()
print(len(names), "names, for example", *names[:: len(names) // 2])
print(pf.registry.summary("models.glow"))
print("torch is imported:", "torch" in sys.modules)
path = pf.paths.Linear()
print("torch is imported:", "torch" in sys.modules)
# --8<-- [end:names]
end("names")

output("partial")
# --8<-- [start:partial]
print(pf.registry.export)
print(pf.registry.export.keywords)
# --8<-- [end:partial]
end("partial")


# --8<-- [start:small]
REGISTRY = {}


def api_export(name, *, package):
    def decorate(thing):
        REGISTRY[f"{package}.{name}"] = thing
        return thing  # unchanged: the decorator only takes a note

    return decorate


export = functools.partial(api_export, package="small")


@export("math.double")
def _twice_as_much(x):
    return 2 * x


# --8<-- [end:small]
output("small")
# --8<-- [start:use]
print(REGISTRY, _twice_as_much(4))
# --8<-- [end:use]
end("small")

output("places")
# --8<-- [start:places]
for name in ("models.glow", "functional.bounded_affine", "samplers.Heun", "Trainer"):
    thing = pf.registry.get(name)
    print(f"pf.{name:27} lives in {thing.__module__}")
print(pf.models.rectified_flow.public_name)
# --8<-- [end:places]
end("places")

output("mine")
# --8<-- [start:mine]
from pushforward.registry import api_export as register

mine = functools.partial(register, package="my_flows")


@mine("bijections.Halve", aliases=("bijections.Half",))
class Halve:
    """Divide by two."""


print(pf.bijections.Halve, "bijections.Halve" in pf.registry.names("bijections"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(pf.bijections.Half is Halve)
print(f"{caught[0].category.__name__}: {caught[0].message}")
# --8<-- [end:mine]
end("mine")

output("errors")
# --8<-- [start:errors]
attempts = {
    "a name that is taken": lambda: mine("models.glow")(lambda: None),
    "an unknown group": lambda: mine("bijectons.Halve")(Halve),
    "no import path": lambda: mine("bijections/Halve")(Halve),
    "a misspelt fact": lambda: mine("bijections.Third", exactnes="exact"),
    "an unknown name": lambda: pf.registry.get("models.rectifed_flow"),
    "an unknown attribute": lambda: pf.models.rectifiedflow,
}
for what, attempt in attempts.items():
    try:
        attempt()
    except Exception as error:
        lines = textwrap.wrap(f"{type(error).__name__}: {error}", 72)
        print(f"{what}:", *lines, sep="\n    ")
# --8<-- [end:errors]
end("errors")

# --8<-- [start:package]
Path("my_papers.py").write_text('''
import functools

from pushforward.registry import api_export

export = functools.partial(api_export, package="my_papers")


@export("models.their_flow")
def their_flow(features: int) -> str:
    """A flow of another package."""
    return f"a flow of {features} features"
''')
# What `pip install` writes for [project.entry-points.pushforward] of pyproject.toml.
info = Path("my_papers-1.0.dist-info")
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-papers\nVersion: 1.0\n")
line = "models.their_flow = my_papers:their_flow"
(info / "entry_points.txt").write_text(f"[pushforward]\n{line}\n")
# --8<-- [end:package]

output("joined")
# --8<-- [start:joined]
code = """
import sys
import pushforward as pf
print("known:", "models.their_flow" in pf.registry.names("models"))
print("imported:", "my_papers" in sys.modules)
print(pf.models.their_flow(3))
print("imported:", "my_papers" in sys.modules)
"""
done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
print(done.stdout.decode().strip())
# --8<-- [end:joined]
end("joined")


# --8<-- [start:times]
def seconds(code):
    """Return how long a new process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


codes = {
    "an empty process": "pass",
    "import pushforward": "import pushforward",
    "... and all names with their sentences": "import pushforward as pf; [pf.registry.summary(name) for name in pf.registry.names()]",
    "pushforward.paths.Linear (imports torch)": "import pushforward; pushforward.paths.Linear",
    "every module": "import pushforward as pf; [pf.registry.get(name) for name in pf.registry.names()]",
}
# Each the shortest of three, taken in turn, so that another load of the machine does not fall on one of them alone.
rounds = [{name: seconds(code) for name, code in codes.items()} for _ in range(3)]
shortest = {name: min(one[name] for one in rounds) for name in codes}
empty = shortest.pop("an empty process")
measured = {name: value - empty for name, value in shortest.items()}
# --8<-- [end:times]
output("times")
for name, value in measured.items():
    print(f"{name:42} {value:.2f} s")
end("times")

figure = Figure(figsize=(7.2, 2.1), layout="constrained")
axes = figure.subplots()
bars = axes.barh(range(len(measured)), [max(value, 0) for value in measured.values()], color=[ACCENT, ACCENT, WARM, WARM], height=0.6)
axes.bar_label(bars, [f"{value:.2f} s" for value in measured.values()], padding=4, color=INK)
axes.set_yticks(range(len(measured)), measured)
axes.set(xlabel="seconds in a new process", xlim=(0, 1.15 * max(measured.values())))
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("times.svg")
