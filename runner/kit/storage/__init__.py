"""Checkpoints on real storage: saved, killed, damaged and read again. The work of `storage_drill`."""
