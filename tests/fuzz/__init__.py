"""Damaged bytes for everything that reads a stranger's. `python -m tests.fuzz --help`; see docs/fuzz.md."""
