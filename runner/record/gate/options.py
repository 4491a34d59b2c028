"""Checks the options of a run: presets, phases and allowances must exist."""

from collections.abc import Iterator

from runner.entry.model import Phase
from runner.entry.plan import ALLOWANCES
from runner.record.gate.words import AGAIN, shown
from runner.record.model import Options
from runner.sizing.presets import PRESETS


def options_problems(options: Options) -> Iterator[str]:
    """Options that no caller can request."""
    if options.preset not in PRESETS:
        yield f"has the unknown preset {shown(options.preset)}; {AGAIN}"
    if not options.phases or options.phases != tuple(phase for phase in Phase if phase in options.phases):
        yield f"does not have the requested phases in run order; {AGAIN}"
    if len(set(options.steps)) < len(options.steps):
        yield f"requests the same step twice; {AGAIN}"
    unknown = sorted(set(options.allow) - set(ALLOWANCES))
    if unknown:
        yield f"has the unknown allowance {shown(unknown[0])}; {AGAIN}"
    if options.within is not None and options.within <= 0:
        yield f"has a time limit that is not above 0; {AGAIN}"
