"""A checkpoint becomes an ONNX file, which is named once it has computed what its source does."""
