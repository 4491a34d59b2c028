"""One rank of a sweep with tensor parallelism: runs the requested work, and returns the result of its device."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.kit.long_context.bench import Bench, Reached
from runner.kit.long_context.question import Question
from runner.kit.rank_line import RankLine
from runner.kit.ranks import World
from runner.sizing import Work
from runner.sizing.models import model_shape

# Timeout of one collective: if one rank runs out of memory, the others wait for it.
_COLLECTIVE_S = 300.0


class Ranks:
    """Ranks under torchrun that run the same work together: see `bench.Runs`."""

    def __init__(self, world: World, allocator: Mapping[str, object]) -> None:
        self._world, self.allocator = world, allocator

    def run(self, work: Work, *, followed: bool = True) -> tuple[Reached, ...]:
        """The result on each rank.

        Raises:
            RankError: a rank died or gave no answer.
        """
        command = {"work": asdict(work), "followed": followed}
        answers = self._world.ask(command, f"reading {work.tokens} tokens")
        return tuple(Reached(**answer) for answer in answers)


@contextmanager
def ranks(
    question: Question, snapshot: Path | None, environment: Mapping[str, str], deadline: float
) -> Iterator[Ranks]:
    """The ranks that the work is split over, with the model built.

    Args:
        question: the question.
        snapshot: as in `Bench`; each rank adds its number to the name.
        environment: complete environment of the ranks.
        deadline: `time.monotonic()` after which a missing answer is an error.

    Raises:
        RankError: a rank died or gave no answer.
    """
    work, budget, gpu = question.work, question.budget, question.gpu
    program = [
        "-m",
        "runner.kit.long_context.worker",
        "--model",
        question.shape.name,
        "--work",
        json.dumps(asdict(work)),
    ]
    program += ["--gpu"] if gpu else []
    program += ["--budget", str(budget)] if budget is not None else []
    program += ["--snapshot", str(snapshot)] if snapshot is not None else []
    own = dict(environment) if gpu else {**environment, "OMP_NUM_THREADS": "1"}
    with World(program, work.tensor_parallel, own, deadline) as world:
        first, *_ = world.ask(None, "building the model")
        yield Ranks(world, first["allocator"])


def main(argv: Sequence[str] | None = None) -> int:
    """Build this rank's shards, then serve commands until the connection closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--snapshot", type=Path)
    arguments = parser.parse_args(argv)
    line = RankLine()
    try:
        _serve(line, arguments, Work(**json.loads(arguments.work)))
    except Exception as error:  # noqa: BLE001 - every error must reach the caller
        line.send({"error": f"{type(error).__name__}: {error}".partition("\n")[0]})
        return 1
    return 0


def _serve(line: RankLine, arguments: argparse.Namespace, work: Work) -> None:
    from runner.kit.tensor_parallel import joined

    device = "cuda" if arguments.gpu else "cpu"
    with joined(device, line.rank, work.tensor_parallel, _COLLECTIVE_S) as mesh:
        shape = model_shape(arguments.model)
        snapshot: Path | None = arguments.snapshot
        if snapshot is not None:
            snapshot = snapshot.with_name(f"{snapshot.stem}-{line.rank}{snapshot.suffix}")
        bench = Bench(shape, work, arguments.budget, gpu=arguments.gpu, mesh=mesh, snapshot=snapshot)
        line.send({"allocator": dict(bench.allocator)})
        for command in line.commands():
            line.send(_answer(bench, command))


def _answer(bench: Bench, command: dict[str, Any]) -> dict[str, Any]:
    (reached,) = bench.run(Work(**command["work"]), followed=command["followed"])
    return asdict(reached)


if __name__ == "__main__":
    sys.exit(main())
