"""The state of this node: what its GPUs, its kernel and its file systems show, and what to do about it."""
