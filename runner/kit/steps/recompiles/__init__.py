"""The topic of recompiles: code that torch.compile compiles again and again, and what finds it."""
