"""NCCL's settings, where they come from, and its transports according to its log."""
