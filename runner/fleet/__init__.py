"""Campaigns over many nodes, through Slurm's commands."""
