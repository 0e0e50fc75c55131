"""How fast: rows of times, ratios with intervals, published figures, baselines, tables."""
