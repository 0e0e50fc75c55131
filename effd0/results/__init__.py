"""What a run found, as data: checks, verdict, run files, comparisons."""
