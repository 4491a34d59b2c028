"""Real ranks with a fault of this project's making: what `rank_drill` does.

`injection` chooses the fault and `faults` does it in a rank; `worker` and `training` are the program of a rank.
`local_ranks` starts the ranks and listens to them. `hanging` looks at them as `runbook hang` does, `split` compares
what their steps took, and `rendezvous_faults` is about ranks that cannot join.
"""
