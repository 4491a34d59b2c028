"""A job that hangs: what each rank does and waits for, and which rank holds up the others.

`model` is what was seen, `verdict` what follows from it. The readers of one source each (`dumps`, `stacks`, `ras`, …)
fill the model and say what they could not see. Nothing here changes a process.
"""
