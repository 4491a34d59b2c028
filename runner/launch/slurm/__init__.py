"""Campaigns over many nodes, through Slurm's own commands."""
