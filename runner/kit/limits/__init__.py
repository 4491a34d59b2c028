"""The work of `limits_drill`: real work under a small limit of its own."""
