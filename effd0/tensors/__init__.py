"""Tensors on disk: network inputs with their manifest, and head outputs."""
