"""Prefill and decoding of one model, timed: the job, its worker, the report."""
