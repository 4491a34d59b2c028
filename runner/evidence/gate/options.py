"""What the caller asked for: presets, phases and allowances that there are."""

from collections.abc import Iterator

from runner.entry.model import Phase
from runner.evidence.gate.words import AGAIN, shown
from runner.evidence.record import Options
from runner.plan import ALLOWANCES
from runner.presets import PRESETS


def options_problems(options: Options) -> Iterator[str]:
    """What no caller can have asked for."""
    if options.preset not in PRESETS:
        yield f"has the unknown preset {shown(options.preset)}; {AGAIN}"
    if not options.phases or options.phases != tuple(phase for phase in Phase if phase in options.phases):
        yield f"does not have the phases asked for in their order; {AGAIN}"
    if len(set(options.steps)) < len(options.steps):
        yield f"was asked for the same step twice; {AGAIN}"
    unknown = sorted(set(options.allow) - set(ALLOWANCES))
    if unknown:
        yield f"allows {shown(unknown[0])}, which nothing asks for; {AGAIN}"
    if options.within is not None and options.within <= 0:
        yield f"had a time limit that is not above 0; {AGAIN}"
