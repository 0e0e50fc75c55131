"""Named suspicions: the inverse of a fault, applied, makes the error vanish."""
