"""Throughput and latency: rows of times, tables, published figures, benchmark jobs."""
