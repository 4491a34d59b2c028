"""The parts of `long_context_validation`: the question, the plan, the measured work, and the report."""
