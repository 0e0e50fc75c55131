"""What may have gone wrong: faults are planted on purpose, and named where that explains all."""
