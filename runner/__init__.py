"""Runbooks for large-model clusters that prove themselves.

The package is two halves that meet only through files: the runner reads `runbooks/`, runs their steps and
writes records; the pages read runbooks and records and never execute anything.
"""

__version__ = "0.1.0"
