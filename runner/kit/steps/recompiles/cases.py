"""Causes of recompiles: a small compiled function of each in a sound form, and in the form that causes them.

The backend is `eager`: what recompiles, and why, is decided before a backend gets the graph.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.guards.recompiles import RecompileCounter

if TYPE_CHECKING:
    import torch

WARM = 4
"""Steps of warm-up in each drill."""

_WIDTH = 24
_RAISED_LIMIT = 64
_SMALLEST = 2


@dataclass(frozen=True)
class Course:
    """One drill.

    Attributes:
        sizes: the batch size of each step; all differ.
        late: the step, after warm-up, in which a cause that comes once comes.
        device: `cuda` or `cpu`.
        counter: counts the compiles.
    """

    sizes: tuple[int, ...]
    late: int
    device: str
    counter: RecompileCounter

    def batch(self, step: int, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
        """The batch of a step, of shape (size, 24)."""
        import torch

        shape = (self.sizes[step], _WIDTH)
        return torch.randn(shape, generator=torch.Generator().manual_seed(step)).to(self.device, dtype)


def course(steps: int, seed: int, device: str, counter: RecompileCounter) -> Course:
    """Draw the sizes of the batches and the place of the fault."""
    drawn = random.Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    sizes = drawn.sample(range(_SMALLEST, _SMALLEST + 4 * steps), steps)
    return Course(tuple(sizes), drawn.randrange(WARM, steps), device, counter)


Form = Callable[[Course], contextlib.AbstractContextManager[Callable[[int], Any]]]
"""Builds a compiled function; the context is the call of one step, from its number."""


@dataclass(frozen=True)
class Cause:
    """One cause.

    Attributes:
        sound: the function without it; None if it is the sound form of another cause.
        broken: the same function with it; None if the sound form is all there is.
        names: what the reason of its finding must contain.
    """

    sound: Form | None = None
    broken: Form | None = None
    names: str = ""


@contextlib.contextmanager
def _shapes(course: Course, *, static: bool, marked: bool) -> Iterator[Callable[[int], Any]]:
    import torch

    linear = torch.nn.Linear(_WIDTH, _WIDTH).to(course.device)

    def forward(x: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.gelu(linear(x)).sum(0)

    compiled = torch.compile(forward, backend="eager", dynamic=False if static else None)

    def step(number: int) -> Any:
        batch = course.batch(number)
        if marked:
            torch._dynamo.mark_dynamic(batch, 0)  # noqa: SLF001 - its public name: the module has an underscore
        return compiled(batch)

    yield step


@contextlib.contextmanager
def _attribute(course: Course, *, tensor: bool) -> Iterator[Callable[[int], Any]]:
    import torch

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(_WIDTH, _WIDTH)
            self.calls: Any = 0
            if tensor:
                del self.calls
                self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            self.calls += 1
            y: torch.Tensor = self.linear(x) / self.calls
            return y

    compiled = torch.compile(Counting().to(course.device), backend="eager")
    fixed = course.batch(0)
    yield lambda _: compiled(fixed)


@contextlib.contextmanager
def _raised(course: Course) -> Iterator[Callable[[int], Any]]:
    import torch

    with torch._dynamo.config.patch(recompile_limit=_RAISED_LIMIT), _attribute(course, tensor=False) as step:  # noqa: SLF001
        yield step


@contextlib.contextmanager
def _branch(course: Course, *, on_host: bool) -> Iterator[Callable[[int], Any]]:
    import torch

    def forward(x: "torch.Tensor") -> "torch.Tensor":
        y = torch.tanh(x)
        if on_host:
            return y * 2 if y.sum() > 0 else y
        return torch.where(y.sum() > 0, y * 2, y)

    compiled = torch.compile(forward, backend="eager")
    fixed = course.batch(0)
    # From the late step on, the other branch is taken.
    yield lambda number: compiled(fixed.abs() if number < course.late else -fixed.abs())


@contextlib.contextmanager
def _no_grad(course: Course, *, warmed: bool) -> Iterator[Callable[[int], Any]]:
    import torch

    linear = torch.nn.Linear(_WIDTH, _WIDTH).to(course.device)

    def forward(x: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.gelu(linear(x))

    compiled = torch.compile(forward, backend="eager")
    fixed = course.batch(0)

    def evaluate() -> Any:
        with torch.no_grad():
            return compiled(fixed)

    if warmed:
        with course.counter.warm_up():
            evaluate()
    yield lambda number: evaluate() if number == course.late else compiled(fixed)


@contextlib.contextmanager
def _dtype(course: Course, *, cast: bool) -> Iterator[Callable[[int], Any]]:
    import torch

    def forward(x: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.gelu(x) * 2

    compiled = torch.compile(forward, backend="eager")

    def step(number: int) -> Any:
        late = number == course.late
        batch = course.batch(0, torch.float64 if late else torch.float32)
        return compiled(batch.float() if cast else batch)

    yield step


@contextlib.contextmanager
def _float(course: Course) -> Iterator[Callable[[int], Any]]:
    import torch

    compiled = torch.compile(lambda x, rate: x * rate, backend="eager")
    fixed = course.batch(0)
    yield lambda number: compiled(fixed, 1.0 / (number + 3))


CAUSES = {
    "static-shapes": Cause(
        sound=lambda course: _shapes(course, static=False, marked=True),
        broken=lambda course: _shapes(course, static=True, marked=False),
        names="size mismatch at index 0",
    ),
    "int-attribute": Cause(
        sound=lambda course: _attribute(course, tensor=True),
        broken=lambda course: _attribute(course, tensor=False),
        names="calls ==",
    ),
    "raised-limit": Cause(broken=_raised, names="calls =="),
    "data-dependent-branch": Cause(
        sound=lambda course: _branch(course, on_host=False),
        broken=lambda course: _branch(course, on_host=True),
        names="branch on the value of a tensor",
    ),
    "late-no-grad": Cause(
        sound=lambda course: _no_grad(course, warmed=True),
        broken=lambda course: _no_grad(course, warmed=False),
        names="grad_mode",
    ),
    "late-dtype": Cause(
        sound=lambda course: _dtype(course, cast=True),
        broken=lambda course: _dtype(course, cast=False),
        names="dtype mismatch",
    ),
    # What recompiles once, in warm-up, and is no fault.
    "default-shapes": Cause(sound=lambda course: _shapes(course, static=False, marked=False)),
    "float-argument": Cause(sound=_float),
}
"""Every cause by its name; those without a broken form are ordinary."""
