"""COCO metrics of detections, their uncertainty, and what kinds of errors they have."""
