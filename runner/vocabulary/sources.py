"""What a probe judged: the values of `effective.source` that are not a reading of this node. Pure."""

CAPTURED = "captured"
"""A text or a tree of files of another node, or of an earlier time."""

PASTED = "pasted"
"""Values that were given as options."""

TEXT = "text"
"""A table that was printed on another node."""

ASSUMED = "assumed"
"""A named board or an amount of memory, in place of this node's."""

DRILL = "drill"
"""What the step made itself: a fault, or work without one."""

SAMPLES = frozenset({CAPTURED, PASTED, TEXT, ASSUMED, DRILL})
