"""One process of a training job, by what its environment says: its rank, its job, and how it can be asked. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.base.plain import one_line
from runner.hang.model import MOST_RANKS

# What is read of an environment. Everything else in it, secrets included, is dropped at once.
_KEPT = frozenset(
    {
        "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
        "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURMD_NODENAME",
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
        "TORCH_WORKER_SERVER_SOCKET", "TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "TORCH_FR_BUFFER_SIZE",
        "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
        "HOME", "XDG_CACHE_HOME", "NCCL_RAS_ADDR", "NCCL_RAS_ENABLE",
    }
)  # fmt: skip
# torchrun's own default, which says nothing.
_NO_RUN = "none"
_MOST_CHARACTERS = 200
# A rank and the number of ranks, by launcher: torchrun's names, Slurm's with or without a WORLD_SIZE of the batch
# script, and Open MPI's.
_NUMBERED = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


@dataclass(frozen=True)
class RankProcess:
    """A process that may be a rank.

    Attributes:
        pid, started: as in `runner.base.processes.Stat`.
        told: those variables of its environment that say what it is; no others.
    """

    pid: int
    started: int
    told: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def rank(self) -> int | None:
        """Its number in the job; None if its environment does not say."""
        return self._numbered[0]

    @property
    def world_size(self) -> int | None:
        """The number of ranks in the job."""
        return self._numbered[1]

    @property
    def local_rank(self) -> int | None:
        """Its number on this node."""
        return self.number("LOCAL_RANK")

    @property
    def job(self) -> str:
        """What tells its job from others: where its ranks meet, and torchrun's run id."""
        address, port = self.told.get("MASTER_ADDR"), self.told.get("MASTER_PORT")
        run = self.told.get("TORCHELASTIC_RUN_ID", _NO_RUN)
        if address and port:
            return _short(f"{address}:{port}" + (f" run {run}" if run != _NO_RUN else ""))
        slurm = self.told.get("SLURM_JOB_ID")
        return _short(f"Slurm job {slurm}") if slurm else ""

    @property
    def _numbered(self) -> tuple[int | None, int | None]:
        for rank, size in _NUMBERED:
            found = self.number(rank), self.number(size)
            if None not in found:
                return found
        return self.number("RANK"), self.number("WORLD_SIZE")

    def number(self, name: str) -> int | None:
        """A variable that is the number of a rank or of ranks; None if it is not."""
        text = self.told.get(name, "")
        whole = text.isdecimal() and text.isascii() and len(text) <= len(str(MOST_RANKS))
        return int(text) if whole and int(text) <= MOST_RANKS else None


def told_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that say what a rank is and how it can be asked."""
    return {name: environment[name] for name in _KEPT & environment.keys()}


def _short(name: str) -> str:
    return one_line(name)[:_MOST_CHARACTERS]
