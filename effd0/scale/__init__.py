"""One evaluation over many workers: units of images, what was found in each, and its shards."""
