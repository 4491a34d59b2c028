"""Training steps that wait for data: slow loaders and scarce cores, and the meter that tells them apart."""
