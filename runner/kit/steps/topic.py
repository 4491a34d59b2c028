"""A topic of `step_drill`: a kind of fault of a training step, and how it is drilled. Imported with its declaration."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from runner.kit.probe import Findings
from runner.vocabulary.model import Metric

Step = Callable[[int], object]
"""One step of training, from its number."""


@dataclass(frozen=True)
class Arms:
    """The same step twice: as the job runs it, and with the guard in it."""

    bare: Step
    guarded: Step


@dataclass(frozen=True)
class Topic:
    """The declaration of a topic.

    Attributes:
        name: as in `--topic`; the package `runner.kit.steps.NAME` has a module `drill` with
            `run(arguments) -> Findings` and, if there is a guard, a module `cost` with
            `run(seed) -> AbstractContextManager[Arms]`.
        faults: words of `--fault`, without `none`, which every topic has.
        metrics: what it reports.
        labels: names of the labels of its measurements.
        compile: those of its faults whose drill compiles with Inductor, and so needs a compiler.
        most_cost: the bound of the guard's cost as a ratio of step times; None without a guard.
        every: steps for which the guard works once in a job; the guarded arm works in each, and the cost is its share.
    """

    name: str
    faults: tuple[str, ...]
    metrics: tuple[Metric, ...]
    labels: Sequence[str] = ()
    compile: tuple[str, ...] = ()
    most_cost: float | None = None
    every: int = 1

    def drill(self, arguments: argparse.Namespace) -> Findings:
        """Run the drill of this topic."""
        drill: Callable[[argparse.Namespace], Findings] = self._module("drill").run
        return drill(arguments)

    def arms(self, seed: int) -> AbstractContextManager[Arms]:
        """The bare and the guarded step."""
        arms: Callable[[int], AbstractContextManager[Arms]] = self._module("cost").run
        return arms(seed)

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"runner.kit.steps.{self.name}.{name}")
