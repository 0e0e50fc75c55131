"""The page of a run, one HTML file that a release decision rests on, and the same in short."""
