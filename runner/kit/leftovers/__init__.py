"""Leftovers of a multi-GPU launch: where to look for them, and how to remove them."""
