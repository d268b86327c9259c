"""Pure functions on tensors: transforms, orders. No modules, no files, no randomness."""
