"""One rank of a sweep with tensor parallelism: runs the requested work, and returns the result of its device."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.kit.long_context.bench import MemoryBench, Reached
from runner.kit.long_context.question import Question
from runner.kit.rank_line import RankLine, serve
from runner.kit.ranks import World
from runner.kit.tensor_parallel import joined
from runner.sizing.models import model_shape
from runner.sizing.work import ModelWork

# Timeout of one collective: if one rank runs out of memory, the others wait for it.
_COLLECTIVE_S = 300.0


class SweepRanks:
    """Ranks under torchrun that run the same work together: see `bench.Runs`."""

    def __init__(self, world: World, allocator: Mapping[str, object]) -> None:
        self._world, self.allocator = world, allocator

    def run(self, work: ModelWork, *, followed: bool = True) -> tuple[Reached, ...]:
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
) -> Iterator[SweepRanks]:
    """The ranks that the work is split over, with the model built.

    Args:
        question: the question.
        snapshot: as in `MemoryBench`; each rank adds its number to the name.
        environment: complete environment of the ranks.
        deadline: `time.monotonic()` after which a missing answer is an error.

    Raises:
        RankError: a rank died or gave no answer.
    """
    work, budget, gpu = question.work, question.budget, question.gpu
    order = {"model": question.shape.name, "work": asdict(work), "budget": budget, "gpu": gpu}
    order["snapshot"] = None if snapshot is None else str(snapshot)
    program = ["-m", "runner.kit.long_context.worker", json.dumps(order)]
    own = dict(environment) if gpu else {**environment, "OMP_NUM_THREADS": "1"}
    with World(program, work.tensor_parallel, own, deadline) as world:
        first, *_ = world.ask(None, "building the model")
        yield SweepRanks(world, first["allocator"])


def main(argv: Sequence[str] | None = None) -> int:
    """Build the shards that the JSON argument asks for, then serve commands until the connection closes."""
    (order,) = sys.argv[1:] if argv is None else argv
    return serve(lambda line: _serve(line, **json.loads(order)))


def _serve(
    line: RankLine, *, model: str, work: dict[str, Any], budget: int | None, gpu: bool, snapshot: str | None
) -> None:
    split, place = ModelWork(**work), None if snapshot is None else Path(snapshot)
    with joined("cuda" if gpu else "cpu", line.rank, split.tensor_parallel, _COLLECTIVE_S) as mesh:
        if place is not None:
            place = place.with_name(f"{place.stem}-{line.rank}{place.suffix}")
        bench = MemoryBench(model_shape(model), split, budget, gpu=gpu, mesh=mesh, snapshot=place)
        line.send({"allocator": dict(bench.allocator)})
        for command in line.commands():
            line.send(_answer(bench, command))


def _answer(bench: MemoryBench, command: dict[str, Any]) -> dict[str, Any]:
    (reached,) = bench.run(ModelWork(**command["work"]), followed=command["followed"])
    return asdict(reached)


if __name__ == "__main__":
    sys.exit(main())
