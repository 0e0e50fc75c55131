"""What a run of the suite or of a command found: run files, verdicts, comparisons."""
