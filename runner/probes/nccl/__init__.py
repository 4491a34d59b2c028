"""What steers NCCL and which way it sends: settings, their sources, its own log."""
