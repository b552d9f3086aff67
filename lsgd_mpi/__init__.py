"""Train PyTorch models on many MPI ranks that talk rarely."""

__version__ = "0.1.0"
