"""Weight loading: tensors of a checkpoint packed into the kernels' layout, kept on disk, or made at
random."""
