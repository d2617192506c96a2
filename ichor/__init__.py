"""Ichor: words and seams that every room shares. Wiring is in `ichor.cli`, nowhere else."""

__version__ = "0.1.0"
