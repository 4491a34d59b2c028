"""Small real training steps in one process: injected faults, what finds them, and what a guard costs."""
