"""The memory that a model needs, by formula alone: no torch, no device.

`work` describes one prefill or one training step and holds the formulas that both share. `inference` and `training`
give the peak of an eager model. `limits` gives what fits into a budget. `remedies` ranks the changes that lower the
peak.
"""
