"""Benchmarks of the cuda column; see README.md."""
