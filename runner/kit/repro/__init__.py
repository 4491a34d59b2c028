"""Reproducing a compile: the block stack, the bundle, live compiles."""
