"""Times every operator against PyTorch's own, after checking that both compute the same: ``python -m benchmarks``."""
