"""Tensors on disk: network inputs with their manifest, and outputs of effd0 and of other tools."""
