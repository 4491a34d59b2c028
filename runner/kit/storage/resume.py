"""How a job chooses the checkpoint to resume from, and whether that was right."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.guards.checkpoint import last_complete
from runner.kit.probe import single
from runner.kit.storage.formats import CheckpointFormat, State, loads_as
from runner.record.model import Measurement

PREFIX = "step-"


@dataclass
class Resumes:
    """What resumes have taken: for each way to choose, how often a torn folder, and how often none."""

    torn: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def count(
        self, form: CheckpointFormat, root: Path, saved: Callable[[int], Sequence[State]], *, guarded: bool
    ) -> None:
        """Choose below the root in each way.

        Args:
            form: the format of the checkpoints.
            root: holds `step-1`, `step-2`, …
            saved: what was saved under the name of a step: each is right, a mixture is torn.
            guarded: the guard wrote them.
        """
        folders = steps_below(root)
        loading = {one: loads_as(form, folder, saved(one)) for one, folder in folders.items()}
        newest = max(folders, default=None)
        chosen = {
            "newest_name": newest,
            "newest_that_loads": max((one for one, (loads, _) in loading.items() if loads), default=None),
        }
        if guarded:
            verified = last_complete(root)
            chosen["guard"] = None if verified is None else step_of(verified)
        for by, step in chosen.items():
            self.torn[by] = self.torn.get(by, 0) + (step is not None and not loading[step][1])
            self.lost[by] = self.lost.get(by, 0) + (step is None)

    def measurements(self, fault: str, form: CheckpointFormat, writer: str) -> Iterator[Measurement]:
        """The two counts, for each way to choose."""
        for by in self.torn:
            labels = {"fault": fault, "format": form.name, "writer": writer, "by": by}
            yield single("torn_checkpoints_accepted", self.torn[by], **labels)
            yield single("checkpoints_lost", self.lost[by], **labels)

    def failed(self, ways: Sequence[str]) -> int:
        """Torn and lost, over these ways to choose."""
        return sum(self.torn.get(by, 0) + self.lost.get(by, 0) for by in ways)


def steps_below(root: Path) -> Mapping[int, Path]:
    """The folders under a final name, by step."""
    found = {step_of(one): one for one in root.iterdir() if one.name.removeprefix(PREFIX).isdecimal()}
    return dict(sorted(found.items()))


def step_of(folder: Path) -> int:
    """The step in the name of a folder: `step-12` is 12."""
    return int(folder.name.removeprefix(PREFIX)) if folder.name.removeprefix(PREFIX).isdecimal() else -1
