"""Timing of prefill and decoding of one model: the job, its worker, the report."""
