"""Benchmarks: ratios against a peer in the same run wherever there is one, and absolute figures. `make bench`."""
