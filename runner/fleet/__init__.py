"""Campaigns over many nodes, through Slurm's commands."""

START_WITHIN_S = 3600.0
