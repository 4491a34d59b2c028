"""What `long_context_validation` is made of: the question, the plan, the work that is measured, and the report."""
