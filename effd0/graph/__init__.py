"""ONNX graphs: what a file says of itself, and named edits that count their matches."""
