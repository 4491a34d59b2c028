"""The stamp that a campaign passes to a run on a node, so that its record names the campaign."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.base.bounds import Name
from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.record.model import Code

_MOST_BYTES = 1 << 20


class Stamp(BaseModel):
    """The campaign, the node's alias in it, and the code on the host that started the campaign.

    `members`: aliases of the nodes of a joint run, the first node first; empty for a run on one node.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    campaign: Name
    node_alias: Name
    code: Code
    members: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()

    def code_here(self, found: Code) -> Code:
        """The submitting host's code if the code found here is the same; else the code found here.

        A node runs a copy without a repository, or beside a repository that is at another commit: its two digests
        prove that it is the submitted code. A checkout that is as its commit, or at the submitted one, speaks for
        itself.
        """
        same = (self.code.package, self.code.entries) == (found.package, found.entries)
        other = found.commit != self.code.commit and found.dirty is not False
        return self.code if same and other else found


def read_stamp(path: Path) -> Stamp:
    """Read a stamp.

    Raises:
        InputError: it cannot be read, or is not a stamp.
    """
    try:
        return Stamp.model_validate_json(read_placed(path, _MOST_BYTES))
    except (PlacedFileError, ValidationError) as error:
        raise InputError(f"cannot read the campaign's stamp {path}; start the campaign again") from error
