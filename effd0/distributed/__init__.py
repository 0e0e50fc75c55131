"""Evaluation and inference by worker processes on Ray, over many devices and hosts."""
