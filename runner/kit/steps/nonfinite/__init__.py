"""Values that are not finite: faults that make them, the module that the guard names, and what a step then changes."""
