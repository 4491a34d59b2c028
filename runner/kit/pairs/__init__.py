"""Finds a node with a slow network among many, by bandwidth in pairs."""
