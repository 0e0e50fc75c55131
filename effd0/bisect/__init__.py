"""Two ONNX models side by side: the first node at which one leaves the other."""
