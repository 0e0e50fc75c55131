"""COCO folders, the letterbox, the bundled test set and downloads."""
