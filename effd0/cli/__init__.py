"""The command line, and the suite's options and verdict as a pytest plugin."""
