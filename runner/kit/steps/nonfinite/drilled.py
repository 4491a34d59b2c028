"""What came of one drill of the topic `nonfinite`."""

from dataclasses import dataclass

from runner.record.model import Measurement


@dataclass(frozen=True)
class Drilled:
    """One drill.

    Attributes:
        fault: its word.
        named: whether the guard named the injected module and phase, and nothing else.
        findings: steps with a finding.
        steps: that the guard watched.
        sentence: what was found, for a reader.
        sick: whether that is a symptom; by default, whether there was a finding.
        measurements: of this fault alone.
    """

    fault: str
    named: bool
    findings: int
    steps: int
    sentence: str
    measurements: tuple[Measurement, ...] = ()
    sick: bool | None = None

    @property
    def symptom(self) -> bool:
        """Whether the probe reports the symptom."""
        return bool(self.findings) if self.sick is None else self.sick
