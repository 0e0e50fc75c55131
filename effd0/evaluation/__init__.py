"""One evaluation: a model over a data set, from JPEG files to a verdict."""
