"""Backends: from input tensors to head outputs."""
