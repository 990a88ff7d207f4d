"""What proves the CUDA backend, most of it without a GPU."""
