"""A folder of inputs through a runner, as ais_bench does it: results, summary, throughput."""
