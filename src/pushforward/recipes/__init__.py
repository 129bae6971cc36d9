"""Recipes: the training runs whose results the documentation shows, each as a file with its command and its numbers.

`pushforward train --recipe fashion-glow` trains as the measured run was trained. A file NAME.yaml has the keys

    summary: one sentence.
    train: the arguments of `pushforward train`, without --out.
    measure: the command by which the results were measured, with RUN for the run's folder.
    time: what the training took.
    results: values by what was measured.
    source: where in the repository the results are.
    needs: name of a recipe that is trained before, or absent.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from pushforward.errors import UserError
from pushforward.registry import unknown

SUFFIX = ".yaml"


@dataclass(frozen=True)
class Recipe:
    """A training run with its results; the fields are the keys of its file, `train` is divided into arguments."""

    name: str
    summary: str
    train: tuple[str, ...]
    measure: str
    time: str
    results: Mapping[str, str]
    source: str
    needs: str | None = None

    @property
    def command(self) -> str:
        """The command that trains it."""
        return f"pushforward train {shlex.join(self.train)}"

    @property
    def out(self) -> str:
        """The run folder, unless another is given."""
        return f"runs/{self.name}"


def names() -> list[str]:
    """Return the names of the recipes, sorted."""
    return sorted(one.name.removesuffix(SUFFIX) for one in resources.files(__name__).iterdir() if one.name.endswith(SUFFIX))


def recipe(name: str) -> Recipe:
    """Return the recipe with a name.

    Raises:
        UserError: there is none; the message suggests the closest.
    """
    if name not in names():
        raise UserError(f"{unknown('recipe', name, names())} (`pushforward list recipes` shows them)")
    found = yaml.safe_load(resources.files(__name__).joinpath(name + SUFFIX).read_text(encoding="utf-8"))
    return Recipe(name=name, **{**found, "train": tuple(shlex.split(found["train"]))})
