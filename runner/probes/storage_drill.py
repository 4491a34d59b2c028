"""Saves checkpoints on real storage, kills or damages them, and tells who takes them for good.

--fault chooses what happens. `kill`: a save under a new name gets SIGKILL at a point of its progress, each time another
one, and three resumes choose: the newest name, the newest that loads, and with --guarded the newest that verifies.
`kill-overwrite`: the same where each save overwrites the last. `truncate`: a file ends too early. `flip`: one bit of
tensor data changes. `no-metadata`: DCP's `.metadata` is missing. `stale-shard`: a shard is that of an older save.
`full`: the storage has room for one checkpoint and a half. `none`: sound saves, what a save costs, and the rates of the
storage. --guarded saves with the guard (`runner/guards/checkpoint.py`); without it, as torch.save and dcp.save do.
Everything is written into a new folder on the storage that --folder names, and is removed.

Output: torn_checkpoints_accepted and checkpoints_lost of interrupted saves; corruptions_unseen and intact_refused of
damaged and of sound ones; with `none` also save_stall, storage_write_rate and storage_read_rate. Symptom: a checkpoint
that is not what was saved was taken for good, or no checkpoint was found; with --guarded, by the guard.

Example:
    python -m runner.probes.storage_drill --fault flip --repeat 100
    python -m runner.probes.storage_drill --fault kill --guarded --folder /mnt/checkpoints
"""

import argparse
import sys
from pathlib import Path

from runner.kit.options import add_choices, add_counts, add_flags
from runner.kit.probe import Findings, Probe, base_parser
from runner.kit.storage.metrics import METRICS

_FAULTS = ("none", "kill", "kill-overwrite", "truncate", "flip", "no-metadata", "full", "stale-shard")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_choices(
        parser,
        {
            "--fault": (_FAULTS, "none", "what happens to a checkpoint (default none)"),
            "--format": (("torch", "dcp", "both"), "both", "torch.save, dcp.save or both (default both)"),
        },
    )
    add_flags(parser, {"--guarded": "save with the guard, and let it look"})
    add_counts(
        parser,
        {"--repeat": (20, "kills, damages or sound saves"), "--seed": (0, "of tensors, places and bits")},
    )
    parser.add_argument("--size", default="16MiB", metavar="SIZE", help="of a checkpoint (default 16MiB)")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="the storage to use (default: the folder of temporary files)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.storage.drill import drill_storage

    return drill_storage(arguments)


PROBE = Probe(
    "storage_drill",
    method_version=1,
    summary="Whether torn and damaged checkpoints are taken for good, and what saves cost",
    metrics=METRICS,
    labels=("fault", "format", "writer", "by", "how"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
