"""The faults that `rank_drill` knows. Imported with the declaration of the probe, so nothing else is here."""

HANGS = ("skip", "op", "shape", "late", "stop")
"""Faults that make the ranks wait for one of them."""

RENDEZVOUS_FAULTS = ("unknown-host", "dead-port", "held-port", "large-world")
"""Faults of the rendezvous, which need no group."""

FAULTS = ("none", *HANGS, "neighbour", "nan", "flip", *RENDEZVOUS_FAULTS)
