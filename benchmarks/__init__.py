"""Ratios against peers, measured in one run: `python -m benchmarks distance|loss|precompute`."""
