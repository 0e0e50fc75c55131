"""Throughput and latency: rows of times, published figures, benchmark jobs."""
