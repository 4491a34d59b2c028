"""What `storage_drill` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "torn_checkpoints_accepted",
        "1",
        "lower",
        "Interrupted saves after which a resume takes a folder that is not what was saved. by=newest_name: it trusts"
        " the newest name; by=newest_that_loads: the newest that loads; by=guard: the newest that verifies.",
        kind="count",
        label="Torn checkpoints accepted",
    ),
    Metric(
        "checkpoints_lost",
        "1",
        "lower",
        "Interrupted saves after which a resume finds no checkpoint, though one was complete before.",
        kind="count",
        label="Checkpoints lost",
    ),
    Metric(
        "corruptions_unseen",
        "1",
        "lower",
        "Damaged checkpoints that are taken for sound. by=load: they load without an error; by=guard: they verify.",
        kind="count",
        label="Corruptions unseen",
    ),
    Metric(
        "intact_refused",
        "1",
        "lower",
        "Sound checkpoints that are refused, by=load or by=guard.",
        kind="count",
        label="Sound checkpoints refused",
    ),
    Metric(
        "save_stall",
        "s",
        "lower",
        "Seconds for which one save blocks the training loop. how=plain: as the format saves; flushed: and then fsync"
        " of each file; guarded: by the guard; async: by dcp.async_save, until it returns.",
        label="Stall of a save",
    ),
    Metric(
        "storage_write_rate",
        "B/s",
        "higher",
        "Bytes ÷ seconds of a file written in order. how=cached: until write returns; flushed: until fsync returns.",
        label="Write rate of the storage",
    ),
    Metric(
        "storage_read_rate",
        "B/s",
        "higher",
        "Bytes ÷ seconds of a file read in order. how=cold: its pages are not in memory; warm: they are.",
        label="Read rate of the storage",
    ),
)
