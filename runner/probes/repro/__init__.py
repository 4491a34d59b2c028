"""A compile that someone else can repeat: the stack it is tried on, the bundle, live compiles."""
