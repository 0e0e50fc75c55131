"""Head outputs to detections: anchors, boxes, top-k, non-maximum suppression."""
