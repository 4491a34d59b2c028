"""The kernel's log of a node: its lines, the events in them, and what to do about these."""
