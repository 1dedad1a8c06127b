"""Fast twins of what stands in the files above, for training."""
